"""`sovctl alert`: try the ways out, see what waits, send it now."""

from __future__ import annotations

import argparse
import os
import threading
import time
from collections.abc import Sequence
from typing import Any

from sovctl.cli import wiring
from sovctl.cli.arguments import Parser
from sovctl.cli.json_output import print_json
from sovctl.cli.progress import progress
from sovctl.cli.tables import Column, print_listing
from sovctl.cli.words import clock_time, printable, say, say_next
from sovctl.config import Config, load_config, site_file
from sovctl.errors import EXIT_DONE, EXIT_FAILED, ConfigError, SovctlError
from sovctl.ledger.alerts import rendered, unknown_names
from sovctl.model.alert import Alert, AlertKind

_EXAMPLES = """\
examples:
  sovctl alert test --dry-run    the message and the ways it would take
  sovctl alert test              send it now, by each of them
  sovctl alert ls                what waits because it did not get through
  sovctl alert send              try again now
"""
_INTERVAL_S = 2.0


def run(argv: Sequence[str]) -> int:
    """Run `sovctl alert ARGV` and return its exit status."""
    options = make_parser().parse_args(list(argv))
    config = load_config()
    if options.verb == "test":
        return _test(config, dry_run=options.dry_run)
    if options.verb == "ls":
        return _list(config, as_json=options.json, wanted=options.format, noheader=options.noheader)
    return _send(config, dry_run=options.dry_run)


def make_parser() -> argparse.ArgumentParser:
    """The command line of `sovctl alert`."""
    words = "Messages to people: [alerts] in the configuration says who gets which, and how."
    parser = Parser(prog="sovctl alert", description=words, epilog=_EXAMPLES)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="COMMAND")
    test = _verb(verbs, "test", "Send a message now, by each way out.", "example: sovctl alert test")
    test.add_argument("--dry-run", action="store_true", help="print it and send nothing")
    listed = _verb(verbs, "ls", "What did not get through yet.", "example: sovctl alert ls --json")
    fields = "fields to show: '%%V %%.20r', or names: at,channels,kind,where,what,next"
    listed.add_argument("-o", "--format", default="", metavar="FORMAT", help=fields)
    listed.add_argument("-n", "--noheader", action="store_true", help="no line of headers")
    listed.add_argument("--json", action="store_true", help="one JSON object on stdout")
    send = _verb(verbs, "send", "Try to send what waits, now.", "example: sovctl alert send")
    send.add_argument("--dry-run", action="store_true", help="say how many would be sent")
    return parser


def _verb(verbs: Any, name: str, words: str, example: str) -> argparse.ArgumentParser:
    made: argparse.ArgumentParser = verbs.add_parser(name, help=words, description=words, epilog=example)
    return made


def _test(config: Config, *, dry_run: bool) -> int:
    channels = wiring.alert_channels(config)
    if not channels:
        raise ConfigError(
            "alerts",
            "nobody is to be told: neither webhook_file nor email_to is set",
            hint=f"Set one of them in {site_file()}; see: sovctl config show alerts",
        )
    _check(config)
    host = os.uname().nodename
    alert = Alert("test", AlertKind.TEST, time.time(), f"a test from {host}", host, "", "sovctl alert ls")
    subject, body = rendered(alert, config.alerts.subject, config.alerts.text)
    if dry_run:
        print(f"would go by {' and '.join(channel.name for channel in channels)}:\n\n{printable(subject)}\n\n{body}")
        return EXIT_DONE
    failed = 0
    for channel in channels:
        try:
            with progress(f"sending by {channel.name}"):
                channel.send(subject, body, alert.record())
        except SovctlError as error:
            failed += 1
            say(f"sovctl: {error.message}")
            # A test is not kept, whatever the channel says of messages.
            say_next(error.hint if isinstance(error, ConfigError) else "Check where it goes: sovctl config show alerts")
        else:
            print(f"{channel.name}: sent")
    return EXIT_FAILED if failed else EXIT_DONE


def _check(config: Config) -> None:
    known = {kind.value for kind in AlertKind} - {AlertKind.TEST.value}
    strange = [kind for kind in config.alerts.kinds.replace(",", " ").split() if kind not in known]
    if strange:
        raise ConfigError("alerts.kinds", f"there is no {strange[0]!r} (known: {', '.join(sorted(known))})")
    for key in ("subject", "text"):
        names = unknown_names(getattr(config.alerts, key))
        if names:
            raise ConfigError(f"alerts.{key}", f"nothing is known of ${names[0]}")


_COLUMNS = (
    Column("V", "at", "AT", lambda item: clock_time(item.alert.at)),
    Column("c", "channels", "BY", lambda item: ",".join(item.channels)),
    Column("k", "kind", "KIND", lambda item: item.alert.kind.value),
    Column("N", "where", "WHERE", lambda item: item.alert.where or "-", folded=True),
    Column("r", "what", "WHAT", lambda item: item.alert.what, folded=True),
    Column("x", "next", "NEXT", lambda item: item.alert.next or "-", folded=True),
)


def _list(config: Config, *, as_json: bool, wanted: str = "", noheader: bool = False) -> int:
    spool = wiring.alert_spool(config)
    waiting, state = spool.waiting(), spool.state().get("channels", {})
    problems = {name: book.get("problem", "") for name, book in state.items() if isinstance(book, dict)}
    if as_json:
        alerts = [{**item.alert.record(), "channels": list(item.channels)} for item in waiting]
        print_json("sovctl.alerts/1", {"waiting": alerts, "problems": problems})
        return EXIT_DONE
    print_listing(waiting, _COLUMNS, "Vckr", wanted, header=not noheader)
    for problem in filter(None, problems.values()):
        say(f"sovctl: {problem}")
    if waiting:
        say_next("Once that is mended: sovctl alert send")
    if not waiting:
        say("nothing waits")
    return EXIT_DONE


def _send(config: Config, *, dry_run: bool) -> int:
    spool = wiring.alert_spool(config)
    waiting = len(spool.waiting())
    if dry_run:
        print(f"{waiting} would be sent")
        return EXIT_DONE
    if not waiting:
        say("nothing waits")
        return EXIT_DONE
    with progress(f"sending {waiting}") as line:
        left = wiring.alert_sender(config, line.beside(_say)).turn(now=True)
    say(f"{waiting - left} sent, {left} wait")
    if left:
        say_next("See what keeps them: sovctl alert ls")
    return EXIT_FAILED if left else EXIT_DONE


def send_beside(config: Config) -> None:
    """In `sovctl watch`: a thread of its own follows the journals of the site. A mistake in [alerts] is said once and
    keeps nobody from watching."""
    try:
        sender = wiring.site_alerts(config, _say)
    except SovctlError as error:
        _say(f"{error.message}; no alerts are sent")
        return
    if sender is not None:
        threading.Thread(target=sender.run, args=(lambda: False, _INTERVAL_S), name="alerts", daemon=True).start()


def _say(words: str) -> None:
    say(f"sovctl: {words}")
