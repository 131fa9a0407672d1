"""The section of the server configuration about notifications (docs/notifications.md)."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from reconciler.app.config.models import Items, Section
from reconciler.app.config.scalars import DURATION, Choice, Duration, OwnFile, written
from reconciler.core.model.notifications import NotificationEvent


class Notifications(Section):
    """Who is notified of what. Needs the extra: `pipx install 'reconcilerd[notify]'`."""

    urls_file: OwnFile = Field(
        description="A file with one apprise URL a line, read again for every message; 0600, or it is not used."
    )
    events: Annotated[tuple[Annotated[NotificationEvent, Choice()], ...], Items(1)] | None = Field(
        default=None, description="What is reported. Default: everything."
    )
    reminder: Duration = written("1h", DURATION, "How often a failure is reported again while it lasts.")
    digest: Duration = written("10s", DURATION, "What happens within this time is one message.")
