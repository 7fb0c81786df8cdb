"""What died first, where, and of what."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sovctl.recovery.crash import Kind, SrunEnds, read_crash

ECHO = """[rank0]: Traceback (most recent call last):
[rank0]:   File "/w/train.py", line 80, in main
[rank0]:     loss.backward()
[rank0]: RuntimeError: [pair.cc:553] Connection closed by peer [10.0.0.3]:8379. This is typically caused by a crash.
"""
CAUSE = """[rank2]: Traceback (most recent call last):
[rank2]:   File "/w/train.py", line 12, in batch
[rank2]:     return documents[7]
[rank2]: ValueError: document 7 is empty
"""
SRUN = "srun: error: n001: task 0: Exited with exit code 1\nsrun: error: n003: task 2: Exited with exit code 1\n"
ELASTIC = """torch.distributed.elastic.multiprocessing.errors.ChildFailedError:
============================================================
train.py FAILED
------------------------------------------------------------
Failures:
  <NO_OTHER_FAILURES>
------------------------------------------------------------
Root Cause (first observed failure):
[0]:
  time      : {time}
  host      : {host}
  rank      : {rank} (local_rank: 3)
  exitcode  : {code} (pid: 33054)
  error_file: <N/A>
  traceback : To enable traceback see: https://pytorch.org/docs/stable/elastic/errors.html
============================================================
"""


def test_the_rank_whose_own_exception_it_is_failed_first() -> None:
    crash = read_crash(ECHO + CAUSE + SRUN, 1)
    assert (crash.kind, crash.rank, crash.node) == (Kind.PYTHON, 2, "")
    assert crash.signature == "ValueError: document N is empty"
    assert crash.excerpt == CAUSE.strip()


def test_its_node_is_taken_from_what_the_ranks_said() -> None:
    assert read_crash(CAUSE, 1, ranks={2: "n003"}).node == "n003"


def test_tracebacks_of_several_ranks_may_be_mixed_line_by_line() -> None:
    mixed = "\n".join(line for pair in zip(ECHO.splitlines(), CAUSE.splitlines(), strict=True) for line in pair)
    crash = read_crash(mixed, 1)
    assert (crash.rank, crash.excerpt) == (2, CAUSE.strip())


def test_srun_label_names_the_rank_too() -> None:
    labelled = CAUSE.replace("[rank2]:", "2:")
    assert read_crash(labelled, 1).rank == 2


def test_torchelastic_names_rank_and_host() -> None:
    text = ELASTIC.format(time="2026-08-01_11:36:44", host="n007", rank=19, code=1)
    crash = read_crash(text + SRUN, 1)
    assert (crash.rank, crash.node) == (19, "n007")


def test_of_several_launchers_the_earliest_root_cause_counts_and_none_that_was_ended() -> None:
    text = "".join(
        ELASTIC.format(time=time, host=host, rank=rank, code=code)
        for time, host, rank, code in (
            ("2026-08-01_11:36:40", "n001", 3, "-15"),
            ("2026-08-01_11:36:44", "n002", 9, "1"),
            ("2026-08-01_11:36:42", "n003", 17, "-9"),
        )
    )
    crash = read_crash(text, 1)
    assert (crash.rank, crash.node) == (17, "n003")


def test_a_rank_of_torchrun_that_was_killed_is_told_by_its_launcher() -> None:
    launcher = 'Traceback (most recent call last):\n  File "run.py", line 883, in run\n    elastic_launch(\n'
    block = ELASTIC.format(time="2026-08-01_11:36:44", host="n007", rank=19, code=-11).replace(
        "To enable traceback see: https://pytorch.org/docs/stable/elastic/errors.html",
        "Signal 11 (SIGSEGV) received by PID 33054",
    )
    crash = read_crash(launcher + block + SRUN, 1)
    assert (crash.kind, crash.rank, crash.node) == (Kind.SIGNAL, 19, "n007")
    assert crash.excerpt.startswith("Root Cause")
    assert "SIGSEGV" in crash.excerpt


def test_srun_tells_who_died_of_a_fault_of_its_own() -> None:
    text = "srun: error: n001: task 0: Exited with exit code 1\nsrun: error: n003: tasks 2-3: Segmentation fault\n"
    crash = read_crash(text + ECHO, 139)
    assert (crash.kind, crash.rank, crash.node) == (Kind.SIGNAL, 2, "n003")


def test_tasks_that_srun_itself_killed_are_no_cause() -> None:
    text = "srun: error: n001: task 0: Killed\nsrun: error: n002: task 1: Exited with exit code 7\n"
    assert read_crash(text, 7).rank == 1


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        (
            "slurmstepd: error: Detected 1 oom_kill event in StepId=12.0. Some of the step tasks have been OOM Killed.",
            "oom",
        ),
        (
            "slurmstepd: error: Detected 1 oom-kill event(s) in StepId=12.batch. Some of your processes may have been",
            "oom",
        ),
        ("srun: error: n003: task 2: Out Of Memory", "oom"),
        ("RuntimeError: [enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory", "oom"),
        (
            "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total of 178 GiB",
            "cuda",
        ),
        ("RuntimeError: CUDA error: an illegal memory access was encountered", "cuda"),
        ("torch.AcceleratorError: CUDA error: uncorrectable ECC error encountered", "cuda"),
        (
            "torch.distributed.DistBackendError: NCCL error in: ProcessGroupNCCL.cpp:3690, unhandled system error",
            "nccl",
        ),
        ("OSError: [Errno 28] No space left on device", "storage"),
        ("OSError: [Errno 116] Stale file handle: '/data/shard-7'", "storage"),
        ("KeyError: 'input_ids'", "python"),
    ],
)
def test_the_kind_is_read_from_the_words(line: str, kind: str) -> None:
    trace = 'Traceback (most recent call last):\n  File "t.py", line 1, in f\n    g()\n'
    text = line if line.startswith(("slurmstepd", "srun")) else trace + line
    assert read_crash(text + "\n", 1).kind == kind


def test_a_signal_without_words_is_a_signal_and_silence_is_unknown() -> None:
    assert read_crash("", -11).kind == Kind.SIGNAL
    assert read_crash("", 1).kind == Kind.UNKNOWN


def test_memory_freed_in_peace_is_no_oom() -> None:
    assert read_crash("epoch 3 done, peak memory 12 GiB\n" + CAUSE, 1).kind == Kind.PYTHON


@given(st.text(max_size=2000), st.integers(-64, 255))
def test_no_output_breaks_it(text: str, status: int) -> None:
    crash = read_crash(text, status)
    assert crash.kind in [*Kind]
    assert len(crash.excerpt) < 200_000


def test_a_line_of_srun_within_a_traceback_is_not_its_exception() -> None:
    output = """Traceback (most recent call last):
  File "train.py", line 129, in train
