"""What a run's image is told to the batch script and to each runtime."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sovctl.errors import UsageError
from sovctl.isolation.inside import KNOWN, Inside, absolute_mount, check, heard, starts_steps, variables
from sovctl.isolation.oci import bundle_config

_text = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=12)
_inside = st.builds(
    Inside,
    image=_text,
    mount=st.lists(_text, max_size=3).map(tuple),
    home=st.sampled_from(["", "none", "mount"]),
    env_name=st.sampled_from(["", "tools"]),
    runtime=st.sampled_from(KNOWN),
    digest=st.sampled_from(["", "sha256:" + "0" * 64]),
    stamp=st.sampled_from(["", "20480-1700000000000000000"]),
    clean_env=st.booleans(),
    writable=st.booleans(),
    private_network=st.booleans(),
    slurm_client=st.booleans(),
    whole_script=st.booleans(),
)


@given(_inside)
def test_what_is_told_is_heard(inside: Inside) -> None:
    assert heard(inside.told()) == inside
    assert heard(Inside().told()) == Inside()


@pytest.mark.parametrize("text", ["--colour=red", "--clean-env=yes", "--image", "x", "'"])
def test_other_words_are_not_taken(text: str) -> None:
    with pytest.raises(ValueError):
        heard(text)


@pytest.mark.parametrize(
    ("script", "steps"),
    [
        (b"#!/bin/sh\nsrun python x\n", True),
        (b"#!/bin/sh\nexec /usr/bin/srun -N2 x\n", True),
        (b"#!/bin/sh\nout=$(srun hostname)\n", True),
        (b"#!/bin/sh\n# srun is not needed\npython x\n", False),
        (b"#!/bin/sh\npython srun.py --use=srun-like\n", False),
        (b"#!/bin/sh\ntorchrun x\n", False),
        (b"srun", True),
    ],
)
def test_a_script_that_starts_steps(script: bytes, steps: bool) -> None:
    assert starts_steps(script) is steps


@pytest.mark.parametrize(
    ("inside", "words"),
    [
        (Inside(runtime="docker"), "no runtime docker"),
        (Inside(writable=True), "--writable needs an image"),
        (Inside(env_name="x"), "--env-name needs an image"),
        (Inside("i", home="maybe"), "none or mount"),
        (Inside("i", ("a:b",)), "not an absolute path"),
        (Inside(runtime="pyxis"), "no isolation without an image"),
        (Inside("i", runtime="podman", env_name="x"), "no --env-name"),
        (Inside(slurm_client=True), "--slurm-client needs an image"),
        (Inside("i", runtime="apptainer", slurm_client=True), "no --slurm-client"),
        (Inside("i", runtime="pyxis", clean_env=True), "no --clean-env"),
        (Inside("i", runtime="slurm", whole_script=True), "put srun before"),
        (Inside("i", runtime="charliecloud", private_network=True), "no --private-network"),
    ],
)
def test_what_cannot_be_is_refused_at_once(inside: Inside, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        check(inside)


def test_what_can_be_is_not() -> None:
    check(Inside("i", ("/a:/b:ro", "/c"), "mount", "tools", clean_env=True, writable=True, private_network=True))
    check(Inside(runtime="spank", clean_env=True))
    check(Inside("i", runtime="spank", env_name="tools", slurm_client=True))


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (".", "/w/d"),
        ("./x:/y:ro", "/w/d/x:/y:ro"),
        ("../x", "/w/x"),
        ("../../../x", "/x"),
        ("/a:/b", "/a:/b"),
        (".hidden", ".hidden"),
    ],
)
def test_mounts_are_meant_from_the_working_directory(typed: str, meant: str) -> None:
    assert absolute_mount(typed, "/w/d") == meant


def test_the_variables_of_the_runtimes() -> None:
    asked = Inside("x", ("/data:/data:ro", "/src"), home="mount", writable=True, runtime="spank", clean_env=True)
    assert variables(asked, "/c/i.sqsh", ["/run1", "/data"]) == {
        "SOVCTL_SPANK_ISOLATE": "1",
        "SOVCTL_SPANK_CLEAN_ENV": "1",
        "SOVCTL_SPANK_WRITABLE": "1",
        "SOVCTL_SPANK_IMAGE": "/c/i.sqsh",
        "SOVCTL_SPANK_MOUNT": "/data:/data:ro,/src,/run1:/run1",
        "SOVCTL_SPANK_HOME": "mount",
    }
    without_image = variables(Inside(runtime="spank"), "", ["/run1"])
    assert without_image == {"SOVCTL_SPANK_ISOLATE": "1", "SOVCTL_SPANK_CLEAN_ENV": "1"}
    assert "SOVCTL_SPANK_CLEAN_ENV" not in variables(Inside("x", runtime="spank"), "/c/i.sqsh", ())
    kept = variables(Inside("x", runtime="spank", env_name="tools", slurm_client=True), "/c/i.sqsh", ())
    assert (kept["SOVCTL_SPANK_ENV_NAME"], kept["SOVCTL_SPANK_SLURM_CLIENT"]) == ("tools", "1")
    assert variables(Inside("x", ("/src",), runtime="pyxis"), "/c/i.sqsh", ["/run1"]) == {
        "PYXIS_CONTAINER_IMAGE": "/c/i.sqsh",
        "PYXIS_CONTAINER_MOUNTS": "/src:/src,/run1:/run1",
        "PYXIS_CONTAINER_MOUNT_HOME": "0",
        "PYXIS_CONTAINER_READONLY": "1",
    }
    assert variables(Inside("x", runtime="slurm"), "/r/bundle", []) == {"SRUN_CONTAINER": "/r/bundle"}
    with pytest.raises(UsageError, match="commas"):
        variables(Inside("x", ("/a,b",), runtime="pyxis"), "/i", [])


def test_a_bundle_for_an_ordinary_user() -> None:
    config = bundle_config(Inside("x", ("/data:/d:ro",), home="mount"), ["/run1"], (1000, 100), "/home/u")
    mounts = {mount["destination"]: mount for mount in config["mounts"]}
    assert {"/tmp", "/var/tmp", "/dev/shm", "/proc"} <= set(mounts)
    assert mounts["/d"]["source"] == "/data"
    assert "ro" in mounts["/d"]["options"]
    assert {"/run1", "/home/u"} <= set(mounts)
    assert config["root"]["readonly"]
    assert config["process"]["noNewPrivileges"]
    assert not any(config["process"]["capabilities"].values())
    assert config["linux"]["uidMappings"] == [{"containerID": 0, "hostID": 1000, "size": 1}]
    assert "/home/u" not in {
        mount["destination"] for mount in bundle_config(Inside("x"), [], (1, 1), "/home/u")["mounts"]
    }
