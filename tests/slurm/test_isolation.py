"""Isolated steps in a real Slurm: shared by the ranks of a step, gone with it, measured from inside."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from image_registry import Registry, make_layout, missing_programs, push, registry, small_disk

from sovctl.lab import cluster
from sovctl.lab.training import as_user
from tests.slurm.conftest import NO_USER_NAMESPACES, start_apart

_MISSING = missing_programs() + ([] if shutil.which("bwrap") else ["bubblewrap"])
pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(bool(_MISSING), reason=f"not installed: {', '.join(_MISSING)} (make test-packages)"),
]
SOVCTL = (sys.executable, "-m", "sovctl")


class Steps:
    """An ordinary user who starts steps in a lab."""

    def __init__(self, lab: cluster.Lab, work_dir: Path, user: str, address: str) -> None:
        self.lab = lab
        self.work_dir = work_dir
        self._become = as_user(user) if user else []
        settings = {"SOVCTL_ISOLATION_PLAIN_HTTP": address, "SOVCTL_ISOLATION_NODE_DIR": str(work_dir)}
        self.env = {
            **os.environ,
            **lab.environment,
            "HOME": str(work_dir),
            "XDG_CACHE_HOME": f"{work_dir}/.cache",
        } | settings

    def start(self, *argv: str) -> subprocess.Popen[str]:
        words = [*self._become, *argv]
        pipe = subprocess.PIPE
        return subprocess.Popen(words, env=self.env, cwd=self.work_dir, stdout=pipe, stderr=pipe, text=True)

    def run(self, *argv: str) -> subprocess.CompletedProcess[str]:
        running = self.start(*argv)
        out, err = running.communicate(timeout=120)
        return subprocess.CompletedProcess(argv, running.returncode, out, err)

    def left(self) -> list[str]:
        """Processes of isolated steps of this lab; other labs may have theirs on this machine, of the same user."""
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            try:
                words = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
                if "sovctl-end-of-step" in words and _lab_of(path) in ("", self.lab.environment["SLURM_CONF"]):
                    found.append(words)
            except OSError:
                continue
        return found


def _lab_of(process: Path) -> str:
    """The slurm.conf that its nearest ancestor of a step was given; empty for an orphan.

    bubblewrap itself is started with an environment of its own.
    """
    while process.name not in ("0", "1"):
        for word in (process / "environ").read_bytes().split(b"\0"):
            if word.startswith(b"SLURM_CONF="):
                return word.partition(b"=")[2].decode()
        process = process.with_name((process / "stat").read_text().rpartition(")")[2].split()[1])
    return ""


@pytest.fixture
def steps(lab: cluster.Lab, work_dir: Path, user: str, tmp_path: Path) -> Iterator[tuple[Steps, str]]:
    layout = make_layout(tmp_path)
    with registry(tmp_path / "registry") as served:
        yield Steps(lab, work_dir, user, served.address), push(layout, served, "team/train:1")


def test_the_ranks_of_a_node_share_an_image_loaded_once(steps: tuple[Steps, str]) -> None:
    user, image = steps
    script = "echo $SLURMD_NODENAME $(readlink /proc/self/ns/pid) $(cat /etc/marker) $HOME; sleep 1"
    done = user.run("srun", "-N2", "-n4", *SOVCTL, "exec", "--image", image, "--", "sh", "-c", script)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    nodes = {line.split()[0] for line in lines}
    assert (len(lines), len(nodes), len(set(lines))) == (4, 2, 2)
    assert all(" busybox " in line for line in lines)
    assert done.stderr.count("packing the squashfs") == 1
    # By what tells a step of this cluster from one of another that has a node on this machine, and a job of its number.
    told = "echo $SLURMD_NODENAME $SLURM_LAUNCH_NODE_IPADDR $SLURM_STEP_LAUNCHER_PORT"
    apart = user.run("srun", "--export=NONE", "-N2", "-n4", "/bin/sh", "-c", told).stdout.splitlines()
    assert (len(apart), len(set(apart))) == (4, 2)
    assert all(len(line.split()) == 3 for line in apart)
    bad = user.run("srun", "-n1", *SOVCTL, "exec", "--image", image, "--", "no-such-program")
    assert bad.returncode == 127
    assert "there is no program no-such-program in the image" in bad.stderr


def test_a_step_that_is_cancelled_leaves_nothing(steps: tuple[Steps, str], eventually: Callable[..., Any]) -> None:
    user, image = steps
    script = "trap 'echo saved; exit 0' TERM; echo up; while :; do sleep 0.1; done"
    running = user.start("srun", "-n2", "-N1", *SOVCTL, "exec", "--image", image, "--", "sh", "-c", script)
    assert running.stdout is not None
    assert [running.stdout.readline() for _ in range(2)] == ["up\n", "up\n"]
    assert user.left()
    job = user.run("squeue", "--me", "-h", "-o", "%i").stdout.split()[0]
    assert user.run("scancel", job).returncode == 0
    out, _ = running.communicate(timeout=60)
    assert out.count("saved") == 2  # each rank was told once
    eventually(lambda: user.left() == [], "nothing of the step is left")
    assert not any(node.state.draining for node in cluster.slurm(user.lab.layout).nodes())


def _hide(lab: cluster.Lab, node: str, program: str, work: Path) -> None:
    """Start a node's slurmd again where this program is not installed."""
    for name in ("upper", "work"):
        (work / name).mkdir(parents=True)
    layers = f"lowerdir=/usr/bin,upperdir={work}/upper,workdir={work}/work"
    start_apart(lab, node, f"mount -t overlay -o {layers} none /usr/bin && rm /usr/bin/{program}")


