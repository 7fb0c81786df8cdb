"""`--sov-image` on a real cluster: a squashfs file as the root directory of a step."""

from __future__ import annotations

import json
import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from image_registry import small_disk
from two_users import REACH, reached

from sovctl.adapters.command import Completed
from sovctl.isolation.cache import architecture, file_name
from sovctl.lab import cluster
from sovctl.lab.training import Training, TrainingSpec, as_user
from sovctl.site.judge_slurm import task_prolog_by_slurmstepd
from tests.slurm.conftest import NO_USER_NAMESPACES, installed_slurm, make_user, mounts, start_again, start_apart

SPANK = Path(__file__).parents[2] / "plugins" / "spank"
SECOND_USER = "sovctl-test2"
NO_TASK_PROLOG = task_prolog_by_slurmstepd(installed_slurm())
PROGRAMS = ("sh", "ls", "cat", "readlink", "id", "touch", "sleep", "env", "mount", "rm", "stat", "ln", "mkdir")
pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(os.geteuid() != 0, reason="only a slurmd of root's can mount an image"),
    pytest.mark.skipif(not Path("/usr/include/slurm/spank.h").exists(), reason="libslurm-dev is not installed"),
    pytest.mark.skipif(shutil.which("mksquashfs") is None, reason="mksquashfs (squashfs-tools) is not installed"),
    pytest.mark.skipif(not Path("/dev/loop-control").exists(), reason="this kernel has no loop devices"),
]


def _fill(root: Path) -> None:
    """The programs and what they load; links of the image that point out of it."""
    for name in PROGRAMS:
        found = Path(shutil.which(name) or "").resolve()
        libraries = subprocess.run(["ldd", str(found)], capture_output=True, text=True).stdout
        for path in [found, *map(Path, re.findall(r"(/\S+) \(", libraries))]:
            (root / str(path).lstrip("/")).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, root / str(path).lstrip("/"))
        (root / "bin").mkdir(exist_ok=True)
        if not (root / "bin" / name).exists():
            (root / "bin" / name).symlink_to(found)
    (root / "etc").mkdir()
    (root / "etc" / "image").write_text("from the image\n")
    (root / "etc" / "resolv.conf").symlink_to("/../../../../etc/shadow")
    (root / "evil").symlink_to("/../../../../opt")


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """The plugin and the images, where isolated steps and every user can see them."""
    with tempfile.TemporaryDirectory(prefix="sovimage", dir="/opt") as name:
        path = Path(name)
        path.chmod(0o755)
        subprocess.run(["make", "-s", "-C", str(SPANK), f"OUT={name}"], check=True)
        _fill(path / "rootfs")
        command = [
            "mksquashfs",
            str(path / "rootfs"),
            str(path / "a.sqsh"),
            "-quiet",
            "-no-progress",
            "-processors",
            "1",
        ]
        subprocess.run([*command, "-all-root", "-comp", "gzip"], check=True, stdout=subprocess.DEVNULL)
        yield path


@pytest.fixture(scope="module")
def image_lab(place: Path, new_root: Callable[[], Path], attach_logs: Callable[[Path], None]) -> Iterator[cluster.Lab]:
    root = new_root()
    attach_logs(root)
    words = "state={lab}/spank/%n keep={lab} policy={lab}/sovctl-policy.conf gpus={lab}/dev/%n/nvidia"
    words += f" env_dir={place}/env/%u keep={place}/task_prolog"
    (place / "task_prolog").write_text("#!/bin/sh\necho export FROM_TASK_PROLOG=$0\n")
    (place / "task_prolog").chmod(0o755)
    beside = {"plugstack.conf": f"optional {place}/sovctl_spank.so {words}\n", "sovctl-policy.conf": ""}
    # 24.11.5 and some others start it by way of slurmstepd, which no image has.
    overrides = {} if NO_TASK_PROLOG else {"TaskProlog": f"{place}/task_prolog"}
    lab = cluster.up(cluster.Request(root, nodes=1, gpus=2, health=False, beside=beside, overrides=overrides))
    try:
        yield lab
    finally:
        cluster.down(root)


Srun = Callable[..., Completed]


@pytest.fixture
def srun(image_lab: cluster.Lab, user: str) -> Srun:
    """srun of the ordinary user, with options first and the words of a shell at the end."""

    def run(*words: str, check: bool = True, env: tuple[str, ...] = ()) -> Completed:
        run = Training(image_lab, Path("/"), TrainingSpec(), user)
        command = ["env", *env, "srun", "-n1", *words[:-1], "/bin/sh", "-c", words[-1]]
        return run.command(*command, check=check)

    return run


def loops() -> str:
    found = Path("/sys/block").glob("loop*/loop/backing_file")
    return " ".join(path.read_text() for path in found)


def in_service(lab: cluster.Lab) -> bool:
    (node,) = cluster.slurm(lab.layout).nodes()
    return not re.search("DRAIN|DOWN|FAIL", str(node.state)) and not node.reason


