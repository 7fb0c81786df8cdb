"""Runs inside the Linux of tests/nfs and prints what it finds, one line of JSON behind a mark."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from sovctl.adapters.isolation.image_cache import ImageCache
from sovctl.adapters.isolation.node_roots import NodeRoots
from sovctl.adapters.journal import FileJournal
from sovctl.isolation.cache import check_squashfs, digest_of, file_name
from sovctl.model.image import CachedImage

MOUNTS = ("nfs4", "nfs3", "nfs3-nolock")
WRITERS = ("nfs4", "nfs4-other")
RECORDS, LINES = 40, 300
DIGEST = f"sha256:{'1' * 64}"


def doctor() -> dict[str, Any]:
    """What `sovctl doctor` says of each mount."""
    argv = [sys.executable, "-P", "-m", "sovctl", "doctor", "--json"]
    for mount in MOUNTS:
        argv += ["--dir", f"/mnt/{mount}"]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(argv, capture_output=True, text=True, cwd="/", env=env, check=False)
    try:
        lines = json.loads(done.stdout)["lines"]
    except (ValueError, KeyError):
        return {"problem": done.stdout[-500:] + done.stderr[-1500:]}
    told = [line for line in lines if line["check"] == "shared-files" and "/mnt/" in line["seen"]]
    return {line["seen"].partition(" ")[0].removeprefix("/mnt/"): line for line in told}


def plain_appends() -> float:
    """The share that is left of the lines of two clients, each appended with O_APPEND and nothing else."""

    def write(path: str, who: str) -> None:
        for number in range(LINES):
            descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            os.write(descriptor, f"{who} {number}\n".encode())
            os.close(descriptor)

    _both(lambda mount: write(f"/mnt/{mount}/plain", mount))
    return len(Path("/mnt/served/plain").read_bytes().splitlines()) / (2 * LINES)


def journal() -> list[int]:
    """The numbers of the records that two clients wrote into one journal."""
    _both(lambda mount: _append(FileJournal(Path(f"/mnt/{mount}/journal.jsonl"), lock_wait_s=60.0), mount))
    return [event["seq"] for event in FileJournal(Path("/mnt/served/journal.jsonl")).events()]


def cache_of_images(mount: str, other: str) -> dict[str, Any]:
    """What two machines make of one cache, which each sees through a mount of its own."""
    here, there = (_cache(f"/mnt/{one}/images-{mount}") for one in (mount, other))
    with here.pulling(DIGEST, str) as staging:
        argv = [sys.executable, __file__, there.where()]
        second = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
        assert second.stdout is not None
        pulls = [second.stdout.readline().strip()]
        leftovers = there.leftovers()
        loaded = Path(staging.path, "image.sqsh")
        loaded.write_bytes(b"hsqs" + bytes(92))
        image = here.add(CachedImage(DIGEST, str(loaded), 96, 0.0))
    pulls.append(second.stdout.readline().strip())
    second.wait()
    step = os.open(f"{there.where()}/{Path(image.path).name}", os.O_RDONLY)
    fcntl.flock(step, fcntl.LOCK_SH)
    used = [there.entries()[0].in_use, here.entries()[0].in_use, here.remove(image)]
    os.close(step)
    unused = [there.entries()[0].in_use, here.entries()[0].in_use, here.remove(image)]
    left = os.listdir(here.where())
    return {"pulls": pulls, "leftovers": leftovers, "used": used, "unused": unused, "left": left}


def _pull_too(directory: str) -> None:
    """As another machine: says whether it waits, and whether the image is there when its turn has come."""
    cache = _cache(directory)
    with cache.pulling(DIGEST, lambda _: print("waits", flush=True)):
        print("finds it" if cache.find(DIGEST) else "loads it", flush=True)


def _cache(directory: str) -> ImageCache:
    return ImageCache(Path(directory), lambda digest: file_name(digest, "amd64"), digest_of, check_squashfs)


def unpacked_images(mount: str) -> list[Any]:
    """What is unpacked beside the cache for Slurm's own containers: whether it is found unused, and removed."""
    place = Path(f"/mnt/{mount}/unpacked-{mount}/sovctl-{os.geteuid()}/image")
    place.mkdir(parents=True)
    place.with_suffix(".lock").touch()
    roots = NodeRoots(place.parents[1])
    return [roots.unused(float("inf")) == (str(place),), roots.remove(str(place)), place.exists()]


def _append(into: FileJournal, who: str) -> None:
    for number in range(RECORDS):
        into.append("told", who=who, number=number)


def _both(work: Any) -> None:
    child = os.fork()
    if child == 0:
        work(WRITERS[1])
        os._exit(0)
    work(WRITERS[0])
    os.waitpid(child, 0)


def main() -> None:
    """One line for the test."""
    # A server that has just started lets nobody open anything for a while.
    Path("/mnt/nfs4/ready").touch()
    mounted = [line.split()[1:3] for line in Path("/proc/self/mounts").read_text().splitlines() if ":/" in line]
    found = {"mounts": dict(mounted), "doctor": doctor()}
    found |= {"plain": plain_appends(), "journal": journal()}
    found["images"] = {"nfs4": cache_of_images("nfs4", "nfs4-other"), "nfs3": cache_of_images("nfs3", "nfs4")}
    found["unpacked"] = {mount: unpacked_images(mount) for mount in ("nfs4", "nfs3")}
    print(f"@@{json.dumps(found)}", flush=True)


if __name__ == "__main__":
    _pull_too(sys.argv[1]) if sys.argv[1:] else main()
