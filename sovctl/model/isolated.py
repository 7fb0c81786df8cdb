"""An isolated step: what is to be built on a node before its ranks start. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from sovctl.model.image import ImageSettings, Mount


@dataclass(frozen=True, slots=True)
class HostSlurm:
    """Slurm's commands on a node, and what they are made of. Paths have every link resolved."""

    prefix: str
    """Its commands are in `bin` below it."""
    loader: str
    libraries: tuple[str, ...]
    """Directories of the libraries that its commands load."""
    plugins: str
    places: tuple[str, ...]
    """What they read and talk to: slurm.conf, munge's socket."""
    account: str
    """What Slurm runs as; its commands look for it by name."""
    commands: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SlurmClient:
    """What puts Slurm's commands into an image, beside mounts."""

    starter: str
    """Text of the program behind each of them."""
    commands: tuple[str, ...]
    account: str


@dataclass(frozen=True, slots=True)
class IsolatedStep:
    """What all ranks of one step on one node share."""

    settings: ImageSettings = field(default_factory=ImageSettings)
    squashfs: str = ""
    """Path of the image's squashfs; it is mounted, or unpacked once per node."""
    directory: str = ""
    """An unpacked root file system; both empty: the host's own root."""
    squashfs_offset: int = 0
    """Bytes before the squashfs in its file (SIF)."""
    writable: bool = False
    """The root can be written; what is written is gone with the step, or stays in `layer`."""
    layer: str = ""
    """Directory of a named layer (`upper` and `work` in it) that keeps what is written."""
    mounts: tuple[Mount, ...] = ()
    home: str = "/"
    home_visible: bool = False
    """The user's home of the host is there; else an empty one."""
    private_network: bool = False
    """Only a loopback of its own; abstract sockets too are the step's own then."""
    client: SlurmClient | None = None
    """Slurm's commands are wanted in the image."""
    devices: tuple[str, ...] = ()
    """Device files of the host beside null, zero, random, tty and their like."""

    @property
    def own_root(self) -> bool:
        """Whether the root is an image, not the host's."""
        return bool(self.squashfs or self.directory)

    @property
    def sources(self) -> tuple[str, ...]:
        """The paths of the host that the step is made of, each once."""
        every = (self.squashfs, self.directory, self.layer, *(mount.source for mount in self.mounts))
        return tuple(path for path in dict.fromkeys(every) if path)

    def with_sources(self, moved: Mapping[str, str]) -> IsolatedStep:
        """The same step, made of what is found elsewhere by now: old path to new one."""
        return replace(
            self,
            squashfs=moved.get(self.squashfs, self.squashfs),
            directory=moved.get(self.directory, self.directory),
            layer=moved.get(self.layer, self.layer),
            mounts=tuple(replace(one, source=moved.get(one.source, one.source)) for one in self.mounts),
        )


@dataclass(frozen=True, slots=True)
class IsolatedTask:
    """One rank: what it runs, and as what."""

    command: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)
    work_dir: str = "/"
    """Where it starts, if that is there inside; else in `fallback_dir`."""
    fallback_dir: str = "/"
    look: Callable[[], str] | None = None
    """In place of the command: what it says is printed. Measures the isolation without running anything of an image."""


@dataclass(frozen=True, slots=True)
class EnvLayer:
    """A named layer of a user over an image."""

    name: str
    path: str
    reference: str
    """The image below."""
    size_bytes: int
    in_use: bool
