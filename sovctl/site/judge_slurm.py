"""Whether this Slurm is set as a run that must survive needs it. Pure: `scontrol show config` in, lines out.

Sources: slurm.conf(5) and cgroup.conf(5) of 22.05 to 26.05.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from sovctl.model.site import SlurmView
from sovctl.site.line import Line, failed, passed, skipped, warned

OLDEST, NEWEST = (22, 5), (26, 5)
"""The oldest and the newest Slurm that sovctl was tried on."""
_LEAST_KILL_WAIT_S = 30
_MOST_SLURMD_TIMEOUT_S = 300
_LEAST_UNKILLABLE_S = 180
_LEAST_GRACE_S = 60
_EMPTY = frozenset({"", "(null)", "None", "none"})
_NEVER = 65534  # INFINITE of a 16-bit setting, and NO_VAL16
_KINDS = {"JobSubmitPlugins": "job_submit/", "CliFilterPlugins": "cli_filter/", "TaskPlugin": "task/"}
"""What may stand before the name of a plugin there; every Slurm from 22.05 to 26.05 takes either spelling."""


def judge_slurm(view: SlurmView) -> list[Line]:
    """Every line about Slurm; without Slurm or without an answer it is one."""
    if view.missing:
        names = ", ".join(view.missing)
        fix = "Install Slurm's client commands here, or try a cluster on this machine: sovctl lab up"
        if "/" in names:
            fix = "See who says that Slurm is there, and correct it: sovctl config show slurm.bin_dir"
        return [failed("slurm", f"not installed here: {names}", fix)]
    if view.problem:
        return [failed("slurm", view.problem, view.hint or "scontrol ping")]
    found = [check(view.settings) for check in _CHECKS]
    lines = [line for line in found if line is not None]
    return [*lines, *_grace(view)]


def version_of(settings: Mapping[str, str]) -> tuple[int, int] | None:
    """(22, 5) of `22.05.8`."""
    found = re.match(r"(\d+)\.(\d+)", settings.get("SLURM_VERSION", ""))
    return (int(found[1]), int(found[2])) if found else None


def task_prolog_by_slurmstepd(slurm_version: str) -> bool:
    """Whether the TaskProlog is started by way of slurmstepd, which no image has: 24.11.0 to 24.11.6, 25.05.0 and
    25.05.1 (`script_launcher` in src/common/run_command.c; others have none, or `direct_exec` in task.c)."""
    found = re.search(r"\b(24\.11|25\.05)\.(\d+)", slurm_version)
    return found is not None and int(found[2]) <= {"24.11": 6, "25.05": 1}[found[1]]


def has(settings: Mapping[str, str], key: str) -> bool:
    """Whether something is set there."""
    return settings.get(key, "") not in _EMPTY


def words(settings: Mapping[str, str], key: str) -> list[str]:
    """The parts of a list with commas, in lower case; plugins without their kind: `lua` of `job_submit/lua`."""
    value, kind = settings.get(key, ""), _KINDS.get(key, "")
    return [] if value in _EMPTY else [word.strip().lower().removeprefix(kind) for word in value.split(",")]


def seconds(settings: Mapping[str, str], key: str) -> int | None:
    """The number in `300 sec`."""
    found = re.match(r"\d+", settings.get(key, ""))
    return int(found[0]) if found else None


def _version(settings: Mapping[str, str]) -> Line:
    said = settings.get("SLURM_VERSION", "?")
    version = version_of(settings)
    if version is None:
        return warned("slurm-version", f"{said} cannot be read", "scontrol --version")
    if version < OLDEST:
        return failed("slurm-version", f"{said}; sovctl needs 22.05", "Upgrade Slurm; then: scontrol --version")
    if version > NEWEST:
        return warned("slurm-version", f"{said}: newer than any that sovctl was tried on", "sovctl lab demo")
    return passed("slurm-version", said)


def _conf_hash(settings: Mapping[str, str]) -> Line | None:
    said = settings.get("HASH_VAL", "")
    if said.lower().startswith("different"):
        return warned(
            "slurm-conf",
            "the slurm.conf here differs from slurmctld's",
            "Copy it to every machine, scontrol reconfigure",
        )
    return passed("slurm-conf", "the same as slurmctld's") if said.lower().startswith("match") else None


def _job_requeue(settings: Mapping[str, str]) -> Line:
    if settings.get("JobRequeue") == "0":
        return warned(
            "JobRequeue",
            "0: a job is requeued only if it asks; `sovctl submit` does, a plain sbatch does not",
            "slurm.conf: JobRequeue=1",
        )
    return passed("JobRequeue", settings.get("JobRequeue") or "1")


def _prolog_flags(settings: Mapping[str, str]) -> Line:
    said = settings.get("PrologFlags", "(null)")
    if not has(settings, "Prolog"):
        return skipped("PrologFlags", "no Prolog is set")
    if {"alloc", "contain", "x11"} & set(words(settings, "PrologFlags")):  # each of them means Alloc
        return passed("PrologFlags", said)
    return warned(
        "PrologFlags",
        f"{said}: the prolog of a node runs only when the first step reaches it, after the job has begun elsewhere",
        "slurm.conf: PrologFlags=Alloc",
    )


def _prolog_hold(settings: Mapping[str, str]) -> Line:
    if not has(settings, "Prolog"):
        return skipped("nohold_on_prolog_fail", "no Prolog is set")
    if "nohold_on_prolog_fail" in words(settings, "SchedulerParameters"):
        return passed("nohold_on_prolog_fail", "set")
    return warned(
        "nohold_on_prolog_fail",
        "not set: a job whose prolog refused a sick node is requeued and held until somebody releases it",
        "slurm.conf: SchedulerParameters=nohold_on_prolog_fail",
    )


def _kill_wait(settings: Mapping[str, str]) -> Line | None:
    value = seconds(settings, "KillWait")
    if value is None:
        return None
    if value < _LEAST_KILL_WAIT_S:
        return warned("KillWait", f"{value} s from SIGTERM to SIGKILL: too short to save", "slurm.conf: KillWait=30")
    return passed("KillWait", f"{value} s")


def _slurmd_timeout(settings: Mapping[str, str]) -> Line | None:
    value = seconds(settings, "SlurmdTimeout")
    if value is None:
        return None
    if value == 0:
        return failed("SlurmdTimeout", "0: Slurm never notices a dead node", "slurm.conf: SlurmdTimeout=300")
    if value > _MOST_SLURMD_TIMEOUT_S:
        return warned(
            "SlurmdTimeout",
            f"{value} s until Slurm itself notices a dead node",
            "slurm.conf: SlurmdTimeout=300; or seconds, with: sovctl watch --act",
        )
    return passed("SlurmdTimeout", f"{value} s")


def _health_check(settings: Mapping[str, str]) -> Line:
    interval = seconds(settings, "HealthCheckInterval") or 0
    states = words(settings, "HealthCheckNodeState")
    if not has(settings, "HealthCheckProgram"):
        return warned("HealthCheck", "no HealthCheckProgram: only a node's own watcher looks", "sovctl site lines")
    if interval == 0:
        return failed("HealthCheck", "HealthCheckInterval is 0: it never runs", "slurm.conf: HealthCheckInterval=60")
    if (timeout := seconds(settings, "HealthCheckTimeout") or 0) >= interval:
        return warned(
            "HealthCheck",
            f"HealthCheckTimeout ({timeout} s) is not below HealthCheckInterval ({interval} s): slurmctld complains",
            f"slurm.conf: HealthCheckTimeout={max(interval - 10, 1)}",
        )
    if "any" not in states:
        return warned(
            "HealthCheck",
            f"HealthCheckNodeState={settings.get('HealthCheckNodeState')}: busy nodes are not looked at",
            "slurm.conf: HealthCheckNodeState=ANY,CYCLE",
        )
    return passed("HealthCheck", f"{settings['HealthCheckProgram']} every {interval} s")


def _constrain_devices(settings: Mapping[str, str]) -> Line:
    if "gpu" not in words(settings, "GresTypes"):
        return skipped("ConstrainDevices", "GresTypes has no gpu")
    if "cgroup" not in words(settings, "TaskPlugin"):
        return failed(
            "ConstrainDevices",
            f"TaskPlugin={settings.get('TaskPlugin')}: every job can open every GPU of its node",
            "slurm.conf: TaskPlugin=task/cgroup,task/affinity; cgroup.conf: ConstrainDevices=yes",
        )
    said = settings.get("ConstrainDevices", "no").lower()
    if said in ("yes", "true"):
        return passed("ConstrainDevices", "yes")
    return failed(
        "ConstrainDevices", f"{said}: every job can open every GPU of its node", "cgroup.conf: ConstrainDevices=yes"
    )


def _select(settings: Mapping[str, str]) -> Line | None:
    said = settings.get("SelectType", "")
    if "gpu" in words(settings, "GresTypes") and said != "select/cons_tres":
        return failed(
            "SelectType", f"{said} cannot hand out GPUs one by one", "slurm.conf: SelectType=select/cons_tres"
        )
    return None


def _preempt(settings: Mapping[str, str]) -> Line:
    said = settings.get("PreemptType", "preempt/none")
    if said in _EMPTY or said == "preempt/none":
        return warned(
            "PreemptType",
            f"{said}: spares stand idle, nothing preemptible can run on them",
            "slurm.conf: PreemptType=preempt/qos, PreemptMode=REQUEUE",
        )
    return passed("PreemptType", f"{said}, PreemptMode={settings.get('PreemptMode', '?')}")


def _requeue_delay(settings: Mapping[str, str]) -> Line:
    parameters = words(settings, "SchedulerParameters")
    own = next((word.partition("=")[2] for word in parameters if word.startswith("requeue_delay=")), "")
    if own:
        return passed("requeue_delay", f"{own} s")
    lasts = next(
        (word.partition("=")[2] for word in words(settings, "AuthInfo") if word.startswith("cred_expire=")), "120"
    )
    return passed("requeue_delay", f"{lasts} s for other jobs; sovctl gives its own a begin time")


def _expedite(settings: Mapping[str, str]) -> Line:
    version = version_of(settings)
    if version is None or version < (25, 11):
        return skipped("expedite", "needs Slurm 25.11")
    if "enable_expedited_requeue" in settings.get("SlurmctldParameters", ""):
        return passed("expedite", "a run whose batch host died is eligible again at once")
    return warned(
        "expedite",
        "not allowed: a run whose batch host died waits for requeue_delay",
        "slurm.conf: SlurmctldParameters=enable_expedited_requeue",
    )


def _unkillable(settings: Mapping[str, str]) -> Line | None:
    value = seconds(settings, "UnkillableStepTimeout")
    if value is None:
        return None
    if value < _LEAST_UNKILLABLE_S:
        return warned(
            "UnkillableStepTimeout",
            f'{value} s: when a node dies, Slurm drains an innocent neighbour with "Kill task failed"',
            f"slurm.conf: UnkillableStepTimeout={_LEAST_UNKILLABLE_S}",
        )
    return passed("UnkillableStepTimeout", f"{value} s")


def _accounting(settings: Mapping[str, str]) -> Line:
    said = settings.get("AccountingStorageType", "")
    version = version_of(settings)
    if said.endswith("/slurmdbd"):
        return passed("accounting", said)
    lost = "no QOS, and a user cannot exclude a dead node faster" if version and version < (23, 11) else "no QOS"
    return warned(
        "accounting", f"{said or 'none'}: {lost}", "slurm.conf: AccountingStorageType=accounting_storage/slurmdbd"
    )


def _hooks(settings: Mapping[str, str]) -> Line:
    absent = [key for key in ("Prolog", "Epilog") if not has(settings, key)]
    if absent:
        return warned(
            "hooks", f"no {' and no '.join(absent)}: jobs start on nodes that nobody asked", "sovctl site lines"
        )
    return passed("hooks", f"Prolog={settings['Prolog']} Epilog={settings['Epilog']}")


def _lua(settings: Mapping[str, str]) -> Line:
    if "lua" in words(settings, "JobSubmitPlugins"):
        return passed("job-submit", "JobSubmitPlugins has lua")
    return warned("job-submit", "no JobSubmitPlugins=lua: the site's policy is not enforced", "sovctl site lines")


def _prolog_timeout(settings: Mapping[str, str]) -> Line | None:
    value = seconds(settings, "PrologEpilogTimeout")
    if value is None or value >= _NEVER or value >= _LEAST_GRACE_S:
        return None
    return warned(
        "PrologEpilogTimeout", f"{value} s: a burn-in after a job is cut off", "slurm.conf: PrologEpilogTimeout=180"
    )


def _task_prolog(settings: Mapping[str, str]) -> Line | None:
    version = settings.get("SLURM_VERSION", "")
    if not has(settings, "TaskProlog") or not task_prolog_by_slurmstepd(version):
        return None
    said = f"Slurm {version} starts it by way of slurmstepd, which no image has: a task in one ends with 127"
    fix = "Upgrade to 24.11.7, 25.05.2 or newer, or take the line out of slurm.conf; then: scontrol reconfigure"
    return warned("TaskProlog", said, fix)


_CHECKS: tuple[Callable[[Mapping[str, str]], Line | None], ...] = (
    _version,
    _conf_hash,
    _job_requeue,
    _hooks,
    _prolog_flags,
    _prolog_hold,
    _prolog_timeout,
    _task_prolog,
    _health_check,
    _lua,
    _kill_wait,
    _slurmd_timeout,
    _unkillable,
    _constrain_devices,
    _select,
    _preempt,
    _requeue_delay,
    _expedite,
    _accounting,
)


def _grace(view: SlurmView) -> list[Line]:
    """GraceTime counts only where something may be preempted."""
    if words(view.settings, "PreemptType") in ([], ["preempt/none"]):
        return [skipped("GraceTime", "nothing is preempted")]
    by_qos = view.settings.get("PreemptType") == "preempt/qos"
    if by_qos and view.qos is None:
        return [skipped("GraceTime", "the QOS cannot be asked", "sacctmgr show qos format=Name,GraceTime,PreemptMode")]
    pool = (view.qos or ()) if by_qos else view.partitions
    fallback = view.settings.get("PreemptMode", "OFF")
    short = [one for one in pool if one.interrupted(fallback) and (one.grace_s or 0) < _LEAST_GRACE_S]
    what = "QOS" if by_qos else "partitions"
    if not short:
        return [passed("GraceTime", f"{_LEAST_GRACE_S} s or more in all {what} that are preempted")]
    named = ", ".join(f"{one.name} {one.grace_s or 0:g} s" for one in short[:5])
    typed = "sacctmgr modify qos NAME set GraceTime=120" if by_qos else "slurm.conf: PartitionName=... GraceTime=120"
    return [warned("GraceTime", f"{named}: a preempted job may have no time to save", typed)]
