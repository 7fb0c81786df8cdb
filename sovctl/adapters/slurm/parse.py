"""The only parser of Slurm's output.

`scontrol -o` prints one record a line as `Key=value` pairs separated by blanks, and values may hold blanks
(`OS=Linux 6.1 ...`, `Reason=...`). Times are asked for as seconds since the epoch (SLURM_TIME_FORMAT=%s).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

from sovctl.model.job import JobView, gpus_in

if TYPE_CHECKING:  # a list is waited for: a noun is imported where one is made
    from sovctl.model.accounted import AccountedJob
    from sovctl.model.node import NodeState, NodeView
    from sovctl.model.pool import Partition, PoolJob, Qos
    from sovctl.model.reservation import Reservation
    from sovctl.model.site import Preemptable

# A key starts a line or follows a blank, begins with a capital and has no blank: `Nodes`, `CPUs/Task`, `Socks/Node`,
# `AllocNode:Sid`, `NtasksPerN:B:S:C`, `MCS_label`.
_KEY = re.compile(r"(?:^|(?<=\s))([A-Z][A-Za-z]*(?:[/:_][A-Za-z]+)*)=")
# Free text of a user or an administrator, and what follows it: the job's name stands in the middle of the record, and
# a node's reason ends with its author.
_JOB_NAME = re.compile(r"(?:^|\s)JobName=(.*?)(?= UserId=[^\s()]*\(\d+\) GroupId=)", re.DOTALL)
_OWNER = re.compile(r" UserId=[^\s()]*\(\d+\) GroupId=")
_NODE_REASON = re.compile(r"(?:^|\s)Reason=(.*? \[[^\[\]@\s]*@[^\[\]]*\])(?=\s*\Z|\s+[A-Z][A-Za-z]*=)", re.DOTALL)
_RECORD_START = re.compile(r"^(?=JobId=\d+ )", re.MULTILINE)
_REASON_AUTHOR = re.compile(r"\s*\[(?P<who>[^\[\]@]*)@(?P<at>[^\[\]]*)\]\s*\Z")
# What parse_job takes from before a job's Command; Slurm leaves some of them out.
_JOB_HEAD = frozenset({
    "JobId", "ArrayJobId", "ArrayTaskId", "UserId", "GroupId", "QOS", "JobState", "Reason", "Restarts", "Requeue",
    "Priority", "Partition", "NodeList", "ReqNodeList", "ExcNodeList", "BatchHost", "SubmitTime",
    "EligibleTime", "StartTime", "EndTime", "PreemptTime", "TimeLimit", "TimeMin",
})  # fmt: skip
_EMPTY = frozenset({"", "(null)", "None", "N/A", "n/a", "Unknown"})
# Suffix letters Slurm appends to a base state: * not responding, ~ powered off, # powering up, % powering down,
# $ maintenance, @ rebooting, ^ reboot issued, ! power down pending, - planned. sinfo uses them, and scontrol up to
# 20.11.
_SUFFIX_FLAGS = {
    "*": "NOT_RESPONDING",
    "~": "POWERED_DOWN",
    "#": "POWERING_UP",
    "%": "POWERING_DOWN",
    "$": "MAINT",
    "@": "REBOOT_ISSUED",
    "^": "REBOOT_REQUESTED",
    "!": "POWER_DOWN",
    "-": "PLANNED",
}


def parse_records(text: str) -> list[dict[str, str]]:
    """Every record of `scontrol -o show job`. A job's name and comment may hold line breaks, so a line that does
    not begin like a record goes on with the one before."""
    return [parse_record(part) for part in _RECORD_START.split(text) if _RECORD_START.match(part)]


def parse_record(line: str) -> dict[str, str]:
    """One record of `scontrol -o`. The first of repeated keys wins: what Slurm writes comes before comments."""
    record: dict[str, str] = {}
    free = _JOB_NAME.search(line) if "JobName=" in line else None  # the pattern is slow where there is none
    if free:
        record["JobName"] = free[1].strip()
        line = line[: free.start()] + line[free.end() :]
    if line.startswith("JobId="):
        return _job_fields(line) | record
    return _fields(line) | record


def _fields(text: str) -> dict[str, str]:
    # What stands before the first key, then keys and values in turn; backwards, so that the first of a key stays.
    parts = _KEY.split(text)
    return dict(zip(parts[-2:0:-2], map(str.strip, parts[:0:-2]), strict=True))


def _job_fields(line: str) -> dict[str, str]:
    """Nobody forges what his job is by its script's name, its comment, or the whole command line of sbatch (SubmitLine,
    26.05): from Command on, fields that stand before it are not looked for, also where Slurm left them out."""
    head, command, rest = line.partition(" Command=")
    tail = {key: value for key, value in _fields(command + rest).items() if key not in _JOB_HEAD}
    fields = tail | _fields(head)
    if len(_OWNER.findall(line)) > 1:
        # A name that holds an owner of its own: which of the two is true cannot be told, and root acts for him.
        fields |= {"UserId": "", "GroupId": ""}
    return fields


def parse_config(text: str) -> dict[str, str]:
    """`scontrol show config`: `Key   = value` lines.

    Newer versions print programs as `Epilog[0]`, `Epilog[1]`, and none at all where none is set (24.05 to 26.05; 22.05:
    `Epilog = (null)`). They are joined under the plain name.
    """
    found: dict[str, str] = {}
    for line in text.split("\n"):
        key, equals, value = line.partition("=")
        if equals:
            name = _INDEX.sub("", key.strip())
            found[name] = f"{found[name]},{value.strip()}" if name in found and "[" in key else value.strip()
    return found


_INDEX = re.compile(r"\[\d+\]$")


@lru_cache(maxsize=512)
def parse_node_state(text: str) -> NodeState:
    """`IDLE+DRAIN+NOT_RESPONDING`, `DOWN*`, `ALLOCATED*+COMPLETING` alike, on every Slurm version."""
    from sovctl.model.node import NodeState

    parts = [part for part in text.strip().upper().split("+") if part]
    if not parts:
        return NodeState("UNKNOWN")
    flags = set(parts[1:])
    base = parts[0]
    while base and base[-1] in _SUFFIX_FLAGS:
        flags.add(_SUFFIX_FLAGS[base[-1]])
        base = base[:-1]
    # sinfo's joined words: what it calls DRAINED is IDLE+DRAIN, DRAINING is ALLOCATED+DRAIN.
    joined = {"DRAINED": ("IDLE", "DRAIN"), "DRAINING": ("ALLOCATED", "DRAIN"), "DRAIN": ("IDLE", "DRAIN")}
    if base in joined:
        base, flag = joined[base]
        flags.add(flag)
    return NodeState(base or "UNKNOWN", frozenset(flags))


def parse_nodes(text: str) -> list[NodeView]:
    """`scontrol -o show node`. A large site has thousands, and a person waits: what nobody wants of a record is not
    even cut into pieces."""
    from sovctl.model.node import NodeView

    records = f"\n{text}".split("\nNodeName=")[1:]
    return [_node(record.rstrip(), NodeView) for record in records if not record[:1].isspace() and record]


def _node(record: str, make: type[NodeView]) -> NodeView:
    """One record, from behind `NodeName=`. What is asked of it but the reason is one word each, and stands before the
    free text."""
    free = record.find(" Reason=")
    told, head = ("", "", ""), record
    if free >= 0:
        told, head = _node_reason(record, free), record[:free]
    name = head.partition(" ")[0]
    gres, partitions = _word(head, " Gres="), _word(head, " Partitions=")
    return make(
        name=name,
        state=parse_node_state(_word(head, " State=")),
        reason=told[0],
        reason_by=told[1],
        reason_at=int(told[2]) if told[2].isdecimal() else None,
        address=_word(head, " NodeAddr=") or name,
        # Slurm prints Port only where it is not the default.
        port=_whole(_word(head, " Port="), 6818),
        gres=gres,
        partitions=tuple(filter(None, partitions.split(","))),
        boot_time=_whole(_word(head, " BootTime="), 0) or None,
        weight=_whole(_word(head, " Weight="), 1),
    )


def _word(record: str, key: str) -> str:
    """What stands behind the first of this key, up to a blank; empty where Slurm says that there is nothing."""
    start = record.find(key)
    if start < 0:
        return ""
    value = record[start + len(key) :].partition(" ")[0]
    return "" if value in _EMPTY else value


def _node_reason(record: str, at: int) -> tuple[str, str, str]:
    """Reason, author and time."""
    signed = _NODE_REASON.search(record, at)
    reason = signed[1].strip() if signed else _fields(record[at:]).get("Reason", "")
    author = _REASON_AUTHOR.search(reason)
    if reason in _EMPTY:
        return "", "", ""
    return (reason[: author.start()], author["who"], author["at"]) if author else (reason, "", "")


def parse_preemptable_partitions(text: str) -> tuple[Preemptable, ...]:
    """`scontrol -o show partition`: one record a line."""
    from sovctl.model.site import Preemptable

    records = [parse_record(line) for line in text.splitlines() if line.startswith("PartitionName=")]
    return tuple(
        Preemptable(record["PartitionName"], _whole(record.get("GraceTime", ""), 0), record.get("PreemptMode", ""))
        for record in records
    )


def parse_preemptable_qos(text: str) -> tuple[Preemptable, ...]:
    """`sacctmgr -nP show qos format=Name,GraceTime,PreemptMode`; times as `[D-]HH:MM:SS`."""
    from sovctl.model.site import Preemptable

    found = []
    for line in text.splitlines():
        name, _, rest = line.partition("|")
        grace, _, mode = rest.partition("|")
        if name:
            found.append(Preemptable(name, _duration_s(grace), mode))
    return tuple(found)


def _duration_s(text: str) -> float | None:
    found = re.match(r"(?:(\d+)-)?(\d+):(\d+):(\d+)\Z", text.strip())
    if found is None:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return float(days * 86400 + hours * 3600 + minutes * 60 + seconds)


def parse_job_state(text: str) -> list[str]:
    """The base state, then the flags. Slurm prints some flags of a pending job in place of its state."""
    state, *flags = text.upper().split("+")
    return ["PENDING", state, *flags] if state in _PENDING else [state, *flags]


_PENDING = frozenset({"EXPEDITING", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT"})


def parse_job(record: dict[str, str]) -> JobView:
    """One record of `scontrol -o show job`."""
    user, uid = _user(record.get("UserId", ""))
    state, *flags = parse_job_state(record.get("JobState", "UNKNOWN"))
    return JobView(
        job_id=_own_id(record),
        name=record.get("JobName", ""),
        user=user,
        uid=uid,
        state=state,
        flags=frozenset(flags),
        reason=_value(record, "Reason"),
        restarts=_whole(record.get("Restarts", ""), 0),
        nodes=expand(_value(record, "NodeList")),
        excluded=expand(_value(record, "ExcNodeList")),
        required=expand(_value(record, "ReqNodeList")),
        batch_host=_value(record, "BatchHost"),
        submitted_at=_epoch(record, "SubmitTime"),
        eligible_at=_epoch(record, "EligibleTime"),
        started_at=_epoch(record, "StartTime"),
        ends_at=_epoch(record, "EndTime"),
        limit_s=_duration_s(_value(record, "TimeMin") or record.get("TimeLimit", "")),
        preempted_at=_epoch(record, "PreemptTime"),
        requeue=record.get("Requeue") == "1",
        expedited=record.get("ExpeditedRequeue") == "Yes",
        priority=_whole(record.get("Priority", ""), 0),
        work_dir=_value(record, "WorkDir"),
        stdout=_value(record, "StdOut"),
        # 26.05 prints none where it goes to the file of the output.
        stderr=_value(record, "StdErr") or _value(record, "StdOut"),
        extra=record,
    )


QUEUE_FORMAT = "%i|%F|%K|%T|%U|%N|%B|%x|%r"
"""squeue columns free of text a user can choose, so that nobody can forge a record: job id, array job id, array
task, state, uid, nodes, batch host, excluded nodes, reason."""


def parse_queue(text: str) -> list[JobView]:
    """`squeue -h -o QUEUE_FORMAT`; lines with another number of columns are not ours and are passed over."""
    jobs = []
    for line in text.split("\n"):
        columns = line.split("|")
        if len(columns) != QUEUE_FORMAT.count("|") + 1 or _whole(columns[4], -1) < 0:
            continue
        job_id, _, _, words, uid, nodes, batch_host, excluded, reason = columns
        state, *flags = parse_job_state(words)
        jobs.append(
            JobView(
                job_id=job_id,
                name="",
                user="",
                uid=int(uid),
                state=state,
                flags=frozenset(flags),
                nodes=expand(nodes),
                batch_host="" if batch_host in _EMPTY else batch_host,
                excluded=expand("" if excluded in _EMPTY else excluded),
                reason="" if reason in _EMPTY else reason,
            )
        )
    return jobs


def parse_reservations(text: str) -> list[Reservation]:
    """`scontrol -o show reservation`: one record a line, of an operator's making; a name may hold blanks and anything
    else. Without any it says so in words."""
    from sovctl.model.reservation import Reservation

    found = []
    for line in text.split("\n"):
        head, begins, rest = line.partition(" StartTime=")
        if not begins or not head.startswith("ReservationName="):
            continue
        record = _fields(begins + rest)
        found.append(
            Reservation(
                head.removeprefix("ReservationName="),
                expand(_value(record, "Nodes")),
                _epoch(record, "StartTime") or 0,
                _epoch(record, "EndTime"),
                not {"MAINT", "OVERLAP"}.isdisjoint(_words(_value(record, "Flags"))),
            )
        )
    return found


POOL_FORMAT = "%i|%T|%U|%N|%P|%q|%r|%u"
"""As QUEUE_FORMAT: job id, state, uid, nodes, partitions, QOS, reason, user."""


def parse_pool_jobs(text: str) -> list[PoolJob]:
    """`squeue -h -o POOL_FORMAT`."""
    from sovctl.model.pool import PoolJob

    jobs = []
    for line in text.split("\n"):
        columns = line.split("|")
        if len(columns) != POOL_FORMAT.count("|") + 1 or _whole(columns[2], -1) < 0:
            continue
        job_id, words, uid, nodes, partitions, qos, reason, user = columns
        state = parse_job_state(words)[0]
        jobs.append(PoolJob(job_id, state, expand(nodes), _words(partitions), qos, int(uid), reason, user))
    return jobs


PREEMPTED_FORMAT = "JobArrayID:.40,PreemptTime:.40"


def parse_preempted(text: str) -> list[str]:
    """`squeue -h -O PREEMPTED_FORMAT`: ids of the jobs that were told to leave."""
    rows = [line.split() for line in text.split("\n")]
    return [row[0] for row in rows if len(row) == 2 and row[1] not in _EMPTY]


def parse_partitions(text: str) -> list[Partition]:
    """`scontrol -o show partition`: AllowQos or, where some are denied, DenyQos in its place."""
    from sovctl.model.pool import Partition

    records = [parse_record(line) for line in text.split("\n") if line.startswith("PartitionName=")]
    return [
        Partition(
            record["PartitionName"],
            nodes=expand(_value(record, "Nodes")),
            qos=_value(record, "QoS"),
            allow_qos=None if record.get("AllowQos", "ALL") == "ALL" else frozenset(_words(record["AllowQos"])),
            deny_qos=frozenset(_words(_value(record, "DenyQos"))),
            priority_tier=_whole(_value(record, "PriorityTier"), 1),
            default=record.get("Default") == "YES",
        )
        for record in records
    ]


QOS_FORMAT = "Name,Priority,GraceTime,Preempt,PreemptMode,GrpTRES"


def parse_qos(text: str) -> list[Qos]:
    """`sacctmgr -nP show qos format=QOS_FORMAT`."""
    from sovctl.model.pool import Qos

    found = []
    for line in text.split("\n"):
        columns = line.split("|")
        if len(columns) != QOS_FORMAT.count(",") + 1:
            continue
        name, priority, grace, preempts, mode, limits = columns
        nodes = dict(item.partition("=")[::2] for item in _words(limits)).get("node", "")
        found.append(
            Qos(
                name,
                _whole(priority, 0),
                _seconds(grace),
                frozenset(_words(preempts)),
                mode or "cluster",
                int(nodes) if _DIGITS.fullmatch(nodes) else None,
            )
        )
    return found


ROOT_FORMAT = "User,Partition,QOS"


def parse_open_qos(text: str) -> frozenset[str]:
    """`sacctmgr -nP show assoc where account=root format=ROOT_FORMAT`: what the account itself may use."""
    rows = [line.split("|") for line in text.split("\n")]
    return frozenset(name for row in rows if len(row) == 3 and not (row[0] or row[1]) for name in _words(row[2]))


def _words(text: str) -> tuple[str, ...]:
    return tuple(word for word in text.split(",") if word)


def _seconds(text: str) -> int:
    """Slurm's `[days-]hours:minutes:seconds`."""
    days, _, clock = text.rpartition("-")
    total = _whole(days, 0) * 24
    parts = [_whole(part, 0) for part in clock.split(":")]
    hours, minutes, seconds = [0, 0, 0, *parts][-3:]
    return (total + hours) * 3600 + minutes * 60 + seconds


