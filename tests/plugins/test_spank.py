"""The pure parts of the SPANK plugin, under ASan and UBSan with a stub of libspank; and that it builds everywhere."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from device_cases import CASES, paths
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from policy_cases import BROKEN, IMAGES, ISOLATED, OPTIONS, RULES, VARIABLES

from sovctl.adapters.node.device_files import node_devices
from sovctl.isolation.devices import visible_devices
from sovctl.isolation.environment import ALLOWED, OF_THE_HOST, SECRETS, inner_environment
from sovctl.model.image_environment import environment_of

SPANK = Path(__file__).parents[2] / "plugins" / "spank"
STUB = Path(__file__).parent / "spank_stub.c"
pytestmark = pytest.mark.skipif(
    shutil.which("gcc") is None or not Path("/usr/include/slurm/spank.h").exists(),
    reason="gcc or the header slurm/spank.h (Debian: libslurm-dev) is not installed",
)


@pytest.fixture(scope="session")
def stub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every source of the plugin and the stub, with the sanitizers; any report of theirs ends the program."""
    binary = tmp_path_factory.mktemp("spank") / "stub"
    sources = [str(path) for path in sorted(SPANK.glob("*.c"))]
    flags = ["-std=gnu11", "-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", f"-I{SPANK}"]
    subprocess.run(["gcc", *flags, *sources, str(STUB), "-o", str(binary)], check=True)
    return binary


def said(stub: Path, *words: str, text: str = "", env: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        [str(stub), *words], input=text, capture_output=True, text=True, env={"PATH": "/usr/bin:/bin", **(env or {})}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("headers", ["22.05.8", "24.11.7", "26.05.3"])
def test_it_builds_without_a_warning_for_a_release(headers: str, tmp_path: Path) -> None:
    """The headers that are installed here, with the number of that release: the number is what Slurm's loader compares.

    `make -C plugins/spank SLURM_INCLUDE=...` does the same with the headers of another release.
    """
    include = tmp_path / "include" / "slurm"
    shutil.copytree("/usr/include/slurm", include)
    year, month, micro = map(int, headers.split("."))
    number = f"0x{year:02x}{month:02x}{micro:02x}"
    version = include / "slurm_version.h"
    text, changed = re.subn(r"(#define SLURM_VERSION_NUMBER) .*", rf"\1 {number}", version.read_text())
    assert changed == 1
    version.write_text(text)
    subprocess.run(["make", "-s", "-C", str(SPANK), f"OUT={tmp_path}", f"SLURM_INCLUDE={include.parent}"], check=True)
    names = subprocess.run(
        ["nm", "-D", "--defined-only", str(tmp_path / "sovctl_spank.so")], capture_output=True, text=True, check=True
    ).stdout
    sections = subprocess.run(
        ["readelf", "-lWd", str(tmp_path / "sovctl_spank.so")], capture_output=True, text=True, check=True
    ).stdout
    assert re.search("GNU_RELRO", sections)
    assert re.search("BIND_NOW", sections)
    assert not re.search("TEXTREL|RWE", sections)
    wanted = subprocess.run(
        ["nm", "-D", "--undefined-only", str(tmp_path / "sovctl_spank.so")], capture_output=True, text=True, check=True
    ).stdout
    assert re.search(r"\b__stack_chk_fail\b", wanted)
    assert re.search(r"\b__\w+_chk\b", wanted)  # FORTIFY: calls whose bounds libc checks
    exported = {line.split()[-1] for line in names.splitlines()}
    assert {"plugin_name", "plugin_type", "plugin_version", "slurm_spank_init"} <= exported
    assert all(name.startswith(("plugin_", "slurm_spank_", "spank_plugin_version")) for name in exported)


def _real_headers() -> list[Path]:
    """Of other releases, where scripts/slurm_release.sh or scripts/slurm_from_source.sh left them."""
    roots = Path(os.environ.get("SOVCTL_SLURM_ROOTS", "/var/cache/sovctl/slurm"))
    found = [*roots.glob("*/usr/include/slurm/spank.h"), *roots.glob("source-*/slurm/include/slurm/spank.h")]
    return sorted(path.parent for path in found)


def test_it_builds_without_a_warning_against_the_headers_of_other_releases(tmp_path: Path) -> None:
    headers = _real_headers()
    if not headers:
        pytest.skip("no headers of another Slurm release here (SOVCTL_SLURM_ROOTS)")
    for number, place in enumerate(headers):
        # Only Slurm's: the libc is this machine's.
        include = tmp_path / f"include-{number}"
        include.mkdir()
        (include / "slurm").symlink_to(place)
        out = tmp_path / f"out-{number}"
        built = subprocess.run(
            ["make", "-s", "-C", str(SPANK), f"OUT={out}", f"SLURM_INCLUDE={include}"], capture_output=True, text=True
        )
        assert (built.returncode, built.stderr) == (0, ""), place


@pytest.mark.parametrize(("text", "why"), BROKEN)
@pytest.mark.parametrize("word", ["accept", "refuse"])
def test_a_broken_file_has_no_rules_and_says_what_to_do(
    stub: Path, tmp_path: Path, text: str, why: str, word: str
) -> None:
    (tmp_path / "policy").write_text(f"{text}\non-broken {word}\n")
    answer = said(stub, "parse", str(tmp_path / "policy"))
    if "\0" not in text:  # what follows a NUL byte is not looked at
        assert answer.startswith(f"0 rules, {word}, ")
    assert why in answer


WHOLE = (1, "1 rules, accept, ")
NOT_ROOTS = (0, "0 rules, refuse, line 0: it must be a file that only root can write")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files of root's and of others")
@pytest.mark.parametrize("through_link", [False, True])
@pytest.mark.parametrize(
    ("mode", "owner", "found"),
    [
        (0o644, 0, WHOLE),
        (0o600, 0, WHOLE),
        (0o444, 0, WHOLE),
        (0o666, 0, NOT_ROOTS),
        (0o664, 0, NOT_ROOTS),
        (0o646, 0, NOT_ROOTS),
        (0o644, 1234, NOT_ROOTS),
        (0o400, 1234, NOT_ROOTS),
    ],
)
def test_a_step_believes_only_a_file_that_root_alone_can_write(
    stub: Path, tmp_path: Path, mode: int, owner: int, found: tuple[int, str], through_link: bool
) -> None:
    """`on-broken accept` in a file of somebody else's counts for nothing either."""
    path = tmp_path / "policy"
    path.write_text("on-broken accept\nisolate everybody\n")
    os.chown(path, owner, 0)
    path.chmod(mode)
    if through_link:  # what it leads to is judged
        (tmp_path / "link").symlink_to(path)
        path = tmp_path / "link"
    assert said(stub, "read", str(path)) == f"{found[0]} {found[1]}\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files of root's")
