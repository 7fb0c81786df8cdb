"""The lines of the documentation, typed: against what a real Slurm 26.05 was recorded to answer, and runs of two jobs.

What changes something is typed with `--dry-run`; a command named without the words that it needs, with `--help`.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import documented
import pytest
from checkpoint_builders import write_checkpoint
from format_builders import age, megatron

from sovctl.adapters.slurm import parse
from sovctl.cli import main
from sovctl.cli.tree import Command, command_tree

sys.path.append(str(Path(__file__).parents[2] / "bench"))
from site_ledger import write_site

ROOT = Path(__file__).parents[2]
SLURM = f"""#!{sys.executable}
import sys
from pathlib import Path

data = Path(sys.argv[0]).parent.parent / "slurm"
program, words = Path(sys.argv[0]).name, " ".join(sys.argv[1:])
if program not in ("squeue", "sacct", "sinfo") and "show" not in sys.argv:
    with (data / "acts").open("a") as acts:
        print(program, words, file=acts)
FORMATS = {{{parse.POOL_FORMAT!r}: "squeue_pool", {parse.PREEMPTED_FORMAT!r}: "squeue_preempted"}}
if program == "scontrol" and "show" in sys.argv:
    what, *name = sys.argv[sys.argv.index("show") + 1 :]
    lines = (data / f"show_{{what}}.txt").read_text().splitlines()
    key = {{"node": "NodeName=", "job": "JobId="}}.get(what, "")
    named = [f"{{key}}{{one}} " for word in name if key for one in word.split(",")]
    print(*[line for line in lines if not named or line.startswith(tuple(named))], sep="\\n")
elif program == "squeue":
    name = next((FORMATS[word] for word in sys.argv if word in FORMATS), "squeue")
    print((data / f"{{name}}.txt").read_text(), end="")
elif program == "sacctmgr":
    print((data / ("open_qos.txt" if "assoc" in words else "qos.txt")).read_text(), end="")
elif program == "sacct":
    print((data / "accounting.txt").read_text(), end="")
else:
    sys.exit(f"{{program}}: error: nothing was recorded for {{words}}")
