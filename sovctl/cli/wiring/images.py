"""`sovctl image` and `sovctl exec`: the cache, the runtimes, isolated steps and what is measured inside."""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from sovctl.config import Config

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sovctl.adapters.isolation.node_roots import NodeRoots
    from sovctl.adapters.isolation.tiny_image import TinyImage
    from sovctl.isolation.inside import Inside
    from sovctl.operations.isolation.exec_step import ExecPorts, ExecSettings, StepRunner
    from sovctl.operations.isolation.images import ImagePorts
    from sovctl.operations.isolation.prove_runtimes import RuntimeProof
    from sovctl.ports.images import EnvLayers, StepCommand


def check_plugin_owner(path: str) -> None:
    """Raises RefusedError where the SPANK plugin of this machine would not mount this image."""
    from sovctl.adapters.slurm.plugstack import plugin_lines
    from sovctl.isolation.plugin_line import check_owner, image_owners

    place = Path(path)
    owner = place.stat().st_uid if place.exists() else os.geteuid()  # who loads it will own it
    check_owner(image_owners(plugin_lines()), owner, path)


def cached_image(config: Config, digest: str) -> str:
    """Path of an image in the cache; of one that is not there yet, of the cache."""
    cache = image_ports(config).cache
    found = cache.find(digest)
    return found.path if found else f"{cache.where()}/..."


def runtime_proofs(
    config: Config, srun_options: Sequence[str], nodes: Sequence[str] = (), *, here: bool
) -> tuple[RuntimeProof, ...]:
    """What each runtime made of a tiny image, on all of some nodes."""
    from sovctl.adapters.isolation.oci_bundle import OciBundles
    from sovctl.operations.isolation.prove_runtimes import prove_runtimes

    tiny = tiny_image()
    bundles = OciBundles(bundle_roots(config), tell)
    step = step_command(config, here=here)
    return prove_runtimes(tiny, step, bundles, srun_options, (os.geteuid(), os.getegid()), nodes)


def measure_by_plugin(config: Config) -> str:
    """What a step sees that the SPANK plugin isolates, on this node."""
    from sovctl.adapters.command import CommandRunner
    from sovctl.adapters.isolation.inside_view import Decoys
    from sovctl.adapters.slurm.plugstack import plugin_lines
    from sovctl.adapters.slurm.step_command import StepInJob
    from sovctl.isolation.plugin_line import kept_paths
    from sovctl.operations.isolation.measure_plugin import measure_by_plugin as measure

    def lay() -> tuple[str, Callable[[], None]]:
        decoys = Decoys()
        return decoys.name, decoys.remove

    step = StepInJob(CommandRunner(), os.environ.get("SLURM_JOB_ID", ""), config.slurm.bin_dir)
    node = os.environ.get("SLURMD_NODENAME", "")
    return measure(step, node, kept_paths(plugin_lines(), node), lay)


def look_around(about: str) -> str:
    """What this process sees, isolated by whoever started it."""
    import json

    from sovctl.adapters.isolation.inside_view import look_around as look
    from sovctl.adapters.isolation.isolation_host import IsolationHost
    from sovctl.adapters.isolation.node_roots import NodeRoots
    from sovctl.isolation.devices import step_gpus, visible_devices

    devices = IsolationHost(NodeRoots(Path("/nonexistent"))).devices()
    return look(json.loads(about), os.environ, visible_devices(devices, step_gpus(os.environ)).paths)


def image_runner(config: Config, inside: Inside, environment: Mapping[str, str]) -> StepRunner:
    """Judges and fetches the image of a run."""
    from sovctl.operations.isolation.exec_step import ExecOptions, ExecPlace, StepRunner

    options = ExecOptions((), inside.image, inside.mount, runtime=inside.runtime)
    place = ExecPlace({**environment}, "/", "")
    return StepRunner(options, exec_settings(config), place, exec_ports(config), tell)