def _readable(layout: Path) -> Path:
    """The same, for everybody."""
    subprocess.run(["chmod", "-R", "a+rX", str(layout)], check=True)
    return layout


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root")
@pytest.mark.parametrize("words", [("--image",), ("--isolate",)])
def test_a_runtime_that_one_node_lacks_is_told_by_that_node(
    words: tuple[str, ...],
    story_lab: Callable[..., cluster.Lab],
    work_dir: Path,
    user: str,
    tmp_path: Path,
    eventually: Callable[..., Any],
) -> None:
    lab = story_lab(nodes=2, health=False)
    _hide(lab, "n002", "bwrap", tmp_path / "hidden")
    asked = Steps(lab, work_dir, user, "")
    image = [f"oci:{_readable(make_layout(lab.layout.root.parent))}:1"] if words == ("--image",) else []
    found = "srun -N2 -n2 sh -c 'command -v bwrap >/dev/null && echo $SLURMD_NODENAME'"
    eventually(lambda: asked.run("sh", "-c", found).stdout == "n001\n", "n002 to run steps without bwrap")
    done = asked.run("srun", "-N2", "-n2", "-l", *SOVCTL, "exec", *words, *image, "--", "sh", "-c", "echo ran; sleep 2")
    assert done.stdout == "0: ran\n", done.stderr
    told = [line for line in done.stderr.splitlines() if "bwrap" in line]
    assert len(told) == 1, done.stderr
    assert told[0].startswith("1: sovctl: n002: bwrap is not on PATH")
    assert "apt-get install bubblewrap" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.returncode == 1, done.stderr
    assert not any(node.state.draining or node.state.down for node in cluster.slurm(lab.layout).nodes())


def test_the_doctor_proves_it_by_a_step(steps: tuple[Steps, str]) -> None:
    user, image = steps
    for words in ((), ("--image", image)):
        done = user.run(*SOVCTL, "doctor", "isolation", "--json", *words)
        assert done.stdout, done.stderr
        found = json.loads(done.stdout)
        assert found["by_step"]
        assert found["node"] in user.lab.nodes
        assert [check for check in found["checks"] if not check["passed"]] == []
        assert (done.returncode, found["passed"]) == (0, True)


