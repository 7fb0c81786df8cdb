"""The account of what happened on a real cluster with slurmdbd, and the message that a run is held."""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from sovctl.adapters.command import CommandRunner
from sovctl.adapters.slurm.sacct import Sacct
from sovctl.lab import cluster
from sovctl.lab.training import as_user
from tests.slurm.conftest import start_script

pytestmark = pytest.mark.slurm

StartLab = Callable[..., cluster.Lab]
FORGED = "train\n99|lab|root|0|NODE_FAIL"


@pytest.fixture
def hook() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Address of a webhook, and what it got."""
    got: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/hook", got
    server.shutdown()
    server.server_close()


def report(lab: cluster.Lab, user: str, cwd: Path, home: Path) -> dict[str, Any]:
    env = {**lab.environment, "HOME": str(home), "XDG_STATE_HOME": str(home)}
    words = ["env", f"HOME={home}", f"XDG_STATE_HOME={home}", sys.executable, "-P", "-m", "sovctl"]
    argv = [*as_user(user), *words, "report", "--json"]
    done = subprocess.run(argv, cwd=cwd, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    record: dict[str, Any] = json.loads(done.stdout)
    return record


def test_a_job_without_sovctl_and_a_run_that_is_held(
    story_lab: StartLab, work_dir: Path, user: str, hook: tuple[str, list[dict[str, Any]]], tmp_path: Path
) -> None:
    lab = story_lab(nodes=4, health=False, accounting=True)
    slurm, runner = cluster.slurm(lab.layout), CommandRunner(lab.environment)
    plain = work_dir / "plain.sbatch"
    plain.write_text("#!/bin/bash\nexec sleep 300\n")
    url, got = hook
    secret = work_dir / "hook"
    secret.write_text(url + "\n")
    secret.chmod(0o600)
    if user:
        os.chown(secret, pwd.getpwnam(user).pw_uid, -1)
    sbatch = ["sbatch", "--parsable", "--requeue", f"--job-name={FORGED}", "-N2", f"-D{work_dir}", str(plain)]
    job_id = runner.run([*as_user(user), *sbatch], timeout_s=30).stdout.strip()

    crash = "#!/bin/bash\n#SBATCH --nodes=1\necho 'ValueError: bad batch' >&2\nexit 3\n"
    run = start_script(lab, work_dir, user, crash, f"--export=ALL,SOVCTL_ALERTS_WEBHOOK_FILE={secret}")

    run.wait("the plain job", lambda: len(slurm.job(job_id).nodes) == 2, 60)
    victim = slurm.job(job_id).nodes[1]
    slurm.set_down(victim, "a test takes it down")
    run.wait("Slurm to requeue it", lambda: slurm.job(job_id).pending and not slurm.job(job_id).completing, 60)
    runner.run(["scontrol", "update", f"JobId={job_id}", "StartTime=now"], timeout_s=30)
    run.wait("the plain job to run again", lambda: slurm.job(job_id).running, 60)

    run.wait("the run to be held", lambda: bool(run.events("held")), 90)
    run.wait("the message", lambda: any(one["kind"] == "run-held" for one in got), 30)
    told = next(one for one in got if one["kind"] == "run-held")
    assert told["what"].startswith(f"job {run.job_id} is held: ") and told["next"] == f"sovctl run why {run.job_id}"
    assert [one["key"] for one in got] == list(dict.fromkeys(one["key"] for one in got)), "each came once"
    assert "incident" in {one["kind"] for one in got}

    accounted = lambda: Sacct(runner).jobs(0.0, everybody=True)  # noqa: E731
    run.wait("slurmdbd", lambda: [job.state for job in accounted() if job.job_id == job_id][-1:] == ["RUNNING"], 60)
    executions = [job for job in accounted() if job.job_id == job_id]
    assert [job.state for job in executions] == ["NODE_FAIL", "RUNNING"]
    assert (
        executions[0].nodes and executions[0].work_dir == str(work_dir) and "99" not in {j.job_id for j in accounted()}
    )

    for who in dict.fromkeys(["", user]):
        found = report(lab, who, Path("/") if not who else work_dir, tmp_path if not who else work_dir)
        incidents = {(item["job_id"], item["source"]): item for item in found["incidents"]}
        failed = incidents[(job_id, "accounting")]
        assert (failed["culprit"], failed["code"], failed["outcome"]) == ("hardware", "NODE_FAIL", "recovered")
        assert failed["stamps"]["detected"] <= failed["stamps"]["allocated"]
        assert incidents[(run.job_id, "record")]["culprit"] == "user-code"
        assert found["chains"]["chains"] >= 1 and found["outcomes"]["held"] >= 1
    if user:
        assert report(lab, "nobody", Path("/"), Path("/nonexistent"))["incidents"] == []
