"""How a script is started when its run has an image."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from sovctl.errors import RefusedError, SovctlError, UsageError
from sovctl.isolation.inside import Inside
from sovctl.isolation.plugin_line import check_owner, image_owners, kept_paths
from sovctl.operations.supervisor.image_of_run import ImagePlaces, RunImage

ENV = {"PATH": "/usr/bin:/bin", "SOVCTL_RUN_DIR": "/runs/1", "SOVCTL_CHECKPOINT_DIR": "/gone", "HOME": "/home/u"}
ME = ("/opt/py thon", "-P", "-m", "sovctl")


class Places:
    """The outside of a run with an image."""

    def __init__(self, front: str = "/runs/1/attempts/0/bin", offers: bool = True) -> None:
        self.front = front
        self.offers = offers
        self.owners: str | None = None
        self.outside: tuple[str, ...] = ()
        self.asked: list[str] = []
        self.programs: dict[str, str] = {}
        self.configs: list[Mapping[str, Any]] = []

    def put_before(self, attempt: int, name: str, text: str) -> str:
        self.programs[name] = text
        return self.front

    def is_directory(self, path: str) -> bool:
        return path != "/gone"

    def make(self, run_dir: str, image: str, config: Mapping[str, Any]) -> str:
        self.configs.append(config)
        return f"{run_dir}/bundle"

    def check_owner(self, path: str) -> None:
        check_owner(self.owners, 7, path)

    def nodes_outside(self, runtime: str) -> tuple[str, ...]:
        self.asked.append(runtime)
        return self.outside

    def of(self, inside: Inside) -> RunImage:
        def fetch(_inside: Inside, _run_dir: str) -> tuple[str, str]:
            return "/cache/i.sqsh", "sha256:1"

        offers = lambda _option: self.offers  # noqa: E731
        outside = (self.check_owner, self.nodes_outside)
        return RunImage(inside, "/runs/1", ME, ImagePlaces(fetch, self.put_before, self, offers, *outside, (7, 8)))


def test_steps_of_the_built_in_runtime_go_through_our_srun() -> None:
    places = Places()
    image = places.of(Inside("reg/img:1", ("/a b:/c:ro",)))
    assert image.prepare() == "sha256:1"
    argv, env = image.enter(["/runs/1/script", "x"], {**ENV, "PATH": f"{places.front}:/usr/bin"}, 0)
    assert argv == ["/runs/1/script", "x"]
    assert env["PATH"] == f"{places.front}:/usr/bin"
    assert list(places.programs) == ["srun"]


def test_our_srun_passes_every_word_on(tmp_path: Path) -> None:
    stand_in = tmp_path / "py thon"
    stand_in.write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    stand_in.chmod(0o755)
    places = Places(str(tmp_path))
    RunImage(
        Inside("reg/img:1", ("/it's:/c",)),
        "/runs/1",
        (str(stand_in), "-m", "sovctl"),
        ImagePlaces(lambda _a, _b: ("", ""), places.put_before, places),
    ).enter(["s"], ENV, 0)
    srun = tmp_path / "srun"
    srun.write_text(places.programs["srun"])
    srun.chmod(0o755)
    said = subprocess.run([str(srun), "-N2", "a  b", "$x", "*"], capture_output=True, text=True, check=True).stdout
    own = ["-m", "sovctl", "step", str(tmp_path), "--image=reg/img:1", "--mount=/it's:/c", "--"]
    assert said.splitlines() == [*own, "-N2", "a  b", "$x", "*"]


def test_a_whole_script_is_started_by_exec() -> None:
    argv, env = Places().of(Inside(whole_script=True)).enter(["/s", "a"], ENV, 0)
    assert argv == [*ME, "exec", "--isolate", "--", "/s", "a"]
    assert env == ENV


def test_plugins_are_told_by_variables_and_must_be_there() -> None:
    image = Places().of(Inside("x", runtime="pyxis"))
    image.prepare()
    _, env = image.enter(["/s"], ENV, 0)
    assert env["PYXIS_CONTAINER_IMAGE"] == "/cache/i.sqsh"
    assert env["PYXIS_CONTAINER_MOUNTS"] == "/runs/1:/runs/1"
    with pytest.raises(SovctlError, match="srun knows no --container-image here"):
        Places(offers=False).of(Inside("x", runtime="pyxis")).prepare()


@pytest.mark.parametrize(
    ("inside", "missing"),
    [
        (Inside("x", runtime="spank"), "the plugin of the runtime spank"),
        (Inside(runtime="spank"), "the plugin of the runtime spank"),
        (Inside("x", runtime="pyxis"), "the plugin of the runtime pyxis"),
        (Inside("x", runtime="slurm"), "oci.conf"),
    ],
)
def test_nodes_that_would_run_the_steps_outside_are_named_before_the_script_starts(
    inside: Inside, missing: str
) -> None:
    places = Places()
    places.outside = ("n002", "n007")
    with pytest.raises(SovctlError, match=f"{missing} is missing on n002, n007: Slurm would run") as raised:
        places.of(inside).prepare()
    assert "--exclude=n002,n007" in raised.value.hint
    places.outside = ()
    places.of(inside).prepare()


def test_our_own_runtimes_say_by_themselves_what_a_node_lacks() -> None:
    places = Places()
    for runtime in ("bubblewrap", "apptainer", "podman"):
        places.of(Inside("x", runtime=runtime)).prepare()
    assert places.asked == []


def test_slurms_own_containers_get_a_bundle() -> None:
    places = Places()
    image = places.of(Inside("x", ("/d",), runtime="slurm"))
    image.prepare()
    _, env = image.enter(["/s"], ENV, 0)
    assert env["SRUN_CONTAINER"] == "/runs/1/bundle"
    assert {"/d", "/runs/1"} <= {mount["destination"] for mount in places.configs[0]["mounts"]}
    assert places.configs[0]["linux"]["uidMappings"][0]["hostID"] == 7


def test_a_mount_that_this_runtime_cannot_name_is_refused() -> None:
    image = Places().of(Inside("x", ("/a,b",), runtime="spank"))
    image.prepare()
    with pytest.raises(UsageError, match="commas"):
        image.enter(["/s"], ENV, 0)


@pytest.mark.parametrize(
    ("lines", "owners", "goes"),
    [
        ([], None, True),
        (["optional other.so image_owners=1"], None, True),
        (["# optional sovctl_spank.so", "required /usr/lib/slurm/sovctl_spank.so"], "0", False),
        (["optional sovctl_spank.so proctrack=x image_owners=0,7"], "0,7", True),
        (["optional sovctl_spank.so image_owners=0,77"], "0,77", False),
        (["optional sovctl_spank.so image_owners=any"], "any", True),
        (["optional sovctl_spank.so image_owners=0,5-9"], "0,5-9", True),
        (["optional sovctl_spank.so image_owners=any image_owners=0"], "0", False),
        (["optional sovctl_spank.so image_owners=7 image_owners=root"], "7", True),
    ],
)
def test_an_image_that_the_plugin_would_not_mount_ends_before_the_script(
    lines: list[str], owners: str | None, goes: bool
) -> None:
    assert image_owners(lines) == owners
    places = Places()
    places.owners = owners
    places.of(Inside("x")).prepare()  # the built-in runtime asks nobody
    if goes:
        assert places.of(Inside("x", runtime="spank")).prepare() == "sha256:1"
        return
    with pytest.raises(RefusedError, match=f"mounts no image of user 7 .*image_owners={owners}") as refused:
        places.of(Inside("x", runtime="spank")).prepare()
    assert "prefetch" in refused.value.hint


@pytest.mark.parametrize(
    ("owners", "owner", "mounts"),
    [
        ("0,1000-1010", 1000, True),
        ("0,1000-1010", 1010, True),
        ("0,1000-1010", 1011, False),
        ("0,1000-1010", 100, False),
        ("007", 7, True),
        ("9-5", 7, False),
        ("5-,7", 5, True),
        ("5-,7", 7, False),  # the plugin reads no further than what it understands
        ("5,,7", 7, False),
        ("1-2-9", 7, False),
        (",7", 7, False),
        ("-", 0, False),
        (None, 7, True),
    ],
)
def test_owners_are_read_as_the_plugin_reads_them(owners: str | None, owner: int, mounts: bool) -> None:
    with contextlib.nullcontext() if mounts else pytest.raises(RefusedError):
        check_owner(owners, owner, "/i")


@pytest.mark.parametrize("word", ["root", "", "1," * 50, "anyone", "\u0667"])
def test_owners_that_the_plugin_does_not_take_leave_root(word: str) -> None:
    assert image_owners([f"optional sovctl_spank.so image_owners={word}"]) == "0"


def test_what_the_plugin_keeps_in_sight() -> None:
    lines = ["optional /x/other.so keep=/no", "optional /opt/sovctl_spank.so state=/s keep=/var/tmp/%n keep=/tmp/munge"]
    assert kept_paths(lines, "n001") == ("/var/tmp/n001", "/tmp/munge")
    assert kept_paths(lines[:1], "n001") == ()
