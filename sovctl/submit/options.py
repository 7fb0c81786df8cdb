"""Takes a `sovctl submit` command line apart: our options, sbatch's options, the script, its arguments.

sbatch's options keep their order and spelling. `#SOVCTL` lines of the script are read where sbatch reads `#SBATCH`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

from sovctl.checkpoint.formats.registry import CHOICES
from sovctl.errors import RefusedError, UsageError
from sovctl.submit.directives import Directive
from sovctl.submit.sbatch_options import LONG, SHORT, Value, resolve


@dataclass(frozen=True, slots=True)
class OwnOptions:
    """What sovctl itself was told; None: not said."""

    run_dir: str | None = None
    checkpoint_dir: str | None = None
    max_hardware_faults: int | None = None
    same_crash_limit: int | None = None
    spare_nodes: int | None = None
    min_nodes: int | None = None
    preemptible: bool | None = None
    hang_timeout: str | None = None
    progress_regex: str | None = None
    restart_stragglers: bool | None = None
    checkpoint_format: str | None = None
    image: str | None = None
    isolate: bool | None = None
    mount: tuple[str, ...] | None = None
    """--mount is the one that can be given several times."""
    home: str | None = None
    clean_env: bool | None = None
    writable: bool | None = None
    env_name: str | None = None
    private_network: bool | None = None
    slurm_client: bool | None = None
    runtime: str | None = None
    inside: str | None = None
    """steps, script or auto: what runs in the image."""
    fresh: bool | None = None
    dry_run: bool = False
    help: bool = False


@dataclass(frozen=True, slots=True)
class Option:
    """One option as typed and as meant."""

    name: str
    """Long name without dashes; as typed when nobody knows it."""
    value: str | None
    words: tuple[str, ...]
    """The words it was typed as; empty for the second and later letters of `-HQ`."""
    known: bool = True
    broken: bool = False
    """sbatch will refuse it: its value is missing, it takes none, or there is no such letter."""


@dataclass(frozen=True, slots=True)
class SubmitLine:
    """A command line taken apart."""

    own: OwnOptions
    own_words: tuple[str, ...]
    sbatch: tuple[Option, ...]
    script: str | None
    """The first word that is no option; None: the script comes on stdin, or is a --wrap text."""
    arguments: tuple[str, ...] = ()
    is_command: bool = False
    """True: `-- COMMAND...`; `script` is a program, not a batch script."""

    @property
    def words(self) -> tuple[str, ...]:
        """sbatch's options, as typed and in order."""
        return tuple(word for option in self.sbatch for word in option.words)

    @property
    def doubtful(self) -> Option | None:
        """The option right before the script, where nobody knows whether that word is the option's value."""
        last = self.sbatch[-1] if self.sbatch else None
        return last if last and not last.known and last.value is None and not self.is_command else None

    @property
    def wrap(self) -> str | None:
        """The text given to --wrap; the last one counts."""
        return next((option.value for option in reversed(self.sbatch) if option.name == "wrap"), None)

    def has(self, *names: str) -> bool:
        """Whether one of these sbatch options is on the command line."""
        return any(option.name in names for option in self.sbatch)


@dataclass(frozen=True, slots=True)
class Choices:
    """What the user chose of the things sovctl has defaults for."""

    requeue: bool | None = None
    open_mode: str | None = None
    chdir: str | None = None
    wait: bool = False
    test_only: bool = False
    nodes: str | None = None
    """--nodes as typed."""
    totals: tuple[str, ...] = ()
    """Options that give a figure for the whole job, which does not say what a node gets."""
    partition: str | None = None
    qos: str | None = None
    signal: str | None = None
    no_kill: bool = False
    """--no-kill: Slurm is to leave the job alone when a node of it dies."""
    clusters: str | None = None
    """--clusters as typed: the job may go to another cluster than this one."""
    nodelist: str | None = None
    """--nodelist as typed; sbatch takes a file name here as well."""
    array: str | None = None
    """--array as typed."""

    def defaults(self, *, expedite: bool = False) -> tuple[str, ...]:
        """The options that sovctl adds: only what the user left open."""
        requeue = ("--requeue=expedite" if expedite else "--requeue",) if self.requeue is None else ()
        return requeue + (("--open-mode=append",) if self.open_mode is None else ())