_RUN = """#!/bin/bash
#SBATCH --job-name=inside --nodes=2 --ntasks-per-node=1
#SOVCTL --home none --clean-env
[ -e /etc/marker ] && exit 3
srun sh -c 'echo "$SLURM_PROCID $(cat /etc/marker) $SECRET" >"$SOVCTL_RUN_DIR/seen-$SOVCTL_ATTEMPT-$SLURM_PROCID"'
if [ "$SOVCTL_ATTEMPT" = 0 ]; then
    touch "$SOVCTL_RUN_DIR/waiting"
    until [ -e "$SOVCTL_RUN_DIR/go" ]; do sleep 0.1; done
    scontrol requeue "$SLURM_JOB_ID"
    exit 1
fi
"""


def test_a_run_keeps_its_image_when_the_tag_moves(
    steps: tuple[Steps, str], tmp_path: Path, eventually: Callable[..., Any]
) -> None:
    user, image = steps
    script = user.work_dir / "train.sbatch"
    script.write_text(_RUN)
    user.env["SECRET"] = "not inside"
    said = user.run(*SOVCTL, "submit", "--parsable", "--image", image, str(script))
    assert said.returncode == 0, said.stderr
    job = said.stdout.strip()
    assert "what the script starts with srun runs in" in said.stderr
    runs = user.work_dir / ".sovctl" / "runs"
    eventually(lambda: list(runs.glob(f"*-{job}-*/waiting")), "the first attempt waits")
    (run_dir,) = runs.glob(f"*-{job}-*")
    record = json.loads((run_dir / "run.json").read_text())["image"]
    other = make_layout(tmp_path, "moved")
    push(other, Registry(image.partition("/")[0], tmp_path), "team/train:1")
    moved = json.loads(user.run(*SOVCTL, "image", "resolve", "--json", image).stdout)["digest"]
    assert moved != record["digest"]
    for file in user.work_dir.rglob("sha256-*.sqsh"):
        file.unlink()  # the second attempt must fetch it again, by its digest
    (run_dir / "go").touch()
    eventually(lambda: "run_ended" in (run_dir / "events.jsonl").read_text(), "the run is over")
    seen = {path.name: path.read_text().split() for path in run_dir.glob("seen-*")}
    assert seen == {f"seen-{attempt}-{rank}": [str(rank), "busybox"] for attempt in (0, 1) for rank in (0, 1)}
    events = [json.loads(line) for line in (run_dir / "events.jsonl").read_text().splitlines()]
    ready = [event["digest"] for event in events if event["kind"] == "image_ready"]
    assert ready == [record["digest"], record["digest"]]
    assert events[-1]["outcome"] == "finished"


def test_a_squashfs_that_was_replaced_ends_the_next_attempt(
    steps: tuple[Steps, str], new_root: Callable[[], Path], eventually: Callable[..., Any]
) -> None:
    user, image = steps
    own = new_root().parent / "train.sqsh"
    shutil.copy(user.run(*SOVCTL, "image", "prefetch", image).stdout.strip(), own)
    script = user.work_dir / "train.sbatch"
    script.write_text(_RUN.replace("--nodes=2", "--nodes=1"))
    said = user.run(*SOVCTL, "submit", "--parsable", "--image", str(own), str(script))
    assert said.returncode == 0, said.stderr
    job = said.stdout.strip()
    runs = user.work_dir / ".sovctl" / "runs"
    eventually(lambda: list(runs.glob(f"*-{job}-*/waiting")), "the first attempt waits")
    (run_dir,) = runs.glob(f"*-{job}-*")
    record = json.loads((run_dir / "run.json").read_text())["image"]
    assert record["digest"] == f"sha256:{hashlib.sha256(own.read_bytes()).hexdigest()}"
    other = own.with_name("other.sqsh")
    other.write_bytes(own.read_bytes() + bytes(4096))
    other.rename(own)
    (run_dir / "go").touch()
    eventually(lambda: "means another image by now" in _events(user, job), "the second attempt is refused")
    assert [path.name for path in run_dir.glob("seen-*")] == ["seen-0-0"]
    assert user.run("scancel", job).returncode == 0


