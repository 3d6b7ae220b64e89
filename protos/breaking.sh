#!/bin/sh
# Compare the protos with those of `main`, offline; `make breaking` runs it.
#
# The base is where this branch left main. On main itself it is the last tag, that is, what clients were given.
set -eu
cd "$(dirname "$0")/.."

base=
for main in main origin/main; do
    if git rev-parse --quiet --verify "$main^{commit}" >/dev/null; then
        # A shallow clone may not reach back to the fork.
        base=$(git merge-base HEAD "$main" || git rev-parse "$main")
        break
    fi
done
if [ -z "$base" ]; then
    echo "breaking: NOT CHECKED, because there is no branch main to compare with."
    exit 0
fi
if [ "$base" = "$(git rev-parse HEAD)" ]; then
    base=$(git describe --tags --abbrev=0 2>/dev/null || echo "$base")
fi
if ! git cat-file -e "$base:protos" 2>/dev/null; then
    echo "breaking: NOT CHECKED, because $base has no protos to break."
    exit 0
fi

# A folder, since buf cannot fetch any commit there is.
before=$(mktemp -d)
trap 'rm -rf "$before"' EXIT
git archive "$base" buf.yaml protos | tar -x -C "$before"
.venv/bin/buf breaking --against "$before"
