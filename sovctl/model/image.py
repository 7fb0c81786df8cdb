"""Images and what is bound into them: the nouns."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field


class ImageKind(enum.StrEnum):
    """Where an image comes from."""

    REGISTRY = "registry"
    SQUASHFS = "squashfs"
    SIF = "sif"
    OCI_LAYOUT = "oci"
    DIRECTORY = "directory"
    """An OCI bundle (`rootfs` inside), an OCI layout named without `oci:`, or a plain root file system."""


@dataclass(frozen=True, slots=True)
class ImageReference:
    """What a user named, taken apart."""

    kind: ImageKind
    text: str
    """As the user wrote it."""
    registry: str = ""
    """Host and port; only of REGISTRY."""
    repository: str = ""
    tag: str = ""
    digest: str = ""
    """`sha256:<64 hex digits>` where the user fixed it."""
    path: str = ""
    """Of everything but REGISTRY."""

    @property
    def canonical(self) -> str:
        """One spelling for all that mean the same: `registry/repository:tag` (or `@digest`), or the path.

        Of an OCI layout `oci:DIR:TAG`: it may hold several images.
        """
        if self.kind is ImageKind.OCI_LAYOUT:
            return f"oci:{self.path}" + (f":{self.tag}" if self.tag else "")
        if self.kind is not ImageKind.REGISTRY:
            return self.path
        return f"{self.registry}/{self.repository}" + (f"@{self.digest}" if self.digest else f":{self.tag}")


@dataclass(frozen=True, slots=True)
class Mount:
    """A directory or file of the host at a place in the image."""

    source: str
    target: str
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class ImageSettings:
    """What an image says about how it wants to be run."""

    env: tuple[tuple[str, str], ...] = ()
    work_dir: str = ""
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ResolvedImage:
    """A reference, and the bytes it means from now on."""

    reference: ImageReference
    digest: str
    """`sha256:...`; of a registry the manifest's, of a file the file's; empty: a directory, which nothing fixes."""
    compressed_bytes: int = 0
    """Sum of the layers, where a registry or layout tells."""
    manifest: str = ""
    """Digest of the manifest for this machine, where `digest` names an index of several; empty: `digest` itself."""


@dataclass(frozen=True, slots=True)
class ImageOfRun:
    """The bytes that a run began with."""

    digest: str = ""
    stamp: str = ""
    """Of a file: size and time of its last change, which are cheap to compare; a digest of some GiB is not."""


@dataclass(frozen=True, slots=True)
class Staging:
    """A directory to prepare an image in, and the turn to do so."""

    path: str
    lock: int
    """A descriptor. What is started to write there holds it too, so that the turn ends with the last of them."""


@dataclass(frozen=True, slots=True)
class CachedImage:
    """One image of the cache."""

    digest: str
    path: str
    size_bytes: int
    used_at: float
    """Seconds since the epoch: when a step last started from it."""
    reference: str = ""
    settings: ImageSettings = field(default_factory=ImageSettings)
    in_use: bool = False