ACCOUNT_COLUMNS = (
    "JobIDRaw", "Cluster", "User", "UID", "State", "Submit", "Eligible", "Start", "End", "AllocTRES", "NodeList",
    "WorkDir", "JobName",
)  # fmt: skip
"""Of sacct; what a user can choose comes last."""
_FIXED = ACCOUNT_COLUMNS[:-2]


def parse_accounting(text: str, delimiter: str, columns: Sequence[str] = ACCOUNT_COLUMNS) -> list[AccountedJob]:
    """`sacct -P -n --delimiter=... -o COLUMNS` with times as seconds since the epoch.

    A job's name may hold line breaks and anything else, so the delimiter must be one that nobody can guess: a line
    without the right number of it is part of a name and passed over.
    """
    from sovctl.model.accounted import AccountedJob

    # By place and not by name: a month of a busy site is hundreds of thousands of lines.
    assert tuple(columns[: len(_FIXED)]) == _FIXED
    failed = columns.index("FailedNode") if "FailedNode" in columns else None
    where, name = columns.index("WorkDir"), columns.index("JobName")
    jobs = []
    for line in text.split("\n"):
        values = line.split(delimiter)
        if len(values) < len(columns) - 1 or not _DIGITS.fullmatch(values[0]):
            continue
        job_id, cluster, user, uid, state, submit, eligible, start, end, tres, nodes = values[: len(_FIXED)]
        submitted = _whole(submit, 0)
        if not submitted:
            continue
        failed_node = values[failed] if failed is not None else ""
        jobs.append(
            AccountedJob(
                job_id=job_id,
                cluster=cluster,
                user=user,
                uid=_whole(uid, -1),
                # `CANCELLED by 1000`
                state=state.partition(" ")[0],
                submitted=submitted,
                eligible=_whole(eligible, 0) or None,
                started=_whole(start, 0) or None,
                ended=_whole(end, 0) or None,
                nodes=expand("" if nodes == "None assigned" else nodes),
                gpus=gpus_in(tres),
                failed_node="" if failed_node in _EMPTY else failed_node,
                name=values[name] if len(values) > name else "",
                work_dir=values[where],
            )
        )
    return jobs


