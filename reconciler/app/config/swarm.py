"""What a manifest may ask of a Docker Swarm."""

from __future__ import annotations

from reconciler.app.config.scalars import mistake
from reconciler.app.config.server import ServerConfig
from reconciler.app.config.strict_yaml import shown


def require_swarm(server: ServerConfig | None, *, signals: bool) -> None:
    """Raise a mistake where the server (None: unknown) cannot run a stack of kind swarm, or nobody can: ``signals``,
    a change of one of its files is to send a signal."""
    if server is not None and not server.swarm_manager:
        problem = f"has kind: swarm, and the server configuration does not say that {shown(server.host)} is a manager"
        raise mistake(problem, "kind: compose; or swarm_manager: true there", id="not-a-swarm-manager")
    if signals:
        raise mistake("asks for a signal, which Swarm cannot send to tasks", "on_change: recreate, restart or none")
