"""The SPANK plugin on a real cluster: private namespaces, the rules of the site, and nothing left behind."""

from __future__ import annotations

import json
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from two_users import HOLD, REACH, reached

from sovctl.adapters.command import Completed
from sovctl.lab import cluster
from sovctl.lab.training import Training, TrainingSpec, as_user
from tests.slurm.conftest import make_user, mounts, start_again, start_apart

SPANK = Path(__file__).parents[2] / "plugins" / "spank"
SECOND_USER = "sovctl-test2"
pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(os.geteuid() != 0, reason="only a slurmd of root's can make namespaces for its steps"),
    pytest.mark.skipif(not Path("/usr/include/slurm/spank.h").exists(), reason="libslurm-dev is not installed"),
]

# Another plugin with an option for images, named as that of pyxis.
OTHER = r"""
#include <slurm/spank.h>
SPANK_PLUGIN(pyxis, 1)
static int take(int value, const char *text, int remote) { return 0; }
static struct spank_option option = { "container-image", "IMAGE", "image", 1, 0, take };
int slurm_spank_init(spank_t spank, int ac, char *av[]) { return spank_option_register(spank, &option); }
"""


@pytest.fixture(scope="module")
def plugin() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="sovspank", dir="/opt") as name:
        Path(name).chmod(0o755)
        subprocess.run(["make", "-s", "-C", str(SPANK), f"OUT={name}"], check=True)
        (Path(name) / "other.c").write_text(OTHER)
        subprocess.run(["gcc", "-shared", "-fPIC", f"{name}/other.c", "-o", f"{name}/other.so"], check=True)
        yield Path(name) / "sovctl_spank.so"


@pytest.fixture(scope="module")
def spank_lab(plugin: Path, new_root: Callable[[], Path], attach_logs: Callable[[Path], None]) -> Iterator[cluster.Lab]:
    root = new_root()
    attach_logs(root)
    # The lab lies under /var/tmp, which isolated steps do not see: its configuration and sockets are kept.
    words = "state={lab}/spank/%n keep={lab} policy={lab}/sovctl-policy.conf gpus={lab}/dev/%n/nvidia allow_env=SITE_*"
    stack = f"optional {plugin} {words}\noptional {plugin.parent}/other.so\n"
    beside = {"plugstack.conf": stack, "sovctl-policy.conf": ""}
    lab = cluster.up(cluster.Request(root, nodes=2, gpus=2, health=False, beside=beside))
    try:
        Training(lab, root, TrainingSpec()).command("scontrol", "create", "PartitionName=gpu", "Nodes=ALL")
        yield lab
    finally:
        cluster.down(root)


@pytest.fixture
def rules(spank_lab: cluster.Lab) -> Iterator[Callable[[str], None]]:
    """Writes the policy file of the node; empty again afterwards."""
    path = spank_lab.layout.root / "sovctl-policy.conf"
    yield lambda text: path.write_text(text)  # type: ignore[func-returns-value,misc]
    path.write_text("")


@pytest.fixture
def second_user(user: str) -> str:
    make_user(SECOND_USER)
    return SECOND_USER


def run(lab: cluster.Lab, user: str, *argv: str, check: bool = True) -> Completed:
    return Training(lab, Path("/"), TrainingSpec(), user).command(*argv, check=check)


def start(lab: cluster.Lab, user: str, *argv: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*as_user(user), *argv],
        env=lab.environment,
        cwd="/",
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def pids(name: str, lab: cluster.Lab) -> list[int]:
    """Processes of this lab whose command line or name matches; a holder's command line is its slurmstepd's.

    Newer slurmstepds know nothing of the lab by their environment; a holder has it among its mounts.
    """
    found = []
    for entry in Path("/proc").iterdir():
        try:
            comm = (entry / "comm").read_text().strip()
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
            if not entry.name.isdigit() or name not in (comm, line.strip()):
                continue
            told = (entry / "environ").read_bytes() + (entry / "mountinfo").read_bytes()
        except OSError:
            continue
        if os.fsencode(lab.layout.root) in told:
            found.append(int(entry.name))
    return found


