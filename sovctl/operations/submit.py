"""`sovctl submit`: wrap the user's script in the supervisor and hand it to sbatch."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from sovctl.errors import SbatchRefusal, ScriptUnreadable, SlurmConfMissing, SlurmUnreachable, SovctlError, UsageError
from sovctl.isolation.bubblewrap import unseen
from sovctl.isolation.inside import SPANK, Inside, absolute_mount, check, starts_steps
from sovctl.isolation.mounts import parse_mounts
from sovctl.isolation.reference import parse_reference
from sovctl.isolation.runtimes import BUILT_IN
from sovctl.model.image import ImageOfRun
from sovctl.model.site import Preemptable
from sovctl.model.submitted import SubmittedRun
from sovctl.ports.runs import RunIndex, RunRecords, SubmissionFiles
from sovctl.ports.slurm import Preemption, SubmitOutcome, Submitter
from sovctl.recovery.hang import parse_timeout
from sovctl.recovery.lead import grace_warning, lead_warning, save_seconds
from sovctl.recovery.output_steps import compile_pattern
from sovctl.submit import directives, options
from sovctl.submit.nodes import check_layer, node_plan
from sovctl.submit.options import Choices, OwnOptions, SubmitLine
from sovctl.submit.refusals import check_choices
from sovctl.submit.script import STDIN_NAME, Launch, UserScript, batch_script, command_script, wrapped

_RUNS_LOOKED_AT = 5
"""Earlier runs whose saves are looked for; the newest that has any is enough."""
RUNS = ".sovctl/runs"
"""Where runs are recorded, below the job's working directory."""

