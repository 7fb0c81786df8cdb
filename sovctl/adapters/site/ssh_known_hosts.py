"""known_hosts with its markers: plain keys, `@cert-authority` (OpenSSH host certificates) and `@revoked`.

paramiko reads plain lines and carries certificates as bytes; what a certificate says is read and checked here
(OpenSSH's PROTOCOL.certkeys): signed by an authority that is trusted for this host, for this name, now, as a host's.
"""

from __future__ import annotations

import base64
import fnmatch
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sovctl.errors import ConfigError

_HOST_CERTIFICATE = 2
_FOREVER = 0xFFFFFFFFFFFFFFFF
_NUMBERS = {"ssh-rsa": 2, "ssh-dss": 4, "ecdsa-sha2-nistp256": 2, "ecdsa-sha2-nistp384": 2, "ecdsa-sha2-nistp521": 2}
"""Fields of the key itself between nonce and serial, by kind; ed25519 has one."""
_SUFFIX = "-cert-v01@openssh.com"


@dataclass
class KnownHosts:
    """Everything that the files say."""

    keys: Any
    """paramiko.HostKeys of the lines without a marker."""
    authorities: list[tuple[tuple[str, ...], bytes]] = field(default_factory=list)
    """(host patterns, the authority's public key)."""
    revoked: set[bytes] = field(default_factory=set)
    """Public keys that nobody may use, of hosts and of authorities."""

    def authorities_for(self, names: Sequence[str]) -> tuple[bytes, ...]:
        """The keys that may vouch for a host with these names."""
        return tuple(key for patterns, key in self.authorities if key not in self.revoked and _matches(patterns, names))


@dataclass(frozen=True, slots=True)
class _Certificate:
    """The fields of a certificate that count."""

    kind: int
    principals: tuple[str, ...]
    valid_after: int
    valid_before: int
    critical: bytes
    authority: bytes
    signed: bytes
    signature: bytes


def read_known_hosts(paths: Iterable[Path], *, must_exist: bool) -> KnownHosts:
    """Raises ConfigError for a file that is missing where it was named, or not readable."""
    import paramiko

    known = KnownHosts(paramiko.HostKeys())
    for path in paths:
        try:
            lines = path.read_text("utf-8", "replace").splitlines()
        except FileNotFoundError:
            if must_exist:
                raise ConfigError(
                    str(path),
                    "ssh.known_hosts names a file that is not there",
                    hint="See who says so: sovctl config show ssh.known_hosts",
                ) from None
            continue
        except OSError as error:
            raise ConfigError(str(path), str(error), hint="Correct it, or set ssh.known_hosts.") from error
        for number, line in enumerate(lines, 1):
            _take(known, line.strip(), number)
    return known


def why_not_trusted(
    certificate: bytes,
    names: Sequence[str],
    authorities: Sequence[bytes],
    revoked: set[bytes],
    now: float | None = None,
) -> str:
    """Why a host certificate does not vouch for a host of one of these names; empty: it does."""
    try:
        said = _parse(certificate)
    except Exception as error:
        return f"its host certificate cannot be read: {error}"
    now = time.time() if now is None else now
    bare = {name.strip("[").partition("]")[0] for name in names}
    if said.kind != _HOST_CERTIFICATE:
        return "its certificate is not a host's"
    if said.authority not in authorities or said.authority in revoked:
        return "its host certificate is signed by an authority that known_hosts does not trust for it"
    if said.principals and not any(fnmatch.fnmatchcase(name, pattern) for name in bare for pattern in said.principals):
        return f"its host certificate is for {', '.join(said.principals[:3])}"
    if not (said.valid_after <= now and (said.valid_before == _FOREVER or now < said.valid_before)):
        return "its host certificate is not valid at this time"
    if said.critical:
        return "its host certificate has a critical option that is not known"
    return "" if _signed(said) else "the signature of its host certificate is wrong"


def _take(known: KnownHosts, line: str, number: int) -> None:
    import paramiko

    if not line or line.startswith("#"):
        return
    if line.startswith("@"):
        fields = line.split()
        key = _decoded(fields[3]) if len(fields) > 3 else b""
        if fields[0] == "@revoked" and key:
            known.revoked.add(key)
        elif fields[0] == "@cert-authority" and key:
            known.authorities.append((tuple(fields[1].split(",")), key))
        return
    try:
        entry = paramiko.hostkeys.HostKeyEntry.from_line(line, number)
    except paramiko.SSHException:
        # OpenSSH passes over a line it cannot read, too.
        return
    if entry is not None:
        for name in entry.hostnames:
            known.keys.add(name, entry.key.get_name(), entry.key)


def _matches(patterns: Sequence[str], names: Sequence[str]) -> bool:
    """One pattern must match and none with a `!` before it may."""
    if any(fnmatch.fnmatchcase(name, item[1:]) for item in patterns if item.startswith("!") for name in names):
        return False
    return any(fnmatch.fnmatchcase(name, item) for item in patterns for name in names)


def _parse(blob: bytes) -> _Certificate:
    from paramiko import Message

    message = Message(blob)
    kind = message.get_text()
    if not kind.endswith(_SUFFIX):
        raise ValueError(f"{kind[:40]} is no certificate")
    message.get_string()  # nonce
    for _ in range(_NUMBERS.get(kind.removesuffix(_SUFFIX), 1)):
        message.get_string()
    message.get_int64()  # serial
    role = message.get_int()
    message.get_string()  # key id
    principals = Message(message.get_string())
    names = []
    while principals.get_remainder():
        names.append(principals.get_text())
    valid_after, valid_before = message.get_int64(), message.get_int64()
    critical = message.get_string()
    message.get_string()  # extensions
    message.get_string()  # reserved
    authority = message.get_string()
    signed = blob[: len(blob) - len(message.get_remainder())]
    return _Certificate(
        role, tuple(names), valid_after, valid_before, critical, authority, signed, message.get_string()
    )


def _signed(said: _Certificate) -> bool:
    import paramiko

    kind = paramiko.Message(said.authority).get_text()
    key = paramiko.PKey.from_type_string(kind, said.authority)
    return bool(key.verify_ssh_sig(said.signed, paramiko.Message(said.signature)))


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        return b""
