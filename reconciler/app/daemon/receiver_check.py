"""One message to every receiver, with or without a daemon: a test of `reconciler notify --test`, or a review."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from reconciler.app.config.server import ServerConfig, load_server_config
from reconciler.app.wiring.notifications import open_messenger
from reconciler.core.decide.notification_text import harmless
from reconciler.core.model.notifications import Message


@dataclass(frozen=True, slots=True)
class ReceiverAnswer:
    """What became of the message to one receiver, which ``receiver`` names without anything secret, by its
    ``line`` in the file; ``problem`` is "" where it was accepted."""

    line: int
    receiver: str
    accepted: bool
    problem: str


def send_test_message(config_file: str) -> list[ReceiverAnswer]:
    """Send it to all of them at the same time. Raises RefusedError where the server configuration has no notifications,
    ConfigError without the extra or where the file of URLs cannot be used."""
    config = load_server_config(config_file)
    host = harmless(config.host)
    text = f"This is a test by `reconciler notify --test` on {host}. Notifications of this server arrive here."
    return send_message(config, Message(f"reconciler on {host}: test", harmless(text)))


def send_message(config: ServerConfig, message: Message) -> list[ReceiverAnswer]:
    """Send a message to all of them at the same time. Raises as ``send_test_message``."""
    messenger = open_messenger(config)
    receivers = messenger.receivers()

    async def send() -> list[str]:
        return await asyncio.gather(*(messenger.send(receiver, message) for receiver in receivers))

    return [
        ReceiverAnswer(receiver.line, receiver.name, not problem, problem)
        for receiver, problem in zip(receivers, asyncio.run(send()), strict=True)
    ]
