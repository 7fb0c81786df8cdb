"""What `sovctl submit --image` or `--isolate` asked for, and how it is told to each runtime."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

from sovctl.errors import UsageError
from sovctl.isolation.mounts import parse_mounts
from sovctl.isolation.runtimes import BUILT_IN, RUNTIMES

SPANK, PYXIS, OCI = "spank", "pyxis", "slurm"
PLUGIN_OPTION = {SPANK: "--sov-image", PYXIS: "--container-image"}
"""What srun offers where the plugin is loaded; without it the variables would mean nothing, to nobody's notice."""
BY_VARIABLES = frozenset({SPANK, PYXIS, OCI})
"""Slurm itself starts the task inside: srun is told by its variables."""
KNOWN = (BUILT_IN, *RUNTIMES, SPANK, PYXIS, OCI)

_SRUN = re.compile(rb"(?<![\w./-])(?:\S*/)?srun(?![\w.-])")


@dataclass(frozen=True, slots=True)
class Inside:
    """Where the steps of a run, or all of its script, are to run."""

    image: str = ""
    """Empty: the host's own root."""
    mount: tuple[str, ...] = ()
    home: str = ""
    """`none` or `mount`; empty: with an image none, else mount."""
    env_name: str = ""
    runtime: str = BUILT_IN
    digest: str = ""
    """What the name of the image meant when the run was submitted; empty: it was not asked then."""
    stamp: str = ""
    """Of an image that is a file: its size and the time of its last change when the run was submitted."""
    clean_env: bool = False
    """Without an image the environment is clean in any case."""
    writable: bool = False
    private_network: bool = False
    slurm_client: bool = False
    """The node's Slurm commands in the image."""
    whole_script: bool = False
    """The script itself runs inside too; else only its steps."""

    def exec_words(self) -> tuple[str, ...]:
        """The options of `sovctl exec`."""
        words = [f"--image={self.image}"] if self.image else ["--isolate"]
        words += [f"--mount={one}" for one in self.mount]
        for name in ("home", "env_name"):
            value = getattr(self, name)
            words += [f"--{name.replace('_', '-')}={value}"] if value else []
        words += [f"--runtime={self.runtime}"] if self.runtime != BUILT_IN else []
        flags = ("clean_env", "writable", "private_network", "slurm_client")
        return (*words, *(f"--{name.replace('_', '-')}" for name in flags if getattr(self, name)))

    def told(self) -> str:
        """All of it as one word for the batch script; `heard` reads it."""
        words = list(self.exec_words())
        words += [f"--{name}={value}" for name in ("digest", "stamp") if (value := getattr(self, name))]
        return shlex.join([*words, *(["--whole-script"] if self.whole_script else [])])


def heard(text: str) -> Inside:
    """What `told` wrote. Raises ValueError for anything else."""
    known = {item.name: item.default for item in fields(Inside)}
    found: dict[str, str | bool | tuple[str, ...]] = {}
    for word in shlex.split(text):
        name, equals, value = word.removeprefix("--").replace("-", "_", 0).partition("=")
        key = name.replace("-", "_")
        if key == "isolate" and not equals:
            continue
        if key not in known or isinstance(known[key], bool) == bool(equals):
            raise ValueError(word)
        before = found.get(key, ())
        found[key] = (*before, value) if key == "mount" and isinstance(before, tuple) else value if equals else True
    return replace(Inside(), **found)  # type: ignore[arg-type]


def check(inside: Inside) -> None:
    """Raises UsageError for what no node could do, before anything is submitted."""
    if inside.runtime not in KNOWN:
        raise UsageError(
            f"there is no runtime {inside.runtime}", hint=f"Name another with --runtime; there are {', '.join(KNOWN)}."
        )
    if inside.home not in ("", "none", "mount"):
        raise UsageError(f"--home takes none or mount, not {inside.home!r}", hint="Write --home=none or --home=mount.")
    parse_mounts(inside.mount)
    if inside.runtime in (SPANK, PYXIS):
        _no_comma(inside.mount)
    needs_image = [name for name in ("writable", "env_name", "slurm_client") if getattr(inside, name)]
    if not inside.image and needs_image:
        raise UsageError(f"--{needs_image[0].replace('_', '-')} needs an image", hint="Name one: --image IMAGE")
    missing = _missing(inside)
    if missing:
        raise UsageError(f"the runtime {inside.runtime} has no {missing}", hint=f"Use --runtime {BUILT_IN}.")