def test_a_script_without_steps_runs_inside_as_a_whole(
    steps: tuple[Steps, str], eventually: Callable[..., Any]
) -> None:
    user, image = steps
    words = ("submit", "--parsable", "-n1", "--image", image, "--mount", ".", "--output", "out-%j")
    said = user.run(*SOVCTL, *words, "--", "sh", "-c", "cat /etc/marker; pwd")
    assert said.returncode == 0, said.stderr
    out = user.work_dir / f"out-{said.stdout.strip()}"
    eventually(lambda: out.exists() and "run_ended" in _events(user, said.stdout.strip()), "the run is over")
    # What is said while the image is loaded stands there too.
    assert [line for line in out.read_text().splitlines() if not line.startswith("sovctl: ")] == [
        "busybox",
        str(user.work_dir),
    ]


_ASK = """command -v squeue; squeue -h -j $SLURM_JOB_ID -o '%i %T'; scontrol ping
srun --overlap -n1 sh -c 'echo step $SLURM_STEP_ID; [ -e /etc/marker ] || echo on the node'
ls -A /run; touch /run/sovctl/slurm/host/usr/bin/x 2>&1; true"""


def test_slurm_inside_an_image_with_nothing_of_it(steps: tuple[Steps, str]) -> None:
    user, image = steps
    plain = user.run("srun", "-n1", *SOVCTL, "exec", "--image", image, "--", "sh", "-c", "command -v squeue; true")
    assert (plain.returncode, plain.stdout) == (0, "")
    words = ("exec", "--image", image, "--slurm-client", "--clean-env", "--", "sh", "-c", _ASK)
    done = user.run("srun", "-n1", *SOVCTL, *words)
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert said[0] == "/run/sovctl/slurm/bin/squeue"
    assert said[1].endswith(" RUNNING")
    assert "is UP" in said[2]
    assert said[3:5] == ["step 1", "on the node"]
    assert "Read-only file system" in said[-1]


def test_slurm_inside_is_refused_where_it_cannot_run(steps: tuple[Steps, str], tmp_path: Path) -> None:
    user, image = steps
    (user.work_dir / "bare" / "etc").mkdir(parents=True)
    done = user.run(*SOVCTL, "exec", "--image", "./bare", "--slurm-client", "--", "true")
    assert done.returncode == 1
    assert done.stderr.startswith("sovctl: the image has no /bin/sh, which Slurm's commands need in it")
    assert len(done.stderr.splitlines()) <= 2
    user.env["SOVCTL_SLURM_BIN_DIR"] = str(tmp_path)
    done = user.run(*SOVCTL, "exec", "--image", image, "--slurm-client", "--", "true")
    assert done.returncode == 1
    assert "there are no Slurm commands on" in done.stderr


@dataclass(frozen=True)
class Bad:
    """Options with which a step must not start, its status, and what it says."""

    words: tuple[str, ...]
    status: int
    said: str
    cache: str = ""
    """Where the user's images are to be kept; empty: as always."""