def test_a_step_believes_nothing_that_is_no_file(stub: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo", 0o644)
    (tmp_path / "directory").mkdir(mode=0o755)
    (tmp_path / "round").symlink_to(tmp_path / "round")
    for name in ("fifo", "directory"):
        assert said(stub, "read", str(tmp_path / name)) == f"{NOT_ROOTS[0]} {NOT_ROOTS[1]}\n"
    assert said(stub, "read", "/dev/null") == f"{NOT_ROOTS[0]} {NOT_ROOTS[1]}\n"
    for path in (tmp_path / "round", tmp_path / ("x" * 300)):
        assert said(stub, "read", str(path)) == "0 0 rules, refuse, line 0: the file cannot be opened\n"
    assert said(stub, "read", str(tmp_path / "none")).startswith("1 0 rules, ")


def test_an_endless_file_is_read_to_its_bound(stub: Path, tmp_path: Path) -> None:
    (tmp_path / "policy").write_text("on-broken accept\n" + "#\n" * 40000)
    assert "0 rules, accept, line 0: the file is too long" in said(stub, "parse", str(tmp_path / "policy"))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(alphabet=" \t\nabcimagesisolatenbrkpt=,*#./-\0é", max_size=400))
def test_any_text_is_parsed_or_refused(stub: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "policy").write_text(text)
    assert re.fullmatch(
        r"\d+ rules, (accept|refuse), .*\nrule .*\n", said(stub, "judge", str(tmp_path / "policy"), "-", "-", "x")
    )


@pytest.mark.parametrize(("image", "allowed"), IMAGES)
def test_images(stub: Path, tmp_path: Path, image: str, allowed: bool) -> None:
    (tmp_path / "policy").write_text(RULES)
    answer = said(stub, "judge", str(tmp_path / "policy"), "gpu", "", image)
    assert ("rule site-images: " in answer) is not allowed
    assert "rule : " in said(stub, "judge", str(tmp_path / "policy"), "main", "", image)


@pytest.mark.parametrize(("partition", "account", "rule"), ISOLATED)
def test_isolation(stub: Path, tmp_path: Path, partition: str, account: str, rule: str) -> None:
    (tmp_path / "policy").write_text(RULES)
    assert f"rule {rule}: " in said(stub, "judge", str(tmp_path / "policy"), partition, account)


def test_a_job_that_nothing_is_known_of_is_concerned_by_every_rule(stub: Path, tmp_path: Path) -> None:
    (tmp_path / "policy").write_text("isolate guests account=guests\n")
    assert "rule guests: " in said(stub, "judge", str(tmp_path / "policy"), "-", "-")