def test_the_root_directory_is_the_image(
    place: Path, image_lab: cluster.Lab, srun: Srun, eventually: Callable[..., object]
) -> None:
    said = srun(
        "--gres=gpu:1",
        f"--sov-image={place}/a.sqsh",
        "cat /etc/image; id -un; ls /opt /home /root 2>&1; touch /etc/new /new 2>&1; "
        "touch /tmp/a /dev/shm/a && echo tmp; "
        'readlink /proc/self/ns/mnt; while read -r a b c; do echo "mount $b"; done </proc/self/mounts; '
        "while read -r line; do case $line in NoNewPrivs*|CapBnd*) echo $line;; esac; done </proc/self/status; "
        f"for i in 0 1; do cat {image_lab.layout.device_dir}/n001/nvidia$i && echo gpu $i; done; true",
    )
    lines = said.stdout.splitlines()
    assert lines[0] == "from the image"
    assert lines[1] == "sovctl-test"
    assert "tmp" in lines
    assert sum("Read-only file system" in line for line in lines) == 2
    assert not any("rootfs" in line for line in lines)
    assert "NoNewPrivs: 1" in lines
    assert "CapBnd: 0000000000000000" in lines
    assert "gpu 0" in lines
    assert "gpu 1" not in lines
    # Of the host's mounts none is left but what was asked for.
    mounts = [line.split()[1] for line in lines if line.startswith("mount ")]
    assert mounts.count("/") == 1
    assert [path for path in mounts if place.name in path] == [f"{place}/task_prolog"]
    eventually(lambda: str(place) not in loops(), "the loop device to be free")


@pytest.mark.skipif(NO_TASK_PROLOG, reason="this Slurm starts a TaskProlog from no image")
def test_the_sites_task_prolog_runs_in_an_image_where_it_is_kept(
    place: Path, image_lab: cluster.Lab, srun: Srun
) -> None:
    assert srun(f"--sov-image={place}/a.sqsh", "echo $FROM_TASK_PROLOG").stdout == f"{place}/task_prolog\n"
    stack = image_lab.layout.root / "plugstack.conf"
    lines = stack.read_text()
    try:
        stack.write_text(lines.replace(f" keep={place}/task_prolog", ""))
        said = srun(f"--sov-image={place}/a.sqsh", "echo ran", check=False)
        assert (said.status, said.stdout) == (1, "")
        assert "TaskProlog failed" in said.stderr
        assert in_service(image_lab)
    finally:
        stack.write_text(lines)


def test_without_root_privileges_of_the_image_nothing_is_written_outside(place: Path, srun: Srun) -> None:
    before = Path("/etc/shadow").stat()
    srun(f"--sov-image={place}/a.sqsh", "--sov-writable", f"--sov-mount={place}/rootfs/etc:/evil/x", "cat /etc/image")
    assert Path("/etc/shadow").stat() == before
    assert not Path("/opt/x").exists()


def test_a_batch_script_in_an_image(place: Path, image_lab: cluster.Lab, user: str, work_dir: Path) -> None:
    script = work_dir / "s.sh"
    script.write_text(f"#!/bin/sh\n#SBATCH --sov-image={place}/a.sqsh\ncat /etc/image; echo $SOVCTL_SPANK_IMAGE\n")
    run = Training(image_lab, Path("/"), TrainingSpec(), user)
    run.command("sbatch", "--wait", "--chdir=/", f"--output={work_dir}/out", str(script))
    assert (work_dir / "out").read_text() == f"from the image\n{place}/a.sqsh\n"


def test_the_variable_does_what_the_option_does(place: Path, srun: Srun) -> None:
    assert srun("cat /etc/image", env=(f"SOVCTL_SPANK_IMAGE={place}/a.sqsh",)).stdout == "from the image\n"


def test_ranks_share_one_image(place: Path, srun: Srun) -> None:
    said = srun("-n3", f"--sov-image={place}/a.sqsh", "readlink /proc/self/ns/mnt")
    assert len(set(said.stdout.split())) == 1


def test_mounts_are_opened_with_the_rights_of_the_user(place: Path, srun: Srun) -> None:
    image = f"--sov-image={place}/a.sqsh"
    with tempfile.TemporaryDirectory(dir=place) as name:
        (Path(name) / "inside").write_text("secret\n")
        assert "cannot open as you" in srun(image, f"--sov-mount={name}/inside:/x", "cat /x", check=False).stderr
        Path(name).chmod(0o755)
        assert srun(image, f"--sov-mount={name}:/data/in:ro", "cat /data/in/inside").stdout == "secret\n"
        refused = srun(image, f"--sov-mount={name}:/data:ro", "touch /data/new 2>&1; echo", check=False)
        assert "Read-only file system" in refused.stdout
        missing = srun(image, f"--sov-mount={name}/gone:/x", "true", check=False)
        assert f"cannot open as you {name}/gone: No such file or directory" in missing.stderr
        assert missing.status == 2
        magic = srun(image, "--sov-mount=/proc/self/root:/x", "true", check=False)
        assert "Too many levels of symbolic links" in magic.stderr


@pytest.fixture
def vault(place: Path, user: str) -> Iterator[Path]:
    """A directory of another user with an image, a file and a home that nobody else may see."""
    make_user(SECOND_USER)
    owner = pwd.getpwnam(SECOND_USER).pw_uid
    path = place / "vault"
    (path / "sub").mkdir(parents=True)
    shutil.copy(place / "a.sqsh", path / "a.sqsh")
    (path / "private").write_text("secret\n")
    for one in (path, *path.iterdir()):
        os.chown(one, owner if one.name != "a.sqsh" else 0, -1)
        one.chmod(0o700 if one.is_dir() else 0o644)
    yield path
    shutil.rmtree(path)


