"""What `reconciler recipients` can do."""

from __future__ import annotations

from enum import StrEnum


class RecipientAction(StrEnum):
    LIST = "list"
    ADD = "add"
    REMOVE = "remove"