PIECES = st.lists(st.sampled_from(["a", "b", "/", "*", "**", "."]), max_size=8).map("".join)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pairs=st.lists(st.tuples(PIECES, st.text(alphabet="ab/.", max_size=8)), min_size=50, max_size=80))
def test_patterns_mean_what_the_page_says(stub: Path, pairs: list[tuple[str, str]]) -> None:
    answer = said(stub, "glob", text="".join(f"{pattern}\n{text}\n" for pattern, text in pairs))
    for (pattern, text), found in zip(pairs, answer.split(), strict=True):
        expected = "".join({"**": ".*", "*": "[^/]*"}.get(p, re.escape(p)) for p in re.findall(r"\*\*|.", pattern))
        assert (found == "1") == bool(re.fullmatch(expected, text)), (pattern, text)


def test_settings_of_plugstack(stub: Path) -> None:
    words = [
        "policy=/etc/p",
        "state=/run/%n/s",
        "gpus=/dev/nvidia",
        "capabilities=/proc/%n",
        "tmp_size=20g",
        "image_owners=0,1000-1010",
        "allow_env=HF_*,WANDB_PROJECT",
        "keep=/tmp/a",
        "keep=/tmp/%n",
    ]
    assert said(stub, "settings", "n001", *words).splitlines() == [
        "policy /etc/p",
        "state /run/n001/s",
        "gpus /dev/nvidia",
        "capabilities /proc/n001",
        "image_owners 0,1000-1010",
        "tmp_size 20g",
        "allow_env HF_*,WANDB_PROJECT",
        "problem ",
        "keep /tmp/a",
        "keep /tmp/n001",
    ]


@pytest.mark.parametrize(
    "word",
    [
        "state=relative",
        "state=",
        "state=/a/../b",
        "tmp_size=1,mode=777",
        "tmp_size=",
        "tmp_size=9gg",
        "nonsense",
        "image_owners=",
        "image_owners=root",
        "image_owners=" + "1," * 50,
        "allow_env=",
        "allow_env=[A-Z]*",
        "allow_env=" + "A," * 600,
        "keep=/" + "x" * 5000,
        "policy=/a\nb",
    ],
)
def test_a_bad_word_in_plugstack_changes_nothing(stub: Path, word: str) -> None:
    lines = said(stub, "settings", "n001", word).split("\n")
    assert lines[:7] == [
        "policy /etc/slurm/sovctl-policy.conf",
        "state /run/sovctl/spank",
        "gpus /dev/nvidia",
        "capabilities /proc/driver/nvidia/capabilities",
        "image_owners 0",
        "tmp_size 50%",
        "allow_env ",
    ]
    assert lines[7].startswith("problem cannot use ")


def test_more_paths_than_there_is_room_for(stub: Path) -> None:
    answer = said(stub, "settings", "n001", *[f"keep=/tmp/{number}" for number in range(40)])
    assert answer.count("\nkeep ") == 16
    assert "problem cannot use" in answer


@pytest.mark.parametrize(
    ("text", "number", "found"),
    [
        ("0", 0, 1),
        ("0-3,7", 2, 1),
        ("0-3,7", 7, 1),
        ("0-3,7", 5, 0),
        ("", 0, 0),
        ("x", 0, 0),
        ("1,x,2", 2, 0),
        ("99999999999999999999", 1, 0),
        ("3-1", 2, 0),
        ("-1", 1, 0),
    ],
)
def test_numbers_of_gpus(stub: Path, text: str, number: int, found: int) -> None:
    assert said(stub, "listed", text, str(number)) == f"{found}\n"


def _made_up(root: Path, gpus: str, migs: str) -> tuple[Path, Path]:
    """A /dev in which the device files have these modes, and what the driver tells of split GPUs."""
    dev, told = root / "dev", root / "capabilities"
    for place in (dev / "nvidia-caps", dev / "nvidia-caps-imex-channels", told / "mig"):
        place.mkdir(parents=True)
    for word in gpus.split():
        (dev / f"nvidia{word.lstrip('!')}").touch(0 if word.startswith("!") else 0o666)
    for number in (1, 2):  # what changes how GPUs are split
        (dev / "nvidia-caps" / f"nvidia-cap{number}").touch(0o400)
    for index, word in enumerate(migs.split()):
        gpu, gi, ci = word.lstrip("!").split(":")
        place = told / f"gpu{gpu}" / "mig" / f"gi{gi}" / f"ci{index}"
        place.mkdir(parents=True)
        for path, minor in ((place.parent, gi), (place, ci)):
            (path / "access").write_text(f"DeviceFileMinor: {minor}\nDeviceFileMode: 292\nDeviceFileModify: 1\n")
            closed = word.startswith("!") and path == place
            (dev / "nvidia-caps" / f"nvidia-cap{minor}").touch(0 if closed else 0o444)
    for path, mode in (("channel0", 0o666), ("channel5", 0o666), ("channel7", 0o600)):
        (dev / "nvidia-caps-imex-channels" / path).touch()
        (dev / "nvidia-caps-imex-channels" / path).chmod(mode)
    (dev / "nvidiactl").touch()
    return dev, told


