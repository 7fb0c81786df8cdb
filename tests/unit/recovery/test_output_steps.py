"""Lines as the frameworks print them, and what must not be taken for a step."""

from __future__ import annotations

import time

import pytest

from sovctl.errors import UsageError
from sovctl.recovery.output_steps import OutputSteps, compile_pattern

MEGATRON = (
    " [2026-02-24 19:46:17] iteration       34/   10000 | consumed samples:         8704 | elapsed time per iteration "
    "(ms): 4103.1 | throughput per GPU (TFLOP/s/GPU): 412.7 | learning rate: 2.111000E-06 | global batch size:   256 | "
    "lm loss: 1.118665E+01 | loss scale: 1.0 | grad norm: 12.345 | number of skipped iterations:   0 |"
)
LINES = [
    ("Megatron-LM", MEGATRON, 34),
    (
        "Megatron-LM",
        " iteration      120/  500000 | consumed samples:       61440 | elapsed time per iteration (ms): 611.0 |",
        120,
    ),
    (
        "torchtitan",
        "[rank0]:[titan] 2026-05-18 16:04:46,338 - root - INFO - step: 14  loss:  3.24405  grad_norm:  0.8319  "
        "memory:  9.46GiB(64.99%)  tps: 7,282  tflops: 0.52  mfu: 0.17%",
        14,
    ),
    (
        "torchtitan",
        "[titan] 2025-03-12 11:10:21,511 - root - INFO - \x1b[31mstep: 22  \x1b[32mloss:  6.2250  \x1b[33mmemory:",
        22,
    ),
    (
        "DeepSpeed",
        "[2023-07-25 21:03:21,037] [INFO] [logging.py:96:log_dist] [Rank 0] step=35, skipped=0, lr=[2.17e-06], "
        "mom=[[0.9, 0.95]]",
        35,
    ),
    (
        "DeepSpeed",
        "[2023-07-25 21:03:17,269] [INFO] [timer.py:215:stop] epoch=0/micro_step=34/global_step=17, "
        "RunningAvgSamplesPerSec=7.86, CurrSamplesPerSec=8.0, MemAllocated=59.65GB, MaxMemAllocated=63.31GB",
        17,
    ),
    ("Lightning", "Epoch 0:  12%|█▏        | 120/1000 [00:12<01:28,  9.98it/s, v_num=3, train_loss=0.1]", 120),
    ("Lightning", "Epoch 3:  12%|#1        | 120/1000 [00:12<01:28,  9.98it/s, v_num=3]", 3120),
    ("Lightning", "Epoch 0: : 57it [00:12,  9.98it/s, v_num=3]", 57),
    ("Lightning", "Epoch 2/9  ━━━━━━━━━╺━━━━━ 120/1000 0:00:12 • 0:01:28 9.98it/s v_num: 3.000", 2120),
    ("HF Trainer", "  8%|█████████████        | 1999/24128 [1:52:09<20:27:23,  3.33s/it]", 1999),
    ("output", "step 20 loss 2.400000", 20),
    ("output", "iter 20: loss 2.4011, time 152.31ms, mfu 11.20%", 20),
    ("output", "3: 2026-01-01 12:00:00 INFO step=40 loss=2.1", 40),
]
NO_STEPS = [
    "Loading checkpoint shards:  50%|█████     | 2/4 [00:08<00:08,  4.2s/it]",
    "Map: 100%|██████████| 1000/1000 [00:01<00:00, 800 examples/s]",
    "Validation DataLoader 0:  40%|████      | 4/10 [00:01<00:02,  2.1it/s]",
    "[rank3]: RuntimeError: NCCL timeout in step 3 of the ring",
    "the number of training steps is 1000",
    "epoch 3 done",
    "",
]


@pytest.mark.parametrize(("by", "line", "step"), LINES)
def test_a_line_tells_its_step(by: str, line: str, step: int) -> None:
    steps = OutputSteps()
    assert steps.feed([line])
    assert (steps.by, steps.step) == (by, step)
    assert not steps.feed([line]), "the same step again is no progress"


@pytest.mark.parametrize("line", NO_STEPS)
def test_other_lines_do_not(line: str) -> None:
    steps = OutputSteps()
    assert not steps.feed([line])
    assert steps.step is None


def test_a_trainer_without_a_bar_moves_by_its_epochs() -> None:
    steps = OutputSteps()
    assert steps.feed(["{'loss': 6.2645, 'learning_rate': 0.001, 'epoch': 0.02}"])
    assert steps.feed(["{'loss': '6.1', 'grad_norm': '1.2', 'learning_rate': '0.001', 'epoch': '0.04'}"])
    assert steps.step is None


def test_the_bar_of_an_evaluation_is_progress_and_no_step() -> None:
    steps = OutputSteps()
    steps.feed(["  8%|##  | 1999/24128 [1:52:09<20:27:23,  3.33s/it]"])
    assert steps.feed([" 50%|#####     | 6/12 [00:08<00:08,  1.2s/it]"])
    assert steps.step == 1999


def test_once_a_framework_has_spoken_lookalikes_do_not_count() -> None:
    steps = OutputSteps()
    steps.feed([MEGATRON])
    assert not steps.feed(["step 7 of loading the data"])
    assert steps.step == 34


def test_the_users_own_pattern_replaces_the_others() -> None:
    steps = OutputSteps(r"tick (?P<step>[\d,]+) of")
    assert not steps.feed(["step 20 loss 2.4"])
    assert steps.feed(["tick 1,250 of many"])
    assert (steps.step, steps.by) == (1250, "--progress-regex")


def test_a_group_that_is_no_number_still_shows_that_it_moves() -> None:
    steps = OutputSteps(r"at ([\d.]+) epochs")
    assert steps.feed(["at 0.25 epochs"])
    assert steps.feed(["at 0.50 epochs"])
    assert not steps.feed(["at 0.50 epochs"])
    assert steps.step is None


@pytest.mark.parametrize("text", ["step (", "step \\d+", "*"])
def test_a_pattern_that_cannot_work_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--progress-regex"):
        compile_pattern(text)


def test_a_catastrophic_pattern_is_given_up_and_costs_little() -> None:
    steps = OutputSteps(r"^(a|aa)+$(\d)")
    began = time.process_time()
    for _ in range(50):
        steps.feed(["a" * 60 + "!"])
    assert steps.gave_up
    assert time.process_time() - began < 2.0
    assert steps.feed(["step 20 loss 2.4"]), "the built-in patterns take over"


def test_endless_lines_cost_little() -> None:
    steps = OutputSteps()
    began = time.monotonic()
    steps.feed(
        ["Epoch 1:" + " " * 100_000, "1%|" + "#" * 100_000, "a " * 50_000, "[" * 100_000, "{'loss': " * 20_000] * 20
    )
    assert time.monotonic() - began < 1.0