@pytest.fixture(scope="module")
def bad_inputs(new_root: Callable[[], Path]) -> Iterator[tuple[str, str, dict[str, Bad]]]:
    """One open and one closed registry, a good image, and every way to name a bad one."""
    place = new_root().parent
    layout = make_layout(place)
    login = "ann:$2y$05$h9FQWs8Gj5mQCxuqDPmNYuM0jYpYJ8yGm2xM0m2y0fYwS0Q7m7XbK"
    with registry(place / "open") as served, registry(place / "closed", htpasswd=login) as closed:
        image = push(layout, served, "team/train:1")
        root = place / "root"
        root.mkdir()
        squashfs = place / "short.sqsh"
        (root / "data").write_bytes(os.urandom(100_000))
        subprocess.run(["mksquashfs", str(root), str(squashfs), "-quiet"], check=True, capture_output=True)
        squashfs.write_bytes(squashfs.read_bytes()[:-5000])
        (place / "bare" / "etc").mkdir(parents=True)
        absent = f"{served.address}/team/train@sha256:{'0' * 64}"
        spoilt = push(make_layout(place, "spoilt"), served, "team/spoilt:1")
        _spoil(served, spoilt)
        found = {
            "unreachable": Bad(("--image", "127.0.0.1:1/team/train:1"), 75, "127.0.0.1:1 does not answer"),
            "digest": Bad(("--image", absent), 1, "there is no image"),
            "other bytes": Bad(("--image", spoilt), 1, "is not what its digest says"),
            "unauthorized": Bad(("--image", f"{closed.address}/team/train:1"), 3, "does not let you have"),
            "no program": Bad(("--image", str(place / "bare")), 127, "there is no program echo in the image"),
            "truncated": Bad(("--image", str(squashfs)), 1, "is cut short"),
            "mount missing": Bad(("--image", image, "--mount", "/no/such:/x"), 2, "nothing to mount at /no/such"),
            "mount not allowed": Bad(("--image", image, "--mount", "/etc:/x"), 3, "the site does not allow /etc"),
            "little room": Bad(("--image", image), 75, "there is no room for the image in", f"{place}/little"),
            "no room": Bad(("--image", image), 75, "cannot load an image into", f"{place}/none"),
        }
        # One with less room than an image needs, and one where not even a directory can be made any more.
        with small_disk(place / "little", "size=300k"), small_disk(place / "none", "size=300k,nr_inodes=1"):
            yield f"{served.address} {closed.address} 127.0.0.1:1", str(place), found


