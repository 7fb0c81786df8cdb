"""The ways out, against a real SMTP server and a real HTTP server."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.handlers import Message
from aiosmtpd.smtp import AuthResult, LoginPassword
from ports import free_ports

from sovctl.adapters.site.alert_channels import Email, NotSent, Webhook, read_secret, webhook_url
from sovctl.errors import AlertGivenUp, ConfigError
from sovctl.lab.cluster import PortClaims

RECORD = {"schema": "sovctl.alert/1", "kind": "incident", "what": "n003 was drained"}


class Hook:
    """An HTTP server that remembers what it got."""

    def __init__(self) -> None:
        self.got: list[tuple[str, dict[str, Any]]] = []
        self.status = 200
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                hook.got.append((self.path, json.loads(body)))
                self.send_response(hook.status)
                if hook.status == 302:
                    self.send_header("Location", "/elsewhere")
                self.end_headers()

            def do_GET(self) -> None:
                hook.got.append((self.path, {}))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                return

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/secret-token"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def hook() -> Iterator[Hook]:
    made = Hook()
    yield made
    made.server.shutdown()
    made.server.server_close()


class Mailbox(Message):
    def __init__(self) -> None:
        super().__init__()
        self.got: list[Any] = []
        self.unknown = ""

    async def handle_RCPT(
        self, _server: object, _session: object, envelope: Any, address: str, _options: object
    ) -> str:
        if address == self.unknown:
            return "550 no such user"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    def handle_message(self, message: Any) -> None:
        self.got.append(message)


@pytest.fixture
def mailbox() -> Iterator[tuple[Mailbox, int]]:
    def login(_server: object, _session: object, _envelope: object, _mechanism: str, data: object) -> AuthResult:
        known = isinstance(data, LoginPassword) and (data.login, data.password) == (b"sov", b"hush")
        return AuthResult(success=known, handled=known)

    box = Mailbox()
    with PortClaims() as claims:
        (port,) = free_ports(1, claims)
        server = Controller(box, hostname="127.0.0.1", port=port, authenticator=login, auth_require_tls=False)
        server.start()
        yield box, port
        server.stop()


def email(port: int, **changes: Any) -> Email:
    given = {"to": ("a@site.test", "b@site.test"), "sender": "sovctl@c1.test", "host": "127.0.0.1", "port": port}
    return Email(**{**given, "security": "none", "user": "", "password": "", "timeout_s": 5.0, **changes})


def test_a_webhook_gets_the_whole_alert(hook: Hook) -> None:
    Webhook(hook.url, "json", 5.0).send("subject", "körper", RECORD)
    assert hook.got == [("/secret-token", {**RECORD, "subject": "subject", "text": "subject\nkörper"})]


def test_slack_gets_a_text(hook: Hook) -> None:
    Webhook(hook.url, "slack", 5.0).send("subject", "body", RECORD)
    assert hook.got[0][1] == {"text": "subject\nbody"}


@pytest.mark.parametrize("status", [302, 403, 404, 500])
def test_a_webhook_that_refuses_is_tried_again_and_leads_nowhere_else(hook: Hook, status: int) -> None:
    hook.status = status
    with pytest.raises(NotSent) as refused:
        Webhook(hook.url, "json", 5.0).send("s", "b", RECORD)
    assert str(status) in refused.value.message
    assert "secret-token" not in refused.value.message
    assert [path for path, _ in hook.got] == ["/secret-token"]


def test_a_webhook_that_is_away(hook: Hook) -> None:
    hook.server.shutdown()
    hook.server.server_close()
    with pytest.raises(NotSent) as away:
        Webhook(hook.url, "json", 2.0).send("s", "b", RECORD)
    assert "secret" not in away.value.message and "refused" in away.value.message.lower()


def test_a_mail_arrives(mailbox: tuple[Mailbox, int]) -> None:
    box, port = mailbox
    email(port).send("n003 wurde ausgeräumt", "was: XID79\n", RECORD)
    (got,) = box.got
    assert (got["To"], got["From"]) == ("a@site.test, b@site.test", "sovctl@c1.test")
    assert got["X-Sovctl-Kind"] == "incident" and got["Auto-Submitted"] == "auto-generated"
    assert "XID79" in str(got.get_payload(decode=True), "utf-8")


def test_a_mail_with_a_password(mailbox: tuple[Mailbox, int]) -> None:
    box, port = mailbox
    email(port, user="sov", password="hush").send("s", "b", RECORD)
    assert len(box.got) == 1
    with pytest.raises(NotSent) as refused:
        email(port, user="sov", password="wrong-secret").send("s", "b", RECORD)
    assert "wrong-secret" not in refused.value.message and "535" in refused.value.message


def test_no_mail_goes_out_in_the_clear_where_tls_is_asked_for(mailbox: tuple[Mailbox, int]) -> None:
    box, port = mailbox
    for security in ("starttls", "tls"):
        with pytest.raises(NotSent):
            email(port, security=security, timeout_s=2.0).send("s", "b", RECORD)
    assert box.got == []


def test_a_secret_is_read_only_from_a_file_that_keeps_it(tmp_path: Path) -> None:
    path = tmp_path / "hook"
    path.write_text("https://hooks.test/T0/B0/xyz\nsecond line\n")
    path.chmod(0o600)
    assert webhook_url(read_secret(str(path), "k"), "k") == "https://hooks.test/T0/B0/xyz"
    path.chmod(0o644)
    with pytest.raises(ConfigError) as open_to_all:
        read_secret(str(path), "k")
    assert "xyz" not in str(open_to_all.value.message) and "chmod 600" in open_to_all.value.hint
    for text in ("", "\n"):
        path.chmod(0o600)
        path.write_text(text)
        with pytest.raises(ConfigError):
            read_secret(str(path), "k")
    with pytest.raises(ConfigError):
        read_secret(str(tmp_path), "k")
    with pytest.raises(ConfigError):
        read_secret(str(tmp_path / "absent"), "k")


@pytest.mark.parametrize("text", ["file:///etc/passwd", "ftp://x/y", "https://", "nonsense-secret", "https://a b"])
def test_only_web_addresses(text: str) -> None:
    with pytest.raises(ConfigError) as refused:
        webhook_url(text, "alerts.webhook_file")
    assert "secret" not in refused.value.message and "passwd" not in refused.value.message


@pytest.mark.parametrize("status", [400, 413, 415, 422])
def test_a_message_that_a_webhook_never_takes_blocks_no_later_one(hook: Hook, status: int) -> None:
    hook.status = status
    with pytest.raises(AlertGivenUp, match=f"refuses a message for good: HTTP status {status}"):
        Webhook(hook.url, "json", 5.0).send("s", "b", RECORD)


def test_a_mail_that_reached_some_is_not_sent_again(mailbox: tuple[Mailbox, int]) -> None:
    box, port = mailbox
    box.unknown = "b@site.test"
    with pytest.raises(AlertGivenUp, match="1 of 2 recipients of the e-mail were refused"):
        email(port).send("s", "b", RECORD)
    assert len(box.got) == 1


def test_a_name_that_is_not_utf_8_can_be_mailed(mailbox: tuple[Mailbox, int]) -> None:
    box, port = mailbox
    email(port).send("s", "name \ud800", RECORD)
    assert len(box.got) == 1
