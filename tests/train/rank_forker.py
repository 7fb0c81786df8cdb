"""Forks ranks from a process that has torch imported already; `rank_server` is the side of a test.

It reads one JSON object a line: `{"module", "function", "arguments", "environments", "log"}` forks
a process for each environment and answers `{"pids"}` (function `__main__` runs the file as a program, with
`arguments["argv"]`); `{"wait": pids}` answers `{"statuses"}`, as from waitpid.
"""

from __future__ import annotations

import atexit
import importlib.util
import json
import os
import runpy
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

DEADLINE_S = 120


def _serve() -> None:
    import torch._dynamo  # slow to import, and wanted by fully_shard and by DDP
    import torch.distributed.checkpoint.state_dict
    import torch.distributed.fsdp  # noqa: F401

    import sovctl.train
    import sovctl.train.layout  # noqa: F401

    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            answer = {"statuses": [os.waitpid(pid, 0)[1] for pid in request["wait"]]}
        else:
            answer = {"pids": [_fork(request, environment) for environment in request["environments"]]}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def _fork(request: dict[str, Any], environment: dict[str, str]) -> int:
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    signal.alarm(DEADLINE_S)  # a rank that hangs ends the test, not the machine
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ.update(environment)
    os._exit(_status_of(lambda: _run(Path(request["module"]), request["function"], request["arguments"])))


def _status_of(main: Callable[[], None]) -> int:
    """Run it and end as the interpreter does, but for its own clean-up, which is the server's business."""
    status = 0
    try:
        main()
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException as error:
        sys.last_value = error
        traceback.print_exc()
        status = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    return status


def _run(path: Path, function: str, arguments: dict[str, Any]) -> None:
    if function == "__main__":
        sys.argv = [str(path), *map(str, arguments["argv"])]
        sys.path[0] = str(path.parent)
        runpy.run_path(str(path), run_name="__main__")
        return
    spec = importlib.util.spec_from_file_location("scenario", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["scenario"] = module
    spec.loader.exec_module(module)
    getattr(module, function)(**arguments)


if __name__ == "__main__":
    _serve()
