from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sovctl.model.blame import Blame, Confidence, Culprit
from sovctl.model.node import NodeState, NodeView
from sovctl.recovery.blame import (
    NodeEvidence,
    ScriptEnd,
    blame_end,
    blame_nodes,
    condemns,
    controller_was_away,
    describe_status,
    no_step_started,
    worth_looking_at,
)
from sovctl.recovery.crash import read_crash

OURS = "sovctl:20261122-1a2b XID79 GPU 5 fell off the bus"


def seen(
    base: str = "ALLOCATED",
    *flags: str,
    reason: str = "",
    name: str = "n003",
    slurmd: bool = False,
    ranks: bool = False,
) -> NodeEvidence:
    return NodeEvidence(NodeView(name, NodeState(base, frozenset(flags)), reason=reason), slurmd, ranks)


@pytest.mark.parametrize(
    ("item", "words"),
    [
        (seen(), ""),
        (seen("ALLOCATED", "DRAIN", reason=OURS), "XID79 GPU 5 fell off the bus"),
        (seen("DOWN", reason=OURS), "XID79 GPU 5 fell off the bus"),
        (seen("DOWN", "DRAIN", "NOT_RESPONDING", reason="sovctl:20261122-1a2b NODE_DEAD silent for 6 s"), "NODE_DEAD"),
        # A reason of ours left on a node that was given back.
        (seen("ALLOCATED", reason=OURS), ""),
        # Somebody else's drain does not move a job that runs.
        (seen("ALLOCATED", "DRAIN", reason="kernel update on Friday"), ""),
        (seen("ALLOCATED", "DRAIN", reason="not sovctl:x XID79"), ""),
        (seen("ALLOCATED", "DRAIN"), ""),
        (seen("DOWN", reason="Not responding"), "declared it down (Not responding)"),
        (seen("DOWN"), "declared it down"),
        (seen("ALLOCATED", "FAIL", reason="bad fan"), "marked it FAIL (bad fan)"),
        (seen("ALLOCATED", "NOT_RESPONDING"), ""),
        (seen(slurmd=True), ""),
        (seen(ranks=True), ""),
        (seen(slurmd=True, ranks=True), "NODE_DEAD"),
    ],
)
def test_what_speaks_against_a_node(item: NodeEvidence, words: str) -> None:
    said = condemns(item)
    assert words in said
    assert bool(said) == bool(words)


def test_all_condemned_nodes_are_blamed_and_the_sentence_stays_short() -> None:
    nodes = [seen("DOWN", name=f"n{number}") for number in range(300)] + [seen(name="healthy")]
    blame = blame_nodes(nodes)
    assert blame is not None
    assert blame.culprit is Culprit.HARDWARE
    assert blame.nodes == tuple(f"n{number}" for number in range(300))
    assert "n0: " in blame.evidence
    assert blame.evidence.endswith("and 296 more")


def test_healthy_nodes_are_nobody_to_blame() -> None:
    assert blame_nodes([seen(), seen("ALLOCATED", "DRAIN", reason="upgrade")]) is None
    assert blame_nodes([]) is None


SICK = [seen("ALLOCATED", "DRAIN", reason=OURS)]


@pytest.mark.parametrize(
    ("status", "nodes", "stop_asked", "culprit"),
    [
        (0, [], "", Culprit.NONE),
        (93, [], "", Culprit.NONE),
        (93, [], "time limit", Culprit.NONE),
        # A script that finished needs nobody blamed, whatever its nodes look like now.
        (0, SICK, "", Culprit.NONE),
        (0, [], "time limit", Culprit.STOPPED),
        (75, [], "", Culprit.STOPPED),
        (75, [], "preemption", Culprit.PREEMPTED),
        (0, [], "preemption", Culprit.PREEMPTED),
        (75, SICK, "", Culprit.HARDWARE),
        (1, [], "", Culprit.USER_CODE),
        (1, SICK, "", Culprit.HARDWARE),
        (-9, SICK, "time limit", Culprit.HARDWARE),
        (1, [seen()], "", Culprit.USER_CODE),
        (1, [seen("ALLOCATED", "DRAIN", reason="upgrade")], "", Culprit.USER_CODE),
        # Ended by its own reaction to the request.
        (143, [], "preemption", Culprit.PREEMPTED),
        (143, SICK, "preemption", Culprit.HARDWARE),
        (-15, [], "time limit", Culprit.STOPPED),
        (-11, [], "", Culprit.USER_CODE),
        (139, [], "", Culprit.USER_CODE),
    ],
)
def test_who_is_to_blame_for_an_end(status: int, nodes: list[NodeEvidence], stop_asked: str, culprit: Culprit) -> None:
    blame = blame_end(ScriptEnd(status, "ValueError: N", 40), nodes, stop_asked=stop_asked)
    assert blame.culprit is culprit
    assert blame.step == 40
    assert blame.evidence
    assert bool(blame.nodes) == (culprit is Culprit.HARDWARE)
    assert bool(blame.signature) == (culprit is Culprit.USER_CODE)


