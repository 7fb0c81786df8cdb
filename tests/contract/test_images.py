"""Images from a real registry: skopeo, umoci and squashfs-tools do the work."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from image_registry import Registry, make_index, make_layout, missing_programs, push, registry, rewrite

from sovctl.adapters.clock import SystemClock
from sovctl.adapters.command import CommandRunner
from sovctl.adapters.isolation import node_roots
from sovctl.adapters.isolation.image_cache import ImageCache
from sovctl.adapters.isolation.image_tools import ImageTools
from sovctl.adapters.isolation.node_roots import NodeRoots
from sovctl.cli import wiring
from sovctl.cli.main import run as sovctl
from sovctl.config import load_config
from sovctl.errors import RefusedError, SovctlError, TryLaterError, UsageError
from sovctl.isolation.cache import architecture, check_squashfs, digest_of, file_name
from sovctl.isolation.inside import Inside
from sovctl.isolation.reference import parse_reference
from sovctl.model.image import ImageSettings
from sovctl.operations.isolation import images
from sovctl.operations.isolation.images import ImagePorts

OWN = architecture(os.uname().machine)
NAME = partial(file_name, of=OWN)
pytestmark = pytest.mark.skipif(
    bool(missing_programs()), reason=f"not installed: {', '.join(missing_programs())} (make test-packages)"
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("images")


@pytest.fixture(scope="module")
def layout(place: Path) -> Path:
    return make_layout(place)


@pytest.fixture(scope="module")
def served(place: Path) -> Iterator[Registry]:
    with registry(place / "registry") as found:
        yield found


@pytest.fixture(scope="module")
def image(layout: Path, served: Registry) -> str:
    return push(layout, served, "team/busybox:1")


@pytest.fixture
def ports(tmp_path: Path, served: Registry) -> ImagePorts:
    tools = ImageTools(CommandRunner(), OWN, [served.address], timeout_s=60)
    return ImagePorts(
        tools, ImageCache(tmp_path / "cache", NAME, digest_of, check_squashfs), SystemClock(), (NodeRoots(tmp_path),)
    )


def as_nobody(argv: Sequence[str | Path], env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """A command of somebody else than root."""
    return subprocess.run(
        argv,
        env=env,
        cwd=Path(__file__).parents[2],
        user=65534,
        group=65534,
        extra_groups=[],
        capture_output=True,
        text=True,
    )


def _resolved(name: str, ports: ImagePorts) -> images.ResolvedImage:
    return images.resolve(parse_reference(name), ports, [])


def _silent(words: str) -> None:
    return


def _close(descriptors: Iterable[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _names(cache: ImagePorts) -> list[str]:
    return sorted(path.name for path in Path(cache.cache.where()).iterdir())


def _unpacked(path: str, name: str) -> str:
    return subprocess.run(["unsquashfs", "-cat", path, name], check=True, capture_output=True, text=True).stdout


def test_a_name_is_resolved_to_a_digest_and_loaded_once(image: str, ports: ImagePorts) -> None:
    said: list[str] = []
    resolved = _resolved(image, ports)
    got = images.prefetch(resolved, ports, said.append)
    assert got.digest == resolved.digest
    assert (Path(got.path).name, got.reference) == (NAME(resolved.digest), image)
    assert ("FROM_IMAGE", "yes") in got.settings.env
    assert got.settings.work_dir == "/opt/work"
    assert _unpacked(got.path, "etc/marker") == "busybox\n"
    assert _unpacked(got.path, "etc/secret") == "of the image\n"  # mode 000 in the image
    assert _names(ports) == [NAME(resolved.digest).replace("sqsh", "json"), NAME(resolved.digest)]
    assert said
    again: list[str] = []
    assert images.prefetch(resolved, ports, again.append).path == got.path
    assert again == []


@pytest.mark.parametrize("own", ["file", "link", "directory", "etc"])
def test_a_squashfs_holds_the_images_environment(place: Path, ports: ImagePorts, own: str) -> None:
    entry = tarfile.TarInfo("etc/environment")
    entry.type, entry.linkname, entry.mode = tarfile.REGTYPE, "", 0o755
    if own == "link":
        entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/marker"
    elif own == "directory":
        entry.type = tarfile.DIRTYPE
    elif own == "etc":
        entry.name, entry.type, entry.linkname = "etc", tarfile.SYMTYPE, "opt"
    layout = rewrite(make_layout(place, f"env-{own}"), entries=[entry], Env=["PATH=/opt/bin", "A=1\n2", "B=x y"])
    path = images.prefetch(_resolved(f"oci:{layout}:1", ports), ports, _silent).path
    if own in ("file", "link"):
        assert _unpacked(path, "etc/environment") == "PATH=/opt/bin\nB=x y\n"
    listed = subprocess.run(["unsquashfs", "-l", path], check=True, capture_output=True, text=True).stdout
    assert "opt/environment" not in listed


def test_a_digest_in_the_cache_needs_no_registry(image: str, ports: ImagePorts) -> None:
    resolved = _resolved(image, ports)
    images.prefetch(resolved, ports, _silent)
    fixed = f"127.0.0.1:1/team/busybox@{resolved.digest}"
    assert _resolved(fixed, ports).digest == resolved.digest


def test_one_puller_and_the_others_wait(image: str, ports: ImagePorts) -> None:
    resolved = _resolved(image, ports)
    said: list[str] = []
    with ThreadPoolExecutor(3) as pool:
        got = list(pool.map(lambda _: images.prefetch(resolved, ports, said.append), range(3)))
    assert {one.path for one in got} == {got[0].path}
    assert said.count("packing the squashfs") == 1
    assert any("waiting for it" in words for words in said)


def test_the_squashfs_has_the_same_bytes_whoever_packs_it(image: str, ports: ImagePorts, tmp_path: Path) -> None:
    resolved = _resolved(image, ports)
    other = ImagePorts(
        ports.tools, ImageCache(tmp_path / "other", NAME, digest_of, check_squashfs), ports.clock, ports.unpacked
    )
    first, second = (images.prefetch(resolved, one, _silent) for one in (ports, other))
    assert Path(first.path).read_bytes() == Path(second.path).read_bytes()


def test_a_layout_needs_no_registry(layout: Path, ports: ImagePorts) -> None:
    by_name, by_path = _resolved(f"oci:{layout}:1", ports), _resolved(str(layout), ports)
    assert by_name.digest == by_path.digest
    assert _unpacked(images.prefetch(by_name, ports, _silent).path, "etc/marker") == "busybox\n"
    with pytest.raises(UsageError, match="holds 0 images named 2"):
        _resolved(f"oci:{layout}:2", ports)


def test_a_layout_whose_tag_moved_is_not_taken_for_what_it_was(place: Path, ports: ImagePorts) -> None:
    mine, other = make_layout(place, "mine"), make_layout(place, "other")
    resolved = _resolved(f"oci:{mine}:1", ports)
    argv = ["skopeo", "copy", "-q", f"oci:{other}:1", f"oci:{mine}:1"]
    subprocess.run(argv, check=True, capture_output=True, timeout=60)
    assert _resolved(f"oci:{mine}:1", ports).digest != resolved.digest
    got = images.prefetch(resolved, ports, _silent)
    assert (got.digest, _unpacked(got.path, "etc/marker")) == (resolved.digest, "mine\n")


@pytest.mark.parametrize("where", ["registry", "layout"])
@pytest.mark.parametrize(("layers", "docker"), [("zstd", False), ("plain", False), ("gzip", True)])
def test_images_as_other_tools_write_them(
    where: str, layers: str, docker: bool, place: Path, served: Registry, ports: ImagePorts
) -> None:
    if layers == "zstd" and shutil.which("zstd") is None:
        pytest.skip("not installed: zstd")
    name = f"{layers}-{docker}-{where}".lower()
    layout = rewrite(make_layout(place, name), layers=layers, docker=docker)
    found = push(layout, served, f"team/{name}:1") if where == "registry" else f"oci:{layout}:1"
    got = images.prefetch(_resolved(found, ports), ports, _silent)
    assert _unpacked(got.path, "etc/marker") == f"{name}\n"
    assert ("FROM_IMAGE", "yes") in got.settings.env


@pytest.mark.parametrize(
    "config",
    [{"User": "trainer"}, {"User": "1000:trainers"}, {"Env": ["FROM_IMAGE=yes", "BARE", "=nameless"]}],
    ids=["user", "group", "env"],
)
def test_settings_that_a_runtime_of_containers_would_refuse(
    config: dict[str, object], place: Path, ports: ImagePorts, request: pytest.FixtureRequest
) -> None:
    layout = rewrite(make_layout(place, f"odd-{request.node.callspec.id}"), **config)
    got = images.prefetch(_resolved(f"oci:{layout}:1", ports), ports, _silent)
    assert ("FROM_IMAGE", "yes") in got.settings.env
    assert "" not in dict(got.settings.env)


@pytest.mark.parametrize("of", ["manifest", "layer"])
def test_a_layout_with_spoilt_bytes_is_not_kept(of: str, place: Path, ports: ImagePorts) -> None:
    layout = make_layout(place, f"spoilt-{of}")
    resolved = _resolved(f"oci:{layout}:1", ports)
    blobs = {path.name: path for path in (layout / "blobs" / "sha256").iterdir()}
    manifest = blobs[resolved.digest.removeprefix("sha256:")]
    spoilt = manifest if of == "manifest" else max(blobs.values(), key=lambda path: path.stat().st_size)
    # Of the manifest only the blanks change, so that nothing but its digest tells.
    was = spoilt.read_bytes()
    spoilt.write_bytes(json.dumps(json.loads(was), indent=3).encode() if of == "manifest" else was[:-1] + b"?")
    with pytest.raises(SovctlError, match="is not what its digest says"):
        images.prefetch(resolved, ports, _silent)
    assert ports.cache.entries() == ()


@pytest.mark.parametrize("where", ["registry", "layout"])
def test_each_architecture_has_its_own_image_in_a_shared_cache(
    where: str, place: Path, served: Registry, ports: ImagePorts, tmp_path: Path
) -> None:
    both = make_index(place, f"both-{where}", "amd64", "arm64")
    name = push(both, served, "team/both:1") if where == "registry" else f"oci:{both}:1"
    cache = Path(ports.cache.where())
    nodes = {
        of: ImagePorts(
            ImageTools(CommandRunner(), of, [served.address], timeout_s=60),
            ImageCache(cache, partial(file_name, of=of), digest_of, check_squashfs),
            ports.clock,
            ports.unpacked,
        )
        for of in ("amd64", "arm64", "s390x")
    }
    got = {of: images.prefetch(_resolved(name, nodes[of]), nodes[of], _silent) for of in ("arm64", "amd64")}
    assert got["amd64"].digest == got["arm64"].digest
    assert {of: _unpacked(one.path, "etc/marker") for of, one in got.items()} == {
        "amd64": "amd64\n",
        "arm64": "arm64\n",
    }
    for of, one in got.items():
        found = nodes[of].cache.find(one.digest)
        assert found is not None
        assert found.path == one.path
    assert len(nodes["amd64"].cache.entries()) == 2  # gc on any node sees both
    with pytest.raises(SovctlError, match="has nothing for linux/s390x"):
        _resolved(name, nodes["s390x"])


def test_a_pull_goes_on_where_it_was_broken_off(image: str, ports: ImagePorts, served: Registry) -> None:
    resolved = _resolved(image, ports)
    largest = served.blobs()[-1]
    with ports.cache.pulling(resolved.digest, _silent) as staging:  # what a puller that was killed leaves behind
        blobs = Path(staging.path, "layout", "blobs", "sha256")
        blobs.mkdir(parents=True)
        (blobs / largest.parent.name).write_bytes(largest.read_bytes())
    assert len(ports.cache.leftovers()) == 1
    aside = largest.rename(largest.with_name("aside"))
    try:
        got = images.prefetch(resolved, ports, _silent)
    finally:
        aside.rename(largest)
    assert _unpacked(got.path, "etc/marker") == "busybox\n"
    assert ports.cache.leftovers() == ()


def test_what_a_killed_puller_started_ends_before_the_next_begins(
    layout: Path, ports: ImagePorts, tmp_path: Path, eventually: Callable[..., object]
) -> None:
    going_on, started = tmp_path / "going-on", tmp_path / "started"
    os.mkfifo(going_on)
    slow = tmp_path / "bin" / "umoci"
    slow.parent.mkdir()
    slow.write_text(f'#!/bin/sh\n: >{started}\nread _ <{going_on}\nexec {shutil.which("umoci")} "$@"\n')
    slow.chmod(0o755)
    puller = subprocess.Popen(
        [sys.executable, "-m", "sovctl", "image", "prefetch", f"oci:{layout}:1"],
        env={
            "PATH": f"{slow.parent}:{os.environ['PATH']}",
            "HOME": str(tmp_path),
            "SOVCTL_ISOLATION_CACHE_DIR": ports.cache.where(),
        },
        cwd=Path(__file__).parents[2],
    )
    eventually(started.exists, "the first has come to umoci")
    puller.kill()
    puller.wait()
    said: list[str] = []
    with ThreadPoolExecutor(1) as pool:
        second = pool.submit(images.prefetch, _resolved(f"oci:{layout}:1", ports), ports, said.append)
        try:
            eventually(lambda: any("waiting for it" in words for words in said), "the second waits")
            assert ports.cache.leftovers() == ()
        finally:
            going_on.write_text("\n")
        assert _unpacked(second.result().path, "etc/marker") == "busybox\n"


def test_bytes_that_are_not_what_the_digest_says_are_not_kept(ports: ImagePorts, place: Path, served: Registry) -> None:
    before = set(served.blobs())
    name = push(make_layout(place, "evil", {"etc/only-here": "x" * 100000}), served, "team/evil:1")
    resolved = _resolved(name, ports)
    layer = max(set(served.blobs()) - before, key=lambda path: path.stat().st_size)
    spoilt = bytearray(layer.read_bytes())
    spoilt[len(spoilt) // 2] ^= 1
    layer.write_bytes(spoilt)
    with pytest.raises(SovctlError, match="is not what its digest says"):
        images.prefetch(resolved, ports, _silent)
    assert ports.cache.find(resolved.digest) is None
    assert ports.cache.entries() == ()


def test_what_a_registry_can_refuse(image: str, ports: ImagePorts, served: Registry, tmp_path: Path) -> None:
    with pytest.raises(SovctlError, match=r"there is no image .*busybox:none") as unknown:
        _resolved(f"{served.address}/team/busybox:none", ports)
    assert unknown.value.exit_code == 1
    with pytest.raises(SovctlError, match="there is no image"):
        _resolved(f"{served.address}/team/busybox@sha256:{'0' * 64}", ports)
    dead = ImagePorts(ImageTools(CommandRunner(), OWN, ["127.0.0.1:1"]), ports.cache, ports.clock, ports.unpacked)
    with pytest.raises(TryLaterError, match=r"127\.0\.0\.1:1 does not answer"):
        _resolved("127.0.0.1:1/team/busybox:1", dead)


def test_a_login_where_sovctl_says_so_counts_in_a_job(
    layout: Path, ports: ImagePorts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # bcrypt of "secret"
    line = "ann:$2y$05$xwEW6PvZdT18fiSFonS6UOSKWAn4ZdFGfUnouXt3Txr2bWcskJMk6"
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "run").mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))  # of a login node; a job has none
    as_ann = "-u ann -p secret --tls-verify=false"
    with registry(tmp_path / "closed", htpasswd=line) as closed:
        asking = ImagePorts(
            ImageTools(CommandRunner(), OWN, [closed.address]), ports.cache, ports.clock, ports.unpacked
        )
        name = f"{closed.address}/team/busybox:1"
        with pytest.raises(RefusedError, match="does not let you have") as refused:
            _resolved(name, asking)
        login = refused.value.hint.removeprefix("Check its spelling, and log in: ")
        subprocess.run(["sh", "-c", f"{login} {as_ann}"], check=True, capture_output=True, timeout=60)
        push(layout, closed, "team/busybox:1")
        monkeypatch.delenv("XDG_RUNTIME_DIR")
        assert images.prefetch(_resolved(name, asking), asking, _silent).reference == name


def test_no_room_is_said_before_the_first_byte(image: str, ports: ImagePorts) -> None:
    class FullCache(ImageCache):
        def free_bytes(self) -> int:
            return 1000

    full = ImagePorts(
        ports.tools, FullCache(Path(ports.cache.where()), NAME, digest_of, check_squashfs), ports.clock, ports.unpacked
    )
    said: list[str] = []
    with pytest.raises(TryLaterError, match="there is no room for the image"):
        images.prefetch(_resolved(image, ports), full, said.append)
    assert said == []


def test_cleaning_leaves_what_a_step_uses(image: str, ports: ImagePorts, eventually: Callable[..., object]) -> None:
    got = images.prefetch(_resolved(image, ports), ports, _silent)
    with Path(got.path).open("rb") as user:
        fcntl.flock(user, fcntl.LOCK_SH)
        assert ports.cache.entries()[0].in_use
        assert images.clean(ports, keep_bytes=0, unused_s=0, act=True).removed == ()
        assert ports.cache.remove(got) is False
    assert images.clean(ports, keep_bytes=0, unused_s=3600, act=True).removed == ()
    assert [one.path for one in images.clean(ports, keep_bytes=0, unused_s=0, act=False).plan.remove] == [got.path]
    assert ports.cache.find(got.digest)
    assert [one.path for one in images.clean(ports, keep_bytes=0, unused_s=0, act=True).removed] == [got.path]
    assert _names(ports) == []


def test_cleaning_leaves_the_image_of_a_run_whose_plugin_locks_nothing(
    image: str, served: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SOVCTL_ISOLATION_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("SOVCTL_ISOLATION_NODE_DIR", str(tmp_path))
    monkeypatch.setenv("SOVCTL_ISOLATION_PLAIN_HTTP", served.address)
    supervisor = wiring.image_runner(load_config(), Inside(image, runtime="spank"), {})
    path, _ = supervisor.fetch()
    assert sovctl(["image", "gc", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["removed"] == []
    assert Path(path).exists()


def test_what_a_node_unpacked_is_there_once_and_can_be_removed(
    image: str, ports: ImagePorts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    got = images.prefetch(_resolved(image, ports), ports, _silent)
    roots, said = NodeRoots(tmp_path), list[str]()
    first, locks = roots.unpacked(got.path, 0, said.append)
    second, others = roots.unpacked(got.path, 0, said.append)
    assert first == second
    assert len(said) == 1
    assert Path(first, "etc", "marker").read_text() == "busybox\n"
    _close(locks)
    assert roots.unused(ports.clock.now()) == ()
    _close(others)
    (place,) = roots.unused(ports.clock.now() + 1)
    assert roots.unused(ports.clock.now() - 3600) == ()
    assert images.clean(ports, keep_bytes=1 << 40, unused_s=-1, act=True).leftovers == (place,)
    assert list(Path(place).parent.iterdir()) == []
    Path(place).parent.chmod(0o777)
    with pytest.raises(SovctlError, match="is not a directory of yours alone"):
        roots.unpacked(got.path, 0, said.append)


@pytest.mark.parametrize("left", [0, 50, 4096])
def test_an_image_that_was_cut_short_is_loaded_anew(image: str, ports: ImagePorts, left: int) -> None:
    resolved = _resolved(image, ports)
    got = images.prefetch(resolved, ports, _silent)
    whole = Path(got.path).read_bytes()
    os.truncate(got.path, left)
    assert ports.cache.find(got.digest) is None
    assert len(ports.cache.entries()) == 1  # gc sees it
    images.prefetch(resolved, ports, _silent)
    assert Path(got.path).read_bytes() == whole


def test_an_image_that_somebody_else_could_write_is_not_used(image: str, ports: ImagePorts) -> None:
    got = images.prefetch(_resolved(image, ports), ports, _silent)
    Path(got.path).chmod(0o666)
    with pytest.raises(SovctlError, match="could have been written by somebody else"):
        ports.cache.find(got.digest)
    Path(got.path).chmod(0o644)
    aside = Path(got.path).rename(Path(got.path).with_name("aside"))
    Path(got.path).symlink_to(aside)
    with pytest.raises(SovctlError, match="could have been written by somebody else"):
        ports.cache.find(got.digest)
    assert ports.cache.entries() == ()


def test_runtimes_are_tried_where_the_sites_cache_is_only_to_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("SOVCTL_ISOLATION_CACHE_DIR", "/proc/sovctl/images")
    assert str(wiring.image_cache_dir(load_config())) == "/proc/sovctl/images"
    tiny = wiring.tiny_image()
    tiny.make()
    assert Path(tiny.place).parent == tmp_path / "sovctl"
    assert (Path(tiny.directory) / "bin" / "sh").exists()
    tiny.remove()
    assert list((tmp_path / "sovctl").iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files of others")
def test_what_others_put_into_a_shared_cache_is_not_used(image: str, ports: ImagePorts, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    cache.chmod(0o1777)
    resolved = _resolved(image, ports)
    name = NAME(resolved.digest).removesuffix(".sqsh")

    def theirs(path: Path, mode: int) -> Path:
        path.mkdir()
        os.chown(path, 65533, 65533)
        path.chmod(mode)
        return path

    # Where this user's image is to be prepared, and whoever made the directory could put another into its place.
    squatted = theirs(cache / f".pull-{name}.{os.geteuid()}", 0o777)
    with pytest.raises(RefusedError, match="is not yours alone"):
        images.prefetch(resolved, ports, _silent)
    assert list(squatted.iterdir()) == []
    squatted.rmdir()
    lock = cache / f".lock{squatted.name}"
    os.chown(lock, 65533, -1)
    with pytest.raises(RefusedError, match="is not yours alone"):  # it could be held for ever
        images.prefetch(resolved, ports, _silent)
    lock.unlink()
    # Another user loads the same image meanwhile, or was killed while doing so: nothing to wait for.
    other = theirs(cache / f".pull-{name}.65533", 0o700)
    held = os.open(cache / f".lock{other.name}", os.O_RDWR | os.O_CREAT)
    fcntl.flock(held, fcntl.LOCK_EX)
    got = images.prefetch(resolved, ports, _silent)
    assert _unpacked(got.path, "etc/marker") == "busybox\n"
    # What looks like an image and a record, and would be waited for for ever.
    foreign = cache / NAME(f"sha256:{'1' * 64}")
    os.mkfifo(foreign)
    os.mkfifo(foreign.with_suffix(".json"))
    assert [one.path for one in ports.cache.entries()] == [got.path]
    foreign.unlink()
    foreign.touch()
    assert {one.reference for one in ports.cache.entries()} == {"", got.reference}
    assert got.settings.env
    os.chown(Path(got.path).with_suffix(".json"), 65533, -1)  # somebody else's words on the image's environment
    found = ports.cache.find(resolved.digest)
    assert found is not None
    assert found.settings == ImageSettings()
    assert ports.cache.leftovers() == ()
    os.close(held)
    assert ports.cache.leftovers() == (str(other),)
    assert ports.cache.remove_leftover(str(other))
    assert list(cache.glob(".*")) == []


@pytest.fixture
def clean_up(tmp_path: Path) -> Callable[..., None]:
    """What a node does each day with files in /var/tmp; `by`: of which times, in tmpfiles.d's letters, `more` rules."""
    if shutil.which("systemd-tmpfiles") is None:
        pytest.skip("there is no systemd-tmpfiles")

    def run(by: str, more: str = "") -> None:
        rules = tmp_path / "tmpfiles.conf"
        rules.write_text(f"d {tmp_path / 'node'} - - - {by}:30d\n{more}\n")
        subprocess.run(["systemd-tmpfiles", "--clean", rules], check=True)

    return run


