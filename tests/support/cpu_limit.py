"""Ends a forked command that uses more CPU time than a test allows, which a busy machine does not add to."""

from __future__ import annotations

import resource


def prepare(seconds: int) -> None:
    """Called in the command's process, before it begins. Past the limit it ends by SIGXCPU, as does all it starts."""
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