def _missing(inside: Inside) -> str:
    """What this runtime cannot do."""
    if inside.runtime == BUILT_IN:
        return ""
    if not inside.image and inside.runtime != SPANK:
        return "isolation without an image"
    if inside.whole_script and inside.runtime in BY_VARIABLES:
        return "way to run a script itself inside, only its steps; put srun before its commands"
    if inside.runtime == "charliecloud" and any(mount.read_only for mount in parse_mounts(inside.mount)):
        return "read-only mounts that every version knows"
    lacks = {
        "charliecloud": ("env_name", "private_network", "slurm_client", "writable"),
        SPANK: (),
        PYXIS: ("env_name", "clean_env", "private_network", "slurm_client"),
        OCI: ("env_name", "clean_env", "private_network", "slurm_client", "writable"),
    }.get(inside.runtime, ("env_name", "private_network", "slurm_client"))
    return next((f"--{name.replace('_', '-')}" for name in lacks if getattr(inside, name)), "")


def starts_steps(script: bytes) -> bool:
    """Whether a script calls srun, by the words on its lines that are no comments."""
    return any(_SRUN.search(line) for line in script.splitlines() if not line.lstrip().startswith(b"#"))


def absolute_mount(text: str, work_dir: str) -> str:
    """`.`, `./x` and `../x` are meant from the job's working directory, as sbatch's --output is."""
    source, colon, rest = text.partition(":")
    if source not in (".", "..") and not source.startswith(("./", "../")):
        return text
    parts: list[str] = []
    for part in f"{work_dir}/{source}".split("/"):
        if part == "..":
            parts = parts[:-1]
        elif part not in ("", "."):
            parts.append(part)
    return "/" + "/".join(parts) + colon + rest


def variables(inside: Inside, image: str, own: Sequence[str]) -> Mapping[str, str]:
    """What srun and its plugins read, so that every step is inside.

    `image`: a path that every node sees; `own`: directories of the run that must be there.
    """
    if inside.runtime == OCI:
        return {"SRUN_CONTAINER": image}
    told = {SPANK: _spank, PYXIS: _pyxis}[inside.runtime](inside, image, own)
    return {name: value for name, value in told.items() if value}  # pyxis takes an empty one for a mistake


def all_mounts(inside: Inside, own: Sequence[str]) -> list[str]:
    """What was asked for, and the directories of the run where nothing else is to be."""
    taken = {mount.target for mount in parse_mounts(inside.mount)}
    return [*inside.mount, *(f"{path}:{path}" for path in dict.fromkeys(own) if path not in taken)]


def _spank(inside: Inside, image: str, own: Sequence[str]) -> Mapping[str, str]:
    flags = {
        "ISOLATE": True,
        "CLEAN_ENV": inside.clean_env or not inside.image,  # as with the built-in runtime
        "WRITABLE": inside.writable,
        "PRIVATE_NETWORK": inside.private_network,
        "SLURM_CLIENT": inside.slurm_client,
    }
    found = {name: "1" for name, asked in flags.items() if asked}
    if image:
        found["IMAGE"] = image
        found["MOUNT"] = ",".join(_no_comma(all_mounts(inside, own)))
        found["HOME"] = inside.home or "none"
        found |= {"ENV_NAME": inside.env_name} if inside.env_name else {}
    return {f"SOVCTL_SPANK_{name}": value for name, value in found.items()}


def _pyxis(inside: Inside, image: str, own: Sequence[str]) -> Mapping[str, str]:
    """pyxis 0.21 and newer read these in srun and again on the node."""
    writable = "WRITABLE" if inside.writable else "READONLY"
    mounts = [one if one.count(":") else f"{one}:{one}" for one in _no_comma(all_mounts(inside, own))]
    return {
        "PYXIS_CONTAINER_IMAGE": image,
        "PYXIS_CONTAINER_MOUNTS": ",".join(mounts),
        "PYXIS_CONTAINER_MOUNT_HOME": "1" if inside.home == "mount" else "0",
        f"PYXIS_CONTAINER_{writable}": "1",
    }


def _no_comma(mounts: Sequence[str]) -> Sequence[str]:
    for one in mounts:
        if "," in one:
            raise UsageError(
                f"mount {one!r}: this runtime separates mounts by commas", hint=f"Use --runtime {BUILT_IN}."
            )
    return mounts
