"""Images, isolated steps and what they are made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from sovctl.model.device import NodeDevices
from sovctl.model.image import CachedImage, ImageOfRun, ImageReference, ImageSettings, ResolvedImage, Staging
from sovctl.model.isolated import EnvLayer, HostSlurm, IsolatedStep, IsolatedTask


class Bundles(Protocol):
    """OCI bundles for Slurm's own containers."""

    def is_directory(self, path: str) -> bool: ...

    def make(self, run_dir: str, image: str, config: Mapping[str, Any]) -> str:
        """A bundle of this run with the unpacked image and this configuration; its path. Raises SovctlError."""
        ...


class ImageTools(Protocol):
    """Loads images and makes a squashfs of each."""

    def resolve(self, reference: ImageReference) -> ResolvedImage:
        """The digest that a reference means now. Raises SovctlError, TryLaterError where a registry is silent."""
        ...

    def build(self, image: ResolvedImage, staging: Staging, progress: Callable[[str], None]) -> CachedImage:
        """Load and verify the image, and leave its squashfs in `staging`; what is there already is not loaded again.

        Raises SovctlError; what was loaded so far stays in `staging`.
        """
        ...


class ImageCache(Protocol):
    """Images as squashfs, keyed by digest, shared by all nodes."""

    def where(self) -> str: ...
    def find(self, digest: str) -> CachedImage | None:
        """The image, if it is there as a whole and its owner can be trusted."""
        ...

    def entries(self) -> tuple[CachedImage, ...]: ...
    def free_bytes(self) -> int: ...
    def pulling(self, digest: str, waiting: Callable[[str], None]) -> AbstractContextManager[Staging]:
        """The turn to load this image, and the directory to load it into. Waits while another has it."""
        ...

    def add(self, image: CachedImage) -> CachedImage:
        """Take an image from its staging directory into the cache by one rename."""
        ...

    def remove(self, image: CachedImage) -> bool:
        """False: it came into use since it was listed, or is somebody else's, and stays."""
        ...

    def leftovers(self) -> tuple[str, ...]:
        """Staging directories of pulls that nobody goes on with."""
        ...

    def remove_leftover(self, path: str) -> bool: ...


class UnpackedImages(Protocol):
    """Images that this node unpacked because it cannot mount them."""

    def unused(self, since: float) -> tuple[str, ...]:
        """Directories that no step uses, and none used after `since` (seconds since the epoch)."""
        ...

    def remove(self, path: str) -> bool:
        """False: a step uses it by now."""
        ...


class IsolationHost(Protocol):
    """What an isolated step needs to know of the node it is made on."""

    def real_path(self, path: str) -> str | None:
        """With every link resolved; None: it is not there."""
        ...

    def identity(self, path: str) -> str:
        """Names the bytes of an image: the digest in the cache, else the file; a directory names itself."""
        ...

    def make_places(self, root: str, mounts: Sequence[tuple[str, str]]) -> None:
        """Something in an unpacked image to mount each source on. Raises UsageError."""
        ...

    def devices(self) -> NodeDevices:
        """Device files of accelerators and fabrics, and which of them this process may open."""
        ...

    def slurm(self, names: Sequence[str]) -> HostSlurm:
        """Of these commands of Slurm the ones on this node. Raises SovctlError where there are none."""
        ...

    def header(self, path: str) -> tuple[bytes, int]:
        """The first bytes of a file, and its size. Raises SovctlError."""
        ...

    def can_mount(self, squashfs: str) -> bool: ...
    def lookout(
        self, about: Mapping[str, object], environment: Mapping[str, str], own_devices: tuple[str, ...]
    ) -> Callable[[], str]:
        """Lay something outside to be found, and give what looks for it from inside."""
        ...

    def clear(self) -> None:
        """Take away what `lookout` laid."""
        ...

    def keep(self, squashfs: str) -> None:
        """Have the cache not remove it while this process, or one forked from it, lives. Raises SovctlError."""
        ...

    def keep_on(self) -> None:
        """What is kept stays so for the program that this process becomes."""
        ...

    def unpacked(self, squashfs: str, offset: int, say: Callable[[str], None]) -> str:
        """The image as a directory of this node, unpacked once. Raises SovctlError."""
        ...

    def stamp(self, path: str) -> str:
        """Size and time of the last change of a file. Raises SovctlError."""
        ...

    def recorded(self, run_dir: str, name: str) -> ImageOfRun:
        """What a run uses for an image's name; without a digest: nothing yet."""
        ...

    def record(self, run_dir: str, name: str, image: ImageOfRun) -> ImageOfRun:
        """Write it down, unless another was faster; what counts."""
        ...


class IsolatedSteps(Protocol):
    """Joins tasks to the isolated steps of this node."""

    def run(
        self, key: str, prepare: Callable[[], IsolatedStep], task_of: Callable[[ImageSettings], IsolatedTask]
    ) -> int:
        """Run one task; its exit status, negative for a signal. Raises SovctlError when the step cannot be made."""
        ...


@dataclass(frozen=True, slots=True)
class StepAnswer:
    """What a command said that was run in a step."""

    status: int
    stdout: str
    stderr: str
    by_step: bool
    """By a step of Slurm; else on this machine."""


class StepCommand(Protocol):
    """Runs a sovctl command in a step of Slurm, or on this machine where there is none."""

    def run(self, words: Sequence[str], srun_options: Sequence[str], timeout_s: float) -> StepAnswer: ...

    def program(
        self, words: Sequence[str], srun_options: Sequence[str], timeout_s: float, variables: Mapping[str, str]
    ) -> StepAnswer:
        """Any program in a step, with variables for srun. Raises SovctlError where there is no srun."""
        ...

    def offers(self, option: str) -> bool:
        """Whether srun here knows an option."""
        ...


class TinyImage(Protocol):
    """A root file system with one program, to try a runtime with."""

    place: str
    """A directory of its own around it."""
    directory: str
    squashfs: str
    """Empty: it cannot be made here."""
    secret: str
    """What `command` prints inside, and the node behind it; elsewhere the word `outside`."""

    @property
    def command(self) -> tuple[str, ...]: ...
    def make(self) -> None: ...
    def remove(self) -> None: ...


class EnvLayers(Protocol):
    """Named layers of this user over images."""

    def open(self, name: str, base: str, reference: str, *, only_read: bool = False) -> str:
        """The directory of a layer, made if it is new, for this step alone.

        Raises UsageError, RefusedError where it was made over other bytes than `base`, TryLaterError while in use.
        """
        ...

    def below(self, name: str) -> tuple[str, str]:
        """What names the bytes of the image below a layer, and its name. Raises UsageError where there is none."""
        ...

    def entries(self) -> tuple[EnvLayer, ...]: ...
    def remove(self, name: str) -> None: ...
    def export(self, name: str, step: IsolatedStep, target: str) -> None:
        """Write image and layer as one squashfs."""
        ...
