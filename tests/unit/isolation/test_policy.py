"""Mounts, the site's lists, the environment, the cache: what is decided about an isolated step."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from policy_cases import VARIABLES

from sovctl.errors import RefusedError, SovctlError, TryLaterError, UsageError
from sovctl.isolation.cache import architecture, check_room, check_squashfs, digest_of, file_name, plan_cleaning
from sovctl.isolation.environment import inner_environment, outside_allow_list
from sovctl.isolation.mounts import check_sources, parse_mount, parse_mounts
from sovctl.isolation.policy import check_image
from sovctl.isolation.reference import parse_reference
from sovctl.model.image import CachedImage, Mount


@pytest.mark.parametrize(
    ("text", "mount"),
    [
        ("/data:/in", Mount("/data", "/in")),
        ("/data:/in:ro", Mount("/data", "/in", True)),
        ("/data:/in:rw", Mount("/data", "/in", False)),
        ("/data", Mount("/data", "/data")),
        ("/data/:/in/./x/", Mount("/data", "/in/x")),
    ],
)
def test_mounts(text: str, mount: Mount) -> None:
    assert parse_mount(text) == mount


@pytest.mark.parametrize(
    "text",
    [
        *("", ":", "/a:", ":/b", "/a:/b:rx", "/a:/b:ro:ro", "a:/b", "/a:b", "/a/../etc:/b", "/a:/b/../../dev"),
        *("/a:/", "/a:/proc", "/a:/proc/sys", "/a:/dev/shm", "/a:/sys/fs", "//a:/b", "/a\n:/b", "/a://proc"),
    ],
)
def test_mounts_that_are_tricks_or_slips(text: str) -> None:
    with pytest.raises(UsageError):
        parse_mount(text)


def test_two_mounts_at_one_place_are_refused() -> None:
    with pytest.raises(UsageError, match="two mounts at /x"):
        parse_mounts(["/a:/x", "/b:/x/."])


@given(st.text(st.sampled_from("/.:ab~ro\n"), max_size=20))
def test_a_mount_that_is_taken_stays_where_it_says(text: str) -> None:
    try:
        mount = parse_mount(text)
    except UsageError:
        return
    assert ".." not in f"{mount.source}/{mount.target}".split("/")
    assert mount.target.startswith("/")
    assert not mount.target.startswith(("//", "/proc/", "/dev/", "/sys/"))


def test_sources_outside_the_list_are_refused_part_by_part() -> None:
    check_sources(["/data/a", "/data"], ["/data"])
    check_sources(["/anything"], [])
    with pytest.raises(RefusedError, match=r"/database .*isolation\.allow_mounts"):
        check_sources(["/database"], ["/data"])


@pytest.mark.parametrize(
    ("image", "allowed", "passes"),
    [
        ("reg.example/team/img:1", "reg.example/team", True),
        ("reg.example/team2/img:1", "reg.example/team", False),
        ("reg.example#team/img", "reg.example", True),
        ("reg.example.evil.org/team/img", "reg.example", False),
        ("docker://reg.example/team/img", "reg.example/team/img", True),
        ("/images/a.sqsh", "/images", True),
        ("/images/../home/a.sqsh", "/images", False),
        ("./a.sqsh", "/images", False),
        ("reg.example/team/img", "/", False),
        ("/images/a.sqsh", "reg.example", False),
    ],
)
def test_the_list_of_images(image: str, allowed: str, passes: bool) -> None:
    reference = parse_reference(image, "/home/u")
    check_image(reference, [])
    if passes:
        check_image(reference, ["other.example", allowed])
    else:
        with pytest.raises(RefusedError, match=r"isolation\.allow_images"):
            check_image(reference, ["other.example", allowed])


JOB = {
    "PATH": "/host/bin",
    "HOME": "/home/u",
    "LD_PRELOAD": "/host/evil.so",
    "SLURM_PROCID": "3",
    "SLURM_JWT": "secret",
    "NCCL_DEBUG": "INFO",
    "MY_LR": "0.1",
    "SSH_AUTH_SOCK": "/tmp/agent",
    "BASH_FUNC_ls%%": "() { :; }",
    "LANG": "C",
}
IMAGE = (("PATH", "/opt/img/bin"), ("LANG", "en_US.UTF-8"), ("VERSION", "2"))


def test_a_clean_environment_is_the_allow_list_over_the_image() -> None:
    inner = inner_environment(JOB, IMAGE, clean=True, home="/root")
    assert inner == {
        "PATH": "/opt/img/bin",
        "LANG": "C",
        "VERSION": "2",
        "SLURM_PROCID": "3",
        "NCCL_DEBUG": "INFO",
        "HOME": "/root",
    }
    assert outside_allow_list(inner) == ["VERSION"]


def test_otherwise_only_what_belongs_to_the_host_stays_outside() -> None:
    inner = inner_environment(JOB, IMAGE, clean=False, home="/root")
    assert inner["MY_LR"] == "0.1"
    assert inner["PATH"] == "/opt/img/bin"
    assert not {"LD_PRELOAD", "SLURM_JWT", "SSH_AUTH_SOCK", "BASH_FUNC_ls%%"} & set(inner)


@pytest.mark.parametrize("clean", [False, True])
@pytest.mark.parametrize(
    "name",
    [
        *("CUDA_HOME", "CUDA_PATH", "CUDA_VERSION", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "PYTHONUSERBASE", "LOCPATH"),
        *("GCONV_PATH", "CPATH", "C_INCLUDE_PATH", "LIBRARY_PATH", "PKG_CONFIG_PATH", "MODULESHOME", "I_MPI_ROOT"),
    ],
)
def test_what_names_a_place_of_the_host_is_the_images(name: str, clean: bool) -> None:
    job, image = {name: "/host", "CUDA_VISIBLE_DEVICES": "0"}, ((name, "/of/image"),)
    inner = inner_environment(job, image, clean=clean, home="/h")
    assert (inner[name], inner["CUDA_VISIBLE_DEVICES"]) == ("/of/image", "0")
    assert name not in inner_environment(job, (), clean=clean, home="/h")
    assert inner_environment(job, image, clean=clean, home="/h", extra_allowed=[name])[name] == "/host"


def test_on_the_hosts_own_root_its_places_are_right() -> None:
    job = {"CUDA_HOME": "/host", "I_MPI_ROOT": "/host"}
    assert job.items() <= inner_environment(job, (), clean=True, home="/h", host_root=True).items()


def test_the_site_lets_more_pass_and_the_hosts_root_keeps_its_path() -> None:
    inner = inner_environment(JOB, (), clean=True, home="/h", extra_allowed=["MY_*"], host_root=True)
    assert (inner["MY_LR"], inner["PATH"]) == ("0.1", "/host/bin")
    assert outside_allow_list(inner, ["MY_*"]) == []


@pytest.mark.parametrize(("name", "kept"), VARIABLES)
def test_what_a_clean_environment_keeps(name: str, kept: bool) -> None:
    inner = inner_environment({name: "1"}, (), clean=True, home="/h", host_root=True)
    assert (name in inner) is kept


@given(st.dictionaries(st.text(st.sampled_from("ABLD_SH"), min_size=1), st.text()))
def test_a_clean_environment_never_holds_what_the_list_does_not(job: dict[str, str]) -> None:
    assert outside_allow_list(inner_environment(job, (), clean=True, home="/h")) == []


def _image(name: str, used_at: float, size: int = 10, *, in_use: bool = False) -> CachedImage:
    return CachedImage(f"sha256:{name}", f"/c/{name}", size, used_at, in_use=in_use)


def test_cleaning_takes_the_least_recently_used_and_spares_what_is_in_use() -> None:
    images = [_image("new", 30), _image("old", 10), _image("busy", 5, in_use=True), _image("mid", 20)]
    plan = plan_cleaning(images, keep_bytes=20, used_since=100)
    assert [image.digest for image in plan.remove] == ["sha256:old", "sha256:mid"]
    assert plan.freed_bytes == 20
    assert {image.digest for image in plan.keep} == {"sha256:new", "sha256:busy"}
    assert plan_cleaning(images, keep_bytes=40, used_since=100).remove == ()
    assert plan_cleaning(images, keep_bytes=0, used_since=15).remove == (images[1],)


@given(
    st.lists(st.builds(_image, st.uuids().map(str), st.floats(0, 100), st.integers(0, 50), in_use=st.booleans())),
    st.integers(0, 500),
    st.floats(0, 100),
)
def test_cleaning_never_takes_one_in_use_or_lately_used(
    images: list[CachedImage], keep_bytes: int, used_since: float
) -> None:
    plan = plan_cleaning(images, keep_bytes, used_since)
    assert not any(image.in_use or image.used_at > used_since for image in plan.remove)
    assert {*plan.remove, *plan.keep} == set(images)
    spared = [image for image in plan.keep if not image.in_use and image.used_at <= used_since]
    assert not spared or sum(image.size_bytes for image in plan.keep) <= keep_bytes
    assert all(gone.used_at <= left.used_at for gone in plan.remove for left in spared)


def test_names_of_files_are_those_of_digests_only() -> None:
    digest = "sha256:" + "0f" * 32
    assert digest_of(file_name(digest, "amd64")) == digest
    assert file_name(digest, architecture("aarch64")) != file_name(digest, architecture("x86_64"))
    for name in ("sha256-zz.sqsh", "sha256-" + "0f" * 32, "../x.sqsh", "md5-" + "0f" * 32 + ".sqsh"):
        assert digest_of(name) is None


def test_room_and_squashfs() -> None:
    check_room(100, 2**30, "/c")
    with pytest.raises(TryLaterError, match=r"no room .*/c: 5\.1 GiB needed .* 1\.0 GiB free"):
        check_room(2**30, 2**30, "/c")
    header = b"hsqs" + bytes(36) + (4096).to_bytes(8, "little") + bytes(48)
    check_squashfs(header, 4096, "/x.sqsh")
    with pytest.raises(SovctlError, match="cut short: 4095 bytes of 4096"):
        check_squashfs(header, 4095, "/x.sqsh")
    for wrong in (b"", b"hsqs", bytes(96)):
        with pytest.raises(SovctlError, match="not a squashfs"):
            check_squashfs(wrong, 4096, "/x.sqsh")
