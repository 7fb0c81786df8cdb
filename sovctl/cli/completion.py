"""`sovctl completion`: prints the completion script of a shell."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from sovctl.errors import EXIT_DONE

_EXAMPLES = """\
examples:
  sovctl completion bash > ~/.local/share/bash-completion/completions/sovctl
  sovctl completion zsh > "${fpath[1]}/_sovctl"
  sovctl completion fish > ~/.config/fish/completions/sovctl.fish

For one session: eval "$(sovctl completion bash)". Commands and options complete without starting sovctl; nodes,
partitions, QOS, jobs and runs are asked for, for at most a second, and kept for some seconds in ~/.cache/sovctl.
"""


def run(argv: Sequence[str]) -> int:
    """Run `sovctl completion SHELL`."""
    options = make_parser().parse_args(list(argv))
    from sovctl.cli.shells import completion_script
    from sovctl.cli.tree import command_tree

    print(completion_script(options.shell, command_tree()), end="")
    return EXIT_DONE


def make_parser() -> argparse.ArgumentParser:
    """The command line of `sovctl completion`."""
    from sovctl.cli.arguments import Parser

    parser = Parser(prog="sovctl completion", description="Print the completion script of a shell.", epilog=_EXAMPLES)
    parser.add_argument("shell", choices=("bash", "zsh", "fish"), metavar="SHELL", help="bash, zsh or fish")
    return parser