"""
STANDS_FOR = {
    "1": "2",
    "1234": "6",
    "2": "6",
    "DIR": "checkpoints",
    "FILE": "sovctl.toml",
    "PATH": "checkpoints/iter_0000020",
    "RUN": "6",
    "n003": "n002",
}
"""Word of the pages -> what it is here: job 2 runs, 6 is held, n002 is drained by sovctl."""
NOT_TYPED = {
    "lab": "starts or needs a cluster of its own: tests/slurm/test_lab.py",
    "watch": "goes on until it is stopped: tests/slurm/test_site.py",
    "health watch": "goes on until it is stopped: tests/cli/test_health.py",
    "health prolog": "belongs to a job that begins: tests/cli/test_health_jobs.py",
    "health epilog": "belongs to a job that ends: tests/cli/test_health_jobs.py",
    "sweep": "asks nodes over SSH: tests/cli/test_sweep.py",
    "node check": "asks a node over SSH: tests/cli/test_sweep.py",
    "doctor --nodes": "asks nodes over SSH: tests/slurm/test_doctor.py",
    "doctor --steps": "starts steps: tests/slurm/test_spank_plugin.py",
    "doctor isolation": "starts steps: tests/slurm/test_isolation.py",
    "exec": "starts a step: tests/contract/test_isolated_steps.py",
    "image prefetch": "asks a registry: tests/contract/test_images.py",
    "image resolve": "asks a registry: tests/contract/test_images.py",
    "health probes --dry-run --learn": "learns of GPUs: tests/cli/test_health_jobs.py",
    "submit --dry-run --sov-isolate": "is for a partition with a rule: tests/slurm/test_spank_plugin.py",
    "image env export --dry-run": "needs an environment that a step made: tests/contract/test_isolated_steps.py",
    "image env rm --dry-run": "needs an environment that a step made: tests/contract/test_isolated_steps.py",
    "submit --dry-run --image": "asks a registry: tests/slurm/test_isolation.py",
    "run show 6 --stacks": "looks at ranks that run: tests/slurm/test_hangs.py",
}
"""Start of a line -> why it is not typed here, and where that is tried."""
SAYS = {
    "alert ls": (0, "nothing waits"),
    "ckpt verify checkpoints/iter_0000020": (1, "is not proven complete"),
    "ckpt verify --alone checkpoints/iter_0000020": (1, "is not proven complete"),
    "doctor": (1, ""),
    "doctor --json": (1, ""),
    "image env ls": (0, "There are no named layers"),
    "image ls": (0, "There are no images"),
    "image gc --dry-run": (0, "would remove 0 images"),
    "image gc --dry-run --keep 200G --unused-days 7": (0, "would remove 0 images"),
    "node drain --dry-run n002 --reason new cable": (0, "is drained by sovctl already"),
    "site uninstall --dry-run": (1, "nothing is installed here"),
    "site uninstall --dry-run --json": (1, "nothing is installed here"),
    "spare status": (0, "no spares are kept"),
    "spare set --dry-run 0": (0, "everything is so already"),
    "spare test --dry-run": (0, "no spare is idle"),
}
"""Line -> its status and what it says on stderr, where not 0 with something on stdout: there is nothing of the kind
here, or nothing left to do; iter_0000020 is cut off, and doctor fails the cluster that the records are of."""
WITH = {"site install": ("--role", "node", "--root", "root"), "site uninstall": ("--root", "root")}
"""Command -> what is added."""
TREE = {command.path: command for command in command_tree().every() if command.path}
LINES = [line for _, line in documented.lines("sovctl")]


def _typed(line: str) -> list[str]:
    """The words as typed here; empty for an internal command."""
    words = [STANDS_FOR.get(word, word) for word in documented.words(line)]
    if words[0].startswith("-"):
        return words
    command = _command(words)
    if command is None:
        return []
    named = [word for word in words[len(command.path) :] if not word.startswith("-")]
    if (command.commands and not command.does) or (not named and any(one.required for one in command.arguments)):
        return [*command.path, "--help"]
    if any("--dry-run" in option.names for option in command.options) and "--dry-run" not in words:
        words.insert(len(command.path), "--dry-run")
    return words


def _command(words: list[str]) -> Command | None:
    return next((TREE[tuple(words[:n])] for n in (3, 2, 1) if tuple(words[:n]) in TREE), None)


def _not_typed(words: list[str]) -> str:
    line = " ".join(words)
    return next((why for start, why in NOT_TYPED.items() if f"{line} ".startswith(f"{start} ")), "")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory that the pages speak of."""
    root = tmp_path_factory.mktemp("place")
    write_site(root, 6, 3)
    shutil.copytree(ROOT / "tests/data/slurm/26.05", root / "slurm")
    jobs = (root / "slurm/show_job.txt").read_text("utf-8")
    (run_6,) = (root / "work/.sovctl/runs").glob("lab-6-*")
    since = next(job.submitted_at for job in map(parse.parse_job, parse.parse_records(jobs)) if job.job_id == "6")
    jobs = jobs.replace(f"SubmitTime={since} ", f"SubmitTime={run_6.name.rpartition('-')[2]} ")
    (root / "slurm/show_job.txt").write_text(jobs, "utf-8")
    (root / "bin").mkdir()
    for name in ("scontrol", "squeue", "sacct", "sacctmgr", "sbatch", "scancel", "srun", "sinfo"):
        (root / "bin" / name).write_text(SLURM)
        (root / "bin" / name).chmod(0o755)
    work = root / "work"
    for step in (120, 140, 160, 180, 200):
        write_checkpoint(work / "checkpoints", step)
    (megatron(work / "checkpoints", 20) / "__0_0.distcp").write_bytes(b"cut off")
    age(work / "checkpoints")
    (work / "faults.txt").write_text("NVRM: Xid (PCI:0000:53:00): 79, pid='<unknown>', name=<unknown>, off the bus\n")
    (work / "train.sbatch").write_text("#!/bin/bash\n#SBATCH -N2\necho train\n")
    (work / "sovctl.toml").write_text(
        f'[node]\nname = "n003"\nrun_dir = "{root}/run"\nstate_dir = "{root}/state"\n'
        f'[cluster]\njournal_dir = "{root}/journal"\n[slurm]\nbin_dir = "{root}/bin"\n'
        '[alerts]\nemail_to = "admin@example.org"\n'
    )
    return root


@pytest.fixture
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in os.environ:
        if name.startswith(("SLURM_", "SOVCTL_", "XDG_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("SOVCTL_CHECKPOINT_DIR", "checkpoints")
    own = {"HOME": place, "PATH": f"{place}/bin:/usr/bin:/bin", "SOVCTL_CONFIG": place / "work/sovctl.toml"}
    for name, value in own.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.chdir(place / "work")
    return place


TYPED = sorted({tuple(words) for line in LINES if (words := _typed(line)) and not _not_typed(words)})


@pytest.mark.parametrize("typed", TYPED, ids=" ".join)
def test_a_line_of_the_documentation_does_what_it_says(
    typed: tuple[str, ...], here: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    line = " ".join(typed)
    status, words = SAYS.get(line, (0, ""))
    more = next((more for start, more in WITH.items() if line.startswith(start)), ())
    with (here / "work/faults.txt").open() as given:
        monkeypatch.setattr(sys, "stdin", given)
        done = main.run([*typed, *more])
    said = capfd.readouterr()
    assert (done, words in said.err) == (status, True), said.err
    assert said.out or words
    assert not (here / "slurm/acts").exists(), (here / "slurm/acts").read_text("utf-8")


def test_every_exception_is_of_a_line_and_names_a_test() -> None:
    typed = [words for line in LINES if (words := _typed(line))]
    assert [start for start in NOT_TYPED if not any(_not_typed(words) == NOT_TYPED[start] for words in typed)] == []
    assert [why for why in NOT_TYPED.values() if not (ROOT / why.rpartition(": ")[2]).exists()] == []
    assert set(SAYS) <= {" ".join(words) for words in TYPED}
