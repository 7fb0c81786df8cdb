"""slurmdbd with a MariaDB of its own, for `lab up --accounting`."""

from __future__ import annotations

import getpass
import os
import secrets
import time
from collections.abc import Callable

from sovctl.adapters.command import CommandRunner
from sovctl.errors import SovctlError
from sovctl.lab.layout import Layout
from sovctl.lab.processes import ProcessMark
from sovctl.lab.slurm_conf import LabSpec, slurmdbd_conf

Start = Callable[[list[str], str, Layout, dict[str, str]], ProcessMark]


def start(spec: LabSpec, layout: Layout, env: dict[str, str], started: list[ProcessMark], launch: Start) -> None:
    """Make a data directory, start mariadbd on loopback, then slurmdbd; register the cluster."""
    runner = CommandRunner(env)
    data, sock = layout.root / "mysql", layout.run_dir / "mysqld.sock"
    scratch = layout.root / "mysql-tmp"
    scratch.mkdir()
    # A starting server removes what others left in its directory for temporary tables, so labs must not share /tmp.
    own = ["--no-defaults", f"--datadir={data}", f"--tmpdir={scratch}", f"--user={getpass.getuser()}"]
    runner.run(["mariadb-install-db", *own, "--auth-root-authentication-method=normal"], timeout_s=120)
    argv = ["mariadbd", *own, f"--socket={sock}", "--bind-address=127.0.0.1", f"--port={spec.database_port}"]
    argv += [f"--pid-file={layout.run_dir}/mysqld.pid", "--innodb-buffer-pool-size=64M"]
    started.append(launch(argv, "mariadbd", layout, env))
    password = secrets.token_hex(16)
    _until("mariadbd", lambda: _sql(runner, layout, "SELECT 1"))
    if not _sql(
        runner,
        layout,
        "CREATE DATABASE slurm_acct; "
        f"CREATE USER 'slurm'@'127.0.0.1' IDENTIFIED BY '{password}'; "
        f"CREATE USER 'slurm'@'localhost' IDENTIFIED BY '{password}'; "
        "GRANT ALL ON slurm_acct.* TO 'slurm'@'127.0.0.1'; GRANT ALL ON slurm_acct.* TO 'slurm'@'localhost';",
    ):
        raise SovctlError(
            "MariaDB of the lab refused to make the accounting database", hint=f"See its words: ls {layout.log_dir}"
        )
    conf = layout.root / "slurmdbd.conf"
    descriptor = os.open(conf, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as out:
        out.write(slurmdbd_conf(spec, layout, password))
    started.append(launch(["slurmdbd", "-D"], "slurmdbd", layout, env))
    _until("slurmdbd", lambda: _answers(runner, ["sacctmgr", "-n", "show", "cluster"]))
    runner.run(["sacctmgr", "-i", "add", "cluster", "lab"], timeout_s=30, check=False)


def _sql(runner: CommandRunner, layout: Layout, statement: str) -> bool:
    argv = ["mariadb", "--no-defaults", f"--socket={layout.run_dir}/mysqld.sock", "-u", "root", "-e", statement]
    return _answers(runner, argv)


def _answers(runner: CommandRunner, argv: list[str]) -> bool:
    return runner.run(argv, timeout_s=30, check=False).status == 0


def _until(what: str, ready: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            raise SovctlError(
                f"{what} of the lab gave no answer within {seconds:g} s", hint="Start it without: sovctl lab up"
            )
        time.sleep(0.1)