_RPC = re.compile(r"^\s+(\S+)\s+\(\s*\d+\) count:(\d+)\s+ave_time:\d+\s+total_time:(\d+)", re.MULTILINE)


class RpcCount(NamedTuple):
    """Calls of one kind, or of one user."""

    calls: int
    microseconds: int
    """That slurmctld worked on all of them."""


def parse_scheduler_passes(text: str) -> int | None:
    """How often the main scheduler has run, from `sdiag`; None when it does not say."""
    match = re.search(r"Main schedule statistics.*?Total cycles:\s*(\d+)", text, re.DOTALL)
    return _whole(match[1], 0) if match else None


def parse_rpcs(text: str, by: str = "message type") -> dict[str, RpcCount]:
    """What slurmctld was asked since its counters began, from `sdiag`; `by`: "message type" or "user"."""
    part = text.partition(f"Remote Procedure Call statistics by {by}")[2].partition("\n\n")[0]
    return {found[1]: RpcCount(_whole(found[2], 0), _whole(found[3], 0)) for found in _RPC.finditer(part)}


def expand(hostlist: str) -> tuple[str, ...]:
    """`n[001-003,7]` as names, in Slurm's order. Single names and one range list, which is nearly all, need no library:
    a report of a month expands tens of thousands."""
    if not hostlist or hostlist in _EMPTY:
        return ()
    if "[" not in hostlist:
        return tuple(hostlist.split(","))
    plain = _PLAIN_HOSTS.fullmatch(hostlist)
    numbers = _numbers(plain[2]) if plain else None
    if plain and numbers is not None:
        return tuple(f"{plain[1]}{number}" for number in numbers)
    if _names_in(hostlist) > _MOST_HOSTS:
        # A slip of the hand; the library would make every one of them.
        return (hostlist,)
    from ClusterShell.NodeSet import RESOLVER_NOGROUP, NodeSet, NodeSetException

    try:
        return tuple(NodeSet(hostlist, resolver=RESOLVER_NOGROUP))
    except (NodeSetException, ValueError):
        return (hostlist,)


