"""The start of prolog and epilog: every job waits for them, so the interpreter is told what it need not do.

No garbage is collected in a process that lives for a tenth of a second, nothing is torn down at its end, what serves
only people who change the program is left out, and parts of the standard library that others import for rare cases are
put off until somebody asks them for something.
"""

from __future__ import annotations

import gc
import os
import sys
from types import ModuleType
from typing import Any

_PUT_OFF = ("inspect", "ipaddress")
"""dataclasses imports inspect to document a class without words of its own; urllib.parse, which pathlib imports, looks
into addresses in brackets. Together they cost a tenth of a prolog (CPython 3.11 to 3.13)."""


class _PutOff(ModuleType):
    """Stands in `sys.modules` until the first question, and then gives way to the module itself."""

    def __getattr__(self, name: str) -> Any:
        import importlib

        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), name)


def _lean(dataclass: Any) -> Any:
    """`dataclass` without `__repr__` and without the guard against assignment, which mypy keeps as well.

    CPython before 3.13 compiles each of these methods by itself at each start: a fifth of a prolog. Equality and hash
    stay as they are.
    """

    def lean(cls: type | None = None, *, frozen: bool = False, **options: Any) -> Any:
        return dataclass(cls, unsafe_hash=frozen, **{**options, "repr": False})

    return lean


def run_hook(name: str) -> None:
    """`prolog` or `epilog`, as slurmd starts it; ends the process with its status."""
    gc.disable()
    for put_off in _PUT_OFF:
        sys.modules.setdefault(put_off, _PutOff(put_off))
    import dataclasses

    dataclasses.dataclass = _lean(dataclasses.dataclass)
    from sovctl.cli.main import run

    status = run(["health", name])
    sys.stdout.flush()
    os._exit(status)
