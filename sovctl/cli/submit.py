"""`sovctl submit`: sbatch, with the supervisor around the script.

Parsed by hand: every option of sbatch goes through as typed, and nothing slow is imported.
"""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import TypeVar

from sovctl import __version__
from sovctl.cli import wiring
from sovctl.cli.progress import progress
from sovctl.cli.words import fitted, printable, say, terminal_width
from sovctl.config import Config, load_config
from sovctl.errors import CommandMissing, SbatchRefusal
from sovctl.isolation.inside import SPANK, Inside
from sovctl.model.image import ImageOfRun
from sovctl.operations import submit as operation
from sovctl.operations.submit import Prepared, Submitted
from sovctl.ports.slurm import SubmitOutcome
from sovctl.submit.options import SubmitLine, split
from sovctl.submit.script import Launch

Answer = TypeVar("Answer")
HELP = """\
Usage: sovctl submit [SBATCH OPTIONS] [OPTIONS] SCRIPT [ARGS]...
       sovctl submit [SBATCH OPTIONS] [OPTIONS] -- COMMAND [ARGS]...
       sovctl submit [SBATCH OPTIONS] [OPTIONS] --wrap COMMAND
       sovctl submit [SBATCH OPTIONS] [OPTIONS] < SCRIPT

Submits a training run and keeps it running: a node that fails is excluded, the job is requeued at once and resumes
from its newest complete checkpoint. Takes every option of sbatch but --no-kill and --external, on the command line and
in #SBATCH lines, and adds --requeue (=expedite where the site lets jobs ask for it) and --open-mode=append where you
did not choose. What is printed and the exit status are sbatch's own.

Options, also on #SOVCTL lines where sbatch reads #SBATCH:
  --run-dir DIR            Directory that gets one directory a run (default: .sovctl/runs in the job's working
                           directory); must be on the shared file system.
  --checkpoint-dir DIR     Where the checkpoints are; passed to the script as SOVCTL_CHECKPOINT_DIR.
  --checkpoint-format FMT  Which framework saves them (default: auto, recognised by what lies there): dcp, torchtitan,
                           megatron, deepspeed, lightning, hf-trainer, accelerate, nemo, safetensors, nvrx, neuronx.
  --max-hardware-faults N  So many hardware faults without a new checkpoint in between: hold and explain.
  --same-crash-limit N     The same crash at the same step so many times: hold and explain.
  --spare-nodes K          Ask for K nodes more than the script runs on and sees. A node that fails is dropped from
                           the job and a spare takes its place, without the queue.
  --min-nodes M            Go on with as few as M nodes while no replacement is free; back to all of them at a
                           checkpoint when one is.
  --preemptible            Submit with the site's preemptible QOS and into its partition, unless --qos or
                           --partition say another.
  --hang-timeout TIME      Without progress for so long (900, 90s, 15m, 2h) the ranks are looked at, and the run is
                           restarted if it hangs; off: never; default auto: derived from the run's own steps.
  --progress-regex REGEX   Finds the step in the job's output: its group `step`, or its first one. Needed only where
                           neither sovctl.train nor a known framework says it.
  --restart-stragglers     Restart at once without a node that is persistently slower than the others.

Isolation, also on #SOVCTL lines:
  --image IMAGE            The steps run in this image: REGISTRY/NAME:TAG, oci:DIR, ./x.sqsh, ./x.sif, a directory. What
                           the name means now holds for the whole run.
  --isolate                The same without an image: private /tmp, /var/tmp, /dev/shm and processes on the host's
                           own root (a working directory below those needs --mount .).
  --mount A:B[:ro]         Directory or file A of the host at B; repeatable; `--mount .` is the working directory.
  --home none|mount        Whether your home is there (with an image: none).
  --clean-env              Only variables of the allow-list; without an image always.
  --writable               The root can be written; gone with the step.
  --env-name NAME          Your named layer over the image; keeps what is written.
  --private-network        No network but its own loopback.
  --slurm-client           The node's Slurm commands (squeue, srun, ...), slurm.conf and munge in the image.
  --inside steps|script    steps: what the script starts with srun; script: all of it. Without it: steps where the
                           script calls srun, else script.
  --runtime NAME           bubblewrap (built in), spank, pyxis, slurm, apptainer, charliecloud or podman.

Options on the command line only:
  --fresh                  Begin at step 0 where checkpoints lie but none is proven complete, instead of being held.
  --dry-run                Print the batch script on stdout and the sbatch command on stderr; submit nothing.
  -h, --help               Show this text. sbatch's own: sbatch --help

Example:
  sovctl submit -N 4 --gpus-per-node=8 --checkpoint-dir=checkpoints train.sbatch --lr 3e-4
  sovctl run show JOBID"""