def in_service(lab: cluster.Lab) -> bool:
    nodes = cluster.slurm(lab.layout).nodes()
    return not any(re.search("DRAIN|DOWN|FAIL", str(node.state)) or node.reason for node in nodes)


@pytest.mark.parametrize("command", ["srun", "sbatch", "salloc"])
def test_plain_commands_know_the_option(spank_lab: cluster.Lab, command: str) -> None:
    assert "--sov-isolate" in run(spank_lab, "", command, "--help").stdout


def test_ranks_share_what_the_host_does_not_see(spank_lab: cluster.Lab, user: str) -> None:
    text = (
        'echo $SLURM_PROCID > /dev/shm/rank$SLURM_PROCID; echo > "/tmp/sov-isolate-$SLURM_PROCID"; '
        "until [ -e /dev/shm/rank0 ] && [ -e /dev/shm/rank1 ]; do sleep 0.05; done; "
        "echo $(readlink /proc/self/ns/mnt /proc/self/ns/ipc /proc/self/ns/pid) $(ls /dev/shm | tr '\\n' ' ')"
    )
    lines = run(spank_lab, user, "srun", "-n2", "--sov-isolate", "sh", "-c", text).stdout.splitlines()
    assert len(lines) == 2
    assert lines[0] == lines[1]
    assert lines[0].endswith("rank0 rank1")
    for kind in ("mnt", "ipc", "pid"):
        assert os.readlink(f"/proc/self/ns/{kind}") not in lines[0]
    assert not list(Path("/tmp").glob("sov-isolate-*"))


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root")
def test_what_lies_behind_a_link_of_the_site_is_private_too(
    spank_lab: cluster.Lab, user: str, plugin: Path, eventually: Callable[..., object]
) -> None:
    """/var/tmp is a link to a disk with more room, for n002 alone."""
    layer, elsewhere = plugin.parent / "layer", plugin.parent / "elsewhere"
    for path in (layer, elsewhere):
        path.mkdir()
    (layer / "tmp").symlink_to(elsewhere)
    change = f"mount --rbind /var/tmp {elsewhere} && mount -t overlay -o lowerdir={layer}:/var none /var"
    at = ("srun", "-n1", "-w", "n002")
    try:
        start_apart(spank_lab, "n002", change)
        eventually(
            lambda: run(spank_lab, user, *at, "readlink", "/var/tmp", check=False).stdout == f"{elsewhere}\n",
            "n002 to have the link",
        )
        named = f"/var/tmp/sov-behind-{os.getpid()}"
        look = f"touch {named}; cd -P /var/tmp && pwd; ls -A"
        said = run(spank_lab, user, *at, "--sov-isolate", "sh", "-c", look).stdout.split()
        lab_dir = spank_lab.layout.root.parent.name if spank_lab.layout.root.name == "lab" else ""
        assert said[0] == str(elsewhere)
        assert sorted(set(said[1:]) - {lab_dir, spank_lab.layout.root.name}) == [Path(named).name]
        assert not Path(named).exists()
    finally:
        start_again(spank_lab, "n002")
        look = ("readlink", "/proc/self/ns/mnt")
        mine = os.readlink("/proc/self/ns/mnt")
        eventually(lambda: run(spank_lab, user, *at, *look, check=False).stdout == f"{mine}\n", "n002 to be as before")


def test_without_the_option_nothing_changes(spank_lab: cluster.Lab, user: str) -> None:
    line = run(spank_lab, user, "srun", "-n1", "readlink", "/proc/self/ns/mnt", "/proc/self/ns/pid").stdout.split()
    assert line == [os.readlink("/proc/self/ns/mnt"), os.readlink("/proc/self/ns/pid")]
    assert "NoNewPrivs:\t0" in run(spank_lab, user, "srun", "-n1", "cat", "/proc/self/status").stdout