NOBODY = ("setpriv", "--reuid=65533", "--regid=65533", "--clear-groups")
"""For root every mode is open."""


@pytest.mark.parametrize(("gpus", "migs", "listed", "own"), CASES)
def test_whose_device_files_they_are(stub: Path, gpus: str, migs: str, listed: str, own: str | None) -> None:
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        dev, told = _made_up(Path(name), gpus, migs)
        program = shutil.copy(stub, name)  # where nobody may run it
        argv = [*(NOBODY if os.geteuid() == 0 else ()), program, "devices", str(dev), str(told), listed]
        done = subprocess.run(argv, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        lines = done.stdout.splitlines()
        there = {str(path) for path in dev.rglob("nvidia*[0-9]")}
    assert lines[0] == f"told {int(own is not None)}"
    assert {line.partition(" ")[2] for line in lines if line.startswith("own ")} == set((own or "").split())
    hidden = {line.partition(" ")[2] for line in lines if line.startswith("hidden ")}
    kept = {Path(path).name for path in paths(own or "")}
    assert hidden - {f"channel{number}" for number in (0, 5, 7)} == {Path(path).name for path in there} - kept
    assert hidden & {"channel0", "channel5", "channel7"} == (
        {"channel5"} if own else {"channel0", "channel5", "channel7"}
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_a_channel_in_a_directory_that_slurm_mounted_is_the_jobs(stub: Path, tmp_path: Path) -> None:
    """As switch/nvidia_imex does it for a step, which alone sees that directory; in both runtimes."""
    dev, told = _made_up(tmp_path, "0", "")
    place = dev / "nvidia-caps-imex-channels"
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=0755", "sovctl-test", place], check=True)
    try:
        (place / "channel9").touch()
        (place / "channel9").chmod(0o666)
        assert "hidden channel9" not in said(stub, "devices", str(dev), str(told), "0")
        assert "hidden channel9" in said(stub, "devices", str(dev), str(told), "")
        shown = visible_devices(node_devices(str(tmp_path)), frozenset({0}))
        assert "/dev/nvidia-caps-imex-channels/channel9" in shown.paths
    finally:
        subprocess.run(["umount", place], check=True)


def test_what_is_not_there_is_no_sign_of_a_cgroup(stub: Path, tmp_path: Path) -> None:
    dev, told = _made_up(tmp_path, "0 1", "0:3:4 0:12:13 1:30:31")
    (dev / "nvidia-caps" / "nvidia-cap4").unlink()
    lines = said(stub, "devices", str(dev), str(told), "1").splitlines()
    assert lines[0] == "told 0"
    assert not [line for line in lines if line.startswith("own ")]


def test_more_devices_than_there_is_room_for_are_no_devices(stub: Path, tmp_path: Path) -> None:
    dev, told = _made_up(tmp_path, " ".join(map(str, range(65))), "")
    assert said(stub, "devices", str(dev), str(told), "0") == "not found\n"


def test_a_record_is_read_back_and_only_from_its_owner(stub: Path, tmp_path: Path) -> None:
    state = tmp_path / "a" / "state"
    line = "known 1 partition gpu account guests gpus 0,2-3\n"
    assert said(stub, "record", str(state), "7", "gpu", "guests", "0,2-3") == "problem \n" + line
    assert said(stub, "record", str(state), "8").startswith("known 0")
    (state / "9").symlink_to(state / "7")
    assert said(stub, "record", str(state), "9").startswith("known 0")
    os.mkfifo(state / "10")
    assert said(stub, "record", str(state), "10").startswith("known 0")
    state.chmod(0o777)
    assert said(stub, "record", str(state), "7").startswith("known 0")
    link = tmp_path / "link"
    link.symlink_to(state)
    assert "cannot be used" in said(stub, "record", str(link), "7", "a", "b", "c")


@pytest.mark.parametrize("context", range(6))
def test_init_never_fails_and_takes_hostile_values(stub: Path, context: int) -> None:
    answer = said(stub, "init", str(context), "nonsense", "%s%n", env={"SLURMD_NODENAME": "%n%n%s"})
    assert "init 0\n" in answer
    assert "exit 0\n" in answer
    options = re.findall(r"option (\S+) ", answer)
    assert sorted(options) == (sorted(name for name, _ in OPTIONS) if context in (1, 2, 3) else [])
    callbacks = re.findall(r"callback (.*)", answer)
    # A step keeps a bad value to itself until a task can say it; srun, sbatch and salloc refuse it.
    assert (set(callbacks) - {"0"} == set()) == (context not in (1, 3))
    assert "reboot" not in answer


@pytest.mark.parametrize(
    ("what", "text", "mounts"),
    [
        ("image", "/a/b.sqsh", []),
        ("mount", "/a", ["/a /a 0"]),
        ("mount", "/a:/b:ro,/c:/d:rw,/e:/f", ["/a /b 1", "/c /d 0", "/e /f 0"]),
        ("mount", "/a:/devices,/b:/procs", ["/a /devices 0", "/b /procs 0"]),
        ("home", "none", []),
        ("home", "mount", []),
        ("env-name", "tools-2.4_a", []),
        ("env-name", "x" * 64, []),
    ],
)
def test_values_of_options(stub: Path, what: str, text: str, mounts: list[str]) -> None:
    assert said(stub, "request", what, text).splitlines() == ["problem ", *(f"mount {mount}" for mount in mounts)]


@pytest.mark.parametrize(
    ("what", "text"),
    [
        *[
            ("image", text)
            for text in ("", "a.sqsh", "/", "//a", "/a/", "/a/../b", "/a/./b", "/a\nb", "/" + "a" * 5000)
        ],
        *[("mount", text) for text in ("a:/b", "/a:b", "/a:/b:rx", "/a:/b:ro:ro", "/a:", ":/b", "/a:/", "/a:/../b")],
        *[("mount", f"/a:{target}") for target in ("/proc", "/proc/self", "/dev", "/dev/shm", "/sys/x", "/b/../dev")],
        ("mount", ",".join(["/a"] * 17)),
        ("mount", "/a" * 5000),
        ("mount", "/proc/self/fd/../../../etc"),
        *[("env-name", text) for text in ("", ".", "..", "../x", "/a", "a/b", "-x", ".a", "a b", "é", "x" * 65, "a\n")],
        ("home", ""),
        ("home", "MOUNT"),
    ],
)
def test_hostile_values_are_refused(stub: Path, what: str, text: str) -> None:
    (line,) = said(stub, "request", what, text).splitlines()
    assert line.startswith(f"problem --sov-{what} ")


@settings(max_examples=40, deadline=None)
@given(text=st.text(alphabet="/a.:,ro%\n\x7f", max_size=60))
def test_any_value_of_a_mount_is_plain_or_refused(stub: Path, text: str) -> None:
    lines = said(stub, "request", "mount", text).split("\n")
    if lines[0] == "problem ":
        for line in lines[1:-1]:
            assert re.fullmatch(r"mount (/[^/:,]+)+ (/[^/:,]+)+ [01]", line), line
            assert not re.search(r"/\.{1,2}(/| )", line)


@pytest.mark.parametrize(("option", "isolates"), OPTIONS)
def test_which_options_isolate(stub: Path, option: str, isolates: bool) -> None:
    value = "none" if option == "sov-home" else "/a" if option in ("sov-image", "sov-mount") else "a"
    assert said(stub, "asks", option, value) == f"{int(isolates)}\n"


def kept(stub: Path, entries: Sequence[str], place: str, more: str = "") -> list[bool]:
    answer = said(stub, "keeps", place, more, text="".join(f"{entry}\n" for entry in entries))
    return [line == "1" for line in answer.split()]


def test_a_clean_environment(stub: Path) -> None:
    names = [name for name, _ in VARIABLES]
    assert dict(zip(names, kept(stub, names, "host"), strict=True)) == dict(VARIABLES)
    in_image = {**dict(VARIABLES), "PATH": False}  # the host's
    assert dict(zip(names, kept(stub, names, "clean"), strict=True)) == in_image


def test_both_runtimes_have_the_same_lists_of_variables(stub: Path) -> None:
    assert said(stub, "variables").splitlines() == [*ALLOWED, "", *OF_THE_HOST, "", *SECRETS, ""]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(st.sampled_from("AB= \t\"'#\\\n\0$x"), max_size=8) | st.just("export A='x'"), max_size=8))
