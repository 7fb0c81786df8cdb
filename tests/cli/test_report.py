"""`sovctl report` and `sovctl alert` as people meet them; the page in a real browser."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from sovctl.adapters.journal import FileJournal

sys.path.append(str(Path(__file__).parents[2] / "bench"))
from site_ledger import write_site

EVIL = '<script>document.title="owned"</script><img src=x onerror=alert(1)>'


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Two runs with six incidents each, one of them with a name that attacks a browser."""
    root = tmp_path_factory.mktemp("site")
    write_site(root, 2, 6)
    path = next((root / "work/.sovctl/runs").glob("lab-2-*")) / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "name": EVIL, "user": "\x1b[31m" + EVIL}))
    yield root


def sovctl(site: Path, *argv: str, **env: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SOVCTL_", "XDG_"))}
    own = {"HOME": str(site), "SOVCTL_CLUSTER_JOURNAL_DIR": str(site / "journal"), "SLURM_CONF": "/nonexistent"}
    done = subprocess.run(
        [sys.executable, "-m", "sovctl", *argv],
        cwd=site / "work",
        env={**clean, **own, **env},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "Traceback" not in done.stderr
    return done


def test_the_table(site: Path) -> None:
    done = sovctl(site, "report", "--since", "31d", COLUMNS="100")
    assert done.returncode == 0
    assert re.search(
        r"^MTTF: +\S+ h \(95 %: \S+ to \S+\); 12 failures in \S+ h of training$", done.stdout, re.MULTILINE
    )
    assert "12 of 12 led on (100%)" in done.stdout
    narrow = sovctl(site, "report", "--since", "31d", COLUMNS="80").stdout.splitlines()
    assert [line for line in narrow if len(line) > 80] == []
    assert "checkpoint loaded" in done.stdout and "GPU-hours" in done.stdout
    assert "\x1b" not in done.stdout
    assert "without Slurm's accounting" in done.stderr


def test_the_same_as_json(site: Path) -> None:
    record = json.loads(sovctl(site, "report", "--since", "31d", "--json").stdout)
    assert record["schema"] == "sovctl.report/1"
    assert len(record["incidents"]) == record["mttf_hours"]["failures"] == 12
    assert 0.5 < record["ettr"] < 1
    assert record["mttr"]["median"] == pytest.approx(32, abs=6)
    assert len(json.loads(sovctl(site, "report", "--since", "1m", "--json").stdout)["incidents"]) == 0


def test_words_for_a_period_that_is_none(site: Path) -> None:
    done = sovctl(site, "report", "--since", "soon")
    assert done.returncode == 2 and "30d" in done.stderr
    missing = sovctl(site, "report", "--html", "/nonexistent/x.html")
    assert missing.returncode == 1 and "/nonexistent/x.html" in missing.stderr


def browser(*argv: str) -> subprocess.CompletedProcess[str]:
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr", "--v=0"]
    return subprocess.run(["chromium", *flags, *argv], capture_output=True, text=True, timeout=120)


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no Chromium here")
def test_the_page_in_a_browser(site: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    assert sovctl(site, "report", "--since=31d", "--html", str(page)).returncode == 0
    text = page.read_text()
    assert not re.findall(r"(?:src|href|url\()\s*=?\s*[\"']?(?:https?:)?//", text), "it asks nobody for anything"
    assert "<script" not in text and EVIL not in text and "&lt;script&gt;" in text
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    shown = browser(profile, "--dump-dom", f"--screenshot={tmp_path / 'wide.png'}", page.as_uri())
    assert (
        "<title>sovctl report, " in shown.stdout and "owned" not in re.findall(r"<title>(.*?)</title>", shown.stdout)[0]
    )
    assert shown.stdout.count("<circle") + shown.stdout.count("h0") >= 12, "a point for each incident"
    assert [line for line in shown.stderr.splitlines() if "CONSOLE" in line] == []
    assert (tmp_path / "wide.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert (tmp_path / "wide.png").stat().st_size > 20_000, "not blank"
    narrow = tmp_path / "narrow.html"
    # As wide as a phone: nothing may stick out at the side.
    probe = "<script>onload=()=>document.title=document.getElementById('f').contentDocument.documentElement.scrollWidth"
    narrow.write_text(
        f"<iframe id=f style='width:390px;height:800px;border:0' src='report.html'></iframe>{probe}</script>"
    )
    measured = browser(profile, "--allow-file-access-from-files", "--dump-dom", narrow.as_uri())
    assert re.findall(r"<title>(\d+)</title>", measured.stdout) == ["390"]


# Alerts


def test_nobody_to_tell(site: Path, tmp_path: Path) -> None:
    done = sovctl(site, "alert", "test")
    assert done.returncode == 2 and "webhook_file" in done.stderr
    own = tmp_path / "own.toml"
    own.touch()
    said = sovctl(site, "alert", "test", SOVCTL_CONFIG=str(own)).stderr
    assert f"Set one of them in {own};" in " ".join(said.split())


def hook(tmp_path: Path) -> dict[str, str]:
    """A webhook where nobody listens."""
    secret = tmp_path / "hook"
    secret.write_text("http://127.0.0.1:9/secret-token\n")
    secret.chmod(0o600)
    return {"SOVCTL_ALERTS_WEBHOOK_FILE": str(secret)}


def test_the_message_before_it_is_sent(site: Path, tmp_path: Path) -> None:
    env = {**hook(tmp_path), "SOVCTL_ALERTS_SUBJECT": "[$kind] $what", "SOVCTL_ALERTS_EMAIL_TO": "a@b.test"}
    done = sovctl(site, "alert", "test", "--dry-run", **env)
    assert done.returncode == 0
    assert "would go by webhook and e-mail:\n\n[test] a test from " in done.stdout
    assert "secret" not in done.stdout + done.stderr


def test_a_test_that_does_not_get_through_says_so_without_the_address(site: Path, tmp_path: Path) -> None:
    done = sovctl(site, "alert", "test", **hook(tmp_path))
    assert done.returncode == 1
    assert "the webhook took no message" in done.stderr and "secret" not in done.stderr
    assert done.stderr.splitlines()[-1].strip() == "Check where it goes: sovctl config show alerts"


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ({"SOVCTL_ALERTS_TEXT": "$waht"}, "$waht"),
        ({"SOVCTL_ALERTS_KINDS": "incidents"}, "incidents"),
        ({"SOVCTL_ALERTS_WEBHOOK_FORMAT": "xml"}, "json or slack"),
    ],
)
def test_a_mistake_is_found_by_the_test(site: Path, tmp_path: Path, env: dict[str, str], words: str) -> None:
    done = sovctl(site, "alert", "test", "--dry-run", **hook(tmp_path), **env)
    assert done.returncode == 2 and words in done.stderr


def test_what_waits(site: Path, tmp_path: Path) -> None:
    from sovctl.adapters.site.alert_spool import AlertSpoolFiles
    from sovctl.model.alert import Alert, AlertKind

    state = tmp_path / "journal" / "alerts" if os.geteuid() == 0 else tmp_path / "sovctl" / "alerts"
    waiting = Alert("k", AlertKind.LIMIT, time.time(), "the budget is spent", "cluster", "lab", "sovctl node ls")
    spool = AlertSpoolFiles(state)
    env = {"SOVCTL_CLUSTER_JOURNAL_DIR": str(tmp_path / "journal"), "XDG_STATE_HOME": str(tmp_path), **hook(tmp_path)}
    assert "nothing waits" in sovctl(site, "alert", "ls", **env).stderr
    state.mkdir(parents=True)
    spool.add(waiting, ("webhook",))
    record: dict[str, Any] = json.loads(sovctl(site, "alert", "ls", "--json", **env).stdout)
    assert [item["what"] for item in record["waiting"]] == ["the budget is spent"]
    listed = sovctl(site, "alert", "ls", "-n", "-o", "channels,what", **env)
    assert (listed.stdout, listed.stderr.strip()) == (
        "webhook  the budget is spent\n",
        "Once that is mended: sovctl alert send",
    )
    assert sovctl(site, "alert", "send", "--dry-run", **env).stdout == "1 would be sent\n"
    tried = sovctl(site, "alert", "send", **env)
    assert tried.returncode == 1 and "0 sent, 1 wait" in tried.stderr
    assert "sovctl alert ls" in tried.stderr


def test_the_watch_tells_what_happens_from_now_on(tmp_path: Path) -> None:
    """The real program, with a Slurm that does not answer: messages depend on journals alone."""
    got: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["what"])
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    env = hook(tmp_path)
    Path(env["SOVCTL_ALERTS_WEBHOOK_FILE"]).write_text(f"http://127.0.0.1:{server.server_address[1]}/")
    journal = FileJournal(tmp_path / "journal" / "sweep.jsonl")
    journal.append("alarm", words="long ago")
    own = {"SOVCTL_CLUSTER_JOURNAL_DIR": str(tmp_path / "journal"), "SLURM_CONF": "/nonexistent", "HOME": str(tmp_path)}
    watch = subprocess.Popen(
        [sys.executable, "-m", "sovctl", "watch"], env={**os.environ, **own, "XDG_STATE_HOME": str(tmp_path), **env}
    )
    try:
        states = [tmp_path / "journal" / "alerts" / "state.json", tmp_path / "sovctl" / "alerts" / "state.json"]
        await_state(lambda: any(path.exists() for path in states))
        journal.append("alarm", words="7 nodes show XID79")
        await_state(lambda: got != [])
    finally:
        watch.terminate()
        assert watch.wait(20) == 0
        server.shutdown()
        server.server_close()
    assert got == ["7 nodes show XID79"]


def await_state(look: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not look():
        assert time.monotonic() < deadline, "it did not come in time"
        time.sleep(0.05)
