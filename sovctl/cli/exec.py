"""`sovctl exec`: run a command in an image, or isolated on the host's own root.

Every rank of a step starts through this, so it imports neither typer nor rich.
"""

from __future__ import annotations

import argparse
import os
import resource
import signal
from collections.abc import Sequence

from sovctl.cli import wiring
from sovctl.cli.arguments import Parser
from sovctl.cli.words import say
from sovctl.config import load_config
from sovctl.errors import SovctlError, UsageError
from sovctl.isolation.inside import SPANK
from sovctl.operations.isolation.exec_step import ExecOptions, ExecPlace, StepRunner, own_words

_EXAMPLES = """examples:
  srun sovctl exec --image reg.example/team/train:2.4 --mount /data:/data:ro -- python train.py
  sovctl exec --isolate -- bash
"""


def run(argv: Sequence[str]) -> int:
    """Run `sovctl exec ARGV` and return the command's exit status; a signal that killed it kills this process too."""
    parser = make_parser()
    if not {"-h", "--help"}.isdisjoint(argv[: list(argv).index("--")] if "--" in argv else argv):
        parser.print_help()
        return 0
    if argv[:1] == ["--look"] and len(argv) == 2:
        print(wiring.look_around(argv[1]))
        return 0
    measure = "--measure" in argv and "--" not in argv
    words, command = (list(argv), ()) if measure else own_words(argv)
    asked = parser.parse_args(words)
    if not asked.image and not asked.isolate:
        raise UsageError("neither an image nor --isolate is asked for", hint="See: sovctl exec --help")
    home = None if asked.home is None else asked.home == "mount"
    options = ExecOptions(
        command,
        asked.image,
        tuple(asked.mount),
        home,
        asked.clean_env,
        asked.writable,
        asked.env_name,
        asked.runtime,
        asked.private_network,
        asked.slurm_client,
        measure,
    )
    config = load_config()
    if measure and asked.runtime == SPANK and not asked.image:
        print(wiring.measure_by_plugin(config))
        return 0
    place = ExecPlace(dict(os.environ), os.getcwd(), f"{os.getpid()}-{os.urandom(8).hex()}")  # noqa: PTH109
    runner = StepRunner(options, wiring.exec_settings(config), place, wiring.exec_ports(config), _say)
    try:
        status = runner.run()
    except UsageError:
        raise
    except SovctlError as error:
        error.message = _of_this_node(error.message)
        raise
    return _as_it_ended(status)


def _of_this_node(words: str) -> str:
    """A step's output is that of all its nodes; what one of them lacks is told with its name."""
    node = os.environ.get("SLURMD_NODENAME", "")
    return words if not node or node in words else f"{node}: {words}"


def make_parser() -> argparse.ArgumentParser:
    """The command line of `sovctl exec`."""
    parser = Parser(
        prog="sovctl exec",
        usage="sovctl exec [OPTIONS] -- COMMAND [ARGS]...",
        description="Run a command in an image, or isolated on the host's own root. "
        "All ranks of a step on a node share their namespaces.",
        epilog=_EXAMPLES,
        add_help=False,
    )
    parser.add_argument(
        "--image", metavar="IMAGE", default="", help="REGISTRY/NAME:TAG, oci:DIR, x.sqsh, x.sif, a directory"
    )
    parser.add_argument(
        "--isolate", action="store_true", help="private /tmp, /dev/shm and processes; also without an image"
    )
    parser.add_argument(
        "--mount", metavar="A:B[:ro]", action="append", default=[], help="A of the host at B; repeatable"
    )
    parser.add_argument("--home", choices=("none", "mount"), help="your home: with an image none, else mount")
    parser.add_argument(
        "--clean-env", action="store_true", help="only variables of the allow-list; always without an image"
    )
    parser.add_argument("--writable", action="store_true", help="the root can be written; gone with the step")
    parser.add_argument(
        "--env-name", metavar="NAME", default="", help="your named layer over the image; keeps what is written"
    )
    parser.add_argument(
        "--private-network", action="store_true", help="no network but its own loopback, and its own abstract sockets"
    )
    parser.add_argument(
        "--slurm-client", action="store_true", help="the node's Slurm commands, slurm.conf and munge in the image"
    )
    parser.add_argument("--runtime", metavar="NAME", default="bubblewrap", help="apptainer, charliecloud or podman")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("-h", "--help", action="store_true", help="show this text")
    return parser


def _as_it_ended(status: int) -> int:
    if status >= 0:
        return status
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # the core of the task is enough
    if -status not in (signal.SIGKILL, signal.SIGSTOP):
        signal.signal(-status, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {-status})
    os.kill(os.getpid(), -status)
    return 128 - status


def _say(words: str) -> None:
    say(f"sovctl: {words}")