@pytest.mark.parametrize("by", ["a", "m", "am"])
def test_a_root_that_a_clean_up_took_apart_is_unpacked_again(
    image: str, ports: ImagePorts, tmp_path: Path, clean_up: Callable[..., None], by: str
) -> None:
    got = images.prefetch(_resolved(image, ports), ports, _silent)
    roots, said = NodeRoots(tmp_path / "node"), list[str]()
    root, locks = roots.unpacked(got.path, 0, said.append)
    old, read_lately = Path(root, "etc", "secret"), Path(root, "etc", "marker")
    for path in (old, *Path(root).rglob("*")):
        os.utime(path, (0, 0), follow_symlinks=False)
    os.utime(read_lately)
    clean_up(by)
    assert old.exists(), "a step still uses it"
    _close(locks)
    clean_up(by)
    assert (old.exists(), read_lately.exists()) == (False, True)
    again, locks = roots.unpacked(got.path, 0, said.append)
    assert again == root
    assert old.exists()
    assert len(said) == 2
    _close(locks)
    _close(roots.unpacked(got.path, 0, said.append)[1])
    assert len(said) == 2


def test_the_rules_that_are_installed_keep_a_clean_up_from_all_that_is_unpacked(
    tmp_path: Path, clean_up: Callable[..., None]
) -> None:
    files = [tmp_path / "node" / owner / "file" for owner in ("sovctl-0", "sovctl-1000", "others")]
    for file in files:
        file.parent.mkdir(parents=True)
        file.touch()
        os.utime(file, (0, 0))
    rules = (Path(__file__).parents[2] / "plugins" / "etc" / "tmpfiles").read_text()
    clean_up("m", rules.replace("/var/tmp/", f"{tmp_path}/node/"))
    assert [file.exists() for file in files] == [True, True, False]