def test_a_batch_script_and_its_steps(spank_lab: cluster.Lab, user: str, work_dir: Path) -> None:
    script = work_dir / "s.sh"
    script.write_text(
        "#!/bin/sh\n#SBATCH --sov-isolate --ntasks=2\n"
        "echo batch $(readlink /proc/self/ns/mnt) nnp $(grep -c 'NoNewPrivs:.1' /proc/self/status)\n"
        "srun -n2 sh -c 'echo step $(readlink /proc/self/ns/mnt) nnp $(grep -c NoNewPrivs:.1 /proc/self/status)'\n"
    )
    run(spank_lab, user, "sbatch", "--wait", "--chdir=/", f"--output={work_dir}/out", str(script))
    words = [line.split() for line in (work_dir / "out").read_text().splitlines()]
    assert [line[0] for line in words] == ["batch", "step", "step"]
    assert [line[3] for line in words] == ["1", "1", "1"]
    spaces = [line[1] for line in words]
    assert spaces[1] == spaces[2] != spaces[0]
    assert os.readlink("/proc/self/ns/mnt") not in spaces


@pytest.mark.parametrize("words", [("--export=NONE",), ("--sov-isolate",), ("--overlap",), ("-n2", "--multi-prog")])
def test_beside_other_options(spank_lab: cluster.Lab, user: str, words: tuple[str, ...], work_dir: Path) -> None:
    look = ("/usr/bin/readlink", "/proc/self/ns/mnt")
    program = look
    if "--multi-prog" in words:
        work_dir.joinpath("conf").write_text("0-1 " + " ".join(look) + "\n")
        program = (str(work_dir / "conf"),)
    said = run(spank_lab, user, "srun", "-n1", "--sov-isolate", *words, *program).stdout.split()
    assert len(set(said)) == 1
    assert os.readlink("/proc/self/ns/mnt") not in said


def test_a_requeued_job_is_isolated_again(spank_lab: cluster.Lab, user: str, work_dir: Path) -> None:
    script = work_dir / "s.sh"
    script.write_text(
        "#!/bin/sh\n#SBATCH --sov-isolate --requeue --open-mode=append\n"
        "grep -c NoNewPrivs:.1 /proc/self/status\n"
        '[ -n "$SLURM_RESTART_COUNT" ] || { scontrol requeue $SLURM_JOB_ID; sleep 60; }\n'
    )
    job = run(
        spank_lab, user, "sbatch", "--parsable", "--chdir=/", f"--output={work_dir}/out", str(script)
    ).stdout.strip()
    training = Training(spank_lab, Path("/"), TrainingSpec(), user)
    training.wait(
        "it to be back in the queue",
        lambda: (work_dir / "out").exists() and "PENDING" in str(cluster.slurm(spank_lab.layout).job(job).state),
        30,
    )
    run(
        spank_lab, "", "scontrol", "update", f"JobId={job}", "StartTime=now+2"
    )  # a second after its end slurmd takes it again
    training.wait("the second try", lambda: cluster.slurm(spank_lab.layout).job(job).state == "COMPLETED", 60)
    lines = [line for line in (work_dir / "out").read_text().splitlines() if line.isdigit()]
    assert lines == ["1", "1"]


def test_exit_status_signals_and_terminals_pass(spank_lab: cluster.Lab, user: str) -> None:
    srun = ("srun", "-n1", "--sov-isolate")
    assert run(spank_lab, user, *srun, "sh", "-c", "exit 7", check=False).status == 7
    assert run(spank_lab, user, *srun, "sh", "-c", "kill -SEGV $$", check=False).status == 139
    assert "/dev/pts/" in run(spank_lab, user, "script", "-qec", "srun -n1 --sov-isolate --pty tty", "/dev/null").stdout
    step = start(
        spank_lab,
        user,
        *srun,
        "--job-name=trapped",
        "sh",
        "-c",
        "trap 'echo got; exit 5' USR1; echo up; while :; do sleep 0.1; done",
    )
    assert step.stdout is not None
    while "up" not in step.stdout.readline():
        pass
    run(spank_lab, user, "scancel", "--signal=USR1", "--name=trapped")
    assert "got" in step.communicate(timeout=30)[0]
    assert step.returncode == 5


