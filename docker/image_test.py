"""Builds the image, and makes a payment through containers of it: `make image-test`, as root, with buildah and debootstrap.

It needs neither a registry of images nor an engine: Debian's packages make the base images that the Dockerfile asks for, and
`buildah run` runs the containers, as an unprivileged user without capabilities, in the network of this machine. It prints what
it found, and leaves the image's bill of materials (CycloneDX) beside its report in `build/`.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx

from mo_grpc.db.cluster import programs
from mo_grpc.edge.process import envoy_path
from mo_grpc.process.children import stop

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "build"
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "mo-grpc"
SUITE = "trixie"  # its Python is the Dockerfile's
PACKAGES = "ca-certificates,python3,python3-pip,python3-venv"
USER = 10001
NOBODY = 65534
PATIENCE = 60.0
HOSTS = ("127.0.0.1", "127.0.0.2", "127.0.0.3")
SECRETS = {
    "secret_key": "the-key-of-the-test-of-the-image-0123456789",
    "database_passwd": "service-password",
}
OWNER = "owner-password"


def main() -> int:
    """Build, run, and report; the exit status is 1 if something is wrong."""
    began = time.monotonic()
    BUILD.mkdir(exist_ok=True)
    with ExitStack() as cleanup:
        folder = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="mo-image-")))
        folder.chmod(0o755)
        images = Images(CACHE / "containers")
        for name in sorted(set(re.findall(r"^FROM (\S+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE))):
            images.make_base(name)
        images.build("mo-grpc")
        found = images.inspect("mo-grpc")
        found["components"] = bill_of_materials(images)
        report(found, Run(images, folder, cleanup).pay())
        print(f"{time.monotonic() - began:.0f} s in all")
    return 0


class Images:
    """The images and containers of one store of buildah's."""

    def __init__(self, store: Path) -> None:
        self._options = ["--storage-driver", "vfs", "--root", str(store / "root"), "--runroot", str(store / "run")]

    def __call__(self, *arguments: str) -> str:
        """Run buildah; what it prints."""
        done = subprocess.run(["buildah", *self._options, *arguments], check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        return done.stdout.strip()

    def make_base(self, name: str) -> None:
        """Make an image of Debian's with Python, by the name of the one that is Python's own; once."""
        name = name.partition("@")[0]
        if (
            subprocess.run(
                ["buildah", *self._options, "inspect", "--type", "image", name], capture_output=True, check=False
            ).returncode
            == 0
        ):
            return
        tree = CACHE / SUITE
        if not tree.exists():
            new = tree.with_suffix(".new")
            shutil.rmtree(new, ignore_errors=True)
            command = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", SUITE, str(new)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            (new / "usr/local/bin/python").symlink_to("/usr/bin/python3")
            for marker in new.glob("usr/lib/python3*/EXTERNALLY-MANAGED"):
                marker.unlink()
            for leftover in ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/man", "usr/share/locale"):
                shutil.rmtree(new / leftover, ignore_errors=True)
            new.rename(tree)
        container = self("from", "scratch")
        self("copy", "--quiet", container, str(tree), "/")
        self("config", "--env", "PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", container)
        self("commit", "--quiet", "--rm", container, name)

    def build(self, name: str) -> None:
        """Build the Dockerfile, with this machine's way to reach the packages, which stays outside of the image."""
        revision = subprocess.run(
            ["git", "rev-parse", "HEAD"], check=True, capture_output=True, text=True, cwd=ROOT
        ).stdout.strip()
        dockerfile = re.sub(r"^(FROM \S+?)@\S+", r"\1", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "uv.toml").write_text("system-certs = true\n")
            mounts = [f"{folder}/uv.toml:/etc/uv/uv.toml:ro"]
            mounts += [f"{path}:{path}:ro" for path in ("/etc/pip.conf", "/etc/ssl/certs") if Path(path).exists()]
            command = [
                "buildah",
                *self._options,
                "build",
                "--isolation",
                "chroot",
                "--pull=never",
                "--format",
                "docker",
                "--tag",
                name,
            ]
            command += [f"--volume={mount}" for mount in mounts]
            command += ["--build-arg", f"REVISION={revision}", "--file", "-", "."]
            subprocess.run(command, check=True, input=dockerfile, text=True, cwd=ROOT, stdout=subprocess.DEVNULL)

    def inspect(self, name: str) -> dict[str, object]:
        """What the image says of itself."""
        config = json.loads(self("inspect", "--type", "image", name))["OCIv1"]["config"]
        container = self("from", "--pull=never", name)
        tree = self("mount", container)
        size = int(subprocess.run(["du", "-sb", tree], check=True, capture_output=True, text=True).stdout.split()[0])
        self("rm", container)
        return {"user": config["User"], "labels": config["Labels"], "size_mb": round(size / 1e6)}

    @contextmanager
    def container(self, image: str) -> Iterator[str]:
        """A container, removed afterwards; raises if anything in it was written but its volumes."""
        name = self("from", "--pull=never", image)
        tree = Path(self("mount", name))
        before = snapshot(tree)
        try:
            yield name
            changed = {path for path, _ in before ^ snapshot(tree)}
            # buildah itself makes these, as places to mount at.
            changed = {path for path in changed if not path.startswith(("dev", "etc", "proc", "run", "sys", "tmp"))}
            assert not changed, f"written: {sorted(changed)}"
        finally:
            self("rm", name)

    def command(self, container: str, volumes: dict[Path, str], settings: dict[str, str], *arguments: str) -> list[str]:
        """The command that runs something in a container."""
        options = ["--isolation", "chroot", "--user", f"{USER}:{USER}", "--cap-drop", "all"]
        options += [f"--volume={path}:{place}" for path, place in volumes.items()]
        options += [f"--env={name}={value}" for name, value in settings.items()]
        return ["buildah", *self._options, "run", *options, container, "--", *arguments]


def snapshot(tree: Path) -> set[tuple[str, str]]:
    """Each file, with its size and when it was changed."""
    listed = subprocess.run(
        ["find", ".", "-xdev", "-type", "f", "-printf", "%P\t%s %T@\n"], check=True, capture_output=True, text=True, cwd=tree
    )
    return {(path, about) for path, _, about in (line.partition("\t") for line in listed.stdout.splitlines())}


def bill_of_materials(images: Images) -> int:
    """Write which libraries the image has, and check that it has just these; how many they are."""
    uv, cyclonedx = (Path(sys.executable).with_name(name) for name in ("uv", "cyclonedx-py"))
    extras = [f"--extra={name}" for name in re.findall(r"--extra (\w+)", (ROOT / "Dockerfile").read_text())]
    exported = subprocess.run(
        [uv, "export", "--quiet", "--locked", "--no-dev", "--no-emit-project", "--no-hashes", *dict.fromkeys(extras)],
        check=True,
        capture_output=True,
        text=True,
        cwd=ROOT,
    ).stdout
    path = BUILD / "sbom.json"
    with images.container("mo-grpc") as container:
        script = "from importlib.metadata import distributions as d; print(*(f'{x.name}=={x.version}' for x in d()))"
        listed = subprocess.run(
            images.command(container, {}, {}, "python", "-c", script), check=True, capture_output=True, text=True
        )
    installed = {each for each in map(normal, listed.stdout.split()) if not each.startswith("mo-grpc==")}
    # What the lock file has for other systems than the image's is left out, and so are the conditions.
    pinned = [line.partition(";")[0].strip() for line in exported.splitlines() if "==" in line]
    requirements = "\n".join(line for line in pinned if normal(line) in installed)
    command = [
        str(cyclonedx),
        "requirements",
        "-",
        "--output-file",
        str(path),
        "--output-reproducible",
        "--pyproject",
        "pyproject.toml",
    ]
    subprocess.run(command, check=True, input=requirements, text=True, cwd=ROOT, capture_output=True)
    components = {normal(f"{each['name']}=={each['version']}") for each in json.loads(path.read_text())["components"]}
    assert components == installed, components ^ installed
    return len(components)


def normal(requirement: str) -> str:
    """A requirement with its name as PEP 503 has it."""
    name, _, version = requirement.partition("==")
    return f"{re.sub(r'[-_.]+', '-', name).lower()}=={version}"


class Run:
    """PostgreSQL and Envoy of this machine, and containers of the image."""

    def __init__(self, images: Images, folder: Path, cleanup: ExitStack) -> None:
        self._images = images
        self._folder = folder
        self._cleanup = cleanup
        self._postgres_port, self._grpc_port, self._http_port, self._web_port = (free_port() for _ in range(4))
        self._secrets = folder / "secrets"
        self._secrets.mkdir()
        for name, value in SECRETS.items():
            (self._secrets / name).write_text(value)

    def pay(self) -> dict[str, object]:
        """Start everything, make a payment through it, and stop it; what was answered."""
        self._start_postgres()
        self._once({"DATABASE_OWNER": "mo", "DATABASE_OWNER_PASSWD": OWNER}, "mo-grpc", "migrate")
        status = self._once({}, "cat", "/proc/self/status")
        assert re.search(rf"^Uid:\s+{USER}\s+{USER}", status, re.MULTILINE), status
        assert re.search(r"^CapEff:\s+0+$", status, re.MULTILINE), status
        key = self._once({}, "mo-grpc", "keys", "create", "image").strip().splitlines()[-1]
        for host in HOSTS:
            self._start({"MO_GRPC_HOST": host}, "mo-grpc", "serve")
        self._start({}, "mo-grpc", "web")
        configuration = self._folder / "envoy.yaml"
        configuration.write_text(self._once({}, "mo-grpc", "edge", "--print"))
        envoy = subprocess.Popen(
            [envoy_path(), "--config-path", configuration, "--disable-hot-restart", "--log-level", "error"]
        )
        self._cleanup.callback(stop, envoy, signal.SIGTERM, 30)
        url = f"http://127.0.0.1:{self._http_port}"
        wait_for(lambda: httpx.get(f"{url}/readyz").status_code == 200)
        with httpx.Client(base_url=url, headers={"x-api-key": key}, timeout=30) as client:
            client.post("/v1/customers", json={"external_id": "ana", "score": "1000"}).raise_for_status()
            loan = {
                "external_id": "l1",
                "customer_external_id": "ana",
                "amount": "100",
                "maximum_payment_date": "2099-01-01T00:00:00Z",
            }
            client.post("/v1/loans", json=loan).raise_for_status()
            client.post("/v1/loans/l1:activate").raise_for_status()
            payment = {"external_id": "p1", "customer_external_id": "ana", "total_amount": "40"}
            paid: dict[str, object] = client.post("/v1/payments", json=payment).raise_for_status().json()
            assert client.get("/v1/loans/l1").json()["outstanding"] == "60.00"
            assert "Swagger" in client.get("/swagger/").text
        self._once({}, "mo-grpc", "audit")
        return paid

    def _start_postgres(self) -> None:
        data = self._folder / "postgres"
        data.mkdir()
        os.chown(data, NOBODY, NOBODY)
        as_nobody = {"user": NOBODY, "group": NOBODY, "extra_groups": [], "cwd": data}
        initdb = [
            programs() / "initdb",
            "-D",
            data / "data",
            "-U",
            "postgres",
            "--auth-host=scram-sha-256",
            "--auth-local=trust",
        ]
        subprocess.run(initdb, check=True, stdout=subprocess.DEVNULL, **as_nobody)  # type: ignore[call-overload]
        options = {"listen_addresses": "127.0.0.1", "port": str(self._postgres_port), "unix_socket_directories": str(data)}
        command = [programs() / "postgres", "-D", data / "data", *(f"--{name}={value}" for name, value in options.items())]
        server = subprocess.Popen(command, stderr=subprocess.DEVNULL, **as_nobody)  # type: ignore[call-overload]
        self._cleanup.callback(stop, server, signal.SIGINT, 30)
        path = f"{programs()}:{os.environ['PATH']}"
        environment = {"PGHOST": str(data), "PGPORT": str(self._postgres_port), "POSTGRES_USER": "postgres", "PATH": path}
        ready = [str(programs() / "pg_isready"), "-q"]
        wait_for(lambda: subprocess.run(ready, env=environment, check=False).returncode == 0)
        script = ["sh", str(ROOT / "docker" / "postgres-init.sh")]
        subprocess.run(script, env=environment | {"DATABASE_OWNER_PASSWD": OWNER}, check=True)

    def _command(self, settings: dict[str, str], *arguments: str) -> list[str]:
        container = self._cleanup.enter_context(self._images.container("mo-grpc"))
        run, tmp = (Path(tempfile.mkdtemp(prefix=name, dir=self._folder)) for name in ("run", "tmp"))
        for path in (run, tmp):
            os.chown(path, USER, USER)
        own = {
            "MO_SECRETS_DIR": "/run/secrets/mo",
            "DATABASE_HOST": "127.0.0.1",
            "DATABASE_PORT": str(self._postgres_port),
            "DATABASE_USER": "mo_service",
            "MO_GRPC_PORT": str(self._grpc_port),
            "MO_WORKERS": "1",
            "MO_HTTP_PORT": str(self._http_port),
            "MO_WEB_HOST": "127.0.0.1",
            "MO_WEB_PORT": str(self._web_port),
            "MO_EDGE_WEB_HOST": "127.0.0.1",
            "MO_EDGE_UPSTREAM_HOST": ",".join(HOSTS),
            "MO_SHUTDOWN_GRACE_SECONDS": "5",
        }
        volumes = {run: "/run/mo", tmp: "/tmp", self._secrets: "/run/secrets/mo:ro"}  # noqa: S108 - in the container
        return self._images.command(container, volumes, own | settings, *arguments)

    def _once(self, settings: dict[str, str], *arguments: str) -> str:
        return subprocess.run(self._command(settings, *arguments), check=True, stdout=subprocess.PIPE, text=True).stdout

    def _start(self, settings: dict[str, str], *arguments: str) -> None:
        process = subprocess.Popen(self._command(settings, *arguments), start_new_session=True, stderr=subprocess.DEVNULL)
        self._cleanup.callback(end, process)


def end(process: "subprocess.Popen[bytes]") -> None:
    """End buildah and what it runs, which is in its session."""
    os.killpg(process.pid, signal.SIGTERM)
    process.wait(30)


def free_port() -> int:
    """A port of this machine that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(what: Callable[[], bool]) -> None:
    """Wait until it is so.

    Raises:
        TimeoutError: it is not.
    """
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            if what():
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise TimeoutError


def report(image: dict[str, object], paid: dict[str, object]) -> None:
    """Print what was found."""
    print(f"image: {image['size_mb']} MB, user {image['user']}, {image['components']} libraries ({BUILD.name}/sbom.json)")
    print(f"labels: {json.dumps(image['labels'])}")
    print(
        f"a payment through {len(HOSTS)} containers behind Envoy: {paid['external_id']} {paid['total_amount']} {paid['status']}"
    )


if __name__ == "__main__":
    sys.exit(main())
