"""Whether a step is isolated, judged by what was seen from inside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sovctl.errors import SovctlError
from sovctl.isolation.environment import outside_allow_list

SCHEMA = "sovctl.inside/1"
_STANDARD = (0, 1, 2)


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was measured."""

    name: str
    passed: bool
    seen: str


def judge(inside: Mapping[str, Any], allowed_env: Sequence[str] = ()) -> tuple[Check, ...]:
    """What `sovctl exec --measure` printed, as pass or fail of each property.

    Outside lay a file in /tmp, /var/tmp and /dev/shm, a variable and an open descriptor that must not be seen inside.
    Raises SovctlError for what is no such measurement.
    """
    if inside.get("schema") != SCHEMA:
        raise SovctlError(
            "the measurement from inside the step cannot be read", hint="Compare here and there: sovctl --version"
        )
    decoy, directories = str(inside["decoy"]), inside["directories"]
    kept = inside.get("kept", ())
    checks = [_directory(place, directories[place], decoy, kept) for place in ("/tmp", "/var/tmp", "/dev/shm")]
    others = sorted(set(inside["processes"]) - {1, inside["own_process"]})
    checks.append(Check("processes", not others, _list("others: ", others) or "only its own"))
    if not inside.get("by_plugin"):  # which hides no home directory of the host's own root
        home = directories["home"]
        checks.append(Check("home", home == [], _list("", home or []) or ("empty" if home == [] else "cannot be read")))
    found = set(inside["environment"]) - set(inside["own_environment"])
    names = outside_allow_list(dict.fromkeys(found, ""), allowed_env)
    checks.append(Check("environment", not names, _list("", names) or "only the allow-list"))
    foreign = sorted(set(inside["devices"]) - set(inside["own_devices"]))
    checks.append(Check("GPU devices", not foreign, _list("not its own: ", foreign) or _own(inside["own_devices"])))
    held = {name: value for name, value in inside["capabilities"].items() if int(value, 16)}
    words = ", ".join(f"{name} {value}" for name, value in sorted(held.items()))
    checks.append(Check("capabilities", bool(inside["capabilities"]) and not held, words or "none"))
    checks.append(Check("no_new_privs", inside["no_new_privs"] == "1", inside["no_new_privs"] or "not told"))
    more = sorted(set(inside["descriptors"]) - {*_STANDARD, *inside["own_descriptors"]})
    checks.append(Check("descriptors", not more, _list("", more) or "stdin, stdout, stderr"))
    return tuple(checks)


def _directory(place: str, names: Sequence[str] | None, decoy: str, kept: Sequence[str]) -> Check:
    """`kept`: paths that the site wants seen."""
    if names is None:
        return Check(place, False, "cannot be read")
    if decoy in names:
        return Check(place, False, "a file from outside is there")
    wanted = [name for name in names if any(f"{path}/".startswith(f"{place}/{name}/") for path in kept)]
    more = [name for name in names if name not in wanted]
    return Check(place, not more, _list("", more) or _list("kept by the site: ", wanted) or "empty")


def _own(devices: Sequence[str]) -> str:
    return ", ".join(devices) or "none there"


def _list(before: str, items: Sequence[object], most: int = 6) -> str:
    if not items:
        return ""
    shown = ", ".join(str(item) for item in items[:most])
    return before + shown + (f" and {len(items) - most} more" if len(items) > most else "")