@pytest.mark.parametrize("asked", [True, False])
def test_an_isolated_step_has_a_clean_environment(
    spank_lab: cluster.Lab, user: str, rules: Callable[[str], None], asked: bool
) -> None:
    rules("" if asked else "isolate everybody\n")
    given = ("EVIL=1", "PYTHONPATH=/evil", "CUDA_LAUNCH_BLOCKING=1", "I_MPI_FABRICS=shm", "SITE_LR=2")
    words = ("--sov-isolate",) if asked else ()
    said = run(spank_lab, user, "env", *given, "srun", "-n1", *words, "env").stdout.splitlines()
    assert {"CUDA_LAUNCH_BLOCKING=1", "I_MPI_FABRICS=shm", "SITE_LR=2"} <= set(said)
    assert any(line.startswith("SLURM_JOB_ID=") for line in said)
    assert not {"EVIL=1", "PYTHONPATH=/evil"} & set(said)
    rules("")
    assert "EVIL=1" in run(spank_lab, user, "env", *given, "srun", "-n1", "env").stdout.splitlines()


def test_a_hidden_working_directory_is_told(spank_lab: cluster.Lab, user: str) -> None:
    said = run(spank_lab, user, "srun", "-n1", "--sov-isolate", "--chdir=/var/tmp", "pwd")
    assert said.stdout == "/var/tmp\n"
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        Path(name).chmod(0o755)
        said = run(spank_lab, user, "srun", "-n1", "--sov-isolate", f"--chdir={name}", "pwd")
        assert said.stdout == "/tmp\n"
        assert re.search(f"{name}.*going to /tmp instead", said.stderr)
        assert said.stderr.count(name) == 1


@pytest.mark.parametrize(
    ("option", "abstract"), [("--sov-isolate", "None"), ("--sov-private-network", "Connection refused")]
)
def test_two_users_on_one_node(spank_lab: cluster.Lab, user: str, second_user: str, option: str, abstract: str) -> None:
    gpus = str(spank_lab.layout.device_dir / "n001" / "nvidia")
    srun = ("srun", "-n1", "-wn001", "--gres=gpu:1")
    first = start(spank_lab, user, *srun, option, "python3", "-c", HOLD)
    try:
        assert first.stdout is not None
        while "ready" not in first.stdout.readline():
            assert first.poll() is None
        held = subprocess.run(["pgrep", "-u", user, "-f", "^[^ ]*python3 -c"], capture_output=True, text=True).stdout
        said = run(spank_lab, second_user, *srun, "--sov-isolate", "python3", "-c", REACH, held.split()[0], gpus)
        found = json.loads(said.stdout)
    finally:
        first.terminate()
        first.communicate(timeout=30)
    assert reached(found) == {}
    assert found["abstract"] == abstract
    assert found["gpus"] == {"nvidia0": "Permission denied", "nvidia1": "None"}
    fds = set(found["fds"]) - {""}
    assert fds
    assert all(re.match(r"pipe:|socket:|/dev/null|/dev/pts", fd) for fd in fds), fds


def test_a_private_network_hides_abstract_sockets(spank_lab: cluster.Lab, user: str) -> None:
    look = "import socket as s; a = s.create_server(('127.0.0.1', 0)); s.create_connection(a.getsockname()); "
    look += "print(open('/proc/net/unix').read().count('@sovctl-net-test'), len(s.if_nameindex()))"
    with socket.socket(socket.AF_UNIX) as outside:
        outside.bind("\0sovctl-net-test")
        private = run(spank_lab, user, "srun", "-n2", "--sov-private-network", "python3", "-c", look).stdout
        shared = run(spank_lab, user, "srun", "-n1", "--sov-isolate", "python3", "-c", look).stdout
    assert private.splitlines() == ["0 1", "0 1"]
    assert shared.split()[0] == "1"


def test_a_rule_isolates_whoever_does_not_ask(spank_lab: cluster.Lab, user: str, rules: Callable[[str], None]) -> None:
    rules("isolate clean-gpu partition=gpu\nisolate clean-guests account=guests\n")
    host = os.readlink("/proc/self/ns/mnt")
    look = ("readlink", "/proc/self/ns/mnt")
    assert run(spank_lab, user, "srun", "-n1", *look).stdout.strip() == host
    # Neither the environment that Slurm itself sets nor our own variable talks a step out of it.
    lie = ("env", "SOVCTL_SPANK_ISOLATE=0", "SLURM_JOB_PARTITION=main", "SLURM_JOB_ACCOUNT=staff")
    for where in (("-pgpu",), ("-Aguests",)):
        assert run(spank_lab, user, *lie, "srun", "-n1", *where, *look).stdout.strip() != host
        inside = run(spank_lab, user, "salloc", "-Q", "-n1", *where, *lie, "srun", "-n1", *look).stdout.strip()
        assert inside != host