@pytest.mark.parametrize("how", ["option", "variable"])
@pytest.mark.parametrize("through", ["name", "link", "process"])
def test_no_value_of_an_option_leads_into_anothers_place(
    place: Path, image_lab: cluster.Lab, user: str, vault: Path, how: str, through: str
) -> None:
    """Files, links and links of /proc, given to each option that takes a value."""
    run = Training(image_lab, Path("/"), TrainingSpec(), user)
    holder = subprocess.Popen([*as_user(SECOND_USER), "sleep", "300"], cwd=vault)
    link = place / "link"
    target = {"name": vault, "link": link, "process": Path(f"/proc/{holder.pid}/cwd")}[through]
    link.symlink_to(vault)
    image = {"image": f"{place}/a.sqsh"}
    script = "cat /x /x/private $HOME/private; echo x >/x/new; echo x >$HOME/new; echo ran"
    try:
        # Whoever may not look into a directory gains nothing by having it shown.
        closed = (2, "") if through == "process" else (0, "ran\n")
        for asked, home, ends in (
            ({"image": f"{target}/a.sqsh"}, "/", (2, "")),
            ({**image, "mount": f"{target}/sub:/x:ro"}, "/", (2, "")),
            ({**image, "mount": f"{target}/private:/x"}, "/", (2, "")),
            ({**image, "mount": f"{target}:/x"}, "/", closed),
            ({**image, "home": "mount"}, str(target), closed),
        ):
            words = [f"--sov-{name}={value}" for name, value in asked.items()] if how == "option" else []
            env = [] if words else [f"SOVCTL_SPANK_{name.upper()}={value}" for name, value in asked.items()]
            command = ("env", f"HOME={home}", *env, "srun", "-n1", *words, "/bin/sh", "-c", script)
            said = run.command(*command, check=False)
            assert (said.status, said.stdout) == ends, (asked, said.stderr)
            assert ("sovctl: " in said.stderr) is (ends[0] == 2)
        assert sorted(path.name for path in vault.iterdir()) == ["a.sqsh", "private", "sub"]
        assert not list((vault / "sub").iterdir())
        assert in_service(image_lab)
    finally:
        link.unlink()
        holder.kill()
        holder.wait()


def test_two_users_in_images_on_one_node(place: Path, image_lab: cluster.Lab, user: str, vault: Path) -> None:
    script = "echo mine >/tmp/secret; echo mine >/var/tmp/secret; echo mine >/dev/shm/secret; echo up; read line"
    argv = ["srun", "-n1", "--gres=gpu:1", f"--sov-image={place}/a.sqsh", "/bin/sh", "-c", script]
    pipe = subprocess.PIPE
    env = image_lab.environment
    first = subprocess.Popen([*as_user(user), *argv], env=env, cwd="/", stdin=pipe, stdout=pipe, text=True)
    gpus = str(image_lab.layout.device_dir / "n001" / "nvidia")
    try:
        assert first.stdout is not None
        assert first.stdout.readline() == "up\n"
        words = subprocess.run(["pgrep", "-u", user, "-f", "^/bin/sh -c echo mine"], capture_output=True, text=True)
        run = Training(image_lab, Path("/"), TrainingSpec(), SECOND_USER)
        look = ("srun", "-n1", "--gres=gpu:1", "--sov-isolate", "python3", "-c", REACH, words.stdout.split()[0], gpus)
        found = json.loads(run.command(*look).stdout)
    finally:
        first.communicate("\n", timeout=30)
    assert reached(found) == {}
    assert found["gpus"] == {"nvidia0": "Permission denied", "nvidia1": "None"}


def test_a_gpu_of_others_cannot_be_mounted(place: Path, image_lab: cluster.Lab, srun: Srun) -> None:
    gpu = image_lab.layout.device_dir / "n001" / "nvidia1"
    said = srun("--gres=gpu:1", f"--sov-image={place}/a.sqsh", f"--sov-mount={gpu}:/gpu", "cat /gpu", check=False)
    assert "Permission denied" in said.stderr


