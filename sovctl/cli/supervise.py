"""`sovctl supervise`: what the batch script written by `sovctl submit` becomes. Not typed by people.

Imports neither typer nor rich: every millisecond here is paid at each restart of a run.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from sovctl.cli import wiring
from sovctl.cli.main import print_error
from sovctl.cli.run_alerts import telling
from sovctl.config import Config, load_config
from sovctl.errors import SovctlError, UsageError
from sovctl.operations.supervisor.live_run import RunPlan
from sovctl.operations.supervisor.supervise import Supervisor
from sovctl.recovery.attempts import furthest_checkpoint
from sovctl.recovery.decide import Limits
from sovctl.recovery.hang import parse_timeout

if TYPE_CHECKING:
    from sovctl.isolation.inside import Inside

_SCRIPT_FD = 3
_OPTIONS = frozenset(
    {
        "--submitted",
        "--name",
        "--run-dir",
        "--checkpoint-dir",
        "--checkpoint-format",
        "--fresh",
        "--max-hardware-faults",
        "--same-crash-limit",
        "--nodes",
        "--spare-nodes",
        "--min-nodes",
        "--lowest-nodes",
        "--hang-timeout",
        "--progress-regex",
        "--restart-stragglers",
        "--inside",
    }
)


def run(argv: Sequence[str]) -> int:
    """Run one attempt; returns the exit status of the batch script."""
    options, arguments = _parse(argv)
    status = 1
    try:
        plan = _plan(options, arguments, os.environ)
        status = wiring.keep_alive(lambda: _live(plan), lambda: _give_up(plan), progress=lambda: _progress(plan))
    finally:
        if status != 0 and "SLURM_JOB_ID" in os.environ:
            wiring.stay_ended(_own_job_id(os.environ))
    return status


def _live(plan: RunPlan) -> int:
    """In a process of its own. An unexpected error is a bug, and no reason to end anybody's run: it counts as a death,
    and the next supervisor takes over."""
    supervisor = None
    try:
        ports = wiring.supervisor_ports(plan.run_dir, plan.inside)
        with telling(plan, ports.journal):
            supervisor = Supervisor(plan, ports)
            return supervisor.run()
    except SovctlError as error:
        with suppress(OSError):
            print_error(error)
        if supervisor is not None and supervisor.has_begun:
            raise  # the next one tries again, and the last one holds the run; an exit status would end it for good
        return error.exit_code
    except Exception as error:
        words = f"unexpected {type(error).__name__} in the supervisor: {error}"
        with suppress(OSError):
            print_error(
                SovctlError(
                    words,
                    hint="This is a bug in sovctl; SOVCTL_DEBUG=1 shows where. The run goes on under a new supervisor.",
                )
            )
        raise


def _progress(plan: RunPlan) -> int:
    """The furthest checkpoint in the run's journal: a run that gets on outlives any number of its supervisors."""
    try:
        # The journal alone: the other ports take the signals of this process, which go on to the next supervisor.
        return furthest_checkpoint(wiring.run_journal(plan.run_dir).events())
    except SovctlError:
        return 0


def _give_up(plan: RunPlan) -> int:
    """The supervisor dies again and again, without a new checkpoint: the run is held, so that a person looks, rather
    than lost."""
    return Supervisor(plan, wiring.supervisor_ports(plan.run_dir, plan.inside)).give_up(
        "its supervisor was killed several times"
    )


def _parse(argv: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """`--key value` pairs up to `--`, then the script's arguments."""
    words = list(argv)
    split = words.index("--") if "--" in words else len(words)
    own, arguments = words[:split], words[split + 1 :]
    if len(own) % 2 or not set(own[::2]) <= _OPTIONS or not {"--submitted", "--name"} <= set(own[::2]):
        raise _not_by_hand()
    return dict(zip(own[::2], own[1::2], strict=True)), arguments


def _plan(options: Mapping[str, str], arguments: list[str], env: Mapping[str, str]) -> RunPlan:
    if "SLURM_JOB_ID" not in env or "SLURM_JOB_NODELIST" not in env:
        raise _not_by_hand()
    config = load_config(env)
    raw_id, cluster = env["SLURM_JOB_ID"], env.get("SLURM_CLUSTER_NAME", "cluster")
    run_id = f"{cluster}-{raw_id}-{options['--submitted']}"
    # Slurm starts the batch script in the job's working directory.
    work_dir = Path.cwd()
    run_dir = (work_dir / options.get("--run-dir", ".sovctl/runs") / run_id).absolute()
    checkpoint_dir = options.get("--checkpoint-dir")
    return RunPlan(
        run_id=run_id,
        cluster=cluster,
        job_id=_own_job_id(env),
        submitted=int(options["--submitted"]),
        name=options["--name"],
        script=_read_script(),
        arguments=tuple(arguments),
        run_dir=run_dir,
        checkpoint_dir=(work_dir / checkpoint_dir).absolute() if checkpoint_dir else run_dir / "checkpoints",
        checkpoint_format=options.get("--checkpoint-format", "auto"),
        fresh="--fresh" in options,
        work_dir=str(work_dir),
        limits=Limits(
            same_crash=int(options.get("--same-crash-limit", config.run.same_crash_limit)),
            unknown=config.run.unknown_limit,
            hardware=int(options.get("--max-hardware-faults", config.run.hardware_limit)),
        ),
        nodes=wiring.expand_hostlist(env["SLURM_JOB_NODELIST"]),
        batch_host=env.get("SLURMD_NODENAME", ""),
        restarts=int(env.get("SLURM_RESTART_COUNT", "0")),
        environment=dict(env),
        poll_s=config.run.poll_s,
        stop_lead_s=config.run.stop_lead_s,
        epilog_s=config.run.epilog_s,
        size=int(options.get("--nodes", 0)),
        spares=int(options.get("--spare-nodes", 0)),
        least=int(options.get("--min-nodes", 0)),
        lowest=int(options.get("--lowest-nodes", 0)),
        preemptible_qos=config.run.preemptible_qos,
        hang_timeout_s=_hang_timeout_s(options, config),
        progress_regex=options.get("--progress-regex", ""),
        restart_stragglers="--restart-stragglers" in options or config.run.restart_stragglers,
        inside=_inside(options) if "--inside" in options else None,
    )


def _hang_timeout_s(options: Mapping[str, str], config: Config) -> float:
    said = options.get("--hang-timeout")
    return config.run.hang_timeout_s if said is None else parse_timeout(said)


def _inside(options: Mapping[str, str]) -> Inside:
    from sovctl.isolation.inside import heard

    try:
        return heard(options["--inside"])
    except ValueError:
        raise _not_by_hand() from None


def _own_job_id(env: Mapping[str, str]) -> str:
    """The id of just this job: the raw id of an array's last task would name the whole array."""
    array, task = env.get("SLURM_ARRAY_JOB_ID"), env.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else env["SLURM_JOB_ID"]


def _read_script() -> bytes:
    try:
        with os.fdopen(_SCRIPT_FD, "rb") as script:
            return script.read()
    except OSError:
        raise _not_by_hand() from None


def _not_by_hand() -> UsageError:
    return UsageError(
        "sovctl supervise is started by the batch script that `sovctl submit` writes", hint="Use: sovctl submit SCRIPT"
    )