def test_a_root_that_a_clean_up_took_apart_is_not_removed_below_a_step(
    image: str, ports: ImagePorts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_roots, "_TRIES", 2)
    got = images.prefetch(_resolved(image, ports), ports, _silent)
    roots = NodeRoots(tmp_path / "node")
    root, locks = roots.unpacked(got.path, 0, _silent)
    Path(root, "..", "oldest").resolve().unlink()  # by one that knows no locks
    with pytest.raises(TryLaterError, match="steps still run in what is left"):
        roots.unpacked(got.path, 0, _silent)
    Path(root).parent.with_suffix(".lock").unlink()
    with pytest.raises(TryLaterError, match="steps still run in what is left"):
        roots.unpacked(got.path, 0, _silent)
    assert roots.unused(ports.clock.now() + 1) == ()
    assert Path(root, "etc", "marker").exists()
    _close(locks)
    _close(roots.unpacked(got.path, 0, _silent)[1])
    assert len(roots.unused(ports.clock.now() + 1)) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files of others")
def test_an_image_with_a_device_node_is_unpacked_by_users(new_root: Callable[[], Path]) -> None:
    place = new_root().parent / "devices"
    (place / "rootfs").mkdir(parents=True)
    (place / "rootfs" / "marker").write_text("packed" * 100_000)
    os.chown(place, 65534, 65534)
    squashfs = place / "image.sqsh"
    argv = ["mksquashfs", place / "rootfs", squashfs, "-quiet", "-no-progress"]
    odd = ("odd c 666 0 0 1 3", "dev d 755 0 0", "dev/loop b 660 0 0 7 0")
    subprocess.run([*argv, *(word for line in odd for word in ("-p", line))], check=True, stdout=subprocess.DEVNULL)

    def unpack() -> subprocess.CompletedProcess[str]:
        words = "import sys, pathlib; from sovctl.adapters.isolation.node_roots import NodeRoots"
        words += "; print(NodeRoots(pathlib.Path(sys.argv[2])).unpacked(sys.argv[1], 0, str)[0])"
        return as_nobody([sys.executable, "-c", words, squashfs, place / "node"])

    done = unpack()
    assert done.returncode == 0, done.stderr
    root = Path(done.stdout.strip())
    assert sorted(path.name for path in root.iterdir()) == ["dev", "marker"]
    assert list((root / "dev").iterdir()) == []
    with squashfs.open("r+b") as file:
        file.seek(100)  # the first bytes of the first file
        file.write(bytes(100))
    spoilt = unpack()
    assert spoilt.returncode == 1
    assert "cannot be unpacked" in spoilt.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files of others")