_OWN = tuple(item.name.replace("_", "-") for item in fields(OwnOptions))
_OWN_FLAGS = frozenset({"fresh", "dry-run", "help"})
"""Only on the command line."""
_FLAGS = _OWN_FLAGS | {
    "restart-stragglers",
    "preemptible",
    "isolate",
    "clean-env",
    "writable",
    "private-network",
    "slurm-client",
}


def split(argv: Sequence[str]) -> SubmitLine:
    """Take a command line apart. Raises UsageError for our own options, RefusedError for heterogeneous jobs."""
    reader = _Reader(tuple(argv))
    options = reader.options()
    _check_slips(options)
    rest = reader.rest()
    if rest and rest[0] == ":" and not reader.saw_dashes:
        raise het_refused("`:`")
    own = tuple(option for option in options if option.name in _OWN)
    line = SubmitLine(
        own=own_options(own, "sovctl submit"),
        own_words=tuple(word for option in own for word in option.words),
        sbatch=tuple(option for option in options if option.name not in _OWN),
        script=rest[0] if rest else None,
        arguments=rest[1:],
        is_command=reader.saw_dashes and bool(rest),
    )
    if line.has("external"):
        raise RefusedError(
            "an --external job has no script that sovctl could supervise",
            hint="Use sbatch for it: sbatch --external ...",
        )
    return line


def own_options(options: Sequence[Option], where: str) -> OwnOptions:
    """The values of our own options; later ones win."""
    own = OwnOptions()
    for option in options:
        own = _with_own(own, option, where)
    return own


def script_options(directives: Sequence[Directive]) -> OwnOptions:
    """What the #SOVCTL lines say. Raises UsageError with the line, and the nearest name for one that is not known."""
    own: list[Option] = []
    for line in directives:
        if line.problem:
            raise UsageError(f"{line.where}: {line.problem}", hint="Correct the #SOVCTL line.")
        reader = _Reader(line.words)
        options = reader.options(only_own=True)
        stray = [option.words[0] for option in options if option.name in _OWN_FLAGS or option.name not in _OWN]
        if stray or reader.rest():
            raise _not_for_script(line.where, (stray or list(reader.rest()))[0])
        own_options(options, line.where)
        own += options
    return own_options(own, "#SOVCTL")


def merge(script: OwnOptions, line: OwnOptions) -> OwnOptions:
    """The command line wins over the script, option by option."""
    said = {item.name: getattr(line, item.name) for item in fields(OwnOptions)}
    # A flag that was not given is False, which must not undo the script's.
    return replace(script, **{name: value for name, value in said.items() if value is not None and value is not False})


def script_sbatch_options(directives: Sequence[Directive]) -> tuple[Option, ...]:
    """The sbatch options on the #SBATCH lines. Raises RefusedError for a heterogeneous job."""
    for line in directives:
        if line.words and line.words[0].lower() in ("hetjob", "packjob"):
            raise het_refused(line.where)
    return tuple(_Reader(tuple(word for line in directives for word in line.words)).options())


def choices(script: Sequence[Option], environ: Mapping[str, str], line: Sequence[Option]) -> Choices:
    """What the user chose, in sbatch's order: #SBATCH lines, then variables, then the command line."""
    chosen = Choices()
    for name, value in [*_pairs(script), *_variables(environ), *_pairs(line)]:
        chosen = _choose(chosen, name, value)
    return chosen


