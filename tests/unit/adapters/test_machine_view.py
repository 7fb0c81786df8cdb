"""What doctor reads of a machine, from files made for it; and a directory really tried."""

from __future__ import annotations

from pathlib import Path

from sovctl.adapters.node.file_trial import try_directory
from sovctl.adapters.node.machine_view import hooks, settings_digest, slurmd_maps, steps_with
from sovctl.model.site import HookFile


def test_a_good_directory_is_tried_and_left_as_it_was(tmp_path: Path) -> None:
    found = try_directory(tmp_path)
    assert (found.renames, found.syncs, found.appends, found.locks) == (True, True, True, True)
    assert found.clock_offset_s is not None and abs(found.clock_offset_s) < 1.0
    assert found.kind and not found.problem
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_is_not_there_is_a_problem_told(tmp_path: Path) -> None:
    found = try_directory(tmp_path / "absent")
    assert found.missing and (found.kind, found.problem) == ("", "cannot be written: No such file or directory")
    assert found.renames is None


def test_the_programs_behind_a_pattern(tmp_path: Path) -> None:
    for name, mode in (("10-ours", 0o755), ("50-site", 0o644)):
        (tmp_path / name).write_text("", "ascii")
        (tmp_path / name).chmod(mode)
    absent = str(tmp_path / "none")
    assert hooks([("Prolog", f"{tmp_path}/*"), ("Epilog", absent)]) == (
        HookFile("Prolog", f"{tmp_path}/10-ours", True),
        HookFile("Prolog", f"{tmp_path}/50-site", False),
        HookFile("Epilog", absent, False),
    )


def test_what_slurmd_has_in_memory(tmp_path: Path) -> None:
    def process(pid: int, argv: str, maps: str | None) -> None:
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "cmdline").write_bytes(argv.encode())
        if maps is not None:
            (tmp_path / str(pid) / "maps").write_text(maps)

    assert slurmd_maps("n001", "/etc/slurm.conf", tmp_path) == (False, None, False)
    process(10, "/bin/sh\0", "")
    process(11, "/usr/sbin/slurmd\0-N\0n002\0", "7f r-xp /usr/lib/sovctl_spank.so (deleted)\n")
    process(12, "/usr/sbin/slurmd\0-f/etc/slurm.conf\0-Nn001\0", "7f r-xp /usr/lib/libc.so\n")
    process(9, "slurmd\0-f\0/other/slurm.conf\0-N\0n001\0", "7f r-xp /usr/lib/sovctl_spank.so\n")
    process(13, "slurmd\0-N\0n003\0", None)
    assert slurmd_maps("n001", "/etc/slurm.conf", tmp_path) == (True, False, False)
    assert slurmd_maps("n002", "/etc/slurm.conf", tmp_path) == (True, True, True)
    assert slurmd_maps("n003", "/etc/slurm.conf", tmp_path) == (True, None, False)
    assert slurmd_maps("n004", "/etc/slurm.conf", tmp_path) == (False, None, False)


def test_how_many_running_steps_have_the_plugin(tmp_path: Path) -> None:
    plugin = "/usr/lib/sovctl_spank.so"

    def process(pid: int, comm: str, maps: str) -> None:
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "comm").write_text(f"{comm}\n")
        (tmp_path / str(pid) / "maps").write_text(maps)

    assert steps_with(plugin, tmp_path) is None
    process(10, "slurmd", "")
    assert steps_with(plugin, tmp_path) == (0, 0)
    process(11, "slurmstepd", f"7f r-xp {plugin}\n")
    process(12, "slurmstepd", "7f r-xp /usr/lib/libc.so\n")
    process(13, "bash", f"7f r-xp {plugin}\n")
    assert steps_with(plugin, tmp_path) == (1, 2)
    process(20, "slurmd", "")  # of another node of a lab: whose steps are these?
    assert steps_with(plugin, tmp_path) is None


def test_settings_of_one_node_make_no_difference(tmp_path: Path) -> None:
    path = tmp_path / "sovctl.toml"

    def of(text: str) -> str:
        path.write_text(text, "utf-8")
        return settings_digest(path)

    known = of("[health]\nact = true\n")
    assert known
    assert of("# of n001\n[node]\nexpected_gpus = 4\n[health]\nact = true\n") == known
    assert of("[health]\nact = false\n") not in ("", known)
    assert of("[node]\nexpected_gpus = 4\n") == of("") == settings_digest(tmp_path / "none") == ""
    assert of("[node\n") not in ("", of("[health\n"))