def test_both_runtimes_read_the_environment_of_an_image_alike(stub: Path, lines: list[str]) -> None:
    text = "\n".join(lines)
    expected = "".join(f"{name}={value}\n" for name, value in environment_of(text))
    assert said(stub, "environment-of-image", text=text) == expected


EVERY_PATTERN = (*ALLOWED, *OF_THE_HOST, *SECRETS)
FITTING = st.tuples(st.sampled_from(EVERY_PATTERN), st.text("AX_2", max_size=4))
NAMES = st.one_of(
    FITTING.map(lambda two: two[0].replace("*", two[1])),
    FITTING.map(lambda two: two[0].strip("*") + two[1]),
    st.text("ABCXYZ_abc019%", min_size=1, max_size=12),
)


@settings(max_examples=20, deadline=None)
@given(
    names=st.lists(NAMES, min_size=40, max_size=60, unique=True),
    more=st.lists(st.sampled_from(["PATH", "SSH_*", "X*", "SLURM_JWT"]), max_size=2),
    place=st.sampled_from(["host", "clean", "free"]),
)
def test_both_runtimes_let_the_same_variables_in(stub: Path, names: list[str], more: list[str], place: str) -> None:
    clean, host_root = place != "free", place == "host"
    job = dict.fromkeys(names, "of the job")
    inner = inner_environment(job, (), clean=clean, home="", extra_allowed=more, host_root=host_root)
    expected = [name == "HOME" or inner.get(name) == "of the job" for name in names]  # both set it themselves
    assert kept(stub, [f"{name}=x" for name in names], place, ",".join(more)) == expected