def test_an_image_that_is_not_allowed_ends_the_task_and_not_the_node(
    spank_lab: cluster.Lab, user: str, rules: Callable[[str], None]
) -> None:
    rules("images only-ours registry.site/**\n")
    srun = ("srun", "-n1", "echo", "ran")
    refused = run(spank_lab, user, "env", "PYXIS_CONTAINER_IMAGE=evil", *srun, check=False)
    assert refused.status == 3
    assert refused.stdout == ""
    assert "sovctl: refused by rule only-ours: the image evil is not allowed" in refused.stderr
    assert run(spank_lab, user, "env", "PYXIS_CONTAINER_IMAGE=registry.site#a", *srun).stdout == "ran\n"
    for option, status in (("evil", 3), ("docker://registry.site#a", 0)):
        said = run(spank_lab, user, "srun", f"--container-image={option}", "-n1", "echo", "ran", check=False)
        assert (said.status, said.stdout) == (status, "" if status else "ran\n")
    forged = run(spank_lab, user, "env", "PYXIS_CONTAINER_IMAGE=evil\n[now] forged \x1b[2J", *srun, check=False)
    assert "the image evil?[now] forged ?[2J is not allowed" in forged.stderr
    log = (spank_lab.layout.log_dir / "slurmd.n001.log").read_text("utf-8", "replace")
    assert not any(line.startswith("[now] forged") for line in log.splitlines())
    too_long = run(spank_lab, user, "env", f"PYXIS_CONTAINER_IMAGE={'registry.site/' * 400}", *srun, check=False)
    assert too_long.status == 3
    assert in_service(spank_lab)


@pytest.mark.parametrize(("word", "status"), [("accept", 0), ("refuse", 3)])
def test_a_broken_file_fails_as_it_says(
    spank_lab: cluster.Lab, user: str, rules: Callable[[str], None], word: str, status: int
) -> None:
    rules(f"nonsense\non-broken {word}\n")
    assert run(spank_lab, user, "srun", "-n1", "true", check=False).status == status
    assert in_service(spank_lab)


@pytest.mark.parametrize("option", ["--sov-isolate=no", "--sov-isolate=%s%n"])
def test_hostile_values_of_the_option_are_refused_by_srun(spank_lab: cluster.Lab, user: str, option: str) -> None:
    said = run(spank_lab, user, "srun", "-n1", option, "true", check=False)
    assert said.status != 0
    assert "doesn't allow an argument" in said.stderr


@pytest.mark.parametrize("value", ["", "0", "x" * 5000, "%s%n"])
def test_hostile_values_of_the_variable_do_nothing(spank_lab: cluster.Lab, user: str, value: str) -> None:
    said = run(spank_lab, user, "env", f"SOVCTL_SPANK_ISOLATE={value}", "srun", "-n1", "readlink", "/proc/self/ns/mnt")
    assert said.stdout.strip() == os.readlink("/proc/self/ns/mnt")


def test_kill_9_of_slurmstepd_leaves_nothing(
    spank_lab: cluster.Lab, user: str, eventually: Callable[..., object]
) -> None:
    before = mounts(spank_lab)
    for _ in range(3):
        step = start(
            spank_lab, user, "srun", "-n2", "--sov-isolate", "sh", "-c", "setsid sleep 12321 & echo up; sleep 12321"
        )
        assert step.stdout is not None
        while "up" not in step.stdout.readline():
            pass
        (holder,) = eventually(lambda: pids("sovctl-holder", spank_lab), "the holder")  # type: ignore[misc]
        parent = int(re.findall(r"PPid:\s+(\d+)", Path(f"/proc/{holder}/status").read_text())[0])
        os.kill(parent, signal.SIGKILL)
        eventually(
            lambda: not pids("sovctl-holder", spank_lab) and not pids("sleep 12321", spank_lab), "everything to be gone"
        )
        run(spank_lab, user, "scancel", "--me" if user else "--user=root")
        step.kill()
        step.communicate()
    assert mounts(spank_lab) == before
    assert in_service(spank_lab)
    eventually(lambda: not list((spank_lab.layout.root / "spank").glob("n*/*")), "the records to be gone", 60.0)