srun: error: n008: task 3: Segmentation fault
    everyone = group.exchange(value)
ConnectionError: Connection closed by rank 3
srun: error: n007: task 2: Killed
"""
    crash = read_crash(output, 143)
    assert (crash.kind, crash.rank, crash.node) == (Kind.SIGNAL, 3, "n008")


def test_a_traceback_that_another_rank_cut_short_is_no_cause() -> None:
    output = """srun: error: n013: task 12: Segmentation fault
Traceback (most recent call last):
  File "train.py", line 129, in train
Traceback (most recent call last):
  File "train.py", line 129, in train
ConnectionError: Connection closed by rank 12
"""
    crash = read_crash(output, 139)
    assert (crash.kind, crash.rank, crash.node) == (Kind.SIGNAL, 12, "n013")


NO_STEP = "srun: error: Unable to create step for job 1: Invalid generic resource (gres) specification\n"


def test_a_step_that_slurm_did_not_start_is_no_crash_of_the_script() -> None:
    crash = read_crash(NO_STEP, 1)
    assert (crash.kind, crash.signature) == (Kind.LAUNCH, "Invalid generic resource (gres) specification")
    assert read_crash(NO_STEP + CAUSE, 1).kind is Kind.PYTHON


KILLED_BY_SRUN = """srun: error: n002: task 1: Exited with exit code 7
srun: launch/slurm: _step_signal: Terminating StepId=41.3
slurmstepd-n001: error: *** STEP 41.3 ON n001 CANCELLED AT 2026-11-30T03:54:02 ***
srun: error: n003: task 2: Killed
srun: error: n001: tasks 0,4: Terminated
srun: Force Terminated StepId=41.3
"""


def test_the_rank_that_ended_by_itself_is_named_and_not_the_sigkill_of_the_others() -> None:
    crash = read_crash(KILLED_BY_SRUN, 137)
    assert (crash.kind, crash.rank, crash.node) == (Kind.UNKNOWN, 1, "n002")
    assert crash.signature == "Exited with exit code 7"
    # What the rank itself said tells more.
    assert read_crash(CAUSE + KILLED_BY_SRUN, 137).signature == read_crash(CAUSE, 1).signature


@pytest.mark.parametrize(
    "line",
    [
        "srun: launch/slurm: _step_signal: Terminating StepId=41.3",
        "srun: Terminating StepId=41.3",
        "0: srun: _step_signal: Terminating StepId=41.3",
    ],
)
def test_srun_says_which_step_it_ends(line: str) -> None:
    assert SrunEnds("41").feed(["x", line, "y"]) == 3
    assert SrunEnds("4").feed([line]) is None


@pytest.mark.parametrize(
    "line", ["Terminating StepId=41.3", "srun: Terminating StepId=41.3 or not", "srun: Terminating"]
)
def test_other_words_end_no_step(line: str) -> None:
    assert SrunEnds("41").feed([line]) is None


@pytest.mark.parametrize(
    ("how", "step"), [("Exited with exit code 93", None), ("Exited with exit code 1", 3), ("Killed", 3)]
)
def test_a_rank_that_is_done_before_the_others_is_none_that_failed(how: str, step: int | None) -> None:
    ends = SrunEnds("41")
    assert ends.feed([f"srun: error: n002: task 1: {how}"]) is None
    assert ends.feed(["srun: Terminating StepId=41.3"]) == step


def test_a_rank_that_the_kernel_killed_stays_the_cause_where_its_peers_speak_of_it() -> None:
    output = "ConnectionError: Connection closed by rank 2\nsrun: error: n006: task 5: Exited with exit code 1\n"
    crash = read_crash(output + "srun: error: n003: task 2: Killed\n", 137)
    assert crash.kind is Kind.SIGNAL


def test_srun_tells_which_ranks_of_the_step_are_over() -> None:
    ends = SrunEnds("41")
    ends.feed(["srun: error: n001: task 0: Exited with exit code 2"])
    ends.feed(["srun: error: n002: tasks 4,6-7: Exited with exit code 1", "srun: Terminating StepId=41.1"])
    assert ends.ended == {4, 6, 7}, "what an earlier step lost is none of it"
    ends.feed(["srun: error: n003: tasks 8-9: Terminated", "srun: error: n003: tasks 1-99999999999: Killed"])
    assert {8, 9, 4} <= ends.ended
    assert len(ends.ended) < 100_000


@pytest.mark.parametrize(
    ("output", "status", "words", "signature"),
    [
        ("ValueError: document 7 is empty", 1, "ValueError: document 7 is empty", "ValueError: document N is empty"),
        (
            "PermissionError: [Errno 1] Operation not permitted: '/data/7'",
            1,
            "PermissionError: [Errno 1] Operation not permitted: '/data/7'",
            "PermissionError: [Errno N] Operation not permitted: 'PATH'",
        ),
        (
            "srun: error: n003: task 1: Segmentation fault",
            139,
            "srun: error: n003: task 1: Segmentation fault",
            "srun: error: nN: task N: Segmentation fault",
        ),
        (
            "step 7\n/spool/slurm_script: line 3: pyhton3: command not found\n",
            127,
            "/spool/slurm_script: line 3: pyhton3: command not found",
            "PATH: line N: pyhtonN: command not found",
        ),
        (
            "python3: can't open file '/w/plain.py': [Errno 2] No such file or directory\n"
            "srun: error: n001: task 0: Exited with exit code 2",
            2,
            "python3: can't open file '/w/plain.py': [Errno 2] No such file or directory",
            "pythonN: can't open file 'PATH': [Errno N] No such file or directory",
        ),
        ("bash: line 1: module: command not found\nstep 9", 1, "", ""),
    ],
)
def test_a_person_reads_what_was_printed(output: str, status: int, words: str, signature: str) -> None:
    crash = read_crash(output, status)
    assert (crash.words, crash.signature) == (words, signature)
