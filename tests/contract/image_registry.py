"""A real registry on loopback, and small images to put into it."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ports import free_ports

from sovctl.lab.cluster import PortClaims

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
def small_disk(place: Path, options: str) -> Iterator[Path]:
    """A file system that is soon full, as root; `options` of tmpfs. Nothing at all where this is not root."""
    place.mkdir()
    if os.geteuid() != 0:
        yield place
        return
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"{options},mode=1777", "sovctl-test", str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)
        place.rmdir()


@contextmanager
def registry(place: Path, *, htpasswd: str = "") -> Iterator[Registry]:
    """Debian's docker-registry; `htpasswd`: a line of an Apache password file, and everybody must log in."""
    with PortClaims() as claims:
        (port,) = free_ports(1, claims)
        yield from _serve(place, port, htpasswd)


def _serve(place: Path, port: int, htpasswd: str) -> Iterator[Registry]:
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


def make_index(place: Path, name: str, *architectures: str) -> Path:
    """An OCI layout `place/name` whose `name:1` is an index of one image for each architecture, told by /etc/marker."""
    layout, manifests = place / name, []
    for of in architectures:
        single = make_layout(place, f"{name}-{of}", {"etc/marker": f"{of}\n"})
        _umoci("config", "--image", f"{single}:1", "--architecture", of)
        found = json.loads((single / "index.json").read_text())["manifests"][0]
        manifests.append({**found, "annotations": {}, "platform": {"os": "linux", "architecture": of}})
        shutil.copytree(single, layout, dirs_exist_ok=True)
    kind = "application/vnd.oci.image.index.v1+json"
    text = json.dumps({"schemaVersion": 2, "mediaType": kind, "manifests": manifests}).encode()
    digest = hashlib.sha256(text).hexdigest()
    (layout / "blobs" / "sha256" / digest).write_bytes(text)
    named = {"org.opencontainers.image.ref.name": "1"}
    entry = {"mediaType": kind, "digest": f"sha256:{digest}", "size": len(text), "annotations": named}
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    return layout


def rewrite(
    layout: Path,
    *,
    layers: str = "gzip",
    docker: bool = False,
    entries: Sequence[tarfile.TarInfo] = (),
    **config: object,
) -> Path:
    """A layout as other tools write it.

    `layers`: how they are packed (gzip, zstd, plain); `docker`: with Docker's media types; `entries`: more of them in
    the last layer; `config`: fields of the image's configuration.
    """
    index = json.loads((layout / "index.json").read_text())
    manifest = json.loads(_blob(layout, index["manifests"][0]["digest"]).read_bytes())
    settings = json.loads(_blob(layout, manifest["config"]["digest"]).read_bytes())
    settings["config"] |= config
    tars = [gzip.decompress(_blob(layout, layer["digest"]).read_bytes()) for layer in manifest["layers"]]
    tars[-1] = _with_entries(tars[-1], entries)
    settings["rootfs"]["diff_ids"] = [f"sha256:{hashlib.sha256(tar).hexdigest()}" for tar in tars]
    kind = "application/vnd.oci.image.layer.v1.tar" + ("" if layers == "plain" else f"+{layers}")
    kind = "application/vnd.docker.image.rootfs.diff.tar.gzip" if docker else kind
    manifest["layers"] = [{"mediaType": kind, **_add(layout, _packed(tar, layers))} for tar in tars]
    manifest["config"] |= _add(layout, json.dumps(settings).encode())
    manifest["mediaType"] = "application/vnd.oci.image.manifest.v1+json"
    if docker:
        manifest["mediaType"] = "application/vnd.docker.distribution.manifest.v2+json"
        manifest["config"]["mediaType"] = "application/vnd.docker.container.image.v1+json"
    index["manifests"][0] |= {"mediaType": manifest["mediaType"], **_add(layout, json.dumps(manifest).encode())}
    (layout / "index.json").write_text(json.dumps(index))
    return layout


def _with_entries(tar: bytes, entries: Sequence[tarfile.TarInfo]) -> bytes:
    content = io.BytesIO(tar)
    with tarfile.open(fileobj=content, mode="a") as archive:
        for entry in entries:
            archive.addfile(entry)
    return content.getvalue()


def _packed(tar: bytes, how: str) -> bytes:
    if how == "plain":
        return tar
    return subprocess.run([how, "-q", "-c"], input=tar, stdout=subprocess.PIPE, check=True).stdout


def _blob(layout: Path, digest: str) -> Path:
    return layout / "blobs" / "sha256" / digest.removeprefix("sha256:")


def _add(layout: Path, content: bytes) -> dict[str, object]:
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    _blob(layout, digest).write_bytes(content)
    return {"digest": digest, "size": len(content)}


def push(layout: Path, registry: Registry, name: str) -> str:
    """Put the one image of a layout into the registry; returns its full name."""
    target = f"{registry.address}/{name}"
    argv = ["skopeo", "copy", "-q", "--all", "--dest-tls-verify=false", f"oci:{layout}", f"docker://{target}"]
    subprocess.run(argv, check=True, capture_output=True, timeout=60)
    return target


def _umoci(*words: str) -> None:
    subprocess.run(["umoci", *words], check=True, capture_output=True, timeout=60)