def test_cleaning_a_shared_cache_goes_on_past_the_images_of_others(new_root: Callable[[], Path]) -> None:
    cache = new_root().parent / "shared"
    cache.mkdir()
    cache.chmod(0o1777)
    theirs, own = (cache / NAME(f"sha256:{digit * 64}") for digit in "12")
    for path in (theirs, own):
        path.write_bytes(b"hsqs")
        path.with_suffix(".json").touch()
    os.utime(theirs, (0, 0))  # its turn comes first
    os.chown(own, 65534, 65534)
    done = as_nobody(
        [sys.executable, "-m", "sovctl", "image", "gc"],
        env={"PATH": os.environ["PATH"], "HOME": "/", "SOVCTL_ISOLATION_CACHE_DIR": str(cache)},
    )
    assert (done.returncode, done.stdout) == (0, f"removed {own}\n"), done.stderr
    assert "1 stay: somebody else's, or in use by now" in done.stderr
    assert theirs.exists()
    assert not own.exists()


@pytest.mark.parametrize(
    "record",
    ["", "[]", "{", '{"settings": {"env": [["a"]]}}', '{"settings": 3}', pytest.param("[" * 200_000, id="deep")],
)
def test_a_spoilt_record_costs_only_the_environment(image: str, ports: ImagePorts, record: str) -> None:
    got = images.prefetch(_resolved(image, ports), ports, _silent)
    Path(got.path).with_suffix(".json").write_text(record)
    found = ports.cache.find(got.digest)
    assert found is not None
    assert found.settings == ImageSettings()


