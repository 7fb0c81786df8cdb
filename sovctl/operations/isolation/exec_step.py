"""Run one task of a step in isolation: `sovctl exec`."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sovctl.errors import SovctlError, UsageError
from sovctl.isolation import proof
from sovctl.isolation.bubblewrap import unseen
from sovctl.isolation.cache import check_squashfs, digest_of
from sovctl.isolation.devices import step_gpus, visible_devices
from sovctl.isolation.environment import inner_environment
from sovctl.isolation.mounts import check_sources, parse_mounts
from sovctl.isolation.policy import check_image
from sovctl.isolation.reference import parse_reference
from sovctl.isolation.runtimes import BUILT_IN, NEEDS_DIRECTORY, RUNTIMES
from sovctl.isolation.sif import squashfs_offset
from sovctl.isolation.slurm_client import COMMANDS, client_mounts, starter
from sovctl.isolation.slurm_client import PATH as SLURM_PATH
from sovctl.model.image import ImageKind, ImageOfRun, ImageReference, ImageSettings, Mount, ResolvedImage
from sovctl.model.isolated import IsolatedStep, IsolatedTask, SlurmClient
from sovctl.model.step_id import of_srun
from sovctl.operations.isolation import images

if TYPE_CHECKING:  # every rank pays for each import
    from sovctl.operations.isolation.images import ImagePorts
    from sovctl.ports.images import EnvLayers, IsolatedSteps, IsolationHost

_FILES = (ImageKind.SQUASHFS, ImageKind.SIF)
_OWN_DIRECTORIES = ("SOVCTL_RUN_DIR", "SOVCTL_CHECKPOINT_DIR")
"""A run's heartbeat and checkpoints work inside as they do outside."""


@dataclass(frozen=True, slots=True)
class ExecOptions:
    """What the user asked for."""

    command: tuple[str, ...]
    image: str = ""
    """Empty: the host's own root."""
    mounts: tuple[str, ...] = ()
    home: bool | None = None
    """Whether the user's home is there; None: with the host's root yes, with an image no."""
    clean_env: bool = False
    writable: bool = False
    env_name: str = ""
    """A named layer over the image that keeps what is written."""
    runtime: str = BUILT_IN
    private_network: bool = False
    slurm_client: bool = False
    """The node's Slurm commands in the image."""
    measure: bool = False
    """Look around from inside, in place of the command."""


@dataclass(frozen=True, slots=True)
class ExecSettings:
    """What the site allows."""

    allow_images: tuple[str, ...] = ()
    allow_mounts: tuple[str, ...] = ()
    allow_env: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ExecPorts:
    """What `sovctl exec` touches."""

    images: ImagePorts
    host: IsolationHost
    steps: IsolatedSteps
    layers: EnvLayers
    become: Callable[[Sequence[str], Mapping[str, str]], None]
    """Replace this process; returns only by raising CommandMissing."""


@dataclass(frozen=True, slots=True)
class ExecPlace:
    """Where the task was started."""

    environment: Mapping[str, str]
    work_dir: str
    unique: str
    """Tells this process from every other; for tasks that share their namespaces with nobody."""