@pytest.mark.parametrize(("status", "culprit"), [(0, Culprit.NONE), (75, Culprit.STOPPED), (143, Culprit.STOPPED)])
def test_a_script_that_was_asked_and_cannot_know_of_it_finished_with_status_0(status: int, culprit: Culprit) -> None:
    assert blame_end(ScriptEnd(status), [], stop_asked="time limit", heard=False).culprit is culprit


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (1, "ended with status 1"),
        (128, "ended with status 128"),
        (137, "was killed by SIGKILL"),
        (139, "was killed by SIGSEGV"),
        (-11, "was killed by SIGSEGV"),
        (-9, "was killed by SIGKILL"),
        (-35, "was killed by signal 35"),
        (134, "was killed by SIGABRT"),
        (160, "ended with status 160"),
        (255, "ended with status 255"),
    ],
)
def test_exit_statuses_in_words(status: int, words: str) -> None:
    assert describe_status(status) == words


def test_the_same_signal_has_one_name_whoever_reports_it() -> None:
    by_shell, by_kernel = (blame_end(ScriptEnd(status), ()) for status in (139, -11))
    assert by_shell.signature == by_kernel.signature


states = st.builds(
    NodeState,
    st.sampled_from(["IDLE", "ALLOCATED", "MIXED", "DOWN", "UNKNOWN"]),
    st.frozensets(st.sampled_from(["DRAIN", "FAIL", "NOT_RESPONDING", "COMPLETING", "MAINT"])),
)
evidence = st.builds(
    NodeEvidence,
    st.builds(NodeView, st.sampled_from(["n1", "n2"]), states, st.sampled_from(["", "upgrade", OURS])),
    st.booleans(),
    st.booleans(),
)


@given(evidence)
def test_a_node_is_blamed_only_on_evidence_of_its_own(item: NodeEvidence) -> None:
    if condemns(item):
        state = item.view.state
        assert (
            state.down
            or "FAIL" in state.flags
            or (state.draining and item.view.reason == OURS)
            or (item.slurmd_silent and item.ranks_silent)
        )


@given(st.integers(-64, 255), st.lists(evidence, max_size=3), st.sampled_from(["", "time limit"]))
def test_every_end_has_a_culprit_and_a_sentence(status: int, nodes: list[NodeEvidence], asked: str) -> None:
    blame = blame_end(ScriptEnd(status), nodes, stop_asked=asked)
    assert blame.evidence
    assert "\n" not in blame.evidence
    assert (blame.culprit is Culprit.HARDWARE) == bool(blame.nodes)


@pytest.mark.parametrize(
    ("end", "asked"),
    [
        (ScriptEnd(1, "ValueError: x", kind="python", node="n002"), ("n002",)),
        (ScriptEnd(1, "ValueError: x", kind="python"), ("n001", "n002")),
        (ScriptEnd(137, kind="oom"), ()),
        (ScriptEnd(139, kind="signal", node="n002"), ("n001", "n002")),
        (ScriptEnd(139, kind="signal"), ("n001", "n002")),
        (ScriptEnd(1, "CUDA error: N", kind="cuda", node="n002"), ("n001", "n002")),
        (ScriptEnd(1, kind="unknown"), ("n001", "n002")),
    ],
)
def test_only_nodes_that_may_be_the_cause_of_a_crash_are_asked(end: ScriptEnd, asked: tuple[str, ...]) -> None:
    assert worth_looking_at(end, ("n001", "n002")) == asked


