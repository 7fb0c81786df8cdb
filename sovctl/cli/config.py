"""`sovctl config`: which settings count here, and where each of them came from."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sovctl.cli.arguments import Parser, nearest
from sovctl.cli.json_output import print_json
from sovctl.cli.words import print_line, say, say_next
from sovctl.config import Origin, Setting, UnknownVariable, check_file, configuration_files, is_site_only, trace_config
from sovctl.errors import EXIT_DONE, UsageError
from sovctl.health.probes import resolve

_SHOW_SCHEMA = "sovctl.config/1"
_CHECK_SCHEMA = "sovctl.config.check/1"
_EXAMPLES = """\
examples:
  sovctl config show                      every setting, its value, and who set it
  sovctl config show --changed            only those that somebody set
  sovctl config show sweep                one section, or one key as health.act
  sovctl config check                     the files that count here
  sovctl config check ./sovctl.toml       a file before it is installed

exit status: 0; 2 a setting is wrong. What can be set is in sovctl.toml(5).
"""


def run(argv: Sequence[str]) -> int:
    """Run one `sovctl config ...` command line."""
    options = make_parser().parse_args(list(argv))
    return _check(options) if options.verb == "check" else _show(options)


def make_parser() -> argparse.ArgumentParser:
    """The command line of `sovctl config`."""
    parser = Parser(prog="sovctl config", description="Show which settings count and where each came from.")
    verbs = parser.add_subparsers(metavar="VERB", required=True, dest="verb")
    show = _verb(verbs, "show", "Show each setting and where it came from.")
    show.add_argument("name", nargs="?", default="", metavar="NAME", help="a section, or one key as health.act")
    show.add_argument("--changed", action="store_true", help="only what differs from the built-in values")
    check = _verb(verbs, "check", "Read a configuration file and say what is wrong with it.")
    check.add_argument("file", nargs="?", default="", metavar="FILE", help="default: the files that count here")
    for verb in (show, check):
        verb.add_argument("--json", action="store_true", help="one JSON object on stdout")
    return parser


def _verb(verbs: Any, name: str, words: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(name, help=words, description=words, epilog=_EXAMPLES)
    return parser


def _show(options: argparse.Namespace) -> int:
    traced = trace_config()
    shown = [setting for setting in traced.settings if _asked(setting.name, options.name)]
    if options.name and not shown:
        known = {setting.name for setting in traced.settings} | {
            item.name.partition(".")[0] for item in traced.settings
        }
        raise UsageError(
            f"there is no setting {options.name!r}{nearest(options.name, known)}", hint="See all: sovctl config show"
        )
    if options.changed:
        shown = [setting for setting in shown if setting.origin is not Origin.DEFAULT]
    if options.json:
        fields = {
            "files": [str(path) for path in traced.files],
            "settings": [_record(setting) for setting in shown],
            "ignored": [_record(setting) for setting in traced.ignored],
            "unknown_variables": [asdict(one) for one in traced.unknown],
        }
        print_json(_SHOW_SCHEMA, fields)
        return EXIT_DONE
    _print(shown)
    _say_ignored(traced.ignored)
    _say_unknown(traced.unknown)
    return EXIT_DONE


def _check(options: argparse.Namespace) -> int:
    files = ((Origin.SITE, Path(options.file)),) if options.file else configuration_files()
    read = [check_file(path, origin) for origin, path in files]
    for one in read:
        resolve(one.config.probes.settings)
    traced = None if options.file else trace_config()
    ignored, unknown = (traced.ignored, traced.unknown) if traced else ((), ())
    if options.json:
        fields = {
            "files": [str(path) for _, path in files],
            "settings": [_record(setting) for one in read for setting in one.settings],
            "ignored": [_record(setting) for setting in ignored],
            "unknown_variables": [asdict(one) for one in unknown],
        }
        print_json(_CHECK_SCHEMA, fields)
        return EXIT_DONE
    for one in read:
        count = len(one.settings)
        print_line(f"{one.files[0]}: {count} setting{'s, all' if count != 1 else ','} known")
    if not files:
        say("sovctl: there is no configuration file; the built-in values count")
    _say_ignored(ignored)
    _say_unknown(unknown)
    return EXIT_DONE


def _asked(name: str, wanted: str) -> bool:
    return not wanted or name == wanted or name.startswith(f"{wanted.rstrip('.')}.")


def _record(setting: Setting) -> dict[str, Any]:
    return {
        "name": setting.name,
        "value": setting.value,
        "origin": setting.origin.value,
        "where": setting.where or None,
        "site_only": is_site_only(setting.name),
    }


def _print(settings: Sequence[Setting]) -> None:
    from sovctl.cli.tables import add_row, print_table, text_table

    table = text_table("SETTING", "VALUE", "FROM", folded=("VALUE", "FROM"))
    for setting in settings:
        mark = "*" if is_site_only(setting.name) else ""
        origin = setting.where if setting.origin is not Origin.DEFAULT else "default"
        add_row(table, (setting.name + mark, json.dumps(setting.value, ensure_ascii=False), origin))
    print_table(table)
    if any(is_site_only(setting.name) for setting in settings):
        say("* only the site may set it")


def _say_ignored(ignored: Sequence[Setting]) -> None:
    for setting in ignored:
        say(f"sovctl: {setting.where}: {setting.name} does not count: only the site's file may set it")


def _say_unknown(unknown: Sequence[UnknownVariable]) -> None:
    for one in unknown:
        say(f"sovctl: {one}")
        say_next(f"Correct it, or: unset {one.name}")