_JOB_ID = re.compile(r"^(?:Submitted batch job )?(\d+)(?:;(\S+)| on cluster (\S+))?$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Prepared:
    """Everything decided, nothing submitted."""

    options: tuple[str, ...]
    """sbatch's options: our defaults, then the user's own words."""
    name: str
    text: bytes
    arguments: tuple[str, ...]
    own: OwnOptions
    choices: Choices
    work_dir: str
    run_root: str
    submitted: int
    script: str
    inside: Inside | None = None

    @property
    def where(self) -> str:
        """What runs inside, and what does not."""
        if self.inside is None:
            return ""
        place = f"in {self.inside.image}" if self.inside.image else "isolated"
        fixed = f" ({self.inside.digest[:19]})" if self.inside.digest else ""
        if self.inside.image.startswith("/") and not fixed and not self.choices.test_only:
            fixed = " (a directory: nothing keeps its content the same over the attempts)"
        who = "the script runs" if self.inside.whole_script else "what the script starts with srun runs"
        return f"{who} {place}{fixed}"

    @property
    def unseen(self) -> str:
        """What the user should know of the working directory: without an image nothing else tells."""
        if self.inside is None or self.inside.image:
            return ""
        # The plugin mounts nothing where there is no image.
        runtime = "--runtime bubblewrap " if self.inside.runtime == SPANK else ""
        return unseen(self.work_dir, parse_mounts(self.inside.mount), f"{runtime}--mount .")

    @property
    def warning(self) -> str:
        """What the user should know before it runs."""
        if self.choices.requeue is not False:
            return ""
        return "with --no-requeue a fault of this run is recorded and explained, but it is not restarted"


@dataclass(frozen=True, slots=True)
class Submitted:
    """What sbatch said, and the job it made, where it said so."""

    outcome: SubmitOutcome
    job_id: str = ""
    index_problem: str = ""
    first_task: str = ""
    """Of an array, the index that its expression names first."""


def answered_by_sbatch(line: SubmitLine) -> bool:
    """Whether sbatch ends with a text of its own before it looks for a script."""
    return line.has("usage", "version", "autocomplete") or any(option.broken for option in line.sbatch)


def answer(line: SubmitLine, submitter: Submitter) -> SubmitOutcome:
    """Let sbatch speak; no script and no --wrap reaches it, so nothing can be submitted."""
    return submitter.answer(_without_wrap(line))


def prepare(
    line: SubmitLine,
    files: SubmissionFiles,
    environ: Mapping[str, str],
    cwd: str,
    launch: Launch,
    *,
    preemptible_qos: str = "preemptible",
    preemptible_partition: Callable[[], str] = lambda: "",
    may_expedite: Callable[[], bool] = lambda: False,
    runtime: str = BUILT_IN,
    resolve: Callable[[Inside], ImageOfRun] = lambda _inside: ImageOfRun(),
) -> Prepared:
    """Read the script and decide what goes to sbatch. Touches nothing.

    `preemptible_partition`: where preemptible jobs go, if the cluster has it; asked only with --preemptible.
    `may_expedite`: whether this cluster takes --requeue=expedite; asked only where the user left it open.
    `runtime`: the site's, for images; `resolve`: what the image's name means now.
    """
    script = _user_script(line, files, cwd)
    said = options.script_options(directives.directives(script.text, script.name, directives.SOVCTL))
    from_script = options.script_sbatch_options(directives.directives(script.text, script.name, directives.SBATCH))
    chosen = options.choices(from_script, environ, line.sbatch)
    check_choices(chosen)
    work_dir = Path(cwd, chosen.chdir or "")
    own = _absolute(options.merge(said, line.own), work_dir)
    _check_watch(own)
    arguments = (line.script or "", *line.arguments) if line.is_command else line.arguments
    nodes = node_plan(own, chosen)
    # Of `-- COMMAND` the script is ours; what it starts stands in the arguments.
    command = " ".join(arguments[:1]).encode("utf-8", "replace") if line.is_command else script.text
    inside = _inside(own, command, runtime, str(work_dir))
    check_layer(inside.env_name if inside else "", nodes, chosen)
    if inside is not None and inside.image and not chosen.test_only:
        found = resolve(inside)
        inside = replace(inside, digest=found.digest, stamp=found.stamp)
    expedite = chosen.requeue is None and chosen.clusters is None and may_expedite()
    class_ = _preemptible(chosen, preemptible_qos, preemptible_partition) if own.preemptible else ()
    return Prepared(
        # The range comes last: of two --nodes, sbatch takes the later one.
        options=(*chosen.defaults(expedite=expedite), *class_, *_without_wrap(line), *nodes.words),
        name=script.name,
        text=batch_script(
            script, own, launch, arguments, nodes, expedite=expedite, inside=inside.told() if inside else ""
        ),
        arguments=arguments,
        own=own,
        choices=chosen,
        work_dir=str(work_dir),
        run_root=own.run_dir or "",
        submitted=launch.submitted,
        script=line.script or "",
        inside=inside,
    )


def submit(prepared: Prepared, submitter: Submitter, files: SubmissionFiles, index: RunIndex) -> Submitted:
    """Hand it to sbatch. Raises RunDirUnusable and CommandMissing, both with nothing submitted."""
    if not prepared.choices.test_only:
        files.claim(prepared.run_root, prepared.work_dir)
    outcome = submitter.sbatch(
        prepared.options, prepared.name, prepared.text, prepared.arguments, wait=prepared.choices.wait
    )
    found = _JOB_ID.search(outcome.stdout)
    if found is None:
        return Submitted(outcome)
    run = SubmittedRun(
        job_id=found[1],
        cluster=found[2] or found[3] or "",
        submitted=prepared.submitted,
        run_root=prepared.run_root,
        work_dir=prepared.work_dir,
        script=prepared.script,
    )
    task = re.search(r"\d+", prepared.choices.array or "")
    return Submitted(outcome, run.job_id, _remember(run, index), task[0] if task else "")


def known_saves(prepared: Prepared, index: RunIndex, records: RunRecords) -> list[float]:
    """How long the last run of this script needed to save, in seconds, oldest first; empty: not known."""
    alike = (
        run for run in index.list() if run.script and (run.script, run.work_dir) == (prepared.script, prepared.work_dir)
    )
    for run in islice(alike, _RUNS_LOOKED_AT):
        ids = f"-{run.job_id}-{run.submitted}"
        for run_dir in records.below(run.run_root):
            if run_dir.endswith(ids) and (saves := save_seconds(records.events(run_dir))):
                return saves
    return []


def lead_advice(prepared: Prepared, saves_s: Sequence[float]) -> str:
    """A warning where --signal leaves too little time for such saves."""
    return lead_warning(prepared.choices.signal, saves_s)


def grace_advice(prepared: Prepared, saves_s: Sequence[float], slurm: Callable[[], Preemption]) -> str:
    """A warning where a preemption leaves too little time for such saves. `slurm`: asked only where they are known.
    What Slurm does not tell, or another cluster does, is not warned of."""
    if not saves_s or prepared.choices.clusters is not None:
        return ""
    try:
        found = _preemptable(prepared, slurm())
    except SovctlError:
        return ""
    return next(filter(None, (grace_warning(where, one.grace_s or 0.0, saves_s) for where, one in found)), "")


def _preemptable(prepared: Prepared, slurm: Preemption) -> list[tuple[str, Preemptable]]:
    """The QOS or partitions of this job whose jobs are preempted."""
    settings = slurm.settings()
    kind, fallback = settings.get("PreemptType", ""), settings.get("PreemptMode", "OFF")
    if kind == "preempt/qos":
        named = {_said(prepared, "qos")}
        found = [(f"QOS {one.name}", one) for one in slurm.preemptable_qos() if one.name in named]
    elif kind == "preempt/partition_prio":
        named = set(_said(prepared, "partition").split(",")) - {""}
        named = named or {name for name, one in slurm.partitions().items() if one.default}
        found = [(f"partition {one.name}", one) for one in slurm.preemptable_partitions() if one.name in named]
    else:
        found = []
    return [(where, one) for where, one in found if one.interrupted(fallback)]


def _said(prepared: Prepared, option: str) -> str:
    """What the job gets for `--qos` or `--partition`: the user's word, else the one of --preemptible."""
    start = f"--{option}="
    ours = (word.removeprefix(start) for word in prepared.options if word.startswith(start))
    return getattr(prepared.choices, option) or next(ours, "")


def lemon_advice(
    prepared: Prepared, lemons: Callable[[], Collection[str]], expand: Callable[[str], Sequence[str]]
) -> str:
    """A warning where --nodelist insists on a node that Slurm would take last because of its record."""
    named = prepared.choices.nodelist
    if not named or "/" in named:
        return ""
    bad = sorted(set(expand(named)) & set(lemons()))
    if not bad:
        return ""
    return f"--nodelist asks for {', '.join(bad)}, with a bad record: sovctl node history {bad[0]} shows it"


def advice(outcome: SubmitOutcome) -> str:
    """What to do about a failure whose cause sbatch's words give away."""
    for words, error in _CAUSES:
        if outcome.status != 0 and any(word in outcome.stderr for word in words):
            return error.hint
    slip = _UNKNOWN_OPTION.search(outcome.stderr) if outcome.status != 0 else None
    near = options.nearest_known(slip[1]) if slip else None
    return f"did you mean --{near}?" if near else ""


def _preemptible(chosen: Choices, qos: str, partition: Callable[[], str]) -> tuple[str, ...]:
    """The options of --preemptible: only what the user left open. Another cluster's partitions are not known here."""
    words = [] if chosen.qos is not None else [f"--qos={qos}"]
    if chosen.partition is None and chosen.clusters is None and (name := partition()):
        words.append(f"--partition={name}")
    return tuple(words)


def _user_script(line: SubmitLine, files: SubmissionFiles, cwd: str) -> UserScript:
    if line.wrap is not None:
        if line.script is not None:
            raise SbatchRefusal(
                "Script arguments not permitted with --wrap option",
                hint="Give one of them: the script, or --wrap COMMAND.",
            )
        return wrapped(line.wrap)
    if line.script is None:
        return UserScript(STDIN_NAME, files.read_stdin())
    if line.is_command:
        if line.script.rpartition("/")[2] in ("", ".", ".."):
            hint = "Type: sovctl submit [OPTIONS] -- COMMAND [ARGS]..."
            raise UsageError(f"{line.script!r} is no command", hint=hint)
        return command_script(line.script)
    return _script_file(line, line.script, files, cwd)


def _script_file(line: SubmitLine, name: str, files: SubmissionFiles, cwd: str) -> UserScript:
    chdir = options.choices((), {}, line.sbatch).chdir
    doubt = line.doubtful
    hint = f"If {name} is the value of {doubt.words[0]}, write {doubt.words[0]}={name}" if doubt else ""
    try:
        script = UserScript(Path(name).name, files.read_script(name, str(Path(cwd, chdir or ""))))
    except ScriptUnreadable as error:
        raise ScriptUnreadable(name, hint=hint or error.hint) from error
    if doubt and not script.has_interpreter:
        raise UsageError(f"{name}, after the unknown option {doubt.words[0]}, is no batch script", hint=hint)
    return script


_ONLY_INSIDE = (
    "mount",
    "home",
    "clean_env",
    "writable",
    "env_name",
    "private_network",
    "slurm_client",
    "runtime",
    "inside",
)


def _inside(own: OwnOptions, command: bytes, runtime: str, work_dir: str) -> Inside | None:
    """Where the steps are to run; None: on the nodes as they are. Raises UsageError."""
    if not own.image and not own.isolate:
        alone = [name for name in _ONLY_INSIDE if getattr(own, name)]
        if alone:
            option = alone[0].replace("_", "-")
            raise UsageError(f"--{option} needs --image or --isolate", hint="See sovctl submit --help.")
        return None
    whole = own.inside == "script" or (own.inside in (None, "auto") and not starts_steps(command))
    inside = Inside(
        image=_full_name(own.image or "", work_dir),
        mount=tuple(absolute_mount(one, work_dir) for one in own.mount or ()),
        home=own.home or "",
        env_name=own.env_name or "",
        runtime=own.runtime or runtime,
        clean_env=bool(own.clean_env),
        writable=bool(own.writable),
        private_network=bool(own.private_network),
        slurm_client=bool(own.slurm_client),
        whole_script=whole,
    )
    check(inside)
    return inside


def _full_name(image: str, work_dir: str) -> str:
    """The same name from wherever it is read; the whole of it for a file, since the nodes do not know our directory."""
    if not image:
        return ""
    return parse_reference(image, work_dir).canonical


def _absolute(own: OwnOptions, work_dir: Path) -> OwnOptions:
    """Directories are meant from the job's working directory, as sbatch's --output is."""
    checkpoints = own.checkpoint_dir
    return replace(
        own,
        run_dir=str(work_dir / (own.run_dir or RUNS)),
        checkpoint_dir=None if checkpoints is None else str(work_dir / checkpoints),
    )


def _check_watch(own: OwnOptions) -> None:
    """Raises UsageError now, and not in the job's output an hour later."""
    if own.hang_timeout is not None:
        parse_timeout(own.hang_timeout)
    if own.progress_regex is not None:
        compile_pattern(own.progress_regex)


def _without_wrap(line: SubmitLine) -> tuple[str, ...]:
    return tuple(word for option in line.sbatch if option.name != "wrap" for word in option.words)


def _remember(run: SubmittedRun, index: RunIndex) -> str:
    """The run is submitted: whatever happens here must not look like a failure."""
    try:
        index.save(run)
    except (OSError, SovctlError) as error:
        return str(error)
    return ""


_UNKNOWN_OPTION = re.compile(r"unrecognized option '--([\w-]{1,40})")
_CAUSES = (
    (("Could not establish a configuration source", "Unable to process configuration file"), SlurmConfMissing()),
    (("Unable to contact slurm controller", "Socket timed out", "Connection refused"), SlurmUnreachable()),
)