def het_refused(where: str) -> RefusedError:
    """sovctl supervises one job, not a group of different ones."""
    return RefusedError(
        f"{where}: sovctl does not supervise heterogeneous jobs", hint="Use sbatch for it, or submit one job a part."
    )


class _Reader:
    """Reads options as getopt_long does, up to the first word that is none."""

    def __init__(self, argv: tuple[str, ...]) -> None:
        self._argv = argv
        self._next = 0
        self.saw_dashes = False

    def options(self, *, only_own: bool = False) -> tuple[Option, ...]:
        found: list[Option] = []
        while self._next < len(self._argv):
            word = self._argv[self._next]
            if word == "--":
                self.saw_dashes = True
                self._next += 1
                break
            if not word.startswith("-") or word == "-":
                break
            self._next += 1
            if word.startswith("--"):
                found.append(self._long(word, only_own))
            else:
                found += self._letters(word)
        return tuple(found)

    def rest(self) -> tuple[str, ...]:
        return self._argv[self._next :]

    def _long(self, word: str, only_own: bool) -> Option:
        typed, has_value, value = word[2:].partition("=")
        if typed in _OWN:
            name, kind = typed, Value.NONE if typed in _FLAGS else Value.REQUIRED
        else:
            meant = resolve(typed)
            if meant is None or only_own:
                return Option(typed, value if has_value else None, (word,), known=False)
            name, kind = meant
        if has_value:
            return Option(name, value, (word,), broken=kind is Value.NONE)
        return self._with_value(name, kind, word)

    def _letters(self, word: str) -> list[Option]:
        found: list[Option] = []
        for at, letter in enumerate(word[1:], start=1):
            words = (word,) if at == 1 else ()
            name = SHORT.get(letter)
            if name is None:
                found.append(Option(letter, None, words, known=False, broken=True))
                continue
            kind = LONG[name]
            glued = word[at + 1 :]
            if kind is Value.NONE or (kind is Value.OPTIONAL and not glued):
                found.append(Option(name, None, words))
                continue
            found.append(Option(name, glued, words) if glued else self._with_value(name, kind, *words))
            break
        return found

    def _with_value(self, name: str, kind: Value, *words: str) -> Option:
        if kind is not Value.REQUIRED:
            return Option(name, None, words)
        if self._next == len(self._argv):
            return Option(name, None, words, broken=True)
        value = self._argv[self._next]
        self._next += 1
        return Option(name, value, (*words, value))


def _check_slips(options: Sequence[Option]) -> None:
    """An option nobody knows goes to sbatch, unless it looks like a slip in one of ours."""
    for option in options:
        near = None if option.known else nearest_own(option.name)
        if near:
            raise UsageError(f"there is no option --{option.name}; did you mean --{near}?", hint=_SEE_HELP)


def nearest_known(typed: str) -> str | None:
    """The option of sbatch or of ours that was probably meant, for one that sbatch did not know."""
    import difflib

    return next(iter(difflib.get_close_matches(typed.lower(), [*LONG, *_OWN], n=1, cutoff=0.7)), None)


def nearest_own(typed: str) -> str | None:
    """The option of ours that was probably meant."""
    import difflib

    spelled = typed.lower().replace("_", "-")
    abbreviates = [name for name in _OWN if len(spelled) > 3 and name.startswith(spelled)]
    return next(iter(abbreviates or difflib.get_close_matches(spelled, _OWN, n=1, cutoff=0.8)), None)


def _with_own(own: OwnOptions, option: Option, where: str) -> OwnOptions:
    key = option.name.replace("-", "_")
    if option.name in _FLAGS:
        return replace(own, **{key: _flag(option, where)})  # type: ignore[arg-type]
    if option.name == "mount":
        return replace(own, mount=(*(own.mount or ()), _text(option, where)))
    read = _number if option.name in _NUMBERS else _one_of if option.name in _CHOICES else _text
    value: str | int = read(option, where)
    return replace(own, **{key: value})  # type: ignore[arg-type]