def run(argv: Sequence[str]) -> int:
    """Run `sovctl submit` and return its exit status."""
    line = split(argv)
    if line.own.help:
        print(fitted(HELP, terminal_width()))
        return 0
    try:
        return _submit(line)
    except SbatchRefusal as error:
        _say(f"sbatch: error: {printable(error.message)}")
        if error.hint:
            _say(f"sovctl: {printable(error.hint)}")
        return error.exit_code


def _submit(line: SubmitLine) -> int:
    if operation.answered_by_sbatch(line):
        return _pass_on(operation.answer(line, wiring.submitter()))
    launch = Launch(sys.executable, __version__, int(time.time()))
    files = wiring.submission_files()
    cwd = os.getcwd()  # noqa: PTH109 - text, as sbatch has it
    config = load_config(os.environ)
    qos = config.run.preemptible_qos if line.own.preemptible else ""
    prepared = operation.prepare(
        line,
        files,
        os.environ,
        cwd,
        launch,
        preemptible_qos=qos or "preemptible",
        preemptible_partition=lambda: _asked(wiring.preemptible_partition),
        may_expedite=lambda: _asked(wiring.may_expedite),
        runtime=config.isolation.runtime,
        resolve=lambda inside: _resolved(inside, config),
    )
    saves = operation.known_saves(prepared, wiring.run_index(), wiring.run_records())
    advice = operation.lead_advice(prepared, saves)
    grace = operation.grace_advice(prepared, saves, lambda: _asked(wiring.preemption))
    insists = operation.lemon_advice(prepared, lambda: _asked(wiring.lemons), wiring.expand_hostlist)
    for words in filter(None, (prepared.warning, prepared.where, prepared.unseen, advice, grace, insists)):
        _say(f"sovctl: {printable(words)}")
    if prepared.own.dry_run:
        return _show(prepared)
    # With --wait, sbatch is silent until the job ends, as its users know it.
    with nullcontext() if prepared.choices.wait else progress("handing it to sbatch"):
        done = operation.submit(prepared, wiring.submitter(), files, wiring.run_index())
    status = _pass_on(done.outcome)
    _follow(done)
    return status


def _asked(question: Callable[[], Answer]) -> Answer:
    with progress("asking slurmctld"):
        return question()


def _resolved(inside: Inside, config: Config) -> ImageOfRun:
    """Asked now, so that a wrong name is known at once. Where this machine cannot ask, the first attempt does."""
    try:
        with progress(f"asking for {inside.image}"):
            found = wiring.image_runner(config, inside, {}).resolve()
    except CommandMissing as error:
        _say(f"sovctl: {printable(error.message)}; the image is looked up when the run starts")
        return ImageOfRun()
    if inside.runtime == SPANK and found.digest:
        wiring.check_plugin_owner(inside.image if found.stamp else wiring.cached_image(config, found.digest))
    return found


def _show(prepared: Prepared) -> int:
    command = ["sbatch", *prepared.options, prepared.name, *prepared.arguments]
    sys.stdout.buffer.write(prepared.text)
    sys.stdout.flush()
    print(printable(shlex.join(command)), file=sys.stderr, flush=True)  # whole, to be copied
    return 0


def _pass_on(outcome: SubmitOutcome) -> int:
    """sbatch's words and status, unchanged; a signal as the shell reports it."""
    print(outcome.stdout, end="", flush=True)
    print(outcome.stderr, end="", file=sys.stderr, flush=True)
    advice = operation.advice(outcome)
    if advice:
        _say(f"sovctl: {advice}")
    return outcome.status if outcome.status >= 0 else 128 - outcome.status


def _follow(done: Submitted) -> None:
    if done.index_problem:
        _say(f"sovctl: the run is submitted, but not in your list of runs: {printable(done.index_problem)}")
    if done.outcome.stdout.startswith("Submitted batch job"):
        if done.first_task:
            _say(
                "sovctl: follow its tasks with `sovctl run ls`; "
                f"one of them: `sovctl run show {done.job_id}_{done.first_task}`"
            )
        else:
            _say(f"sovctl: follow it with `sovctl run show {done.job_id}`")


def _say(text: str) -> None:
    say(text)
