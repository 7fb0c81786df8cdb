"""`sovctl doctor`."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from sovctl.cli.wiring.images import step_command
from sovctl.cli.wiring.nodes import gpu_probe
from sovctl.cli.wiring.places import node_name
from sovctl.cli.wiring.slurm_access import ASK_S, fold_hostlist, remote_shell
from sovctl.config import Config, load_config
from sovctl.errors import SovctlError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sovctl.model.site import MachineView
    from sovctl.operations.doctor import DoctorPorts, DoctorSettings


def doctor(
    directories: Sequence[Path], *, ask_nodes: bool, try_steps: bool, told: Mapping[str, str] | None
) -> tuple[DoctorPorts, DoctorSettings]:
    """What `sovctl doctor` touches. A configuration that cannot be read is one of its findings."""
    from sovctl.adapters.command import CommandRunner
    from sovctl.adapters.node.machine_view import absent_programs
    from sovctl.adapters.slurm.cli import SlurmCli
    from sovctl.adapters.slurm.sbatch import Sbatch
    from sovctl.operations.doctor import DoctorPorts, DoctorSettings

    config, problem = _config_or_problem()
    bin_dir = config.slurm.bin_dir
    ports = DoctorPorts(
        missing_programs=absent_programs(("scontrol", "sbatch", "srun", "squeue", "scancel"), bin_dir),
        slurm=SlurmCli(CommandRunner(), bin_dir=bin_dir, timeout_s=ASK_S),
        machine=lambda settings, is_node: _machine_view(config, problem, settings, directories, is_node=is_node),
        remote=lambda: remote_shell(config),
        sbatch=Sbatch(CommandRunner(), bin_dir=bin_dir, give_up_s=3 * ASK_S).answer,
        step=lambda words, options: step_command(config, here=False).program(words, options, 60.0, {}),
        fold=fold_hostlist,
    )
    program = config.sweep.check_command.partition(" health ")[0] or "sovctl"
    clock_s, timeout_s = config.sweep.clock_offset_s, max(config.ssh.timeout_s, 30.0)
    return ports, DoctorSettings(node_name(config), ask_nodes, try_steps, told, program, timeout_s, clock_s)


def _config_or_problem() -> tuple[Config, str]:
    from sovctl.health.probes import resolve

    try:
        config = load_config()
        resolve(config.probes.settings)
    except SovctlError as error:
        return Config(), error.message
    return config, ""


def _machine_view(
    config: Config, problem: str, settings: Mapping[str, str], directories: Sequence[Path], *, is_node: bool
) -> MachineView:
    import time

    from sovctl import __version__
    from sovctl.adapters.node import machine_view as look
    from sovctl.adapters.node.clock_state import clock
    from sovctl.adapters.node.file_trial import try_directory
    from sovctl.adapters.slurm.plugstack import lines_with_included
    from sovctl.config import config_files, unknown_variables
    from sovctl.isolation.plugin_line import kept_paths, plugin_path
    from sovctl.model.site import MachineView
    from sovctl.operations.doctor import HOOKS

    name = node_name(config)
    files = config_files()
    steered = clock("" if config.node.host_root == "/" else config.node.host_root)
    gpus, gpu_problem = _gpus_here(config)
    conf = settings.get("SLURM_CONF", "")
    named = settings.get("PlugStackConfig", "(null)")
    conf_dir = Path(conf).parent if conf else Path("/etc/slurm")
    plugstack = lines_with_included(Path(named) if named.startswith("/") else conf_dir / "plugstack.conf")
    spank = plugin_path(plugstack)
    running, loaded, replaced = look.slurmd_maps(name, conf) if is_node else (False, None, False)
    journal = config.cluster.journal_dir
    return MachineView(
        node=name,
        root=os.geteuid() == 0,
        host=os.uname().nodename,
        version=__version__,
        at=time.time(),
        config_files=tuple(str(path) for path in files),
        config_problem=problem,
        config_digest=look.settings_digest(files[0]) if files else "",
        unknown_variables=tuple(map(str, unknown_variables())),
        clock_steered=steered[0].synchronised if steered else None,
        clock_error_ms=steered[0].max_error_ms if steered else None,
        gpus=gpus,
        gpu_problem=gpu_problem,
        driver_loaded=look.driver_loaded(),
        expected_gpus=config.node.expected_gpus if config.node.expected_gpus >= 0 else None,
        files=tuple(
            replace(try_directory(path), asked=bool(directories))
            for path in directories or _shared_directories(journal, is_node=is_node)
        ),
        journal_dir=journal,
        watchers=_watchers(journal),
        programs=look.programs(),
        user_namespaces=look.user_namespaces(),
        hooks=look.hooks([(key, settings[key]) for key in HOOKS if settings.get(key, "(null)") != "(null)"])
        if is_node
        else (),
        slurmd_running=running,
        spank_wanted=spank,
        spank_there=bool(spank) and Path(spank.replace("%n", name)).is_file(),
        spank_kept=kept_paths(plugstack, name),
        spank_loaded=loaded,
        spank_replaced=replaced,
        spank_steps=look.steps_with(spank.replace("%n", name)) if spank and is_node else None,
        lua_files=look.beside(conf_dir),
    )


def _gpus_here(config: Config) -> tuple[int | None, str]:
    try:
        return len(gpu_probe(config).read()), ""
    except SovctlError as error:
        return None, error.message


def _shared_directories(journal: str, *, is_node: bool) -> list[Path]:
    """The journal, for those who write it, and where a run of this user would keep its record."""
    found = [Path(journal)] if journal and os.access(journal, os.W_OK) else []
    return found if is_node and found else [*found, Path.cwd()]


def _watchers(journal: str) -> Mapping[str, float] | None:
    from sovctl.adapters.node.alive import read_alive

    try:
        return read_alive(Path(journal) / "alive") if journal else None
    except OSError:
        return None
