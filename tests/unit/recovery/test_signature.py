"""Two crashes of one kind have one name, whatever ranks, addresses and paths were in their output."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sovctl.recovery.signature import crash_signature

TRACEBACK = """step 1200 loss 2.3145
Traceback (most recent call last):
  File "/home/alice/train/train.py", line 311, in <module>
    main()
  File "/home/alice/train/data.py", line 88, in __getitem__
    raise ValueError(f"document {index} of /scratch/corpus/part-00017.bin is empty")
ValueError: document 90211 of /scratch/corpus/part-00017.bin is empty
srun: error: n003: task 5: Exited with exit code 1
"""
NAMED = "ValueError: document N of PATH is empty"
INTERLEAVED = """Traceback (most recent call last):
Traceback (most recent call last):
  File "train.py", line 12, in <module>
RuntimeError: [/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:51234
  File "train.py", line 40, in <module>
ValueError: document 90211 of /scratch/corpus/part-00017.bin is empty
torch.distributed.DistBackendError: NCCL error in: ProcessGroupNCCL.cpp:3690, remote process exited
torch.distributed.DistNetworkError: Connection reset by peer
RuntimeError: Broken pipe
"""
LABELLED = "\n".join(
    [
        "0: Traceback (most recent call last):",
        "5: Traceback (most recent call last):",
        "0: RuntimeError: Connection reset by peer",
        "5: ValueError: document 7 of /d/x.bin is empty",
        "[rank3]: RuntimeError: Broken pipe",
    ]
)
CHAINED = """Traceback (most recent call last):
  File "a.py", line 1, in load
KeyError: 'tokens'

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "a.py", line 9, in <module>
mylib.data.CorpusError: cannot read shard 17
"""


@pytest.mark.parametrize(
    ("output", "signature"),
    [
        (TRACEBACK, NAMED),
        (INTERLEAVED, NAMED),
        (LABELLED, NAMED),
        # The first exception is the cause of the second.
        (CHAINED, "KeyError: 'tokens'"),
        ("KeyboardInterrupt\n", "KeyboardInterrupt"),
        (
            "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.50 GiB. GPU 5 has a total of 139.8 GiB",
            "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate N GiB. GPU N has a total of N GiB",
        ),
        ("[rank7]: AssertionError: loss is nan\n", "AssertionError: loss is nan"),
        ("n003: RuntimeError: boom\n", "RuntimeError: boom"),
        ("AssertionError\n", "AssertionError"),
        # Every rank only echoes: better that than nothing.
        (
            "RuntimeError: Connection closed by peer [10.0.0.7]:4411\n",
            "RuntimeError: Connection closed by peer [N.N]:N",
        ),
        (
            "bash: line 1: 4711 Segmentation fault      (core dumped) python train.py",
            "bash: line N: N Segmentation fault",
        ),
        ("srun: error: n003: task 5: Segmentation fault (core dumped)", "srun: error: nN: task N: Segmentation fault"),
        ("OSError: [Errno 28] No space left on device: '/ckpt/step-12'", "OSError: [Errno N] No space left on device"),
        ("tar: x: Cannot write: No space left on device", "tar: x: Cannot write: No space left on device"),
        ("step 1 loss 2.3\nall fine\n", ""),
        ("", ""),
        ("\n\n\n", ""),
    ],
)
def test_the_line_that_tells_most(output: str, signature: str) -> None:
    found = crash_signature(output)
    assert found.startswith(signature)
    assert bool(found) == bool(signature)


def test_words_about_errors_in_the_middle_of_a_line_are_no_crash() -> None:
    assert crash_signature("epoch 1: caught ValueError: bad sample, skipped it\n") == ""


def test_control_characters_never_reach_the_name() -> None:
    assert crash_signature("ValueError: \x1b[31mred\x07\n") == "ValueError: [Nmred"


@given(st.text() | st.text(alphabet="ValueError: 0xabc/\n[]() \x1b", max_size=400))
def test_any_output_has_a_short_printable_name(output: str) -> None:
    signature = crash_signature(output)
    assert len(signature) <= 160
    assert signature.isprintable()


@pytest.mark.parametrize("piece", ["1", "1:", "A.", "/a", "aError.", "[1]: ", "0x1", "1 "])
def test_one_endless_line_costs_no_time(piece: str) -> None:
    began = time.monotonic()
    crash_signature(piece * (65536 // len(piece)))
    assert time.monotonic() - began < 0.5


@given(st.binary())
def test_undecodable_output_has_one_too(output: bytes) -> None:
    assert len(crash_signature(output.decode("utf-8", "replace"))) <= 160


paths = st.lists(st.from_regex(r"[a-z_.-]{1,8}", fullmatch=True), min_size=1, max_size=4).map(
    lambda p: "/" + "/".join(p)
)


@given(
    st.integers(0, 10**9), st.integers(0, 10**9), st.integers(0, 2**64), st.integers(0, 2**64), paths, paths,
    st.integers(0, 4095), st.integers(0, 4095),
)  # fmt: skip
def test_numbers_addresses_and_paths_make_no_difference(
    step_a: int, step_b: int, at_a: int, at_b: int, path_a: str, path_b: str, rank_a: int, rank_b: int
) -> None:
    def crash(step: int, at: int, path: str, rank: int) -> str:
        return (
            f'step {step} loss 2.0\nTraceback (most recent call last):\n  File "{path}", line {step}\n'
            f"[rank{rank}]: RuntimeError: tensor at 0x{at:x} from {path}: bad shape {step} at step {step}.5\n"
        )

    assert crash_signature(crash(step_a, at_a, path_a, rank_a)) == crash_signature(crash(step_b, at_b, path_b, rank_b))
