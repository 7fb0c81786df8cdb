"""skopeo, umoci and squashfs-tools: from a reference to verified bytes to one squashfs."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import re
import shutil
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sovctl.adapters.command import CommandRunner, spawn
from sovctl.adapters.isolation.tree_size import tree_bytes
from sovctl.errors import (
    CommandFailed,
    CommandTimeout,
    RefusedError,
    SovctlError,
    TryLaterError,
    UsageError,
    disk_error,
)
from sovctl.model.image import CachedImage, ImageKind, ImageReference, ImageSettings, ResolvedImage, Staging
from sovctl.model.image_environment import environment_text

_ASK_S = 60.0
_SAY_EVERY_S = 2.0
_JSON_BYTES = 8 * 2**20
_MAKE_ROOM = "Make room: sovctl image gc --keep 0"
_AUTH_FILE = "~/.config/containers/auth.json"
"""By itself it writes to /run of the login node where there is a session, which no job sees."""
_UNREACHABLE = re.compile(
    r"connection refused|no such host|i/o timeout|connection reset|network is unreachable|no route to host"
    r"|TLS handshake timeout|server misbehaving|unexpected EOF|50[0234] |too ?many ?requests|EOF$",
    re.IGNORECASE,
)
_LOGIN = re.compile(
    r"unauthorized|authentication required|access .*denied|\b(?:status|code)\S* 40[13]\b", re.IGNORECASE
)
_UNKNOWN = re.compile(r"manifest unknown|name unknown|not found|\b(?:status|code)\S* 404\b", re.IGNORECASE)
_CORRUPT = re.compile(r"digest did not match|digest mismatch|does not match|invalid checksum|corrupt", re.IGNORECASE)
_FULL = re.compile(r"no space left|quota exceeded", re.IGNORECASE)


class ImageTools:
    """Implements `ports.ImageTools`."""

    def __init__(
        self, runner: CommandRunner, architecture: str, plain_http: Sequence[str] = (), timeout_s: float = 3600.0
    ) -> None:
        """`architecture`: of this machine, in OCI's words. `plain_http`: registries (host:port) without TLS.

        `timeout_s`: of loading or packing one image.
        """
        self._runner = runner
        self._architecture = architecture
        self._plain_http = frozenset(plain_http)
        self._timeout_s = timeout_s
        self._held: tuple[int, ...] = ()

    def resolve(self, reference: ImageReference) -> ResolvedImage:
        """The digest that a reference means now."""
        if reference.kind is ImageKind.REGISTRY:
            return self._resolve_in_registry(reference)
        if not Path(reference.path).exists():
            raise UsageError(
                f"there is no image {reference.path}", hint=f"It must be seen from here: ls -l {reference.path}"
            )
        if _is_layout(reference):
            return self._resolve_in_layout(reference)
        if reference.kind is ImageKind.DIRECTORY:
            return ResolvedImage(reference, "")
        return ResolvedImage(reference, _file_digest(Path(reference.path)), Path(reference.path).stat().st_size)

    def build(self, image: ResolvedImage, staging: Staging, progress: Callable[[str], None]) -> CachedImage:
        """Load, verify, unpack and pack. What skopeo has loaded into `staging` before is not loaded again."""
        try:
            return self._holding(staging.lock)._build(image, Path(staging.path), progress)
        except OSError as error:
            name = image.reference.canonical
            raise disk_error(f"cannot prepare {name} in {staging.path}", error, hint=_MAKE_ROOM) from error

    def _holding(self, lock: int) -> ImageTools:
        """These tools for one pull: whoever kills us leaves its programs, and the next puller must not start beside."""
        own = copy.copy(self)
        own._held = (lock,)
        return own

    def _build(self, image: ResolvedImage, place: Path, progress: Callable[[str], None]) -> CachedImage:
        layout, bundle, packed = place / "layout", place / "bundle", place / "image.sqsh"
        for stale in (bundle, packed):
            _remove(stale)
        self._load(image, layout, progress)
        progress("unpacking the layers")
        rootfs = bundle / "rootfs"
        bundle.mkdir()
        # `raw`: without a config.json for runc, which umoci refuses to write for many a USER and ENV that is valid.
        self._run(image, ("umoci", "raw", "unpack", *_rootless(), "--image", f"{layout}:image", str(rootfs)), place)
        _make_readable(rootfs)
        _empty_devices(rootfs)
        settings = _image_settings(layout)
        _write_environment(rootfs, settings)
        progress("packing the squashfs")
        self._run(image, (*_mksquashfs(), str(rootfs), str(packed), *_PACKED_AS), place)
        _remove(bundle)
        return CachedImage(
            image.digest, str(packed), packed.stat().st_size, time.time(), image.reference.canonical, settings
        )

    def _resolve_in_registry(self, reference: ImageReference) -> ResolvedImage:
        raw = self._inspect(reference, reference.canonical)
        digest = f"sha256:{hashlib.sha256(raw.encode()).hexdigest()}"
        if reference.digest and reference.digest != digest:
            raise _corrupt(reference, f"asked for {reference.digest}, got {digest}")
        manifest, chosen = _json(raw, reference.canonical), ""
        if "manifests" in manifest:
            chosen = self._of_this_machine(manifest, reference)
            named = f"{reference.registry}/{reference.repository}@{chosen}"
            manifest = _json(self._inspect(reference, named), named)
        size = sum(int(layer.get("size", 0)) for layer in manifest.get("layers", ()))
        return ResolvedImage(reference, digest, size, chosen)

    def _resolve_in_layout(self, reference: ImageReference) -> ResolvedImage:
        layout = Path(reference.path)
        digest = str(_layout_manifest(layout, reference.tag)["digest"])
        manifest = _read_json(_blob(layout, digest))
        chosen = self._of_this_machine(manifest, reference) if "manifests" in manifest else ""
        return ResolvedImage(reference, digest, tree_bytes(layout), chosen)

    def _of_this_machine(self, index: dict[str, Any], reference: ImageReference) -> str:
        found = index["manifests"]
        for one in found if isinstance(found, list) else ():
            of = one.get("platform") or {}
            if of.get("os", "linux") == "linux" and of.get("architecture") == self._architecture:
                return str(one["digest"])
        raise SovctlError(
            f"image {reference.canonical} has nothing for linux/{self._architecture}",
            hint=f"See what it has: skopeo inspect --raw {_address(reference)}",
        )

    def _inspect(self, reference: ImageReference, name: str) -> str:
        argv = ("skopeo", "inspect", "--raw", *self._tls(reference, ""), f"docker://{name}")
        try:
            return self._runner.run(argv, timeout_s=_ASK_S, env=_where_credentials_are()).stdout
        except CommandFailed as error:
            raise _explained(reference, error.stderr) from error

    def _load(self, image: ResolvedImage, layout: Path, progress: Callable[[str], None]) -> None:
        reference, digest = image.reference, image.manifest or image.digest
        if reference.kind is ImageKind.REGISTRY:
            source = f"docker://{reference.registry}/{reference.repository}@{digest}"
        else:
            source = f"oci:{_pinned(reference, image.digest, digest, layout.with_name('source'))}"
        total = image.compressed_bytes

        def say() -> None:
            progress(f"loading {_mib(tree_bytes(layout))} of {_mib(total)} MiB")

        # umoci 0.4.7 unpacks gzip and nothing newer; what is gzip already stays as it is.
        how = (f"--override-arch={self._architecture}", "copy", "--dest-compress-format=gzip")
        argv = ("skopeo", *how, *self._tls(reference, "src-"), source, f"oci:{layout}:image")
        self._run(image, argv, layout.parent, say)

    def _tls(self, reference: ImageReference, prefix: str) -> tuple[str, ...]:
        return (f"--{prefix}tls-verify=false",) if reference.registry in self._plain_http else ()

    def _run(
        self, image: ResolvedImage, argv: Sequence[str], place: Path, say: Callable[[], None] = lambda: None
    ) -> None:
        """Run a long program, say now and then how far it is, and turn its words into ours."""
        log = place / "log"
        with log.open("wb") as output:
            child = spawn(argv, env={**os.environ, **_where_credentials_are()}, stdout=output, pass_fds=self._held)
        deadline = time.monotonic() + self._timeout_s
        status = None
        try:
            while (status := child.wait(_SAY_EVERY_S)) is None:
                say()
                if time.monotonic() > deadline:
                    raise CommandTimeout(argv, self._timeout_s)
        finally:
            if status is None:
                child.kill_group()
                child.wait(5.0)
        if status != 0:
            raise _explained(image.reference, log.read_bytes()[-4096:].decode("utf-8", "replace"))


_PACKED_AS = ("-all-root", "-mkfs-time", "0", "-comp", "zstd", "-Xcompression-level", "3", "-b", "1M", "-noappend")
"""The same bytes whoever packs them; 1 MiB blocks read fastest over a network."""


def _where_credentials_are() -> dict[str, str]:
    """Without XDG_RUNTIME_DIR, as in a job, skopeo looks into /run/containers/<uid> and fails where root's podman made
    /run/containers for itself (skopeo 1.9). The directory of lasting credentials is right then.
    """
    if os.environ.get("XDG_RUNTIME_DIR"):
        return {}
    return {"XDG_RUNTIME_DIR": str(Path(os.environ.get("HOME", "/nonexistent"), ".config"))}


def _mksquashfs() -> tuple[str, ...]:
    return (shutil.which("mksquashfs", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") or "mksquashfs",)


def _rootless() -> tuple[str, ...]:
    return () if os.geteuid() == 0 else ("--rootless",)


def _explained(reference: ImageReference, said: str) -> SovctlError:
    """skopeo's and umoci's words, as one of our errors with the right exit status."""
    name = reference.canonical
    last = _own_words(said)[-400:]
    if _FULL.search(said):
        return TryLaterError(f"the disk is full while {name} was loaded", hint=_MAKE_ROOM)
    if _CORRUPT.search(said):
        return _corrupt(reference, last)
    if _LOGIN.search(said):
        return RefusedError(
            f"the registry {reference.registry} does not let you have {name}",
            hint=f"Check its spelling, and log in: skopeo login --authfile {_AUTH_FILE} {reference.registry}",
        )
    if _UNKNOWN.search(said):
        return SovctlError(
            f"there is no image {name}",
            hint=f"Check its name and tag, a deleted digest is gone: skopeo list-tags docker://{reference.registry}/{reference.repository}",
        )
    if _UNREACHABLE.search(said):
        return TryLaterError(
            f"the registry {reference.registry} does not answer: {_tail(last)}",
            hint="Try again later, or use an image that is in the cache: sovctl image ls",
        )
    return SovctlError(f"image {name}: {last}", hint=f"See what skopeo says: skopeo inspect {_address(reference)}")


def _own_words(said: str) -> str:
    """Without what logrus puts around them: `time="..." level=fatal msg="..."`, quotes in them behind backslashes."""
    lines = (_LOGGED.sub(lambda found: found[1].replace('\\"', '"'), line) for line in said.splitlines())
    return " ".join(" ".join(lines).split())


_LOGGED = re.compile(r'^.*?\bmsg="((?:[^"\\]|\\.)*)".*$')


def _tail(said: str, most: int = 160) -> str:
    """Its end, from the start of a word on: the cause stands there."""
    return said if len(said) <= most else said[-most:].partition(" ")[2]


def _address(reference: ImageReference) -> str:
    """As skopeo names it."""
    return f"docker://{reference.canonical}" if reference.registry else f"oci:{reference.path}"


def _corrupt(reference: ImageReference, detail: str) -> SovctlError:
    return SovctlError(
        f"image {reference.canonical} is not what its digest says: {detail[-200:]}",
        hint="Nothing of it was kept. Have the registry repaired, or name another: --image=NAME@sha256:DIGEST",
    )


def _json(text: str, name: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise SovctlError(
            f"image {name}: its manifest is not JSON",
            hint="Is that address a registry? See what it answers: skopeo inspect --raw docker://REGISTRY/NAME",
        )
    return value


def _is_layout(reference: ImageReference) -> bool:
    if reference.kind is ImageKind.OCI_LAYOUT:
        return True
    return reference.kind is ImageKind.DIRECTORY and (Path(reference.path) / "oci-layout").is_file()


def _layout_manifest(layout: Path, tag: str) -> dict[str, Any]:
    found = _read_json(layout / "index.json").get("manifests", [])
    named = "org.opencontainers.image.ref.name"
    chosen = [one for one in found if not tag or (one.get("annotations") or {}).get(named) == tag]
    if len(chosen) != 1:
        what = f"{len(chosen)} images" + (f" named {tag}" if tag else "")
        raise UsageError(f"the OCI layout {layout} holds {what}, not one", hint="Name one: --image=oci:DIR:TAG")
    return dict(chosen[0])


def _blob(layout: Path, digest: str) -> Path:
    name = digest.removeprefix("sha256:")
    if len(name) != 64 or set(name) - set("0123456789abcdef"):
        raise SovctlError(
            f"the OCI layout {layout} names something by {digest!r}",
            hint=f"See whether it is whole: ls -l {layout}/blobs/sha256",
        )
    return layout / "blobs" / "sha256" / name


def _pinned(reference: ImageReference, named: str, digest: str, place: Path) -> Path:
    """A layout at `place` with the blobs of the one that the user named and this one manifest. Raises SovctlError.

    A name may move while it is read, and skopeo finds none that has Docker's media types. `named`: the index or the
    manifest behind the name, whose bytes skopeo takes as they are.
    """
    layout = Path(reference.path)
    for one in dict.fromkeys((named, digest)):
        if (found := _file_digest(_blob(layout, one))) != one:
            raise _corrupt(reference, f"{one} is {found}")
    _remove(place)
    place.mkdir()
    (place / "blobs").symlink_to(layout / "blobs")
    manifest = {"digest": digest, "size": _blob(layout, digest).stat().st_size}
    (place / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}', "ascii")
    (place / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [manifest]}), "ascii")
    return place


def _image_settings(layout: Path) -> ImageSettings:
    """Environment, working directory and command, from the configuration in a layout."""
    descriptor = _layout_manifest(layout, "image")
    manifest = _read_json(_blob(layout, str(descriptor["digest"])))
    config = _read_json(_blob(layout, str(manifest["config"]["digest"]))).get("config") or {}
    pairs = (text.partition("=") for text in config.get("Env") or ())
    return ImageSettings(
        env=tuple((name, value) for name, _, value in pairs if name),
        work_dir=str(config.get("WorkingDir") or ""),
        entrypoint=tuple(config.get("Entrypoint") or ()),
        command=tuple(config.get("Cmd") or ()),
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            return _json(file.read(_JSON_BYTES).decode("utf-8", "replace"), str(path))
    except OSError as error:
        raise SovctlError(
            f"cannot read {path}: {error.strerror}", hint=f"Is it an OCI layout? ls {path.parent}"
        ) from error


def _file_digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    except OSError as error:
        raise SovctlError(f"cannot read the image {path}: {error.strerror}", hint=f"Check it: ls -l {path}") from error


def _mib(count: int) -> str:
    return f"{count / 2**20:.0f}"


def _make_readable(top: Path) -> None:
    """Give the owner what packing and removing need: some images hold files of mode 000."""
    for folder, names, files in os.walk(top):
        for name, wanted in [*((name, 0o700) for name in names), *((name, 0o400) for name in files)]:
            path = os.path.join(folder, name)  # noqa: PTH118
            mode = os.lstat(path).st_mode
            if not stat.S_ISLNK(mode) and mode & wanted != wanted:
                os.chmod(path, stat.S_IMODE(mode) | wanted)  # noqa: PTH101


def _empty_devices(top: Path) -> None:
    """Make device files the empty files that umoci makes of them for a user.

    A step has its own /dev, and a user who must unpack the squashfs could not make them.
    """
    for folder, _, files in os.walk(top):
        for name in files:
            path = os.path.join(folder, name)  # noqa: PTH118
            status = os.lstat(path)
            if stat.S_ISBLK(status.st_mode) or stat.S_ISCHR(status.st_mode):
                with _time_kept(folder):
                    _empty(path, status)


def _write_environment(rootfs: Path, settings: ImageSettings) -> None:
    """Put the image's ENV where who has no more than the squashfs finds it: the SPANK plugin, pyxis, an exported layer.

    In place of the image's own file, as enroot does it: those of distributions hold a PATH that ENV replaces.
    """
    path = rootfs / "etc" / "environment"
    text = environment_text(settings.env)
    if not text or path.parent.is_symlink() or not path.parent.is_dir() or (path.is_dir() and not path.is_symlink()):
        return
    with _time_kept(path.parent):
        path.unlink(missing_ok=True)  # never through a link of the image
        path.write_text(text, "utf-8", "replace")
        path.chmod(0o644)
        os.utime(path, (0, 0))


@contextmanager
def _time_kept(folder: Path | str) -> Iterator[None]:
    """Of a directory that is changed: an image has the same bytes whoever packs it."""
    before = os.stat(folder)
    yield
    os.utime(folder, ns=(before.st_atime_ns, before.st_mtime_ns))


def _empty(path: str, was: os.stat_result) -> None:
    os.unlink(path)  # noqa: PTH108
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    os.chmod(path, stat.S_IMODE(was.st_mode))  # noqa: PTH101
    os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))


def _remove(path: Path) -> None:
    if path.is_dir():
        _make_readable(path)
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