def tell(words: str) -> None:
    print(f"sovctl: {words}", file=sys.stderr, flush=True)


def image_ports(config: Config) -> ImagePorts:
    """What the commands on images touch."""
    from sovctl.adapters.clock import SystemClock
    from sovctl.adapters.command import CommandRunner
    from sovctl.adapters.isolation.image_cache import ImageCache
    from sovctl.adapters.isolation.image_tools import ImageTools
    from sovctl.adapters.isolation.node_roots import NodeRoots
    from sovctl.isolation.cache import architecture, check_squashfs, digest_of, file_name
    from sovctl.operations.isolation.images import ImagePorts

    chosen, own = config.isolation, architecture(os.uname().machine)
    cache = ImageCache(image_cache_dir(config), partial(file_name, of=own), digest_of, check_squashfs)
    tools = ImageTools(CommandRunner(), own, chosen.plain_http.split(), chosen.pull_timeout_s)
    return ImagePorts(tools, cache, SystemClock(), (NodeRoots(Path(chosen.node_dir)), bundle_roots(config)))


def bundle_roots(config: Config) -> NodeRoots:
    """Images unpacked where every node sees them."""
    from sovctl.adapters.isolation.node_roots import NodeRoots

    return NodeRoots(image_cache_dir(config))


def image_cache_dir(config: Config) -> Path:
    """Where images are kept: the site's directory, else one of the user."""
    if config.isolation.cache_dir:
        return Path(config.isolation.cache_dir)
    return _own_cache_dir() / "images"


def tiny_image() -> TinyImage:
    """For trying runtimes; the user's own, since the site's cache may be root's to write."""
    from sovctl.adapters.command import CommandRunner
    from sovctl.adapters.isolation.tiny_image import TinyImage

    return TinyImage(CommandRunner(), _own_cache_dir())


def _own_cache_dir() -> Path:
    from sovctl.adapters.own_place import own_place

    return own_place(os.environ, "XDG_CACHE_HOME", ".cache") / "sovctl"


def exec_ports(config: Config) -> ExecPorts:
    """What `sovctl exec` touches."""
    from sovctl.adapters.command import become
    from sovctl.adapters.isolation.isolated_step import IsolatedSteps
    from sovctl.adapters.isolation.isolation_host import IsolationHost
    from sovctl.adapters.isolation.node_roots import NodeRoots
    from sovctl.adapters.isolation.step_holder import Recipe
    from sovctl.isolation.bubblewrap import mount_points, sandbox_argv
    from sovctl.operations.isolation.exec_step import ExecPorts

    host = IsolationHost(NodeRoots(Path(config.isolation.node_dir)), config.slurm.bin_dir)
    steps = IsolatedSteps(Recipe(sandbox_argv, mount_points))
    return ExecPorts(image_ports(config), host, steps, env_layers(config), become)


def exec_settings(config: Config) -> ExecSettings:
    """What the site allows in isolated steps."""
    from sovctl.operations.isolation.exec_step import ExecSettings, words_of

    chosen = config.isolation
    return ExecSettings(words_of(chosen.allow_images), words_of(chosen.allow_mounts), words_of(chosen.allow_env))


def step_command(config: Config, *, here: bool) -> StepCommand:
    """A sovctl command in a step of Slurm, or on this machine."""
    from sovctl.adapters.command import CommandRunner
    from sovctl.adapters.slurm.step_command import StepCommand

    return StepCommand(CommandRunner(), config.slurm.bin_dir, here=here)


def env_layers(config: Config) -> EnvLayers:
    """The named layers of this user."""
    from sovctl.adapters.isolation.env_layers import EnvLayers
    from sovctl.adapters.own_place import own_name, own_place

    chosen = config.isolation.env_dir
    if "%u" in chosen:
        chosen = chosen.replace("%u", own_name())
    own = own_place(os.environ, "XDG_DATA_HOME", ".local/share") / "sovctl" / "env"
    return EnvLayers(Path(chosen) if chosen else own)