class StepRunner:
    """One task of one step."""

    def __init__(
        self,
        options: ExecOptions,
        settings: ExecSettings,
        place: ExecPlace,
        ports: ExecPorts,
        say: Callable[[str], None],
    ) -> None:
        self._options = options
        self._settings = settings
        self._place = place
        self._ports = ports
        self._say = say
        self._digest = ""
        self._below = ""
        """Digest of the image below the layer that is exported."""
        self._unpacked = False

    def run(self) -> int:
        """Run the task; its exit status, negative for a signal. Raises SovctlError."""
        if not self._options.image and (self._options.writable or self._options.env_name):
            option = "--writable" if self._options.writable else "--env-name"
            raise UsageError(f"{option} needs an image", hint="Without one, the root is the host's own: --isolate")
        parse_mounts(self._options.mounts)  # a slip is told by every rank, before anything is made
        if self._options.image:
            self._reference()
        if self._options.runtime != BUILT_IN:
            return self._by_another_runtime()
        try:
            return self._ports.steps.run(self.key(), self._prepare, self._task)
        finally:
            self._ports.host.clear()

    def _by_another_runtime(self) -> int:
        options = self._options
        if options.runtime not in RUNTIMES:
            known = ", ".join((BUILT_IN, *RUNTIMES))
            raise UsageError(
                f"there is no runtime {options.runtime}", hint=f"Name another with --runtime; there are {known}."
            )
        if not options.image or options.env_name or options.private_network or options.slurm_client:
            what = "--private-network" if options.private_network else "--isolate without an image"
            what = "--env-name" if options.env_name else what
            what = "--slurm-client" if options.slurm_client else what
            raise UsageError(f"{options.runtime} has no {what}", hint=f"Use --runtime {BUILT_IN}.")
        step = self._prepare()
        if options.runtime == "charliecloud" and self._unpacked:
            # ch-run makes no place for a mount in a directory that it does not write to.
            self._ports.host.make_places(step.directory, [(one.source, one.target) for one in step.mounts])
        task = self._task(step.settings)
        if not self._seen_inside(step, task.work_dir):
            task = replace(task, work_dir=task.fallback_dir)
        call = RUNTIMES[options.runtime](step, task, self._place.environment)
        self._ports.host.keep_on()
        self._ports.become(call.argv, call.environment)
        return 0

    def _seen_inside(self, step: IsolatedStep, path: str) -> bool:
        """These runtimes end where their working directory is not in the image."""
        shown = [mount.target for mount in step.mounts] + ([step.home] if step.home_visible else [])
        if any(path == place or path.startswith(f"{place}/") for place in shown):
            return True
        return bool(step.directory) and self._ports.host.real_path(step.directory + path) is not None

    def key(self) -> str:
        """The same for all ranks of one step on one node that ask for the same."""
        env = self._place.environment
        # Several nodes of a cluster may be one machine (SLURMD_NODENAME), and several clusters may have a node there
        # and a job of this number at the same time: only one srun of them listens on this address.
        names = (
            *("SLURM_CLUSTER_NAME", "SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT", "SLURMD_NODENAME"),
            *("SLURM_LAUNCH_NODE_IPADDR", "SLURM_STEP_LAUNCHER_PORT"),
        )
        shared = "SLURM_JOB_ID" in env and of_srun(env)
        where = [env.get(name, "") for name in names] if shared else [self._place.unique]
        options = self._options
        wanted = (
            options.image,
            options.mounts,
            options.home,
            options.writable,
            options.env_name,
            options.private_network,
            options.slurm_client,
        )
        return json.dumps([where, wanted, self._place.work_dir if options.image.startswith(".") else ""])

    def _reference(self) -> ImageReference:
        reference = parse_reference(self._options.image, self._place.work_dir)
        if reference.kind is not ImageKind.REGISTRY:
            # The site's list names places, not links to them.
            real = self._ports.host.real_path(reference.path)
            if real is None:
                raise UsageError(
                    f"there is no image {reference.path} on this node",
                    hint=f"Every node of the job must see it: ls -l {reference.path}",
                )
            reference = ImageReference(reference.kind, reference.text, tag=reference.tag, path=real)
        check_image(reference, self._settings.allow_images)
        return reference

    def _prepare(self, *, only_read: bool = False) -> IsolatedStep:
        """Called by the first rank on a node, with the others waiting. `only_read`: of a named layer."""
        mounts = self._mounts()  # before an image is loaded for nothing
        if not (self._options.image or self._options.measure or self._run_dir):  # of a run, `sovctl submit` has said it
            here = self._place.work_dir
            words = unseen(here, mounts, f"--mount {shlex.quote(here)}")
            if words:
                self._say(words)
        squashfs, directory, offset, settings, layer = "", "", 0, ImageSettings(), ""
        if self._options.image:
            reference = self._reference()
            squashfs, directory, offset, settings = self._image(reference)
            if self._options.env_name:
                base = self._ports.host.identity(squashfs or directory)
                name = self._options.env_name
                layer = self._ports.layers.open(name, base, reference.canonical, only_read=only_read)
        if squashfs:
            self._ports.host.keep(squashfs)
        if squashfs and not self._mountable(squashfs):
            self._unpacked = True
            squashfs, directory, offset = "", self._ports.host.unpacked(squashfs, offset, self._say), 0
        visible = self._options.home if self._options.home is not None else not self._options.image
        devices = self._devices()
        client: SlurmClient | None = None
        if self._options.slurm_client and self._options.image:
            slurm = self._ports.host.slurm(COMMANDS)
            client = SlurmClient(starter(slurm), slurm.commands, slurm.account)
            mounts += client_mounts(slurm, [mount.target for mount in mounts])
        return IsolatedStep(
            settings=settings,
            squashfs=squashfs,
            directory=directory,
            squashfs_offset=offset,
            writable=self._options.writable or bool(layer),
            layer=layer,
            mounts=mounts,
            client=client,
            home=self._home(),
            home_visible=visible,
            private_network=self._options.private_network,
            devices=devices,
        )

    def _mountable(self, squashfs: str) -> bool:
        # Unlike these, apptainer mounts a squashfs where the user may use FUSE, and takes a directory everywhere.
        if self._options.runtime in NEEDS_DIRECTORY:
            return False
        return self._ports.host.can_mount(squashfs)

    def fetch(self, submitted: ImageOfRun = ImageOfRun()) -> tuple[str, str]:
        """Path of the image and the digest that the run uses; loaded now if it was not. Raises SovctlError.

        `submitted`: what the name meant when the run was submitted. The digest is empty of a directory that is used
        where it is: nothing fixes its content.
        """
        reference = self._reference()
        if submitted.digest and self._run_dir and not self._recorded().digest:
            self._ports.host.record(self._run_dir, self._name(), submitted)
        squashfs, directory, _, _ = self._image(reference)
        if squashfs:  # for as long as the supervisor lives: the plugins that mount it hold no lock
            self._ports.host.keep(squashfs)
        return squashfs or directory, self._digest

    def resolve(self) -> ImageOfRun:
        """What the name means now, without loading it; for a directory that it is there. Raises SovctlError."""
        reference = self._reference()
        if reference.kind not in _FILES:
            return ImageOfRun(self._resolved(reference).digest)
        self._image(reference)
        stamp = self._ports.host.stamp(reference.path)  # before the bytes: what changes meanwhile is found changed
        return ImageOfRun(self._ports.images.tools.resolve(reference).digest, stamp)

    def export(self, target: str, base: str) -> None:
        """Write the image with its named layer to `target`. Raises SovctlError.

        `base`: what names the bytes of the image below the layer; its tag may have moved since.
        """
        self._below = digest_of(f"{base}.sqsh") or ""
        step = self._prepare(only_read=True)
        self._ports.layers.export(self._options.env_name, step, target)

    def _image(self, reference: ImageReference) -> tuple[str, str, int, ImageSettings]:
        """Path of the squashfs or of the directory, bytes before the squashfs, and what the image says of itself."""
        if reference.kind in _FILES:
            self._check_same(reference)
            header, size = self._ports.host.header(reference.path)
            offset = squashfs_offset(header, reference.path) if reference.kind is ImageKind.SIF else 0
            check_squashfs(header[offset:] or header, size - offset, reference.path)
            return reference.path, "", offset, ImageSettings()
        resolved = self._resolved(reference)
        if not resolved.digest:
            rootfs = f"{reference.path}/rootfs"
            return "", rootfs if self._ports.host.real_path(rootfs) else reference.path, 0, ImageSettings()
        self._digest = resolved.digest
        cached = images.prefetch(resolved, self._ports.images, self._say)
        header, size = self._ports.host.header(cached.path)
        check_squashfs(header, size, cached.path)
        return cached.path, "", 0, cached.settings

    @property
    def _run_dir(self) -> str:
        return self._place.environment.get("SOVCTL_RUN_DIR", "")

    def _name(self) -> str:
        """As the user wrote it: a link that leads elsewhere by now is another image too."""
        return parse_reference(self._options.image, self._place.work_dir).canonical

    def _recorded(self) -> ImageOfRun:
        return self._ports.host.recorded(self._run_dir, self._name()) if self._run_dir else ImageOfRun()

    def _check_same(self, reference: ImageReference) -> None:
        """Raises SovctlError where the file is not the one that the run was submitted with.

        Its bytes are read only where size or time differ: each node may have a copy of its own.
        """
        known = self._recorded()
        self._digest = known.digest
        if not known.digest or known.stamp == self._ports.host.stamp(reference.path):
            return
        if self._ports.images.tools.resolve(reference).digest != known.digest:
            raise _other_by_now(reference, known.digest)

    def _resolved(self, reference: ImageReference) -> ResolvedImage:
        """In a run: what the run's first step resolved, whatever the name means by now."""
        known = self._recorded().digest or self._below
        if known and self._ports.images.cache.find(known):
            return ResolvedImage(reference, known)
        # Of a layout whose tag has moved the layer itself tells that it was made over another.
        if known and (known != self._below or reference.kind is ImageKind.REGISTRY):
            return self._fixed(reference, known)
        found = images.resolve(reference, self._ports.images, self._settings.allow_images)
        if not self._run_dir or not found.digest:
            return found
        digest = self._ports.host.record(self._run_dir, self._name(), ImageOfRun(found.digest)).digest
        return found if digest == found.digest else self._fixed(reference, digest)

    def _fixed(self, reference: ImageReference, digest: str) -> ResolvedImage:
        if reference.kind is not ImageKind.REGISTRY:
            found = images.resolve(reference, self._ports.images, self._settings.allow_images)
            if found.digest != digest:
                raise _other_by_now(reference, digest)
            return found
        text = f"{reference.registry}/{reference.repository}@{digest}"
        return images.resolve(parse_reference(text), self._ports.images, self._settings.allow_images)

    def _mounts(self) -> tuple[Mount, ...]:
        env = self._place.environment
        asked = parse_mounts(self._options.mounts)
        taken = {mount.target for mount in asked}
        own = [env[name] for name in _OWN_DIRECTORIES if env.get(name, "").startswith("/")]
        own = [path for path in dict.fromkeys(own) if path not in taken and self._ports.host.real_path(path)]
        mounts = []
        for mount in (*asked, *parse_mounts(own)):
            real = self._ports.host.real_path(mount.source)
            if real is None:
                raise UsageError(
                    f"there is nothing to mount at {mount.source} on this node",
                    hint=f"Every node must have it: ls -ld {mount.source}",
                )
            mounts.append(Mount(real, mount.target, mount.read_only))
        check_sources([mount.source for mount in mounts], self._settings.allow_mounts)
        return tuple(mounts)

    def _home(self) -> str:
        home = self._place.environment.get("HOME", "").rstrip("/")
        if not home.startswith("/") or ".." in home.split("/"):
            return "/tmp"
        # A user of the system may have a home that is nowhere; on the host's root nobody can make one.
        there = self._options.image and not self._options.home
        return home if there or self._ports.host.real_path(home) else "/tmp"

    def _task(self, settings: ImageSettings) -> IsolatedTask:
        options = self._options
        inner = inner_environment(
            self._place.environment,
            settings.env,
            clean=options.clean_env or not options.image,
            home=self._home(),
            extra_allowed=self._settings.allow_env,
            host_root=not options.image,
        )
        if options.slurm_client and options.image:
            inner["PATH"] = f"{SLURM_PATH}:{inner['PATH']}"
        of_image = settings.work_dir or "/"
        # A directory of the host that is there too was meant; the root says nothing.
        here = self._place.work_dir if self._place.work_dir != "/" else of_image
        look = self._look(inner, settings) if options.measure else None
        return IsolatedTask(options.command, inner, here, of_image, look)

    def _devices(self) -> tuple[str, ...]:
        shown = visible_devices(self._ports.host.devices(), step_gpus(self._place.environment))
        if shown.lost:
            self._say(shown.lost)
        if shown.withheld and "SOVCTL_DEBUG" in self._place.environment:
            self._say(f"not handed in, since everybody may open it: {', '.join(shown.withheld)}")
        return shown.paths

    def _look(self, inner: dict[str, str], settings: ImageSettings) -> Callable[[], str]:
        own = self._devices()
        about = {"schema": proof.SCHEMA, "own_environment": [name for name, _ in settings.env]}
        return self._ports.host.lookout(about, inner, own)


def _other_by_now(reference: ImageReference, digest: str) -> SovctlError:
    return SovctlError(
        f"{reference.text} means another image by now, not the one that the run began with ({digest[:19]})",
        hint="Put that back under its name, or begin anew: sovctl submit",
    )


def words_of(text: str) -> tuple[str, ...]:
    """A list of the configuration: words with blanks in between."""
    return tuple(text.split())


def own_words(argv: Sequence[str]) -> tuple[list[str], tuple[str, ...]]:
    """Our options, and the command after `--`. Raises UsageError where there is none."""
    words = list(argv)
    if "--" not in words or words.index("--") == len(words) - 1:
        raise UsageError(
            "there is no command to run", hint="Write it after two dashes: sovctl exec --isolate -- COMMAND"
        )
    split = words.index("--")
    return words[:split], tuple(words[split + 1 :])