_NUMBERS = frozenset({"max-hardware-faults", "same-crash-limit", "spare-nodes", "min-nodes"})


def _flag(option: Option, where: str) -> bool:
    if option.value is not None:
        raise UsageError(f"{where}: --{option.name} takes no value", hint=f"Write --{option.name} alone.")
    return True


def _text(option: Option, where: str) -> str:
    if not option.value:
        raise UsageError(f"{where}: --{option.name} needs a value", hint=_SEE_HELP)
    return option.value


_CHOICES: dict[str, tuple[str, Sequence[str]]] = {
    "checkpoint-format": ("checkpoint format", CHOICES),
    "home": ("--home", ("none", "mount")),
    "inside": ("--inside", ("auto", "steps", "script")),
}


def _one_of(option: Option, where: str) -> str:
    text = _text(option, where)
    what, known = _CHOICES[option.name]
    if text not in known:
        raise UsageError(
            f"{where}: there is no {what} {text!r}",
            hint=f"Write it as in --{option.name}={known[0]}; there are {', '.join(known)}.",
        )
    return text


def _number(option: Option, where: str) -> int:
    text = _text(option, where)
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise UsageError(
            f"{where}: --{option.name} must be a whole number, not {text!r}", hint=f"Write it as in --{option.name}=2."
        )
    return int(text)


def _not_for_script(where: str, word: str) -> UsageError:
    typed = word.lstrip("-").partition("=")[0]
    if typed in _OWN_FLAGS:
        return UsageError(
            f"{where}: --{typed} belongs on the command line, not in the script",
            hint=f"Type: sovctl submit --{typed} SCRIPT",
        )
    near = nearest_own(typed)
    hint = "Options of sbatch go on #SBATCH lines." if resolve(typed) else _SEE_HELP
    return UsageError(f"{where}: #SOVCTL knows no {word}" + (f"; did you mean --{near}?" if near else ""), hint=hint)


def _pairs(options: Sequence[Option]) -> list[tuple[str, str | None]]:
    return [(option.name, option.value) for option in options]


def _variables(environ: Mapping[str, str]) -> list[tuple[str, str | None]]:
    return [(name, environ[variable]) for variable, name in _VARIABLES.items() if variable in environ]


def _choose(chosen: Choices, name: str, value: str | None) -> Choices:
    match name:
        case "requeue" | "no-requeue":
            return replace(chosen, requeue=name == "requeue")
        case "open-mode":
            return replace(chosen, open_mode=value)
        case "chdir":
            return replace(chosen, chdir=value)
        case "wait":
            return replace(chosen, wait=True)
        case "no-kill":
            return replace(chosen, no_kill=(value or "set").lower() not in ("off", "no"))
        case "test-only":
            return replace(chosen, test_only=True)
        case "nodes" | "partition" | "qos" | "signal" | "clusters" | "nodelist" | "array":
            return replace(chosen, **{name: value})  # type: ignore[arg-type]
        case "ntasks" | "gpus":
            return replace(chosen, totals=(*chosen.totals, name))
        case _:
            return chosen


_SEE_HELP = "See: sovctl submit --help"
_VARIABLES = {
    "SBATCH_ARRAY_INX": "array",
    "SLURM_CLUSTERS": "clusters",
    "SBATCH_CLUSTERS": "clusters",
    "SBATCH_NO_KILL": "no-kill",
    "SBATCH_NO_REQUEUE": "no-requeue",
    "SBATCH_GPUS": "gpus",
    "SBATCH_OPEN_MODE": "open-mode",
    "SBATCH_PARTITION": "partition",
    "SBATCH_QOS": "qos",
    "SBATCH_REQUEUE": "requeue",
    "SBATCH_SIGNAL": "signal",
    "SBATCH_WAIT": "wait",
}
"""Variables that sbatch reads, in the order it reads them."""