_PLAIN_HOSTS = re.compile(r"([A-Za-z][\w.-]*(?<![0-9]))\[([0-9,-]{1,4096})\]", re.ASCII)
"""A digit before the bracket is part of the number, and of its width, to the library."""
_MOST_HOSTS = 65536
"""More nodes than any Slurm has (MAX_SLURM_NODES)."""


def _names_in(hostlist: str) -> int:
    """How many names these are at most, without making them."""
    count = 0
    for part in re.findall(r"(?:[^,\[]|\[[^\]]*\])+", hostlist):
        sizes = [_length(ranges) for ranges in re.findall(r"\[([^\]]*)\]", part)]
        count += math.prod(sizes)
    return count


def _length(ranges: str) -> int:
    ends = re.findall(r"([0-9]{1,20})(?:-([0-9]{1,20}))?", ranges)
    return sum(max(1, int(high or low) - int(low) + 1) for low, high in ends)


def _numbers(ranges: str) -> list[str] | None:
    """`001-003,007` as Slurm writes it: one width or no zeros in front, and ascending. None: not so."""
    found: list[str] = []
    last = -1
    for part in ranges.split(","):
        low, dash, high = part.partition("-")
        high = high if dash else low
        if not (low.isdigit() and high.isdigit()) or ("0" in (low[0], high[0]) and len(low) != len(high)):
            return None
        first, before, last = int(low), last, int(high)
        if not before < first <= last < first + _MOST_HOSTS - len(found):
            return None
        found += [f"{number:0{len(low)}d}" for number in range(first, last + 1)]
    alike = len({len(number) for number in found}) == 1 or not any(number[0] == "0" != number for number in found)
    return found if alike else None


