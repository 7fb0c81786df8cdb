"""QOS, limits and preemption through sacctmgr and scontrol."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from sovctl.adapters.slurm import parse
from sovctl.adapters.slurm.cli import SlurmCli
from sovctl.errors import CommandFailed, NotPermitted, RefusedError, SlurmUnreachable, TryLaterError
from sovctl.model.pool import Pool

_CONF_LIMIT = 4 << 20
_NO_DATABASE = ("Problem talking to the database", "slurmdbd", "persistent connection")
_SLURMDBD = "See on its machine: systemctl status slurmdbd; the same command may work later."
_DENIED = ("privilege", "Access/permission denied", "Permission denied")


class SlurmPool(SlurmCli):
    """Implements ports.PoolSite."""

    def pool(self) -> Pool:
        """Settings, partitions, every QOS, and what the account root may use."""
        settings = self.settings()
        cluster, by_name = settings.get("ClusterName", ""), self.partitions()
        if settings.get("AccountingStorageType") != "accounting_storage/slurmdbd":
            return Pool(cluster, partitions=by_name, settings=settings)
        qos = parse.parse_qos(self._sacctmgr("-nP", "show", "qos", f"format={parse.QOS_FORMAT}"))
        where = ("where", "account=root", *((f"cluster={cluster}",) if cluster else ()))
        root = self._sacctmgr("-nP", "show", "assoc", *where, f"format={parse.ROOT_FORMAT}")
        return Pool(cluster, {item.name: item for item in qos}, parse.parse_open_qos(root), by_name, settings)

    def apply(self, argv: Sequence[str]) -> None:
        """One command that changes something."""
        if argv[0] == "sacctmgr":
            self._sacctmgr(*argv[1:])
        else:
            self._slurm(*argv, about=f"node {argv[2]}")

    def conf_names(self, word: str) -> bool | None:
        """Whether slurm.conf or another file in its directory has this word; None: one cannot be read here."""
        conf = self.settings().get("SLURM_CONF", "")
        pattern = re.compile(rf"(?<![\w-]){re.escape(word)}(?![\w-])")
        try:
            for path in [Path(conf), *Path(conf).parent.glob("*.conf*")]:
                with path.open("rb") as file:
                    text = file.read(_CONF_LIMIT).decode("utf-8", "replace")
                lines = (line.partition("#")[0] for line in text.split("\n"))
                if any(pattern.search(line) for line in lines):
                    return True
        except OSError:
            return None
        return False

    def _sacctmgr(self, *arguments: str) -> str:
        try:
            return self._slurm("sacctmgr", *arguments).stdout
        except SlurmUnreachable as error:
            raise TryLaterError(f"slurmdbd does not answer: {error.message}", hint=_SLURMDBD) from error
        except NotPermitted:
            raise _denied() from None
        except CommandFailed as error:
            if any(words in error.stderr for words in _DENIED):
                raise _denied() from None
            if any(words in error.stderr for words in _NO_DATABASE):
                raise TryLaterError(error.message, hint=_SLURMDBD) from None
            raise


def _denied() -> RefusedError:
    return RefusedError(
        "Slurm does not let you change QOS and limits",
        hint="Run this as root, SlurmUser or an administrator of Slurm: sacctmgr show user withassoc",
    )