def test_a_clean_up_that_fails_costs_no_node(
    spank_lab: cluster.Lab, user: str, eventually: Callable[..., object]
) -> None:
    state, slurm = spank_lab.layout.root / "spank" / "n001", cluster.slurm(spank_lab.layout)
    aside = state.with_name("aside")
    job = start(spank_lab, user, "srun", "-n1", "-wn001", "--sov-isolate", "sh", "-c", "echo up; read line; echo end")
    assert job.stdout is not None
    while "up" not in job.stdout.readline():
        assert job.poll() is None
    (record,) = state.iterdir()
    state.rename(aside)
    state.write_text("in the way")
    try:
        assert job.stdin is not None
        assert "end" in job.communicate("go\n", timeout=30)[0]
        eventually(lambda: str(slurm.node("n001").state) == "IDLE", "the epilog to be over", 60.0)
        assert in_service(spank_lab)
        assert (aside / record.name).exists()  # it could not be removed
        # Neither does a prolog that can keep no record: then every rule holds.
        assert run(spank_lab, user, "srun", "-n1", "-wn001", "echo", "ran").stdout == "ran\n"
        eventually(lambda: str(slurm.node("n001").state) == "IDLE", "the next epilog to be over", 60.0)
        assert in_service(spank_lab)
    finally:
        state.unlink()
        aside.rename(state)
        (state / record.name).unlink()


def test_a_step_of_two_nodes_has_two_sets_of_namespaces(spank_lab: cluster.Lab, user: str) -> None:
    meet = spank_lab.layout.root / "meet"  # seen by every step; all live when the first one looks at itself
    meet.mkdir()
    meet.chmod(0o777)
    text = f"touch {meet}/$SLURM_PROCID; until [ $(ls {meet} | wc -l) = 4 ]; do sleep 0.05; done; "
    text += "echo $SLURMD_NODENAME $(readlink /proc/self/ns/mnt /proc/self/ns/ipc /proc/self/ns/pid)"
    words = ("-N2", "--ntasks-per-node=2", "--sov-isolate", "sh", "-c", text)
    said = run(spank_lab, user, "srun", *words).stdout.splitlines()
    ranks = [line.split(maxsplit=1) for line in said]
    assert sorted(node for node, _ in ranks) == ["n001", "n001", "n002", "n002"]
    assert len({tuple(rank) for rank in ranks}) == 2  # shared on a node
    assert len({spaces for _, spaces in ranks}) == 2  # and not between them, though both are this machine
    for kind in ("mnt", "ipc", "pid"):
        assert os.readlink(f"/proc/self/ns/{kind}") not in " ".join(said)


def test_the_steps_of_an_isolated_allocation_are_isolated(spank_lab: cluster.Lab, user: str) -> None:
    look = ("readlink", "/proc/self/ns/mnt")
    host = os.readlink("/proc/self/ns/mnt")
    # The shell of salloc runs where it was typed; what it starts with srun does not.
    text = f"{' '.join(look)}; srun -n1 {' '.join(look)}; EVIL=1 srun -n1 env"
    for words in (("--sov-isolate",), ("--sov-private-network",)):
        lines = run(spank_lab, user, "salloc", "-Q", "-n1", *words, "sh", "-c", text).stdout.splitlines()
        assert lines[0] == host
        assert lines[1].startswith("mnt:")
        assert lines[1] != host
        assert "EVIL=1" not in lines
    plain = run(spank_lab, user, "salloc", "-Q", "-n1", "srun", "-n1", *look).stdout.strip()
    assert plain == host


