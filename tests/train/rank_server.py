"""Starts ranks by fork from a process that has torch imported already: 20 ms instead of 3 s.

Run as a program it reads one JSON object a line: `{"module", "function", "arguments", "environments", "log"}` forks
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
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

DEADLINE_S = 120


class RankServer:
    """The side of a test."""

    def __init__(self) -> None:
        self._server = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "TORCH_CPP_LOG_LEVEL": "ERROR", "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"},
        )
        self._ask({"wait": []})

    def start(self, script: Path, function: str, ranks: int, log: Path, **arguments: Any) -> list[int]:
        """Fork `ranks` processes that call `function(**arguments)` of a script, told apart by their environment."""
        nodes: list[str] = arguments.pop("nodes", ["n001"] * ranks)
        run: dict[str, str] = arguments.pop("environment", {})
        port = free_port()
        environments = [
            {
                "SOVCTL_RUN_ID": "test-run",
                "SOVCTL_CHECKPOINT_DIR": str(log.parent / "checkpoints"),
                "SOVCTL_RUN_DIR": str(log.parent / "run"),
                "SOVCTL_RESUME_FROM": "",
                "RANK": str(rank),
                "WORLD_SIZE": str(ranks),
                "LOCAL_RANK": str(nodes[:rank].count(nodes[rank])),
                "LOCAL_WORLD_SIZE": str(nodes.count(nodes[rank])),
                "SLURMD_NODENAME": nodes[rank],
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                **run,
            }
            for rank in range(ranks)
        ]
        request = {"module": str(script), "function": function, "arguments": arguments, "environments": environments}
        pids: list[int] = self._ask({**request, "log": str(log)})["pids"]
        return pids

    def wait(self, pids: list[int]) -> list[int]:
        """Their exit statuses; negative: killed by that signal."""
        return [os.waitstatus_to_exitcode(status) for status in self._ask({"wait": pids})["statuses"]]

    def call(self, script: Path, function: str, ranks: int, log: Path, **arguments: Any) -> str:
        """Start and wait; every rank must succeed. Returns what they said."""
        statuses = self.wait(self.start(script, function, ranks, log, **arguments))
        said = log.read_text()
        assert statuses == [0] * ranks, said
        return said

    def close(self) -> None:
        assert self._server.stdin is not None
        self._server.stdin.close()
        self._server.wait(DEADLINE_S)

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        answer: dict[str, Any] = json.loads(self._server.stdout.readline())
        return answer


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


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
