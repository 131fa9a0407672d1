"""`reconciler notify --test`: one test message to every receiver, with or without a daemon."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from reconciler.app.config.server import load_server_config
from reconciler.app.wiring.notifications import open_messenger
from reconciler.core.decide.notification_text import harmless
from reconciler.core.model.notifications import Message


@dataclass(frozen=True, slots=True)
class ReceiverAnswer:
    """What became of the test message to one receiver, which ``receiver`` names without anything secret, by its
    ``line`` in the file; ``problem`` is "" where it was accepted."""

    line: int
    receiver: str
    accepted: bool
    problem: str


def send_test_message(config_file: str) -> list[ReceiverAnswer]:
    """Send it to all of them at the same time. Raises RefusedError where the server configuration has no notifications,
    ConfigError without the extra or where the file of URLs cannot be used."""
    config = load_server_config(config_file)
    messenger = open_messenger(config)
    receivers = messenger.receivers()
    host = harmless(config.host)
    text = f"This is a test by `reconciler notify --test` on {host}. Notifications of this server arrive here."
    message = Message(f"reconciler on {host}: test", harmless(text))

    async def send() -> list[str]:
        return await asyncio.gather(*(messenger.send(receiver, message) for receiver in receivers))

    return [
        ReceiverAnswer(receiver.line, receiver.name, not problem, problem)
        for receiver, problem in zip(receivers, asyncio.run(send()), strict=True)
    ]
