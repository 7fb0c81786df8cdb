"""Alerts of the site and of runs."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sovctl.cli.wiring.places import cluster_journal_dir
from sovctl.cli.wiring.slurm_access import cluster_name
from sovctl.config import Config
from sovctl.errors import SovctlError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sovctl.model.alert import Alert
    from sovctl.operations.send_alerts import AlertSender, FollowedJournal
    from sovctl.ports.alerts import AlertChannel, AlertSpool


def alert_channels(config: Config, *, tolerant: bool = False) -> tuple[AlertChannel, ...]:
    """The ways out that are configured. Raises ConfigError; `tolerant`: what cannot be used is left out, such as a
    secret that is only root's in a supervisor."""
    found: list[AlertChannel] = []
    for make in (_webhook, _email):
        try:
            found += make(config)
        except SovctlError:
            if not tolerant:
                raise
    return tuple(found)


def _webhook(config: Config) -> list[AlertChannel]:
    from sovctl.adapters.site.alert_channels import Webhook, read_secret, webhook_url
    from sovctl.errors import ConfigError

    alerts = config.alerts
    if alerts.webhook_format not in ("json", "slack"):
        raise ConfigError("alerts.webhook_format", f"must be json or slack, not {alerts.webhook_format!r}")
    if not alerts.webhook_file:
        return []
    key = "alerts.webhook_file"
    url = webhook_url(read_secret(alerts.webhook_file, key), key)
    return [Webhook(url, alerts.webhook_format, alerts.timeout_s)]


def _email(config: Config) -> list[AlertChannel]:
    from sovctl.adapters.site.alert_channels import Email, read_secret
    from sovctl.errors import ConfigError

    alerts = config.alerts
    if alerts.smtp_security not in ("none", "starttls", "tls"):
        raise ConfigError("alerts.smtp_security", f"must be none, starttls or tls, not {alerts.smtp_security!r}")
    recipients = tuple(alerts.email_to.replace(",", " ").split())
    if not recipients:
        return []
    if alerts.smtp_user and not alerts.smtp_password_file:
        raise ConfigError("alerts.smtp_password_file", "must be named where alerts.smtp_user is")
    password = read_secret(alerts.smtp_password_file, "alerts.smtp_password_file") if alerts.smtp_user else ""
    sender = alerts.email_from or f"sovctl@{os.uname().nodename}"
    host, port, security = alerts.smtp_host, alerts.smtp_port, alerts.smtp_security
    return [Email(recipients, sender, host, port, security, alerts.smtp_user, password, alerts.timeout_s)]


def alert_spool(config: Config) -> AlertSpool:
    """Where messages wait: root's belong to the site."""
    from sovctl.adapters.run.run_index import index_directory
    from sovctl.adapters.site.alert_spool import AlertSpoolFiles

    if os.geteuid() == 0:
        return AlertSpoolFiles(cluster_journal_dir(config) / "alerts")
    return AlertSpoolFiles(index_directory(os.environ).parent / "alerts")


def alert_sender(config: Config, say: Callable[[str], None], *, tolerant: bool = False) -> AlertSender:
    """Sends what waits; follows nothing. Raises ConfigError."""
    return _alert_sender(config, say, tolerant=tolerant)


def site_alerts(config: Config, say: Callable[[str], None]) -> AlertSender | None:
    """Follows the journals of the site; None where nobody is to be told. Raises ConfigError."""
    if not config.alerts.webhook_file and not config.alerts.email_to:
        return None
    from sovctl.adapters.site.site_records import SiteRecordFiles
    from sovctl.ledger.alerts import alert_of_site

    records = SiteRecordFiles(cluster_journal_dir(config))
    cluster = cluster_name()
    known: dict[str, FollowedJournal] = {}

    def follow() -> tuple[FollowedJournal, ...]:
        for name, path in records.journals().items():
            if name not in known:
                known[name] = _followed(name, path, partial(_of_site, alert_of_site, name, cluster))
        return tuple(known.values())

    sender = _alert_sender(config, say, follow, from_start=False)
    return sender if sender.channels else None


def run_alerts(
    config: Config, run_dir: Path, record: Mapping[str, Any], say: Callable[[str], None]
) -> AlertSender | None:
    """Follows the journal of one run, with its user's rights; None where nobody is to be told."""
    if not config.alerts.webhook_file and not config.alerts.email_to:
        return None
    from sovctl.ledger.alerts import alert_of_run

    name = str(record["run_id"])
    journal = _followed(name, run_dir / "events.jsonl", partial(alert_of_run, record))
    sender = _alert_sender(config, say, lambda: (journal,), tolerant=True)
    return sender if sender.channels else None


def _of_site(
    judge: Callable[[str, Mapping[str, Any], str], Alert | None], name: str, cluster: str, entry: Mapping[str, Any]
) -> Alert | None:
    own = {"node": name.removeprefix("nodes/"), **entry} if name.startswith("nodes/") else entry
    return judge(name, own, cluster)


def _followed(name: str, path: Path, judge: Callable[[Mapping[str, Any]], Alert | None]) -> FollowedJournal:
    from sovctl.adapters.journal import ChangeMark, FileJournal
    from sovctl.operations.send_alerts import FollowedJournal

    return FollowedJournal(name, ChangeMark(path).changed, FileJournal(path).events, judge)


def _alert_sender(
    config: Config,
    say: Callable[[str], None],
    journals: Callable[[], Sequence[FollowedJournal]] = tuple,
    *,
    tolerant: bool = False,
    from_start: bool = True,
) -> AlertSender:
    from sovctl.adapters.clock import SystemClock
    from sovctl.operations.send_alerts import AlertSender, AlertSettings

    alerts = config.alerts
    settings = AlertSettings(
        kinds=frozenset(alerts.kinds.replace(",", " ").split()),
        subject=alerts.subject,
        text=alerts.text,
        limit_per_hour=alerts.limit_per_hour,
        keep_s=alerts.keep_s,
        from_start=from_start,
    )
    channels = alert_channels(config, tolerant=tolerant)
    return AlertSender(alert_spool(config), channels, journals, settings, SystemClock(), say)
