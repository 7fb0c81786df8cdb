"""A real registry on loopback, and small images to put into it."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

BUSYBOX = Path("/bin/busybox")
PROGRAMS = ("docker-registry", "skopeo", "umoci", "mksquashfs", "unsquashfs")


def missing_programs() -> list[str]:
    """What the Debian packages of the tests would bring."""
    path = "/usr/sbin:/usr/bin:/sbin:/bin"
    found = [name for name in PROGRAMS if shutil.which(name, path=path) is None]
    return found + ([] if BUSYBOX.exists() else ["busybox"])


@dataclass(frozen=True, slots=True)
class Registry:
    """One that answers at `address` and keeps its blobs in `storage`."""

    address: str
    storage: Path

    def blobs(self) -> list[Path]:
        """The files of all blobs, largest last."""
        found = self.storage.rglob("blobs/sha256/*/*/data")
        return sorted(found, key=lambda path: path.stat().st_size)


@contextmanager
def registry(place: Path, *, htpasswd: str = "") -> Iterator[Registry]:
    """Debian's docker-registry; `htpasswd`: a line of an Apache password file, and everybody must log in."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    place.mkdir()
    lines = ["version: 0.1", "log: {level: error}", f"http: {{addr: '127.0.0.1:{port}'}}"]
    lines += [f"storage: {{filesystem: {{rootdirectory: {place / 'storage'}}}, delete: {{enabled: true}}}}"]
    if htpasswd:
        (place / "htpasswd").write_text(htpasswd + "\n")
        lines += [f"auth: {{htpasswd: {{realm: test, path: {place / 'htpasswd'}}}}}"]
    (place / "config.yml").write_text("\n".join(lines) + "\n")
    with (place / "log").open("wb") as log:
        daemon = subprocess.Popen(["docker-registry", "serve", str(place / "config.yml")], stdout=log, stderr=log)
    try:
        _wait(port, daemon)
        yield Registry(f"127.0.0.1:{port}", place / "storage")
    finally:
        daemon.terminate()
        daemon.wait(10)


def _wait(port: int, daemon: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 20
    while daemon.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=2):
                return
        except OSError:
            time.sleep(0.05)
    raise AssertionError("docker-registry did not start")


def make_layout(place: Path, name: str = "busybox", files: dict[str, str] | None = None) -> Path:
    """An OCI layout `place/name` with one image `name:1`: busybox, its settings, and `files` (path -> text)."""
    layout, bundle = place / name, place / f"{name}-bundle"
    image = f"{layout}:1"
    _umoci("init", "--layout", str(layout))
    _umoci("new", "--image", image)
    _umoci("unpack", "--image", image, str(bundle))
    root = bundle / "rootfs"
    for folder in ("bin", "etc", "opt/work"):
        (root / folder).mkdir(parents=True)
    shutil.copy(BUSYBOX, root / "bin" / "busybox")
    applets = (
        "sh",
        "cat",
        "ls",
        "id",
        "env",
        "sleep",
        "touch",
        "ps",
        "hostname",
        "test",
        "kill",
        "echo",
        "mkdir",
        "rm",
    )
    for applet in (*applets, "true", "false", "readlink", "grep", "wc", "pwd", "nc"):
        (root / "bin" / applet).symlink_to("busybox")
    (root / "etc" / "passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (root / "etc" / "group").write_text("root:x:0:\n")
    for path, text in {"etc/marker": f"{name}\n", **(files or {})}.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    (root / "etc" / "secret").write_text("of the image\n")
    (root / "etc" / "secret").chmod(0)
    _umoci("repack", "--image", image, str(bundle))
    _umoci("config", "--image", image, "--config.env", "FROM_IMAGE=yes", "--config.workingdir", "/opt/work")
    shutil.rmtree(bundle)
    return layout


def push(layout: Path, registry: Registry, name: str) -> str:
    """Put the image `1` of a layout into the registry; returns its full name."""
    target = f"{registry.address}/{name}"
    argv = ["skopeo", "copy", "-q", "--dest-tls-verify=false", f"oci:{layout}:1", f"docker://{target}"]
    subprocess.run(argv, check=True, capture_output=True, timeout=60)
    return target


def _umoci(*words: str) -> None:
    subprocess.run(["umoci", *words], check=True, capture_output=True, timeout=60)