@pytest.mark.parametrize("how", ["salloc", "sbatch"])
def test_images_of_pyxis_are_judged_in_every_step_of_a_job(
    spank_lab: cluster.Lab, user: str, rules: Callable[[str], None], how: str, work_dir: Path
) -> None:
    rules("images only-ours partition=gpu registry.site/**\n")
    text = "; ".join(
        f"{variable} SLURM_JOB_PARTITION=main srun -n1 {option} echo ran; echo $?"
        for variable, option in (
            ("", ""),
            ("PYXIS_CONTAINER_IMAGE=evil", ""),
            ("PYXIS_CONTAINER_IMAGE=registry.site#a", ""),
            ("", "--container-image=evil"),
            ("", "--container-image=docker://registry.site#a"),
            ("PYXIS_CONTAINER_IMAGE=evil", "--container-image=registry.site#a"),
        )
    )
    if how == "salloc":
        said = run(spank_lab, user, "salloc", "-Q", "-n1", "-pgpu", "sh", "-c", text).stdout
    else:
        script = work_dir / "s.sh"
        script.write_text(f"#!/bin/sh\n{text}\n")
        words = ("--wait", "-n1", "-pgpu", "--chdir=/", f"--output={work_dir}/out", f"--error={work_dir}/err")
        run(spank_lab, user, "sbatch", *words, str(script))
        said = (work_dir / "out").read_text()
        # The option of the batch script itself, and of the allocation.
        refused = run(spank_lab, user, "sbatch", *words, "--container-image=evil", str(script), check=False)
        assert refused.status == 3
        assert "refused by rule only-ours: the image evil is not allowed" in (work_dir / "err").read_text()
        assert (work_dir / "out").read_text() == ""
    assert said.split() == ["ran", "0", "3", "ran", "0", "3", "ran", "0", "3"]
    assert in_service(spank_lab)


def test_many_starts_leave_nothing(spank_lab: cluster.Lab, user: str, eventually: Callable[..., object]) -> None:
    before = mounts(spank_lab)
    run(
        spank_lab,
        user,
        "salloc",
        "-Q",
        "-n2",
        "sh",
        "-c",
        "for i in 1 2 3 4 5 6 7 8 9 10; do srun -n2 --sov-isolate sh -c 'sleep 12345 &' || exit 1; done",
    )
    eventually(lambda: not pids("sovctl-holder", spank_lab) and not pids("sleep 12345", spank_lab), "an empty node")
    assert mounts(spank_lab) == before
    assert in_service(spank_lab)


def test_the_doctor_measures_a_step_of_the_plugin(spank_lab: cluster.Lab, plugin: Path, user: str) -> None:
    cache = plugin.parent / "cache"
    cache.mkdir()
    os.chown(cache, pwd.getpwnam(user or "root").pw_uid, -1)
    doctor = (sys.executable, "-P", "-m", "sovctl", "doctor", "isolation", "--runtime=spank", "--json", "-w", "n001")
    said = run(spank_lab, user, "env", f"XDG_CACHE_HOME={cache}", *doctor, check=False)
    found = json.loads(said.stdout)
    assert [check for check in found["checks"] if not check["passed"]] == []
    assert (said.status, found["node"], len(found["checks"])) == (0, "n001", 9)
    places = [Path(name) for name in ("/tmp", "/var/tmp", "/dev/shm")]
    assert not [name for place in places for name in place.glob(".sovctl-decoy-*") if name.owner() == user]


@pytest.fixture
def half_lab(plugin: Path, new_root: Callable[[], Path], attach_logs: Callable[[Path], None]) -> Iterator[cluster.Lab]:
    """Two nodes with one plugstack.conf, and a plugin that cannot be loaded on the second."""
    root = new_root()
    attach_logs(root)
    words = "state={lab}/spank/%n keep={lab} policy={lab}/sovctl-policy.conf image_owners=any"
    stack = f"optional {plugin} {words}\n"
    beside = {"plugstack.conf": stack, "sovctl-policy.conf": ""}
    lab = cluster.up(cluster.Request(root, nodes=2, gpus=0, health=False, beside=beside))
    try:
        start_apart(lab, "n002", f"mount --bind /dev/null {plugin}")
        yield lab
    finally:
        cluster.down(root)


