"""Whether a machine is fit for what it does for sovctl: login node, node, controller. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from sovctl.model.site import FileTrial, HookFile, MachineView
from sovctl.site.line import Line, failed, passed, skipped, warned

_WATCHER_SILENT_S = 60.0
_CLOCK_ERROR_MS = 500.0
_SERVER_OFFSET_S = 2.0
_NO_SHARED_APPEND = frozenset({"nfs", "nfs4"})
"""A client appends where it believes the end to be: open(2), O_APPEND."""
_OF_ONE_MACHINE = frozenset(
    {"bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "jfs", "overlay", "ramfs", "reiserfs", "tmpfs", "vfat", "xfs"}
    | {"zfs"}
)
"""File systems that two machines cannot have mounted at a time."""
_RUNTIMES = {
    "bubblewrap": ("bwrap",),
    "images": ("skopeo", "umoci", "mksquashfs", "unsquashfs"),
}
"""What the built-in runtime needs: to isolate, and to prepare images."""
_OTHER_RUNTIMES = ("apptainer", "ch-run", "podman", "enroot")
_PACKAGES = "bubblewrap skopeo umoci squashfs-tools squashfuse"


def judge_machine(view: MachineView, *, is_node: bool, has_gpus: bool, site_mode: bool) -> list[Line]:
    """Every line about this machine.

    `is_node`: slurmd's node; `has_gpus`: Slurm says so; `site_mode`: root's programs are meant to run.
    """
    lines = [_config(view), _clock(view), *(_files(trial) for trial in view.files)]
    lines.append(_gpus(view, has_gpus=has_gpus))
    lines += _runtimes(view)
    lines.append(_stacks(view))
    if site_mode:
        lines += [_journal(view), _watchers(view)]
    if is_node:
        lines += [*(_hook(hook) for hook in view.hooks), _spank(view)]
    return lines


def _config(view: MachineView) -> Line:
    if view.config_problem:
        return failed("config", view.config_problem, "Correct it, then: sovctl config check")
    if view.unknown_variables:
        slips = " ".join(words.partition(" ")[0] for words in view.unknown_variables)
        return warned("config", ", ".join(view.unknown_variables), f"unset {slips}")
    said = ", ".join(view.config_files) or "no file: built-in values"
    return passed("config", said)


def _clock(view: MachineView) -> Line:
    if view.clock_steered is None:
        return skipped("clock", "the kernel does not tell whether it is steered")
    if not view.clock_steered:
        return warned(
            "clock", "not steered by NTP: marks and records of nodes stop to agree", "systemctl enable --now chrony"
        )
    if view.clock_error_ms is not None and view.clock_error_ms > _CLOCK_ERROR_MS:
        return warned("clock", f"steered, but up to {view.clock_error_ms:.0f} ms off", "chronyc sources")
    return passed("clock", "steered")


def _files(trial: FileTrial) -> Line:
    name = "shared-files"
    where = f"{trial.directory} ({trial.kind})" if trial.kind else trial.directory
    if trial.missing and trial.asked:
        return failed(name, f"{where} is not there", f"mkdir -p {shlex.quote(trial.directory)}")
    if trial.problem and trial.renames is None:
        return skipped(name, f"{where}: {trial.problem}", "sovctl doctor --dir DIR")
    broken = [
        what
        for what, works in (
            ("a rename does not replace", trial.renames),
            ("fsync fails", trial.syncs),
            ("lines appended by two processes get lost", trial.appends),
        )
        if works is False
    ]
    if broken or trial.problem:
        said = ", ".join([*broken, *([trial.problem] if trial.problem else [])])
        fix = "Another file system for runs and journal: sovctl submit --run-dir DIR; cluster.journal_dir"
        return failed(name, f"{where}: {said}", fix)
    if trial.locks is False:
        return warned(
            name,
            f"{where}: flock keeps nobody out, so the drain budget is only approximate",
            _lock_fix(trial),
        )
    if "local_lock=flock" in trial.options or "local_lock=all" in trial.options or "nolock" in trial.options.split(","):
        fix = f"Mount it without nolock and local_lock: findmnt -o TARGET,OPTIONS -T {trial.directory}"
        return warned(name, f"{where}: locks hold on one machine only", fix)
    if trial.clock_offset_s is not None and abs(trial.clock_offset_s) > _SERVER_OFFSET_S:
        words = f"{where}: the server's clock is {trial.clock_offset_s:+.1f} s from this one"
        return warned(name, words, "Steer both by NTP: systemctl enable --now chrony")
    if trial.kind in _NO_SHARED_APPEND:
        # Two clients of one server lose lines of each other; every file of sovctl is appended to under a lock.
        return passed(name, f"{where}: rename, fsync and flock work; O_APPEND holds on one machine, under flock on all")
    return passed(name, f"{where}: rename, fsync, O_APPEND and flock work")


def _lock_fix(trial: FileTrial) -> str:
    option = "flock" if trial.kind == "lustre" else "locks"
    return f"Mount it with {option}: findmnt -o TARGET,OPTIONS -T {trial.directory}"


def _gpus(view: MachineView, *, has_gpus: bool) -> Line:
    wanted = view.expected_gpus
    if view.gpu_problem:
        if has_gpus or view.driver_loaded or wanted:
            return failed("nvml", view.gpu_problem, "nvidia-smi; dmesg | sovctl health explain")
        return skipped("nvml", "no NVIDIA driver here")
    if wanted is not None and view.gpus != wanted:
        return failed("nvml", f"{view.gpus} GPUs, node.expected_gpus is {wanted}", "sovctl health check --dry-run")
    return passed("nvml", f"{view.gpus} GPUs")


def _runtimes(view: MachineView) -> list[Line]:
    lines = []
    for name, needed in _RUNTIMES.items():
        absent = [program for program in needed if program not in view.programs]
        if absent:
            fix = f"apt-get install {_PACKAGES}"
            lines.append(warned(name, f"not installed: {', '.join(absent)}", fix))
        else:
            lines.append(passed(name, ", ".join(needed)))
    if view.user_namespaces is False:
        fix = "sysctl user.max_user_namespaces=65536; kernel.apparmor_restrict_unprivileged_userns=0 on Ubuntu"
        lines.append(failed("user-namespaces", "users cannot make any: sovctl exec cannot isolate", fix))
    elif view.user_namespaces:
        lines.append(passed("user-namespaces", "allowed"))
    others = [name for name in _OTHER_RUNTIMES if name in view.programs]
    if others:
        lines.append(passed("other-runtimes", ", ".join(others)))
    return lines


def _stacks(view: MachineView) -> Line:
    if "py-spy" in view.programs:
        return passed("py-spy", view.programs["py-spy"])
    return warned("py-spy", "not installed: no stacks of hung ranks", "pip install py-spy")


def _journal(view: MachineView) -> Line:
    if not view.journal_dir:
        fix = 'In sovctl.toml: [cluster] journal_dir = "/shared/sovctl/journal"'
        return warned("journal", "cluster.journal_dir is not set: each node keeps its own record, no drain budget", fix)
    return passed("journal", view.journal_dir)


def _watchers(view: MachineView) -> Line:
    if not view.watchers:
        return warned("watchers", "no node's watcher has ever reported", "On every node: sovctl health watch --observe")
    silent = sorted(node for node, at in view.watchers.items() if view.at - at > _WATCHER_SILENT_S)
    if silent:
        shown = ", ".join(silent[:8]) + (f" and {len(silent) - 8} more" if len(silent) > 8 else "")
        return warned("watchers", f"silent for a minute: {shown}", "On these: systemctl status sovctl-health-watch")
    return passed("watchers", f"{len(view.watchers)} nodes report")


def _hook(hook: HookFile) -> Line:
    if hook.runs:
        return passed(hook.setting, hook.path)
    return failed(hook.setting, f"{hook.path} is not there or cannot be executed", f"ls -l {hook.path}")


def _spank(view: MachineView) -> Line:
    if not view.spank_wanted:
        return warned("spank", "not in plugstack.conf: --sov-isolate does not exist", "sovctl site lines")
    if not view.spank_there:
        return failed("spank", f"{view.spank_wanted} is not there", "Build it for this Slurm: make -C plugins/spank")
    if view.spank_loaded is None:
        why = "no slurmd runs here" if not view.slurmd_running else "whether slurmd has it is root's to see"
        return skipped("spank", f"{view.spank_wanted} is there; {why}")
    if not view.spank_loaded:
        return failed("spank", f"slurmd has not loaded {view.spank_wanted}", "systemctl restart slurmd")
    if view.spank_replaced:
        return warned("spank", "slurmd has an older file in memory", "systemctl restart slurmd")
    hidden = next((hook.path for hook in view.hooks if hook.setting == "TaskProlog" and not _kept(hook.path, view)), "")
    if hidden:
        said = f"an image does not show the TaskProlog {hidden}: Slurm ends every task in one"
        return warned("spank", said, f"Add to the plugin's line in plugstack.conf: keep={hidden}")
    having, steps = view.spank_steps or (0, 0)
    if having < steps:
        fix = f"They end with their jobs: squeue -w {view.node}"
        return warned("spank", f"{steps - having} of {steps} running steps began without it", fix)
    said = f"; slurmd and {steps} running steps have it" if steps else "; slurmd has it"
    return passed("spank", view.spank_wanted + said)


def _kept(path: str, view: MachineView) -> bool:
    return any(path == kept or path.startswith(f"{kept.rstrip('/')}/") for kept in view.spank_kept)


def controllers(settings: Mapping[str, str]) -> tuple[str, ...]:
    """Hosts of slurmctld: `SlurmctldHost=ctl1(10.0.0.1)`, more of them with commas (backups)."""
    names = (part.partition("(")[0].strip() for part in settings.get("SlurmctldHost", "").split(","))
    return tuple(dict.fromkeys(filter(None, names)))


def is_controller(host: str, settings: Mapping[str, str]) -> bool:
    """Whether slurmctld runs on this host."""
    names = set(controllers(settings))
    short = {name.partition(".")[0] for name in names}
    return bool({host, "localhost"} & names) or host.partition(".")[0] in short


def backup_lines(view: MachineView, settings: Mapping[str, str]) -> list[Line]:
    """One watch at a time, and the one on the backup goes on where the other was: by a lock and by what lies in the
    journal directory."""
    hosts = controllers(settings)
    if len(hosts) < 2:
        return []
    name, named = "backup-controller", " and ".join(hosts)
    forgets = "two watches act at a time, and neither knows what the other has begun"
    state = settings.get("StateSaveLocation", "(null)")
    beside = f", on the storage that holds StateSaveLocation ({state})" if state.startswith("/") else ""
    fix = f'In sovctl.toml of {named}: [cluster] journal_dir = "/shared/sovctl/journal"{beside}'
    if not view.journal_dir:
        return [warned(name, f"{named} share no journal, cluster.journal_dir is not set: {forgets}", fix)]
    trial = next((trial for trial in view.files if trial.directory == view.journal_dir), None)
    if not is_controller(view.host, settings) or trial is None or not trial.kind:
        return [skipped(name, f"whether {named} share {view.journal_dir} is seen there", f"On {named}: sovctl doctor")]
    if trial.kind in _OF_ONE_MACHINE:
        words = f"{view.journal_dir} ({trial.kind}) is {view.host}'s own, and {named} run slurmctld: {forgets}"
        return [warned(name, words, fix)]
    return [passed(name, f"{view.journal_dir} ({trial.kind}) for {named}")]
