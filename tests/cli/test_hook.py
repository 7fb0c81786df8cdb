"""What prolog and epilog leave out of their start changes nothing that they decide by."""

from __future__ import annotations

import subprocess
import sys

LEAN = """
import sys
from sovctl.cli import hook
import dataclasses
plain = dataclasses.dataclass
dataclasses.dataclass = hook._lean(plain)
from sovctl.model.gpu import GpuSample
from sovctl.model.verdict import Finding, Severity

def finding(words):
    return Finding("XID79", Severity.FAIL, words)

assert finding("a") == finding("a") != finding("b")
assert len({finding("a"), finding("a"), finding("b")}) == 2
assert dataclasses.replace(finding("a"), evidence="b") == finding("b")
assert dataclasses.asdict(finding("a"))["evidence"] == "a"

@dataclasses.dataclass
class Changing:
    "May change, so it has no hash."
    value: int = 0

try:
    hash(Changing())
except TypeError:
    print("as ever")
"""
PUT_OFF = """
import sys
from sovctl.cli import hook
for name in hook._PUT_OFF:
    sys.modules[name] = hook._PutOff(name)
import dataclasses, inspect, pathlib, urllib.parse
assert isinstance(sys.modules["inspect"], hook._PutOff), "nobody has asked it for anything"
assert str(inspect.signature(lambda a, b: a)) == "(a, b)"
assert not isinstance(sys.modules["inspect"], hook._PutOff)
assert urllib.parse.urlsplit("http://[::1]:80/").port == 80
import inspect as again
print(again.isclass(dict))
"""


def output(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_lean_records_compare_hash_and_copy_as_ever() -> None:
    assert output(LEAN) == "as ever"


def test_a_module_that_was_put_off_comes_with_the_first_question() -> None:
    assert output(PUT_OFF) == "True"
