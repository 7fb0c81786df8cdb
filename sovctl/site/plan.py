"""What an install or an uninstall does to each file. Pure: digests in, deeds out.

A file that somebody changed is theirs: it is kept, and what would have replaced it is laid beside it as `.new`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from sovctl.site.catalogue import Wanted

NEW = ".new"
_ABSENT = "absent"
"""In place of the digest of an old file, where there was none."""
_THEIRS = "not written by sovctl"


class Deed(StrEnum):
    """What becomes of one file."""

    CREATE = "create"
    UPDATE = "update"
    UNCHANGED = "unchanged"
    KEEP = "keep"
    REMOVE = "remove"
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class Record:
    """A file that an install wrote."""

    digests: tuple[str, ...]
    """Of what it wrote, the newest first; more than one while it is being written: a crash may leave any."""
    mode: int


@dataclass(frozen=True, slots=True)
class Step:
    """One file and what is done to it."""

    path: str
    deed: Deed
    why: str = ""
    wanted: Wanted | None = None
    digest: str = ""
    """Of what is written."""

    @property
    def writes(self) -> str:
        """The path that is written; empty: none."""
        if self.deed in (Deed.CREATE, Deed.UPDATE):
            return self.path
        return self.path + NEW if self.deed is Deed.KEEP and self.wanted is not None else ""


def plan_install(
    files: Sequence[tuple[Wanted, str]], present: Mapping[str, str | None], records: Mapping[str, Record]
) -> tuple[Step, ...]:
    """`files`: what is wanted, with its digest; `present`: digest of what is there, None: nothing, empty: no plain
    file; `records`: what an earlier install wrote."""
    steps = [_install(wanted, digest, present.get(wanted.path), records) for wanted, digest in files]
    paths = {wanted.path for wanted, _ in files}
    beside = {step.writes for step in steps}
    old = {path: record for path, record in records.items() if path not in paths | beside}
    return (*steps, *plan_uninstall(old, present))


def _install(wanted: Wanted, digest: str, there: str | None, records: Mapping[str, Record]) -> Step:
    record = records.get(wanted.path)
    if there is None:
        if record is not None and wanted.config and _ABSENT not in record.digests:
            return Step(wanted.path, Deed.GONE, "you removed it; it stays away")
        return Step(wanted.path, Deed.CREATE, "", wanted, digest)
    if there == digest:
        why = "" if record is not None else _THEIRS
        return Step(wanted.path, Deed.UNCHANGED, why, wanted, digest)
    if record is not None and there in record.digests:
        return Step(wanted.path, Deed.UPDATE, "", wanted, digest)
    if record is not None and digest in record.digests:
        return Step(wanted.path, Deed.KEEP, "changed by you")
    whose = "changed by you" if record is not None else _THEIRS
    return Step(wanted.path, Deed.KEEP, f"{whose}; the new one is beside it: {wanted.path}{NEW}", wanted, digest)


def plan_uninstall(records: Mapping[str, Record], present: Mapping[str, str | None]) -> tuple[Step, ...]:
    """Only what is still as it was written goes."""
    steps = []
    for path, record in records.items():
        there = present.get(path)
        if there is None:
            steps.append(Step(path, Deed.GONE, "not there any more"))
        elif there in record.digests:
            steps.append(Step(path, Deed.REMOVE))
        else:
            steps.append(Step(path, Deed.KEEP, "changed by you"))
    return tuple(steps)


def holding(steps: Iterable[Step], held: Collection[str], why: str) -> tuple[Step, ...]:
    """The same, but what Slurm still uses stays until an install that finds it unused."""
    return tuple(
        replace(step, deed=Deed.KEEP, why=why) if step.deed is Deed.REMOVE and step.path in held else step
        for step in steps
    )


def records_before(steps: Iterable[Step], records: Mapping[str, Record]) -> dict[str, Record]:
    """What to write down before anything is done: after a crash both the old and the new file count as ours.

    A file that was there first, though the same, stays theirs: a conffile of the Debian package is dpkg's to remove."""
    noted = dict(records)
    for step in steps:
        if step.writes and step.wanted is not None:
            old = noted[step.writes].digests if step.writes in noted else (_ABSENT,)
            digests = (step.digest, *(digest for digest in old if digest != step.digest))
            noted[step.writes] = Record(digests, step.wanted.mode)
        elif step.deed is Deed.UNCHANGED and step.wanted is not None and step.path in noted:
            noted[step.path] = Record((step.digest,), step.wanted.mode)
    return noted


def records_after(steps: Iterable[Step], noted: Mapping[str, Record]) -> dict[str, Record]:
    """What to write down when all of it is done."""
    done = {path: Record(record.digests[:1], record.mode) for path, record in noted.items()}
    for step in steps:
        if step.deed is Deed.REMOVE or (step.deed is Deed.GONE and step.why.startswith("not there")):
            done.pop(step.path, None)
    return done