@pytest.mark.parametrize(
    ("entry", "more", "stays"),
    [
        ("HF_HOME=/x", "HF_*,WANDB_PROJECT", True),
        ("WANDB_PROJECT=a=b", "HF_*,WANDB_PROJECT", True),
        ("WANDB_API_KEY=1", "HF_*,WANDB_PROJECT", False),
        ("SLURM_JWT=1", "SLURM_JWT", True),  # the site says so
        ("EVIL=1", ",,", False),
        ("", "*", False),
        ("=", "*", False),
        ("=x", "*", False),
    ],
)
def test_what_the_site_lets_pass(stub: Path, entry: str, more: str, stays: bool) -> None:
    assert kept(stub, [entry], "host", more) == [stays]


def test_the_prolog_keeps_no_value_that_is_no_name(stub: Path, tmp_path: Path) -> None:
    env = {"SLURM_JOB_PARTITION": "gpu", "SLURM_JOB_ACCOUNT": "a\ngpus=0-99", "SLURM_JOB_GPUS": "0" * 600}
    assert said(stub, "prolog", "7", f"state={tmp_path}/s", env=env) == "prolog 0\n"
    assert (tmp_path / "s" / "7").read_text() == "partition=gpu\naccount=\ngpus=\n"
    assert "every rule holds for its steps" in said(stub, "prolog", "7", "state=/proc/nowhere", env=env)


def test_an_epilog_removes_the_record_of_its_job_alone(stub: Path, tmp_path: Path) -> None:
    for job in ("7", "8"):
        said(stub, "prolog", job, f"state={tmp_path}/s")
    assert said(stub, "epilog", "7", f"state={tmp_path}/s") == "epilog 0\n"
    assert [path.name for path in (tmp_path / "s").iterdir()] == ["8"]


@pytest.mark.parametrize(
    "in_its_place", ["nothing", "a file", "a link", "a fifo", "others can write it", "a directory"]
)
def test_an_epilog_that_can_remove_nothing_is_no_failure_of_the_node(
    stub: Path, tmp_path: Path, in_its_place: str
) -> None:
    """Whatever the clean-up meets: slurmd drains a node for an epilog that fails."""
    state, aside = tmp_path / "s", tmp_path / "aside"
    said(stub, "prolog", "7", f"state={state}")
    if in_its_place == "others can write it":
        state.chmod(0o777)
    elif in_its_place == "a directory":  # of the record's name
        (state / "7").unlink()
        (state / "7" / "full").mkdir(parents=True)
    else:
        state.rename(aside)
    if in_its_place == "a file":
        state.write_text("")
    elif in_its_place == "a link":
        state.symlink_to(aside)
    elif in_its_place == "a fifo":
        os.mkfifo(state)
    assert said(stub, "epilog", "7", f"state={state}") == "epilog 0\n"
    left = aside if aside.exists() else state
    assert [path.name for path in left.iterdir()] == ["7"]
    assert said(stub, "epilog", "7", "state=/proc/self") == "epilog 0\n"