def test_the_commands(
    image: str, served: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SOVCTL_ISOLATION_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("SOVCTL_ISOLATION_PLAIN_HTTP", served.address)

    def answer(*words: str) -> dict[str, object]:
        assert sovctl(["image", *words, "--json"]) == 0
        found: dict[str, object] = json.loads(capsys.readouterr().out)
        assert found.pop("schema") == "sovctl.images/1"
        return found

    digest = answer("resolve", image)["digest"]
    assert sovctl(["image", "prefetch", image, "--dry-run"]) == 0
    assert "would be loaded" in capsys.readouterr().out
    assert answer("ls")["images"] == []
    (loaded,) = answer("prefetch", image)["images"]  # type: ignore[misc]
    assert loaded["digest"] == digest
    assert sovctl(["image", "ls"]) == 0
    assert image in capsys.readouterr().out
    assert len(answer("gc", "--dry-run")["removed"]) == len(answer("ls")["images"]) == 1  # type: ignore[arg-type]
    assert answer("gc", "--keep", "1G")["removed"] == []
    assert answer("gc")["freed_bytes"] == loaded["size_bytes"]
    assert answer("ls")["images"] == []
    assert sovctl(["image", "gc", "--keep", "lots"]) == 2
    monkeypatch.setenv("SOVCTL_ISOLATION_ALLOW_IMAGES", "reg.example")
    assert sovctl(["image", "resolve", image]) == 3
    assert "isolation.allow_images" in capsys.readouterr().err


def test_an_ordinary_user_loads_images(image: str, served: Registry, new_root: Callable[[], Path]) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to become another user")
    home = new_root().parent / "home"
    home.mkdir()
    os.chown(home, 65534, 65534)
    env = {"PATH": os.environ["PATH"], "HOME": str(home), "SOVCTL_ISOLATION_PLAIN_HTTP": served.address}

    def loaded(**more: str) -> subprocess.CompletedProcess[str]:
        return as_nobody([sys.executable, "-m", "sovctl", "image", "prefetch", image], env | more)

    refused = loaded(SOVCTL_ISOLATION_CACHE_DIR="/usr/share")  # as a site's that only root may write
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "Permission denied" in refused.stderr
    assert "Have its owner prefetch it, or use a cache of your own" in refused.stderr
    done = loaded()
    assert done.returncode == 0, done.stderr
    path = Path(done.stdout.strip())
    assert path.is_relative_to(home)
    assert _unpacked(str(path), "etc/secret") == "of the image\n"
