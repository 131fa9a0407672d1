"""The exit codes of every command."""

from __future__ import annotations

IN_SYNC, ERROR, PENDING, ROLLED_BACK = 0, 1, 2, 3