def fold(names: Iterable[str]) -> str:
    """Names as one hostlist."""
    listed = list(names)
    if len(listed) < 2:
        return ",".join(listed)
    plain = _fold_plain(listed)
    if plain:
        return plain
    from ClusterShell.NodeSet import RESOLVER_NOGROUP, NodeSet

    nodes = NodeSet.fromlist(listed, resolver=RESOLVER_NOGROUP)
    nodes.fold_axis = (-1,)  # r[1-2]c[1-2] is one list of Slurm's, but r[1-2]c1 is none before 23.11
    folded = str(nodes)
    return ",".join(dict.fromkeys(listed)) if _BEHIND_BRACKET.search(folded) else folded


def _fold_plain(names: Sequence[str]) -> str:
    """As NodeSet folds them, where all are one word and one number of as many digits: thousands at once, in a fraction
    of the time. Empty: they are not."""
    first = _PLAIN_NAME.fullmatch(names[0])
    if first is None:
        return ""
    word, length = first[1], len(names[0])
    numbers = {name[len(word) :] for name in names if name.startswith(word) and len(name) == length}
    if len(numbers) < 2 or not all(number.isascii() and number.isdigit() for number in numbers):
        return ""
    if any(len(name) != length or not name.startswith(word) for name in names):
        return ""
    runs = groupby(enumerate(sorted(numbers)), key=lambda pair: int(pair[1]) - pair[0])
    ranges = [[number for _, number in run] for _, run in runs]
    folded = ",".join(one[0] if len(one) == 1 else f"{one[0]}-{one[-1]}" for one in ranges)
    return f"{word}[{folded}]"