def test_a_layer_is_made_locked_and_held_to_its_image(stub: Path, tmp_path: Path) -> None:
    image, place = tmp_path / "a.sqsh", tmp_path / "deep" / "env"
    image.write_text("image")
    about = image.stat()
    name, opened, again = said(stub, "layer", str(place), "tools", str(image)).splitlines()
    base = f"{image} {about.st_size} {about.st_mtime_ns}"
    assert name == f"name 1 identity 1 {base}"
    assert opened == "0 "
    assert again == "75 another step uses the environment tools: a layer that is written has one step at a time"
    tools = place / "tools"
    assert (tools / "base").read_text() == f"{base}\n{image}\n"
    assert {path.stat().st_mode & 0o777 for path in (place, tools, tools / "upper", tools / "work")} == {0o700}
    assert said(stub, "layer", str(place), "tools", str(image)).splitlines()[1] == "0 "
    image.write_text("another")
    assert (
        said(stub, "layer", str(place), "tools", str(image))
        .splitlines()[1]
        .startswith("3 the environment tools: it was")
    )
    cached = tmp_path / "sha256-abc.sqsh"
    cached.write_text("")
    assert said(stub, "layer", str(place), "x", str(cached)).splitlines()[0] == "name 1 identity 1 sha256-abc"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files of others")
def test_only_a_file_of_a_trusted_owner_is_an_image(stub: Path, tmp_path: Path) -> None:
    image, link = tmp_path / "a.sqsh", tmp_path / "link.sqsh"
    image.write_text("")
    link.symlink_to(image)
    os.mkfifo(tmp_path / "fifo")
    assert said(stub, "image", str(image)) == said(stub, "image", str(link)) == f"0 {image}\n"
    for name, status, why in (
        ("none", 2, "No such file or directory"),
        ("a.sqsh/x", 2, "Not a directory"),
        ("fifo", 2, "it is no regular file"),
        ("", 2, "it is no regular file"),
    ):
        assert said(stub, "image", f"{tmp_path}/{name}") == f"{status} {why}\n"
    image.chmod(0o664)
    assert said(stub, "image", str(image)) == "3 others than its owner can write it\n"
    image.chmod(0o644)
    os.chown(image, 1234, 0)
    assert said(stub, "image", str(link)).startswith("3 it does not belong to an owner this site trusts")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount for others")
