"""The work of a burn-in: `python -I burn_in.py '{"piece": "matmul", ...}'`, with any Python that has torch.

Started by its path, because that Python need not have sovctl; so nothing of sovctl is imported. One process an
accelerator; each says one JSON line, the parent first what it runs on. Dies with its parent: when the epilog is killed,
nothing may stay behind on a node where the next job starts.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import select
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

SEED = 20240607
_SIZES = {
    "cuda": {"matmul": 8192, "memory": 2048, "all-reduce": 256},
    "cpu": {"matmul": 384, "memory": 16, "all-reduce": 4},
}
"""Edge of the matrices; MiB of the buffers."""
_CPU_RANKS = 2
_PR_SET_PDEATHSIG = 1
_MIB = 2**20


def main(argv: list[str]) -> int:
    """Do one piece on every accelerator. 0: everything there is to say was said."""
    _die_with_parent()
    spec = json.loads(argv[1])
    try:
        import torch
    except Exception as error:
        # Also what a broken CUDA library raises (OSError), and a torch built for another Python.
        _say({"absent": f"torch cannot be imported: {type(error).__name__}: {error}"[:300]})
        return 0
    # Here and not in each rank: it imports for a second, and touches no accelerator.
    torch.use_deterministic_algorithms(True)
    device = spec["device"]
    count = torch.cuda.device_count() if device == "cuda" else int(spec.get("ranks") or _CPU_RANKS)
    runtime = f"cuda {torch.version.cuda}" if device == "cuda" else _cpu_runtime(torch)
    size = int(spec.get("size") or _SIZES[device][spec["piece"]])
    _say({"setup": {"torch": torch.__version__, "runtime": runtime, "device": device, "count": count, "size": size}})
    if spec["piece"] == "all-reduce" and count < 2:
        _say({"absent": f"{count} accelerator only, there is nothing to reduce over"})
        return 0
    with tempfile.TemporaryDirectory(prefix="sovctl-burn-in-") as scratch:
        _collect([_start(rank, count, spec, size, f"{scratch}/rendezvous") for rank in range(count)])
    return 0


def _cpu_runtime(torch: Any) -> str:
    """Rounding differs between vector units."""
    return f"cpu {torch.backends.cpu.get_cpu_capability()}"


def _start(rank: int, count: int, spec: dict[str, Any], size: int, rendezvous: str) -> int:
    """Fork one rank; returns the pipe on which it answers. The accelerators are not touched before: CUDA forbids it."""
    reader, writer = os.pipe()
    if os.fork() == 0:
        _die_with_parent()
        os.close(reader)
        try:
            answer = _work(rank, count, spec, size, rendezvous)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"[:300]}
        with os.fdopen(writer, "w") as stream:
            stream.write(json.dumps({"rank": rank, **answer}))
        os._exit(0)
    os.close(writer)
    return reader


def _collect(pipes: list[int]) -> None:
    """Pass on each answer as it comes, so that the silent ones can be named when time is up."""
    said = dict.fromkeys(pipes, b"")
    while said:
        for pipe in select.select(list(said), [], [])[0]:
            chunk = os.read(pipe, 65536)
            if chunk:
                said[pipe] += chunk
                continue
            answer = said.pop(pipe)
            os.close(pipe)
            if answer:
                _say(json.loads(answer))


def _work(rank: int, count: int, spec: dict[str, Any], size: int, rendezvous: str) -> dict[str, Any]:
    import torch

    where = f"{spec['device']}:{rank}" if spec["device"] == "cuda" else "cpu"
    torch.set_num_threads(1)
    device = torch.device(where)
    about = _about(torch, device)
    wait: Callable[[], None] = (lambda: torch.cuda.synchronize(device)) if device.type == "cuda" else (lambda: None)
    if spec["piece"] == "all-reduce":
        return about | _all_reduce(torch, device, size, float(spec["seconds"]), wait, rank, count, rendezvous)
    do = _matmul if spec["piece"] == "matmul" else _memory
    return about | do(torch, device, size, float(spec["seconds"]), wait)


def _about(torch: Any, device: Any) -> dict[str, Any]:
    if device.type != "cuda":
        return {"name": _cpu_name(), "uuid": ""}
    torch.cuda.set_device(device)
    properties = torch.cuda.get_device_properties(device)
    uuid = str(getattr(properties, "uuid", ""))
    return {"name": properties.name, "uuid": f"GPU-{uuid}" if uuid and not uuid.startswith("GPU-") else uuid}


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as stream:
            return next((line.partition(":")[2].strip() for line in stream if line.startswith("model name")), "cpu")
    except OSError:
        return "cpu"


def _matmul(torch: Any, device: Any, size: int, seconds: float, wait: Callable[[], None]) -> dict[str, Any]:
    """Two products of random matrices, over and over; all-ones matrices would hide most wrong bits."""
    kind = torch.bfloat16 if device.type == "cuda" else torch.float32
    source = torch.Generator(device=device).manual_seed(SEED)
    pairs = [tuple(torch.randn(size, size, generator=source, device=device).to(kind) for _ in "ab") for _ in range(2)]
    first = [a @ b for a, b in pairs]
    digest = hashlib.sha256()
    for product in first:
        on_host = product.cpu().contiguous()
        digest.update(_bytes(on_host))
    wrong = repeats = 0
    spent = 0.0
    ends_at = time.monotonic() + seconds
    while repeats < 2 or time.monotonic() < ends_at:
        wait()
        began = time.perf_counter()
        again = pairs[repeats % 2][0] @ pairs[repeats % 2][1]
        wait()
        spent += time.perf_counter() - began
        wrong += not torch.equal(again, first[repeats % 2])
        repeats += 1
    rate = 2 * size**3 * repeats / spent / 1e12
    return {"checksum": digest.hexdigest(), "wrong": wrong, "repeats": repeats, "rate": rate, "unit": "TFLOP/s"}


def _bytes(tensor: Any) -> Any:
    """The memory of a tensor on the host, without a copy and without numpy, which torch may lack."""
    return (ctypes.c_char * (tensor.numel() * tensor.element_size())).from_address(tensor.data_ptr())


def _memory(torch: Any, device: Any, size: int, seconds: float, wait: Callable[[], None]) -> dict[str, Any]:
    """Copies of random words, every second time inverted, so that each cell has to hold both values."""
    source = torch.Generator(device=device).manual_seed(SEED)
    words = torch.randint(-(2**31), 2**31 - 1, (size * _MIB // 4,), generator=source, device=device, dtype=torch.int32)
    total = int(words.sum(dtype=torch.int64))
    copy = torch.empty_like(words)
    wrong = repeats = 0
    spent = 0.0
    ends_at = time.monotonic() + seconds
    while repeats < 2 or repeats % 2 or time.monotonic() < ends_at:
        wait()
        began = time.perf_counter()
        copy.copy_(words)
        wait()
        spent += time.perf_counter() - began
        wrong += not torch.equal(copy, words)
        words.bitwise_not_()
        repeats += 1
    wrong += int(words.sum(dtype=torch.int64)) != total
    return {"wrong": wrong, "repeats": repeats, "rate": 2 * size * _MIB * repeats / spent / 1e9, "unit": "GB/s"}


def _all_reduce(
    torch: Any,
    device: Any,
    size: int,
    seconds: float,
    wait: Callable[[], None],
    rank: int,
    count: int,
    rendezvous: str,
) -> dict[str, Any]:
    """Whole numbers, so that the sum is exact in whatever order the ranks are added."""
    import torch.distributed as dist

    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, init_method=f"file://{rendezvous}", rank=rank, world_size=count)
    at = torch.arange(size * _MIB // 4, device=device, dtype=torch.int64)

    def share(of: int) -> Any:
        return ((at * 48271 + of * 40503) % 1021).to(torch.float32)

    own, expected = share(rank), sum(share(of) for of in range(1, count)) + share(0)
    spent = wrong = repeats = 0.0
    rounds = 3
    while repeats < rounds:
        tensor = own.clone()
        wait()
        began = time.perf_counter()
        dist.all_reduce(tensor)
        wait()
        spent += time.perf_counter() - began
        wrong += not torch.equal(tensor, expected)
        repeats += 1
        if repeats == 3:
            # All ranks must go on equally often: the first one says how often.
            agreed = torch.tensor([min(10_000, int(3 * seconds / spent))], device=device)
            dist.broadcast(agreed, 0)
            rounds = max(3, int(agreed.item()))
    dist.destroy_process_group()
    rate = 2 * (count - 1) / count * size * _MIB * repeats / spent / 1e9
    return {"wrong": int(wrong), "repeats": int(repeats), "rate": rate, "unit": "GB/s"}


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _say(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv))