_BEHIND_BRACKET = re.compile(r"\][^,]")
"""Text there Slurm reads from 23.11 on; before, `n[1-2]-ib` is an invalid hostlist to slurmctld and to scontrol."""
_PLAIN_NAME = re.compile(r"([A-Za-z_.-]*[A-Za-z_.])[0-9]{1,9}")


def parse_step_ids(text: str, internal: Sequence[str] = (".batch", ".extern", ".interactive")) -> list[str]:
    """`squeue -h -s -o %i`: the ids of the steps srun started."""
    ids = [line.strip() for line in text.split("\n") if "." in line]
    return [step for step in ids if not step.endswith(tuple(internal))]


def parse_step_starts(text: str) -> dict[str, float]:
    """`squeue -h -s -o "%i %S"`: when the steps srun started began, by id; 0 where Slurm does not say."""
    starts = {step: begun.strip() for step, _, begun in (line.strip().partition(" ") for line in text.split("\n"))}
    return {step: float(_whole(starts[step], 0)) for step in parse_step_ids("\n".join(starts))}


def parse_step_names(text: str) -> dict[str, str]:
    """`squeue -h -s -o "%i %j"`: the names of the steps srun started, by id."""
    names = {step: name.strip() for step, _, name in (line.strip().partition(" ") for line in text.split("\n"))}
    return {step: names[step] for step in parse_step_ids("\n".join(names))}


def parse_names(text: str) -> list[str]:
    """Commands told to print one name a line and no heading: nodes, partitions, QOS, job ids."""
    return [name for line in text.split("\n") if (name := line.strip())]


def _own_id(record: dict[str, str]) -> str:
    """The id that names only this job: the bare id of the last task of an array would mean the whole array."""
    array, task = record.get("ArrayJobId"), record.get("ArrayTaskId", "")
    return f"{array}_{task}" if array and task.isdigit() else record.get("JobId", "")


def _user(text: str) -> tuple[str, int]:
    match = re.fullmatch(r"(.*)\((\d+)\)", text)
    return (match[1], _whole(match[2], -1)) if match else (text, -1)


def _value(record: dict[str, str], key: str) -> str:
    value = record.get(key, "")
    return "" if value in _EMPTY else value


def _epoch(record: dict[str, str], key: str) -> int | None:
    return _whole(record.get(key, ""), 0) or None


def _whole(text: str, otherwise: int) -> int:
    """A number of at most 20 digits, as Slurm writes them."""
    return int(text) if _DIGITS.fullmatch(text) else otherwise


_DIGITS = re.compile(r"[0-9]{1,20}")