def test_nothing_is_made_on_the_host_for_a_mount_below_another(
    place: Path, image_lab: cluster.Lab, srun: Srun, env_dir: Path, user: str
) -> None:
    """Root makes the mount points that an image lacks, but in what the user mounts before, only the user could."""
    if not user:
        pytest.skip("root may make whatever it likes")
    image, file = f"--sov-image={place}/a.sqsh", f"{place}/a.sqsh"
    roots, theirs = place / "roots", place / "theirs-too"
    for path in (roots, theirs):
        path.mkdir()
        path.chmod(0o755)
    shutil.chown(theirs, user)
    ways: tuple[tuple[str, ...], ...] = ((), ("--sov-writable",), ("--sov-env-name=below",))
    for way in ways:
        for target, source in (("/m/nologin", file), ("/m/profile.d/x.sh", file), ("/m/mine", str(theirs))):
            said = srun(image, *way, f"--sov-mount={roots}:/m,{source}:{target}", "echo ran", check=False)
            assert (said.status, said.stdout) == (1, ""), (way, target)
            assert f"cannot make room in the image for {target}: Permission denied" in said.stderr, (way, target)
    assert list(roots.iterdir()) == []
    for way in ways:
        name = f"new{len(way[0]) if way else 0}"
        assert (
            srun(image, *way, f"--sov-mount={theirs}:/m,{file}:/m/{name}", f"test -s /m/{name}; echo $?").stdout
            == "0\n"
        )
        assert (theirs / name).stat().st_uid == theirs.stat().st_uid
    # A link of the user's to nothing stays.
    (theirs / "link").symlink_to("nowhere")
    said = srun(image, f"--sov-mount={theirs}:/m,{file}:/m/link", "echo ran", check=False)
    assert (said.status, (theirs / "link").is_symlink()) == (1, True)
    # The names of users are shown in /etc of the image; a layer can make that a link to what is the host's.
    etc = env_dir / "below" / "upper" / "etc"
    shutil.rmtree(etc, ignore_errors=True)
    etc.symlink_to("/dev")
    os.chown(etc, theirs.stat().st_uid, -1, follow_symlinks=False)
    said = srun(image, "--sov-env-name=below", "true", check=False)
    assert "cannot make room in the image for /etc/passwd: Permission denied" in said.stderr
    assert not Path("/dev/passwd").exists()
    etc.unlink()
    # So can it make the place of Slurm's commands.
    srun(image, "--sov-env-name=below", "rm -rf /run/sovctl; mkdir -p /run/sovctl; ln -s /dev /run/sovctl/slurm")
    said = srun(image, "--sov-env-name=below", "--sov-slurm-client", "echo ran", check=False)
    assert (said.status, said.stdout) == (1, "")
    assert [name for name in ("client", "bin") if Path("/dev", name).exists()] == []
    assert in_service(image_lab)


def test_home_is_seen_when_asked_for(place: Path, user: str, srun: Srun) -> None:
    with tempfile.TemporaryDirectory(dir=place) as home:
        os.chown(home, pwd.getpwnam(user).pw_uid, -1)
        image, env = f"--sov-image={place}/a.sqsh", (f"HOME={home}",)
        assert srun(image, f"ls -d {home} 2>&1; true", env=env).stdout != f"{home}\n"
        srun(image, "--sov-home=mount", f"touch {home}/made", env=env)
        assert (Path(home) / "made").exists()
        for bad in ("relative", "/proc/self", "/a/../b"):
            assert srun(image, "--sov-home=mount", "true", env=(f"HOME={bad}",), check=False).status == 2


def test_writable_is_memory_and_clean_is_clean(place: Path, srun: Srun) -> None:
    image = f"--sov-image={place}/a.sqsh"
    assert srun(image, "--sov-writable", "touch /etc/new && rm /etc/image && ls /etc/new").stdout == "/etc/new\n"
    assert srun(image, "--sov-writable", "cat /etc/image").stdout == "from the image\n"
    said = srun(image, "--sov-clean-env", "env", env=("LD_PRELOAD=", "EVIL=1", "NCCL_DEBUG=WARN")).stdout
    assert "NCCL_DEBUG=WARN" in said
    assert "SLURM_JOB_ID=" in said
    assert "EVIL" not in said
    assert "LD_PRELOAD" not in said
    assert "SOVCTL_LAB_DIR" in said
    plain = srun("--sov-clean-env", "env", env=("EVIL=1",)).stdout
    assert "EVIL" not in plain


def test_an_image_gets_neither_secrets_nor_what_belongs_to_the_host(place: Path, srun: Srun) -> None:
    secrets = ("SSH_AUTH_SOCK=/x", "KRB5CCNAME=x", "SITE_TOKEN_FILE=/x")
    host = (f"PATH=/opt/evil:{os.environ['PATH']}", "PYTHONPATH=/x", "XDG_RUNTIME_DIR=/x", "BASH_FUNC_x%%=() { :; }")
    words = ("--export=ALL,SLURM_JWT=x", f"--sov-image={place}/a.sqsh")  # srun itself would use the token
    said = srun(*words, "env", env=("LR=0.1", "NCCL_DEBUG=WARN", *secrets, *host)).stdout
    seen = dict(line.partition("=")[::2] for line in said.splitlines())
    assert (seen["LR"], seen["NCCL_DEBUG"]) == ("0.1", "WARN")
    assert seen["PATH"] == "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    assert not {"SLURM_JWT", *(one.partition("=")[0] for one in (*secrets, *host))} & (seen.keys() - {"PATH"})
    assert "SLURM_JOB_ID" in seen


def test_an_image_tells_its_environment(place: Path, srun: Srun) -> None:
    text = 'PATH="/of/image:/usr/bin:/bin"\nFROM_IMAGE=x y\nLR=1\nCUDA_HOME=/of/image\n'
    (place / "rootfs" / "etc" / "environment").write_text(text)
    words = ["mksquashfs", str(place / "rootfs"), str(place / "env.sqsh"), "-quiet", "-no-progress", "-all-root"]
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    (place / "rootfs" / "etc" / "environment").unlink()
    said = srun(f"--sov-image={place}/env.sqsh", "env", env=("LR=0.1", "CUDA_HOME=/of/host")).stdout
    seen = dict(line.partition("=")[::2] for line in said.splitlines())
    found = [seen[name] for name in ("PATH", "FROM_IMAGE", "LR", "CUDA_HOME")]
    assert found == ["/of/image:/usr/bin:/bin", "x y", "0.1", "/of/image"]


