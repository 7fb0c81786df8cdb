"""Signals as values. Each case runs in a process of its own: handlers belong to the whole process."""

from __future__ import annotations

import subprocess
import sys

START = """
import os, signal, subprocess, sys, time
from sovctl.adapters.run.signals import SignalQueue
queue = SignalQueue()
def me(signum): os.kill(os.getpid(), signum)
"""


def run(code: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", START + code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_what_came_before_the_wait_comes_in_order_and_once() -> None:
    code = "me(signal.SIGUSR1); me(signal.SIGTERM); me(signal.SIGUSR2)\nprint(*queue.wait(0.0), '|', *queue.wait(0.0))"
    assert run(code) == ["10", "15", "12", "|"]


def test_a_wait_ends_with_its_deadline() -> None:
    code = "began = time.monotonic(); got = queue.wait(0.2); print(len(got), 0.15 < time.monotonic() - began < 5)"
    assert run(code) == ["0", "True"]


def test_a_signal_ends_the_wait_early() -> None:
    code = """
child = subprocess.Popen([sys.executable, "-c", f"import os; os.kill({os.getpid()}, 15)"])
began = time.monotonic()
got = []
while 15 not in got: got += queue.wait(30.0)
print(time.monotonic() - began < 20)
child.wait()
"""
    assert run(code) == ["True"]


def test_the_end_of_a_child_ends_the_wait() -> None:
    code = """
began = time.monotonic()
subprocess.Popen(["/bin/true"])
print(*queue.wait(30.0), time.monotonic() - began < 20)
"""
    assert run(code) == ["17", "True"]


def test_a_negative_wait_is_none() -> None:
    assert run("print(len(queue.wait(-3.0)))") == ["0"]


def test_after_ignoring_sigterm_neither_we_nor_our_children_die_of_it() -> None:
    code = """
queue.ignore_termination()
me(signal.SIGTERM)
print(*queue.wait(0.1), "alive")
sys.stdout.flush()
subprocess.run(["/bin/sh", "-c", "kill -TERM $$; echo too"])
"""
    assert run(code) == ["alive", "too"]


def test_when_sigterm_came_is_known_before_anybody_waits_for_it() -> None:
    code = """
print(queue.terminated_at)
me(signal.SIGUSR1)
print(queue.terminated_at)
before = time.time(); me(signal.SIGTERM); after = time.time()
print(before <= queue.terminated_at <= after)
first = queue.terminated_at
queue.ignore_termination()
me(signal.SIGTERM)
print(queue.terminated_at == first)
"""
    assert run(code) == ["None", "None", "True", "True"]


def test_hundreds_of_signals_do_not_block() -> None:
    assert run("for _ in range(3000): me(signal.SIGUSR1)\nprint(len(queue.wait(0.0)) > 0)") == ["True"]
