"""The ways out for a message: an HTTP POST, an e-mail. Secrets are in files that only their owner reads."""

from __future__ import annotations

import http.client
import json
import os
import smtplib
import ssl
import stat
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from email.message import EmailMessage
from email.utils import formatdate, make_msgid
from pathlib import Path
from typing import Any

from sovctl.errors import AlertGivenUp, ConfigError, SovctlError

_SECRET_LIMIT = 4096


_OF_THE_MESSAGE = frozenset({400, 413, 415, 422})
"""HTTP statuses that speak of this message, not of the receiver: the next one may pass."""


class NotSent(SovctlError):
    """A message did not get through; tried again. Never tells the address: it may be a secret."""

    def __init__(self, channel: str, problem: str) -> None:
        super().__init__(f"the {channel} took no message: {problem}", hint="It is kept: sovctl alert ls")


@dataclass(frozen=True, slots=True)
class Webhook:
    """One POST of JSON."""

    url: str
    form: str
    """`json`: the whole alert with its text; `slack`: only the text, as Slack and Mattermost take it."""
    timeout_s: float
    name: str = "webhook"

    def send(self, subject: str, body: str, record: dict[str, Any]) -> None:
        """Raises NotSent."""
        words = {"text": f"{subject}\n{body}"}
        data = json.dumps(words if self.form == "slack" else {**record, "subject": subject, **words}).encode()
        headers = {"Content-Type": "application/json", "User-Agent": "sovctl"}
        request = urllib.request.Request(self.url, data=data, headers=headers, method="POST")
        try:
            with _OPENER.open(request, timeout=self.timeout_s) as answer:
                answer.read(1024)
        except urllib.error.HTTPError as error:
            if error.code in _OF_THE_MESSAGE:
                problem = f"the {self.name} refuses a message for good: HTTP status {error.code}"
                raise AlertGivenUp(problem, hint="See what its receiver takes: sovctl alert test") from None
            raise NotSent(self.name, f"HTTP status {error.code}") from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise NotSent(self.name, type(reason).__name__ + _plain(reason)) from None


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirected POST would become a GET of another place."""

    def redirect_request(self, *_arguments: Any, **_named: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirect)


@dataclass(frozen=True, slots=True)
class Email:
    """One message to all recipients."""

    to: tuple[str, ...]
    sender: str
    host: str
    port: int
    security: str
    """`none`, `starttls`, `tls`."""
    user: str
    password: str
    timeout_s: float
    name: str = "e-mail"

    def send(self, subject: str, body: str, record: dict[str, Any]) -> None:
        """Raises NotSent."""
        message = EmailMessage()
        message["Subject"], message["From"], message["To"] = subject, self.sender, ", ".join(self.to)
        message["Date"], message["Message-ID"] = formatdate(), make_msgid(domain="sovctl.invalid")
        message["Auto-Submitted"] = "auto-generated"
        message["X-Sovctl-Kind"] = str(record.get("kind", ""))
        # Names that are not UTF-8 come as lone surrogates, which no mail can hold.
        message.set_content(body.encode("utf-8", "replace").decode())
        try:
            with self._connected() as server:
                refused = server.send_message(message)
        except (OSError, smtplib.SMTPException) as error:
            raise NotSent(self.name, type(error).__name__ + _plain(error)) from None
        if refused:
            # The others have it: sent again, it would come again.
            words = f"{len(refused)} of {len(self.to)} recipients of the {self.name} were refused"
            raise AlertGivenUp(words, hint="Correct the addresses in alerts.email_to, then: sovctl alert test")

    def _connected(self) -> smtplib.SMTP:
        context = ssl.create_default_context() if self.security != "none" else None
        server: smtplib.SMTP
        if self.security == "tls":
            server = smtplib.SMTP_SSL(self.host, self.port, timeout=self.timeout_s, context=context)
        else:
            server = smtplib.SMTP(self.host, self.port, timeout=self.timeout_s)
        try:
            if self.security == "starttls":
                server.starttls(context=context)
            if self.user:
                server.login(self.user, self.password)
        except BaseException:
            server.close()
            raise
        return server


def read_secret(path: str, key: str) -> str:
    """The first line of a file that only its owner (root, or who runs this) and a group can read. Raises ConfigError,
    which names the file and never what is in it."""
    try:
        descriptor = os.open(Path(path).expanduser(), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise ConfigError(
            key, f"cannot read {path}: {error.strerror or error}", hint=f"Check it: ls -l {path}"
        ) from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_uid not in (0, os.geteuid()):
            raise ConfigError(key, f"{path} must be a file of root's or your own", hint=f"Check it: ls -l {path}")
        if status.st_mode & 0o007:
            raise ConfigError(key, f"everybody can read or write {path}", hint=f"Type: chmod 600 {path}")
        text = os.read(descriptor, _SECRET_LIMIT).decode("utf-8", "replace")
    finally:
        os.close(descriptor)
    first = text.strip().split("\n")[0].strip()
    if not first:
        raise ConfigError(key, f"{path} is empty", hint="Put it on the first line, then try: sovctl alert test")
    return first


def webhook_url(text: str, key: str) -> str:
    """Raises ConfigError, without the address."""
    parts = urllib.parse.urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or any(char.isspace() for char in text):
        raise ConfigError(
            key,
            "the file must hold one http or https address on its first line",
            hint="Put it there, then try: sovctl alert test",
        )
    return text


def _plain(error: object) -> str:
    number = getattr(error, "errno", None)
    if isinstance(number, int):
        return f" ({os.strerror(number)})"
    code = getattr(error, "smtp_code", None)
    return f" ({code})" if isinstance(code, int) else ""