def test_the_allow_list_holds_for_the_real_name(place: Path, image_lab: cluster.Lab, srun: Srun) -> None:
    rules = image_lab.layout.root / "sovctl-policy.conf"
    (place / "good").mkdir()
    (place / "good" / "link.sqsh").symlink_to(place / "a.sqsh")
    shutil.copy(place / "a.sqsh", place / "good" / "b.sqsh")
    try:
        rules.write_text(f"images good-only {place}/good/*\n")
        assert srun(f"--sov-image={place}/good/b.sqsh", "cat /etc/image").stdout == "from the image\n"
        for name in ("a.sqsh", "good/link.sqsh"):
            refused = srun(f"--sov-image={place}/{name}", "true", check=False)
            assert refused.status == 3
            assert f"refused by rule good-only: the image {place}/a.sqsh is not allowed" in refused.stderr
    finally:
        rules.write_text("")


def test_bad_images_end_the_task_with_a_sentence_and_not_the_node(
    place: Path, image_lab: cluster.Lab, user: str, srun: Srun, eventually: Callable[..., object]
) -> None:
    whole = (place / "a.sqsh").read_bytes()
    (place / "short.sqsh").write_bytes(whole[:5000])
    (place / "empty.sqsh").write_bytes(b"")
    (place / "text.sqsh").write_text("hello\n" * 1000)
    shutil.copy(place / "a.sqsh", place / "theirs.sqsh")
    os.chown(place / "theirs.sqsh", pwd.getpwnam(user).pw_uid, -1)
    shutil.copy(place / "a.sqsh", place / "open.sqsh")
    (place / "open.sqsh").chmod(0o666)
    shutil.copy(place / "a.sqsh", place / "private.sqsh")
    (place / "private.sqsh").chmod(0o600)
    os.mkfifo(place / "fifo", 0o644)
    for name, (status, words) in {
        "short.sqsh": (1, "cannot mount (is it a whole squashfs file?)"),
        "empty.sqsh": (1, "cannot"),
        "text.sqsh": (1, "cannot mount (is it a whole squashfs file?)"),
        "theirs.sqsh": (3, "it does not belong to an owner this site trusts"),
        "open.sqsh": (3, "others than its owner can write it"),
        "private.sqsh": (2, "Permission denied"),
        "fifo": (2, "it is no regular file"),
        "rootfs": (2, "it is no regular file"),
        "gone.sqsh": (2, "No such file or directory"),
    }.items():
        said = srun(f"--sov-image={place}/{name}", "echo ran", check=False)
        assert (said.status, said.stdout) == (status, ""), name
        assert words in said.stderr, name
    needs = srun("--sov-mount=/opt", "true", check=False)
    assert (needs.status, "need --sov-image" in needs.stderr) == (2, True)
    for bad in ("a.sqsh", "/a/../b", "$(reboot)", "%s%n"):
        assert "sovctl: --sov-image takes the full path" in srun(f"--sov-image={bad}", "true", check=False).stderr
    assert in_service(image_lab)
    eventually(lambda: str(place) not in loops(), "the loop devices to be free")


def test_a_full_disk_of_layers_ends_the_task_and_not_the_node(
    place: Path, image_lab: cluster.Lab, srun: Srun, env_dir: Path, eventually: Callable[..., object]
) -> None:
    image, layer = f"--sov-image={place}/a.sqsh", "--sov-env-name=tools"
    with small_disk(env_dir, "size=300k,nr_inodes=1"):
        said = srun(image, layer, "echo ran", check=False)
        assert (said.status, said.stdout) == (75, "")
        # On 26.05 the log of its slurmstepd comes too.
        told = [line for line in said.stderr.splitlines() if line.startswith("sovctl: ")]
        assert told == [f"sovctl: cannot make the environment {env_dir}/tools: No space left on device"]
        assert list(env_dir.iterdir()) == []
    assert srun(image, layer, "echo ran").stdout == "ran\n"
    assert in_service(image_lab)
    eventually(lambda: str(place) not in loops(), "the loop device to be free")


def test_where_the_kernel_forbids_user_namespaces(
    place: Path, image_lab: cluster.Lab, srun: Srun, env_dir: Path, user: str, eventually: Callable[..., object]
) -> None:
    image = f"--sov-image={place}/a.sqsh"
    forbidden = "unshare --user true 2>/dev/null && echo allowed || echo forbidden"
    start_apart(image_lab, "n001", through=NO_USER_NAMESPACES)
    try:
        eventually(lambda: srun(forbidden, check=False).stdout == "forbidden\n", "the node to forbid them")
        # Root makes the namespaces of a step; it needs none of the user's.
        assert srun("--sov-isolate", "ls -A /tmp; echo ran").stdout.splitlines()[-1] == "ran"
        assert srun(image, "cat /etc/image").stdout == "from the image\n"
        assert srun(image, "--sov-writable", "echo new >/tmp/x && cat /tmp/x").stdout == "new\n"
        said = srun("-n2", image, "--sov-env-name=tools", "echo ran", check=False)
        if user:  # root's layers need none either
            assert (said.status, said.stdout) == (1, "")
            told = [line for line in said.stderr.splitlines() if line.startswith("sovctl: ")]
            why = f"cannot make the user namespace that a layer needs, over {place}/a.sqsh: Operation not permitted"
            assert told == [f"sovctl: this step cannot be isolated: {why}"] * 2  # one for each rank
        assert in_service(image_lab)
        eventually(lambda: str(place) not in loops(), "the loop device to be free")
    finally:
        start_again(image_lab, "n001")
        eventually(lambda: srun(forbidden, check=False).stdout == "allowed\n", "the node to allow them again")
    assert srun(image, "--sov-env-name=tools", "echo ran").stdout == "ran\n"