@pytest.mark.parametrize(
    ("end", "words"),
    [
        (ScriptEnd(1, "slurmstepd: oom", 9, "oom", 2, "n002"), "ran out of main memory (rank 2 on n002) at step 9"),
        (ScriptEnd(137, "", 9, "signal"), "was killed by SIGKILL, as the kernel does when memory runs out, at step 9"),
        (ScriptEnd(137, "", 9, "oom"), "ran out of main memory at step 9"),
    ],
)
def test_want_of_memory_is_told_as_such(end: ScriptEnd, words: str) -> None:
    blame = blame_end(end, ())
    assert blame.culprit is Culprit.USER_CODE
    assert words in blame.evidence


def test_lost_storage_is_the_storages_and_a_full_one_the_persons_who_fills_it() -> None:
    lost = blame_end(ScriptEnd(1, "OSError: [Errno N] Stale file handle", 9, "storage", 1, "n002"), ())
    assert (lost.culprit, lost.nodes) == (Culprit.STORAGE, ("n002",))
    full = blame_end(ScriptEnd(1, "OSError: [Errno N] No space left on device", 9, "storage", 1, "n002"), ())
    assert full.culprit is Culprit.USER_CODE


def test_a_step_that_slurm_did_not_start_is_not_the_scripts_fault() -> None:
    blame = blame_end(ScriptEnd(1, "Invalid generic resource (gres) specification", 2050, kind="launch"), [])
    assert (blame.culprit, blame.nodes) == (Culprit.UNKNOWN, ())
    assert "Slurm started no step for the script at step 2050: Invalid generic resource" in blame.evidence
    assert no_step_started(blame.signature)
    assert not controller_was_away(blame.signature)


@pytest.mark.parametrize(
    "words",
    [
        "Unable to contact slurm controller (connect failure)",
        "Socket timed out on send/recv operation",
        "Zero Bytes were transmitted or received",
        "Slurm backup controller in standby mode",
    ],
)
def test_a_controller_that_was_away_has_its_books_all_the_same(words: str) -> None:
    blame = blame_end(ScriptEnd(1, words, kind="launch"), [])
    assert controller_was_away(blame.signature)
    assert not controller_was_away(words)


def test_a_step_that_slurm_did_not_start_for_a_dead_node_is_the_nodes() -> None:
    dead = seen(name="n007", slurmd=True, ranks=True)
    assert blame_end(ScriptEnd(1, "Memory required by task is not available", kind="launch"), [dead]).nodes == ("n007",)


def test_the_same_error_is_the_same_crash_whichever_status_srun_ended_with() -> None:
    one, other = (blame_end(ScriptEnd(status, "ValueError: document N is empty", 12), []) for status in (1, 143))
    assert one.signature == other.signature
    assert blame_end(ScriptEnd(1), []).signature != blame_end(ScriptEnd(139), []).signature


ECC = "torch.AcceleratorError: CUDA error: uncorrectable ECC error encountered"


@pytest.mark.parametrize(
    ("signature", "node", "culprit", "named"),
    [
        (ECC, "n003", Culprit.HARDWARE, ("n003",)),
        # torchrun names hosts in full.
        (ECC, "n003.cluster.example", Culprit.HARDWARE, ("n003",)),
        (ECC, "", Culprit.UNKNOWN, ()),
        ("NCCL WARN Cuda failure N 'uncorrectable NVLink error detected'", "n003", Culprit.HARDWARE, ("n003",)),
        ("RuntimeError: CUDA error: system not yet initialized", "n003", Culprit.HARDWARE, ("n003",)),
        ("RuntimeError: No CUDA-capable device is detected", "n003", Culprit.UNKNOWN, ("n003",)),
        (
            "RuntimeError: CUDA error: CUDA-capable device(s) is/are busy or unavailable",
            "n003",
            Culprit.UNKNOWN,
            ("n003",),
        ),
        ("RuntimeError: CUDA error: an illegal memory access was encountered", "n003", Culprit.USER_CODE, ()),
        ("RuntimeError: CUDA error: unspecified launch failure", "n003", Culprit.USER_CODE, ()),
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate N GiB", "n003", Culprit.USER_CODE, ()),
    ],
)
def test_what_cuda_says_of_a_device_speaks_against_its_node(
    signature: str, node: str, culprit: Culprit, named: tuple[str, ...]
) -> None:
    kind = "nccl" if "NCCL" in signature else "cuda"
    end = ScriptEnd(1, signature, 40, kind, 17, node)
    blame = blame_end(end, [seen(name="n002"), seen()])
    assert (blame.culprit, blame.nodes, blame.step) == (culprit, named, 40)
    assert signature in blame.evidence
    # What a script of its own prints about devices is no word of CUDA's.
    assert blame_end(ScriptEnd(1, signature, 40, "python", 17, node), [seen()]).culprit is Culprit.USER_CODE


