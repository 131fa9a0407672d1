"""Builds what notifies operators."""

from __future__ import annotations

import os

from reconciler.adapters.metrics import PrometheusMetrics
from reconciler.adapters.notify.apprise_messenger import AppriseMessenger, require_apprise
from reconciler.adapters.notify.delivery import Delivery
from reconciler.adapters.notify.observer import NotificationObserver
from reconciler.adapters.store import SqliteStore
from reconciler.adapters.store_notifications import NotificationTable
from reconciler.app.config.credentials import require_credentials
from reconciler.app.config.server import ServerConfig
from reconciler.core.errors import RefusedError
from reconciler.core.model.notifications import NotificationEvent, NotificationPolicy, Origin
from reconciler.core.ports import Clock


def open_messenger(config: ServerConfig) -> AppriseMessenger:
    """What sends messages. Raises RefusedError where nobody is to be notified, ConfigError without the extra or the
    credential that the file of URLs is."""
    if config.notifications is None:
        hint = "Add the section to the server configuration (docs/notifications.md)"
        raise RefusedError("the server configuration has no section notifications", hint=hint)
    require_apprise()
    require_credentials({"notifications": config.notifications.model_dump()})
    return AppriseMessenger(config.notifications.urls_file, os.environ)


def notification_observers(
    config: ServerConfig, store: SqliteStore, clock: Clock, metrics: PrometheusMetrics
) -> tuple[NotificationObserver, ...]:
    """The observer that notifies, where the server configuration wants it. Raises ConfigError without the extra, or
    where the file of URLs cannot be used."""
    section = config.notifications
    if section is None:
        return ()
    messenger = open_messenger(config)
    messenger.receivers()
    policy = NotificationPolicy(frozenset(section.events or NotificationEvent), section.reminder, section.digest)
    delivery = Delivery(messenger, clock, metrics)
    page = (config.http.page_url or "").rstrip("/")
    table, origin = (
        NotificationTable(store),
        Origin(config.host, f"{page}/runs/" if page else "", config.repository.url),
    )
    return (NotificationObserver(delivery, table, clock, policy, origin, tuple(config.units)),)