def test_kill_9_leaves_no_mount_and_no_loop_device(
    place: Path, image_lab: cluster.Lab, user: str, eventually: Callable[..., object]
) -> None:
    before = mounts(image_lab)
    step = subprocess.Popen(
        [*as_user(user), "srun", "-n2", f"--sov-image={place}/a.sqsh", "/bin/sh", "-c", "echo up; sleep 300"],
        env=image_lab.environment,
        cwd="/",
        stdout=subprocess.PIPE,
        text=True,
    )
    assert step.stdout is not None
    while "up" not in step.stdout.readline():
        assert step.poll() is None
    assert str(place) in loops()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            ours = (entry / "comm").read_text() == "sovctl-holder\n"
            told = (entry / "environ").read_bytes() + (entry / "mountinfo").read_bytes() if ours else b""
            if os.fsencode(image_lab.layout.root) in told:
                parent = re.findall(r"PPid:\s+(\d+)", (entry / "status").read_text())[0]
                os.kill(int(parent), signal.SIGKILL)
        except OSError:
            continue
    eventually(lambda: str(place) not in loops(), "the loop device to be free")
    step.kill()
    step.communicate()
    assert mounts(image_lab) == before


def test_cleaning_the_cache_leaves_the_image_of_a_step(
    place: Path, image_lab: cluster.Lab, user: str, eventually: Callable[..., object]
) -> None:
    cache = place / "cache"
    cache.mkdir()
    image = cache / file_name(f"sha256:{'0' * 64}", architecture(os.uname().machine))
    shutil.copy(place / "a.sqsh", image)

    def cleaned() -> list[str]:
        """With root's rights, as a site's timer does it."""
        words = ("image", "gc", "--keep", "0", "--unused-days", "0", "--json")
        command = ("env", f"SOVCTL_ISOLATION_CACHE_DIR={cache}", sys.executable, "-P", "-m", "sovctl", *words)
        said = Training(image_lab, Path("/"), TrainingSpec()).command(*command)
        return [one["path"] for one in json.loads(said.stdout)["removed"]]

    step = subprocess.Popen(
        [*as_user(user), "srun", "-n2", f"--sov-image={image}", "/bin/sh", "-c", "echo up; read line; cat /etc/image"],
        env=image_lab.environment,
        cwd="/",
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert step.stdout is not None
    assert [step.stdout.readline() for _ in range(2)] == ["up\n", "up\n"]
    assert cleaned() == []
    assert image.exists()
    assert step.communicate("go\n" * 2, timeout=30)[0] == "from the image\n" * 2
    eventually(lambda: cleaned() == [str(image)], "the lock to be gone with the step")
    assert not image.exists()


def test_a_run_tells_the_plugin_by_its_variables(
    place: Path, image_lab: cluster.Lab, user: str, eventually: Callable[..., object]
) -> None:
    work = place / "work"
    work.mkdir()
    if user:
        os.chown(work, pwd.getpwnam(user).pw_uid, -1)
    script = work / "train.sbatch"
    script.write_text(
        "#!/bin/bash\n#SBATCH -n1 --output=/dev/null\n[ -e /etc/image ] && exit 3\n"
        'srun /bin/sh -c \'cat /etc/image >"$SOVCTL_RUN_DIR/seen"; ls /opt >>"$SOVCTL_RUN_DIR/seen"\'\n'
    )
    run = Training(image_lab, work, TrainingSpec(), user)
    words = ("submit", "--parsable", f"--chdir={work}", "--runtime=spank", f"--image={place}/a.sqsh", str(script))
    said = run.sovctl(*words)
    events = work / ".sovctl" / "runs"
    eventually(lambda: "run_ended" in "".join(path.read_text() for path in events.glob("*/events.jsonl")), "its end")
    (seen,) = events.glob(f"*-{said.stdout.strip()}-*/seen")
    # Of the host's /opt only what leads to the run directory is there.
    assert seen.read_text().splitlines() == ["from the image", place.name]


@pytest.fixture
def env_dir(place: Path, user: str) -> Iterator[Path]:
    """Where the layers of the user are; the site made the directory above it."""
    (place / "env").mkdir(exist_ok=True)
    (place / "env").chmod(0o1777)
    mine = place / "env" / (user or "root")
    yield mine
    shutil.rmtree(mine, ignore_errors=True)


def test_a_named_layer_keeps_what_is_written(place: Path, srun: Srun, env_dir: Path, user: str) -> None:
    image, layer = f"--sov-image={place}/a.sqsh", "--sov-env-name=tools"
    srun(image, layer, "echo 1 >/opt-tool; echo more >>/etc/image; rm /bin/touch; mkdir /etc/d; echo >/tmp/x")
    said = srun(
        image,
        layer,
        "cat /opt-tool /etc/image; ls /tmp; ls -d /etc/d; stat -c %U /etc/image; ls -d /bin/touch 2>&1; true",
    )
    assert said.stdout.splitlines()[:4] == ["1", "from the image", "more", "/etc/d"]
    assert said.stdout.splitlines()[4] == (user or "root")
    assert "No such file" in said.stdout.splitlines()[-1]
    assert srun(image, "ls /opt-tool 2>&1; cat /etc/image", check=False).stdout.endswith("from the image\n")
    assert srun(image, "--sov-env-name=other", "ls /opt-tool", check=False).status == 2
    assert env_dir.stat().st_mode & 0o077 == 0
    assert (env_dir / "tools").stat().st_mode & 0o077 == 0
    somebody = ["setpriv", "--reuid=65533", "--regid=65533", "--clear-groups", "ls"]
    seen = subprocess.run([*somebody, env_dir, env_dir / "tools" / "upper"], capture_output=True, text=True)
    assert (seen.stdout, seen.stderr.count("Permission denied")) == ("", 2)
    # Nothing in it belongs to another, so that its owner can take it away.
    assert {path.lstat().st_uid for path in env_dir.rglob("*")} == {pwd.getpwnam(user or "root").pw_uid}
    shutil.copy(place / "a.sqsh", place / "same.sqsh")
    refused = srun(f"--sov-image={place}/same.sqsh", layer, "true", check=False)
    assert refused.status == 3
    assert "the environment tools: it was made over another image" in refused.stderr


def test_a_layer_is_the_same_for_both_runtimes(
    place: Path, image_lab: cluster.Lab, srun: Srun, env_dir: Path, user: str
) -> None:
    if shutil.which("bwrap") is None:
        pytest.skip("not installed: bubblewrap")
    (place / "node").mkdir(exist_ok=True)
    (place / "node").chmod(0o1777)
    run = Training(image_lab, Path("/"), TrainingSpec(), user)
    settings = (f"SOVCTL_ISOLATION_ENV_DIR={place}/env/%u", f"SOVCTL_ISOLATION_NODE_DIR={place}/node", f"HOME={place}")
    sovctl = ("env", *settings, sys.executable, "-P", "-m", "sovctl")
    plugin, image = (f"--sov-image={place}/a.sqsh", "--sov-env-name=both"), f"{place}/a.sqsh"
    srun(*plugin, "echo plugin >/one; rm /etc/image")
    words = ("exec", "--image", image, "--env-name", "both", "--", "/bin/sh", "-c")
    said = run.command(*sovctl, *words, "cat /one; ls /etc/image 2>&1; echo built-in >/two; mkdir -p /etc/made/here")
    assert said.stdout.splitlines()[0] == "plugin"
    assert "No such file" in said.stdout
    back = srun(*plugin, "cat /one /two; ls -d /etc/made/here; echo more >>/two; ls /etc/image 2>&1; true").stdout
    assert back.splitlines()[:3] == ["plugin", "built-in", "/etc/made/here"]
    assert "No such file" in back
    listed = json.loads(run.command(*sovctl, "image", "env", "ls", "--json").stdout)["environments"]
    assert [(one["name"], one["reference"]) for one in listed] == [("both", image)]
    run.command(*sovctl, "image", "env", "rm", "both")
    assert not (env_dir / "both").exists()


def test_a_layer_has_one_step_at_a_time(
    place: Path, image_lab: cluster.Lab, srun: Srun, env_dir: Path, user: str, eventually: Callable[..., object]
) -> None:
    words = (f"--sov-image={place}/a.sqsh", "--sov-env-name=one")
    first = subprocess.Popen(
        [*as_user(user), "srun", "-n2", *words, "/bin/sh", "-c", "echo up; sleep 300"],
        env=image_lab.environment,
        cwd="/",
        stdout=subprocess.PIPE,
        text=True,
    )
    assert first.stdout is not None
    assert [first.stdout.readline() for _ in range(2)] == ["up\n", "up\n"]  # the ranks of a step share it
    second = srun("--overlap", *words, "echo ran", check=False)
    assert (second.status, second.stdout) == (75, "")
    assert "another step uses the environment one" in second.stderr
    first.kill()
    first.communicate()
    subprocess.run([*as_user(user), "scancel", "--user", user or "root"], env=image_lab.environment, check=True)
    eventually(lambda: srun(*words, "echo ran", check=False).stdout == "ran\n", "the layer to be free")
    assert in_service(image_lab)


def test_what_a_user_puts_into_a_layer_leads_nowhere(
    place: Path, image_lab: cluster.Lab, srun: Srun, env_dir: Path, user: str
) -> None:
    image = f"--sov-image={place}/a.sqsh"
    before = {name: Path(name).stat() for name in ("/etc/shadow", "/root")}
    for name in ("../x", "/etc", "a/b", "-x", "", "x" * 65, "."):
        said = srun(image, f"--sov-env-name={name}", "true", check=False)
        assert "--sov-env-name takes" in said.stderr, name
        said = srun(image, "true", check=False, env=(f"SOVCTL_SPANK_ENV_NAME={name}",))
        assert (said.status == 0) is (name == ""), name
    srun(image, "--sov-env-name=kept", "mkdir /etc/deep")
    uid = pwd.getpwnam(user or "root").pw_uid
    (place / "theirs").mkdir(mode=0o700, exist_ok=True)

    def replaced(part: str, target: str) -> Completed:
        """The user swaps a part of the layer for a link while no step runs."""
        (env_dir / part).rename(env_dir / "aside")
        (env_dir / part).symlink_to(target)
        os.chown(env_dir / part, uid, -1, follow_symlinks=False)
        try:
            return srun(
                image, "--sov-env-name=kept", f"--sov-mount={place}:/etc/deep/x", "touch /new; ls /", check=False
            )
        finally:
            (env_dir / part).unlink()
            (env_dir / "aside").rename(env_dir / part)

    for part in ("kept", "kept/upper", "kept/work"):
        for target in ("/etc", "/root", str(place / "theirs"), str(place / "rootfs")):
            said = replaced(part, target)
            assert (said.status, said.stdout) == (3, ""), (part, target)
            assert "sovctl: the environment kept: " in said.stderr
    said = replaced("kept/base", "/etc/shadow")
    assert (said.status, "made over another image" in said.stderr) == (3, True)
    (env_dir / "kept").chmod(0o777)
    assert "not a directory of yours alone" in srun(image, "--sov-env-name=kept", "true", check=False).stderr
    (env_dir / "kept").chmod(0o700)
    # Links inside are the image's: they are followed below its root only.
    links = (
        "rm -r /etc/deep; ln -s /../../etc /etc/deep; rm /etc/passwd; ln -s ../../../../etc/shadow /etc/passwd; ls /etc"
    )
    srun(image, "--sov-env-name=kept", links)
    srun(image, "--sov-env-name=kept", f"--sov-mount={place}/rootfs/etc:/etc/deep/y", "ls /etc/y", check=False)
    assert not Path("/etc/y").exists()
    for name, was in before.items():
        assert Path(name).stat() == was
    assert list((place / "theirs").iterdir()) == []
    assert in_service(image_lab)
    needs = srun("--sov-env-name=kept", "true", check=False)
    assert "need --sov-image" in needs.stderr


def test_slurm_inside_an_image_with_nothing_of_it(place: Path, srun: Srun) -> None:
    image, shell = f"--sov-image={place}/a.sqsh", "command -v squeue; "
    assert srun(image, shell + "true").stdout == ""
    said = srun(
        image,
        "--sov-slurm-client",
        shell + "squeue -h -j $SLURM_JOB_ID -o '%i %T'; scontrol ping; srun --overlap -n1 /bin/cat /etc/image; "
        "scontrol show job $SLURM_JOB_ID | while read -r a b; do case $a in UserId*) echo $a;; esac; done; "
        "ls /run/sovctl/slurm/host/usr/bin/squeue; touch /run/sovctl/slurm/host/usr/bin/x 2>&1; true",
    ).stdout.splitlines()
    assert said[0] == "/run/sovctl/slurm/bin/squeue"
    assert said[1].endswith(" RUNNING")
    assert "is UP" in said[2]
    assert "from the image" in said  # its steps are in the image too
    assert any(line.startswith("UserId=sovctl-test") for line in said)
    assert "Read-only file system" in said[-1]


@pytest.fixture(scope="module")
def bare(place: Path) -> Path:
    """An image without any program."""
    (place / "bare" / "etc").mkdir(parents=True)
    image = place / "bare.sqsh"
    words = ["mksquashfs", str(place / "bare"), str(image), "-quiet", "-no-progress", "-all-root"]
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    return image


def test_slurm_needs_a_shell_in_the_image(bare: Path, srun: Srun, image_lab: cluster.Lab) -> None:
    said = srun(f"--sov-image={bare}", "--sov-slurm-client", "true", check=False)
    assert said.status == 1
    assert "Slurm's commands, which need the image's /bin/sh" in said.stderr
    assert in_service(image_lab)


def test_what_the_image_lacks_to_run_a_program_is_named(
    bare: Path, place: Path, srun: Srun, image_lab: cluster.Lab, user: str, work_dir: Path
) -> None:
    # The working directory of the tests need not be in the image, and Slurm says so.
    said = srun("--chdir=/", f"--sov-image={bare}", "true", check=False)
    told = [line for line in said.stderr.splitlines() if not line.startswith(("srun: ", "slurmstepd"))]
    assert (said.status, said.stdout, told) == (127, "", ["sovctl: there is no program /bin/sh in the image"])
    script = work_dir / "s.sh"
    script.write_text("#!/bin/bash\necho ran\n")
    run = Training(image_lab, Path("/"), TrainingSpec(), user)
    words = ("sbatch", "--wait", "--chdir=/", f"--output={work_dir}/out", f"--sov-image={place}/a.sqsh")
    assert run.command(*words, str(script), check=False).status == 126
    assert (work_dir / "out").read_text() == "sovctl: the batch script needs /bin/bash, which the image has not\n"
    (work_dir / "conf").write_text("0 /bin/cat /etc/image\n")
    listed = ("srun", "-n1", f"--sov-image={place}/a.sqsh", "--multi-prog", f"{work_dir}/conf")
    assert run.command(*listed).stdout == "from the image\n"
    assert in_service(image_lab)