@pytest.mark.parametrize(
    ("said", "culprit"),
    [
        ("torch.AcceleratorError: CUDA error: uncorrectable ECC error encountered", Culprit.HARDWARE),
        (
            "RuntimeError: Unexpected error from cudaGetDeviceCount(). Did you run some cuda functions before calling "
            "NumCudaDevices() that might have already set an error? Error 802: system not yet initialized",
            Culprit.HARDWARE,
        ),
        ("RuntimeError: No CUDA GPUs are available", Culprit.UNKNOWN),
        (
            "RuntimeError: CUDA unknown error - this may be due to an incorrectly set up environment",
            Culprit.UNKNOWN,
        ),
        ("RuntimeError: CUDA error: device-side assert triggered", Culprit.USER_CODE),
    ],
)
def test_what_torch_prints_of_a_broken_device_names_the_node_of_its_rank(said: str, culprit: Culprit) -> None:
    output = (
        "[rank3]: Traceback (most recent call last):\n"
        '[rank3]:   File "train.py", line 7, in <module>\n'
        f"[rank3]: {said}\n"
        "[rank3]: CUDA kernel errors might be asynchronously reported at some other API call\n"
        "srun: error: n003: task 3: Exited with exit code 1\n"
    )
    crash = read_crash(output, 1)
    end = ScriptEnd(1, crash.signature, None, crash.kind.value, crash.rank, crash.node)
    blame = blame_end(end, [seen(name="n002"), seen()])
    assert (blame.culprit, blame.nodes) == (culprit, () if culprit is Culprit.USER_CODE else ("n003",))


@pytest.mark.parametrize(
    ("blame", "confidence"),
    [
        (blame_nodes([seen("ALLOCATED", "DRAIN", reason=OURS)]), "sure"),
        (blame_nodes([seen("DOWN", reason="Not responding")]), "sure"),
        (blame_nodes([seen(slurmd=True, ranks=True)]), "likely"),
        # One that is known only by its silence makes the sentence no surer.
        (blame_nodes([seen("DOWN"), seen(name="n004", slurmd=True, ranks=True)]), "likely"),
        (blame_end(ScriptEnd(1), [seen(slurmd=True, ranks=True)]), "likely"),
        (blame_end(ScriptEnd(1, "ValueError: empty"), [seen()]), "likely"),
        (blame_end(ScriptEnd(139), [seen()]), "guess"),
        (blame_end(ScriptEnd(1, ECC, 40, "cuda", 17, "n003"), [seen()]), "likely"),
        (blame_end(ScriptEnd(1, ECC, 40, "cuda", 17, ""), [seen()]), "guess"),
        (blame_end(ScriptEnd(1, "OSError: [Errno N] Stale file handle", 4, "storage"), [seen()]), "likely"),
        (blame_end(ScriptEnd(0), [seen()]), "sure"),
        (blame_end(ScriptEnd(75), [seen()]), "sure"),
    ],
)
def test_how_sure_a_blame_is(blame: Blame, confidence: str) -> None:
    assert blame.confidence == confidence


@given(st.sampled_from(Culprit), st.sampled_from(Confidence))
def test_who_is_not_known_is_never_sure_and_doubt_only_adds(culprit: Culprit, doubt: Confidence) -> None:
    usual, blame = Blame(culprit).confidence, Blame(culprit, at_most=doubt).confidence
    order = list(Confidence)
    assert order.index(blame) == max(order.index(usual), order.index(doubt))
    assert culprit is not Culprit.UNKNOWN or blame is Confidence.GUESS


def test_a_rank_that_raised_is_named_and_not_srun_s_sigterm_to_the_others() -> None:
    end = ScriptEnd(143, "ValueError: document N", 15, "python", 3, "n002", "ValueError: document 7")
    words = "the script ended because of rank 3 on n002 at step 15 and no node shows a fault: ValueError: document 7"
    assert blame_end(end, [seen()]).evidence == words
    assert blame_end(end, [seen()]).signature == "ValueError: document N"