def test_a_node_without_the_plugin_is_named_before_the_run_starts(
    half_lab: cluster.Lab, plugin: Path, user: str, work_dir: Path, eventually: Callable[..., object]
) -> None:
    home = plugin.parent / "home"  # the image lies below it, and an image's name holds no blank
    home.mkdir()
    os.chown(home, pwd.getpwnam(user or "root").pw_uid, -1)
    run = Training(half_lab, work_dir, TrainingSpec(), user)
    look = ("srun", "-N2", "-n2", "--sov-isolate", "sh", "-c", "grep -c NoNewPrivs:.1 /proc/self/status; true")
    eventually(lambda: sorted(run.command(*look, check=False).stdout.split()) == ["0", "1"], "n002 to lack the plugin")
    doctor = ("env", f"HOME={home}", sys.executable, "-P", "-m", "sovctl", "doctor", "isolation", "--json")
    found = json.loads(run.command(*doctor, "--nodelist=n[001-002]", check=False).stdout)
    assert [one["node"] for one in found["nodes"]] == ["n001", "n002"]
    runtimes = {one["name"]: (one["works"], one["nodes"]) for one in found["runtimes"]}
    if shutil.which("bwrap"):
        assert (found["passed"], runtimes["bubblewrap"]) == (True, (True, [])), json.dumps(found)
    if shutil.which("mksquashfs"):
        assert runtimes["spank"] == (False, ["n002"])
    script = work_dir / "s.sh"
    script.write_text("#!/bin/sh\nsrun echo ran\n")
    words = ("submit", "--parsable", f"--chdir={work_dir}", "--runtime=spank", "--isolate")

    def ended(name: str, *where: str) -> str:
        out = work_dir / name
        run.job_id = run.sovctl(*words, *where, f"--output={out}", str(script)).stdout.strip()
        jobs = ("squeue", "-h", "-j", run.job_id)
        eventually(lambda: not run.command(*jobs, check=False).stdout.strip(), f"{name} to end", 60.0)
        return out.read_text()

    told = ended("both", "-N2")
    assert "the plugin of the runtime spank is missing on n002: Slurm would run the steps there outside" in told
    assert "ran" not in told.splitlines()
    assert "ran" in ended("one", "-wn001").splitlines()
    assert in_service(half_lab)


def _idle(lab: cluster.Lab) -> bool:
    return all(str(node.state) == "IDLE" for node in cluster.slurm(lab.layout).nodes())


def _in_steps(lab: cluster.Lab, user: str, conf: Path) -> list[tuple[str, str]]:
    """What `sovctl doctor --steps` says of them, with the configuration of this client."""
    doctor = (sys.executable, "-P", "-m", "sovctl", "doctor", "--steps", "--json")
    done = run(lab, user, "env", f"SLURM_CONF={conf}", *doctor, check=False)
    lines = json.loads(done.stdout)["lines"]
    return [(line["state"], line["seen"]) for line in lines if line["check"] == "spank-in-steps"]


def test_the_doctor_proves_the_plugin_by_a_step_on_every_node(
    spank_lab: cluster.Lab, user: str, work_dir: Path, eventually: Callable[..., object]
) -> None:
    eventually(lambda: _idle(spank_lab), "both nodes idle")
    assert _in_steps(spank_lab, user, spank_lab.layout.slurm_conf) == [
        ("pass", "n[001-002]: a step there was isolated by the plugin")
    ]
    # A client that has the plugin, and nodes that have lost it.
    stack = spank_lab.layout.root / "plugstack.conf"
    lines = stack.read_text()
    (work_dir / "plugstack.conf").write_text(lines)
    conf = work_dir / "slurm.conf"
    conf.write_text(spank_lab.layout.slurm_conf.read_text())
    try:
        stack.write_text("\n")
        eventually(lambda: _idle(spank_lab), "both nodes idle")
        assert _in_steps(spank_lab, user, conf) == [("fail", "n[001-002]: a step there ran without the plugin")]
        eventually(lambda: _idle(spank_lab), "both nodes idle")
        ((state, seen),) = _in_steps(spank_lab, user, spank_lab.layout.slurm_conf)
        assert (state, seen) == ("fail", "srun here does not know --sov-isolate")
    finally:
        stack.write_text(lines)