def _spoil(served: Registry, image: str) -> None:
    """Change bytes in the image's layer where the registry keeps it."""
    digest = json.loads(subprocess.check_output(["skopeo", "inspect", "--tls-verify=false", f"docker://{image}"]))
    name = digest["Layers"][0].removeprefix("sha256:")
    (blob,) = served.storage.rglob(f"blobs/sha256/*/{name}/data")
    content = bytearray(blob.read_bytes())
    content[len(content) // 2] ^= 0xFF
    blob.write_bytes(content)


@pytest.mark.parametrize(
    "what",
    [
        *("unreachable", "digest", "other bytes", "unauthorized", "no program", "truncated"),
        *("mount missing", "mount not allowed", "little room", "no room"),
    ],
)
def test_bad_input_is_one_sentence_and_its_status_and_costs_no_node(
    lab: cluster.Lab,
    work_dir: Path,
    user: str,
    bad_inputs: tuple[str, str, dict[str, Bad]],
    what: str,
    eventually: Callable[..., Any],
) -> None:
    if what.endswith("room") and os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    addresses, allowed, inputs = bad_inputs
    step, bad = Steps(lab, work_dir, user, addresses), inputs[what]
    conf = Path(allowed, "sovctl.toml")  # only the site's file may set it
    conf.write_text(f'{lab.layout.site_config.read_text()}\n[isolation]\nallow_mounts = "{allowed}"\n')
    step.env["SOVCTL_CONFIG"] = str(conf)
    if bad.cache:
        step.env["SOVCTL_ISOLATION_CACHE_DIR"] = bad.cache
    done = step.run("srun", "-n1", *SOVCTL, "exec", *bad.words, "--", "echo", "it ran")
    assert (done.returncode, done.stdout) == (bad.status, ""), done.stderr
    said = [line for line in done.stderr.splitlines() if not line.startswith(("srun: ", "slurmstepd: "))]
    told = [line for line in said if line.startswith("sovctl: ") and bad.said in line]
    assert len(told) == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert not bad.cache or list(Path(bad.cache).iterdir()) == []
    eventually(lambda: step.left() == [], "nothing of the step is left")
    eventually(lambda: _at_rest(lab), "every node to be idle and in service")


def _at_rest(lab: cluster.Lab) -> bool:
    """No node drained or down, or given a reason, or still busy with what a step left."""
    return all(str(node.state) == "IDLE" and not node.reason for node in cluster.slurm(lab.layout).nodes())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_run_whose_image_finds_no_room_is_held_and_says_so(
    steps: tuple[Steps, str], tmp_path: Path, new_root: Callable[[], Path], eventually: Callable[..., Any]
) -> None:
    user, image = steps
    with small_disk(new_root().parent / "full", "size=300k") as full:
        user.env["SOVCTL_ISOLATION_CACHE_DIR"] = str(full)
        words = ("submit", "--parsable", "-n1", "--image", image, "--output", "out-%j")
        said = user.run(*SOVCTL, *words, "--", "echo", "it ran")
        assert said.returncode == 0, said.stderr
        job = said.stdout.strip()
        out = user.work_dir / f"out-{job}"
        held = ("squeue", "-h", "-j", job, "-o", "%r")
        eventually(lambda: "held" in user.run(*held).stdout.lower(), "the run to be held")
        assert user.run("scancel", job).returncode == 0
        told = [line for line in out.read_text().splitlines() if "there is no room for the image in" in line]
        assert len(told) == 1, out.read_text()
        assert told[0].endswith("; the run is held")
        assert "it ran" not in out.read_text()
        assert list(full.iterdir()) == []
    eventually(lambda: _at_rest(user.lab), "every node to be idle and in service")


@pytest.mark.skipif(os.geteuid() != 0, reason="a filter of system calls needs root")
def test_a_kernel_without_user_namespaces_is_told_and_costs_no_node(
    story_lab: Callable[..., cluster.Lab], work_dir: Path, user: str, eventually: Callable[..., Any]
) -> None:
    lab = story_lab(nodes=1, health=False)
    start_apart(lab, "n001", through=NO_USER_NAMESPACES)
    asked = Steps(lab, work_dir, user, "")
    look = ("srun", "-n1", "sh", "-c", "unshare --user true 2>/dev/null || echo forbidden")
    eventually(lambda: asked.run(*look).stdout == "forbidden\n", "n001 to forbid user namespaces")
    image = f"oci:{_readable(make_layout(lab.layout.root.parent))}:1"
    for words in (("--isolate",), ("--image", image)):
        done = asked.run("srun", "-n2", *SOVCTL, "exec", *words, "--", "echo", "it ran")
        assert (done.returncode, done.stdout) == (1, ""), done.stderr
        told = [line for line in done.stderr.splitlines() if "forbids user namespaces" in line]
        assert [line.partition(": ")[0] for line in told] == ["sovctl", "sovctl"], done.stderr  # one for each rank
        assert "Operation not permitted" in told[0]
        assert "Traceback" not in done.stderr
        eventually(lambda: asked.left() == [], "nothing of the step is left")
    said = asked.run(
        *SOVCTL, "submit", "--parsable", "-n1", "--image", image, "--output", "out", "--", "echo", "it ran"
    )
    assert said.returncode == 0, said.stderr
    job = said.stdout.strip()
    # It is tried again in its allocation a few times, like any script that crashes, and then waits for a person.
    eventually(lambda: "held" in asked.run("squeue", "-h", "-j", job, "-o", "%r").stdout.lower(), "the run to be held")
    assert asked.run("scancel", job).returncode == 0
    out = (work_dir / "out").read_text()
    assert "n001: the kernel of" in out, out
    assert "forbids user namespaces" in out, out
    assert "it ran" not in out.splitlines()
    ended = [
        event for line in _events(asked, job).splitlines() if (event := json.loads(line))["kind"] == "attempt_ended"
    ]
    assert {event["exit_status"] for event in ended} == {1}
    eventually(lambda: _at_rest(lab), "the node to be idle and in service")


def test_a_wrong_image_is_refused_before_anything_is_submitted(steps: tuple[Steps, str]) -> None:
    user, image = steps
    for name, status in ((f"{image}-gone", 1), ("127.0.0.1:1/none", 75), ("./none.sqsh", 2)):
        said = user.run(*SOVCTL, "submit", "-n1", "--image", name, "--", "true")
        assert (said.returncode, said.stdout) == (status, ""), said.stderr
    assert user.run("squeue", "-h", "--me").stdout == ""


def _events(user: Steps, job: str) -> str:
    found = list((user.work_dir / ".sovctl" / "runs").glob(f"*-{job}-*/events.jsonl"))
    return found[0].read_text() if found else ""