@pytest.mark.skipif(
    not shutil.which("squashfuse") or not Path("/dev/fuse").exists(), reason="no squashfuse, or no FUSE"
)
@pytest.mark.parametrize("source", ["plain.sqsh", "a - x rw,user_id=0,.sqsh"])
def test_what_a_users_program_says_is_roots_is_not(stub: Path, tmp_path: Path, source: str) -> None:
    (tmp_path / "rootfs").mkdir()
    (tmp_path / "rootfs" / "image.sqsh").write_text("nobody checks what is in it before it is mounted\n")
    packed, seen = tmp_path / source, tmp_path / "seen"
    subprocess.run(["mksquashfs", tmp_path / "rootfs", packed, "-all-root", "-quiet"], check=True, capture_output=True)
    seen.mkdir()
    # As fusermount does it for a user: the kernel writes down who asked, and root may look too.
    caps = "+sys_admin,+dac_override"
    user = ["setpriv", "--reuid=65533", f"--inh-caps={caps}", f"--ambient-caps={caps}"]
    for by, refused in ((user, True), ([], False)):
        subprocess.run([*by, "squashfuse", "-o", "allow_other", packed, seen], check=True)
        try:
            assert (seen / "image.sqsh").stat().st_uid == 0
            status, _, why = said(stub, "image", str(seen / "image.sqsh")).strip().partition(" ")
        finally:
            subprocess.run(["umount", seen], check=True)
        assert (int(status), "a user's program (FUSE)" in why) == ((3, True) if refused else (0, False)), why


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's images are trusted")
def test_an_image_is_locked_for_as_long_as_it_is_open(stub: Path, tmp_path: Path) -> None:
    image = tmp_path / "a.sqsh"
    image.write_text("")
    with image.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        # Whoever can read it could keep the lock: that holds no step up.
        assert said(stub, "image", str(image)).startswith("0 ")
        fcntl.flock(other, fcntl.LOCK_UN)
        user = subprocess.Popen([str(stub), "image", str(image)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert user.stdout is not None
        assert user.stdout.readline().startswith(b"0 ")
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        user.communicate(timeout=30)
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.mark.parametrize("part", ["", "/upper", "/work", "/base"])
def test_links_in_place_of_a_layer_are_not_followed(stub: Path, tmp_path: Path, part: str) -> None:
    image, place, elsewhere = tmp_path / "a.sqsh", tmp_path / "env", tmp_path / "elsewhere"
    image.write_text("")
    elsewhere.mkdir(mode=0o700)
    said(stub, "layer", str(place), "tools", str(image))
    path = Path(f"{place}/tools{part}")
    path.rename(tmp_path / "aside")
    path.symlink_to(tmp_path / "aside" if part == "/base" else elsewhere)
    assert said(stub, "layer", str(place), "tools", str(image)).splitlines()[1].startswith("3 the environment tools: ")
    assert list(elsewhere.iterdir()) == []
    path.unlink()
    if part == "/base":
        os.mkfifo(path)
    else:
        path.write_text("a file")
    assert said(stub, "layer", str(place), "tools", str(image)).splitlines()[1][0] in "13"


@pytest.mark.parametrize(
    ("word", "data_home", "home", "place"),
    [
        ("", "", "/home/u", "1 /home/u/.local/share/sovctl/env"),
        ("", "/data/u", "/home/u", "1 /data/u/sovctl/env"),
        ("", "relative", "/home/u", "1 /home/u/.local/share/sovctl/env"),
        ("env_dir=/local/%n/%u/env", "/data/u", "", "1 /local/n001/u/env"),
        ("env_dir=/local", "", "", "1 /local"),
        ("", "", "", "0"),
        ("", "", "relative", "0"),
        ("", "", "/a/../../root", "0"),
        ("", "", "/" + "x" * 2000, "0"),
    ],
)
def test_where_layers_are(stub: Path, word: str, data_home: str, home: str, place: str) -> None:
    assert said(stub, "envdir", word, "u", data_home, home).startswith(place)


def test_the_client_is_what_the_process_is_made_of(stub: Path) -> None:
    found, loader, prefix, *libraries = said(stub, "client").splitlines()
    assert found == "1"
    assert Path(loader).name.startswith("ld")
    assert prefix == str(stub.parent.parent)
    assert all(path.startswith("/") for path in libraries)
    assert str(Path(loader).parent) in libraries


def test_what_a_program_lacks_is_named(stub: Path, tmp_path: Path) -> None:
    """A file in a directory of PATH, one that is given by its whole name, and what each is run by."""
    loader = b"/lib64/ld-of-nowhere.so.2"
    program = Path("/usr/bin/true").read_bytes()
    usual = re.search(rb"/lib[^\0]*/ld-[^\0]*", program)
    assert usual is not None
    files = {
        "whole": program,
        "loaded": program.replace(usual[0], loader.ljust(len(usual[0]), b"\0")[: len(usual[0])]),
        "script": b"#!/bin/sh\n",
        "other": b"#! /nowhere/python3 -u\n",
        "empty": b"",
        "text": b"echo\n",
        "nul": b"#!/nowhere/\0x\n",
        "endless": b"#!/" + b"x" * 5000,
        "no newline": b"#!/nowhere/x",
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "directory").mkdir()
    os.mkfifo(tmp_path / "fifo")
    named = loader.decode()[: len(usual[0])]
    expected = {
        "loaded": f"126 {{}} needs {named}, which the image has not",
        "other": "126 {} needs /nowhere/python3, which the image has not",
        "gone": "127 there is no program {} in the image",
    }
    for name in (*files, "directory", "fifo", "gone"):
        for one, path in ((f"{tmp_path}/{name}", ""), (name, f"/nowhere:{tmp_path}:/nowhere")):
            assert said(stub, "program", one, path) == f"{expected.get(name, '0 ').format(one)}\n", name
    for one in ("./gone", "a/gone", ".", "", "go\x1bne"):
        assert said(stub, "program", one, str(tmp_path)) == "0 \n"
    for path in ("x" * 9000, f"{tmp_path}::/nowhere"):  # where Slurm looks then, is Slurm's affair
        assert said(stub, "program", "gone", path) == "0 \n"


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    head=st.sampled_from([b"#!", b"#! ", b"\x7fELF\x02\x01\x01", b"\x7fELF"]),
    rest=st.binary(max_size=300),
    data=st.data(),
)
def test_any_file_may_be_the_program(stub: Path, tmp_path: Path, head: bytes, rest: bytes, data: st.DataObject) -> None:
    """Whatever stands in it, also in the numbers of a header."""
    whole = bytearray(Path("/usr/bin/true").read_bytes()[:1200])
    for at in data.draw(st.lists(st.integers(16, 400), max_size=6)):
        whole[at] = data.draw(st.integers(0, 255))
    for content in (head + rest, bytes(whole)):
        (tmp_path / "x").write_bytes(content)
        assert re.match("(0|126) ", said(stub, "program", f"{tmp_path}/x", ""))


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["conf", "0-1 readlink /x\n"], 1),
        (["conf", "* true"], 1),
        (["conf", "0,2\tx"], 1),
        (["sleep", "30"], 0),
        (["sh", "-c", "0 x\n"], 0),
        (["hostname"], 0),
        ([], 0),
    ],
)
def test_the_list_of_multi_prog_is_no_program(stub: Path, words: list[str], found: int) -> None:
    assert said(stub, "list", *words) == f"{found}\n"
