"""Takes the name of an image apart: `reg/img:tag`, `reg#img:tag`, `docker://`, `.sqsh`, `.sif`, a directory, `oci:`."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from sovctl.errors import UsageError
from sovctl.model.image import ImageKind, ImageReference

DEFAULT_REGISTRY = "docker.io"
_SUFFIXES = {
    ".sqsh": ImageKind.SQUASHFS,
    ".sqfs": ImageKind.SQUASHFS,
    ".squashfs": ImageKind.SQUASHFS,
    ".sif": ImageKind.SIF,
}
# The grammar of the OCI distribution specification: no letter that a shell, a URL or a path could mistake.
_REPOSITORY = re.compile(r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*")
_REGISTRY = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9a-fA-F:]+\])(?::[0-9]{1,5})?")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_LONGEST = 4096
_NAME_ONE = "Name an image: --image=REGISTRY/NAME:TAG"


def parse_reference(text: str, cwd: str = "/") -> ImageReference:
    """What `text` names; a relative path (`./x.sqsh`) is taken from `cwd`. Raises UsageError."""
    _check_text(text)
    if text.startswith("oci:"):
        return _in_layout(text, cwd)
    if text.startswith(("/", "./", "../")) or text in (".", ".."):
        kind = _SUFFIXES.get(PurePosixPath(text).suffix, ImageKind.DIRECTORY)
        return ImageReference(kind, text, path=_absolute(text, cwd))
    if PurePosixPath(text).suffix in _SUFFIXES and "://" not in text:
        # pyxis takes a bare x.sqsh for a name in Docker Hub, and its users get a 401 for it.
        raise UsageError(
            f"image {text!r} looks like a file, not like a name in a registry", hint=f"Write --image=./{text}"
        )
    return _in_registry(text)


def _check_text(text: str) -> None:
    if not text or len(text) > _LONGEST:
        raise UsageError(
            "the name of the image is empty" if not text else "the name of the image is too long", hint=_NAME_ONE
        )
    if text.startswith("-"):
        raise UsageError(f"image {text!r} looks like an option", hint=_NAME_ONE)
    if not text.isprintable() or any(char.isspace() for char in text):
        raise UsageError(f"image {text!r} holds a blank or a control character", hint=_NAME_ONE)


def _absolute(path: str, cwd: str) -> str:
    if not path:
        raise UsageError("the path of the image is empty", hint="Name one: --image=./x.sqsh")
    return str(PurePosixPath(cwd, path))


def _in_layout(text: str, cwd: str) -> ImageReference:
    """`oci:DIR` or `oci:DIR:TAG`; without a tag the layout must hold one image only."""
    path, colon, tag = text.removeprefix("oci:").rpartition(":")
    if not colon or "/" in tag:
        path, tag = text.removeprefix("oci:"), ""
    return ImageReference(ImageKind.OCI_LAYOUT, text, tag=tag, path=_absolute(path, cwd))


def _in_registry(text: str) -> ImageReference:
    name = text.removeprefix("docker://")
    if "://" in name:
        scheme = name.partition("://")[0]
        raise UsageError(
            f"image {text!r}: {scheme}:// is not a kind of image known here",
            hint="Write --image=docker://REGISTRY/NAME:TAG, oci:DIR or a path.",
        )
    registry, rest = _registry_of(name)
    rest, _, digest = rest.partition("@")
    repository, _, tag = rest.partition(":")
    if registry == DEFAULT_REGISTRY and "/" not in repository:
        repository = f"library/{repository}"
    _check(text, "registry", registry, _REGISTRY)
    _check(text, "name", repository, _REPOSITORY)
    if tag or rest.endswith(":"):
        _check(text, "tag", tag, _TAG)
    if digest or "@" in name:
        _check(text, "digest", digest, _DIGEST)
    return ImageReference(
        ImageKind.REGISTRY,
        text,
        registry=registry,
        repository=repository,
        tag="" if digest else tag or "latest",
        digest=digest,
    )


def _registry_of(name: str) -> tuple[str, str]:
    """`reg#img` always names a registry; `first/rest` does when `first` could be a host."""
    if "#" in name:
        registry, _, rest = name.partition("#")
        # One word without a port reads as a name in Docker Hub everywhere else; with the port it cannot.
        plain = registry and not {".", ":"} & set(registry) and registry != "localhost"
        return (f"{registry}:443" if plain else registry), rest
    first, slash, rest = name.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        return first, rest
    return DEFAULT_REGISTRY, name


def _check(text: str, what: str, part: str, pattern: re.Pattern[str]) -> None:
    if not pattern.fullmatch(part):
        hint = "An upper-case letter is not allowed in a name." if part != part.lower() and what == "name" else ""
        raise UsageError(
            f"image {text!r}: {part!r} is not a {what}",
            hint=hint or "Write --image=REGISTRY/NAME:TAG or REGISTRY/NAME@sha256:...",
        )
