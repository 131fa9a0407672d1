"""`reconciler review`: everything that is known of a server, from the daemon where one runs, else looked at here."""

from __future__ import annotations

import asyncio
import os
import re
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, TypeVar

from reconciler.app.checks.run import CheckReport, check_tree
from reconciler.app.config.server import ServerConfig, load_server_config
from reconciler.app.daemon.client import Progress, serve_request
from reconciler.app.daemon.commands import read_secret_ages, read_status
from reconciler.app.daemon.receiver_check import send_message
from reconciler.app.review.review import Review
from reconciler.app.wiring.comparisons import MirrorTrees, server_tools
from reconciler.app.wiring.mail import send_mail
from reconciler.core.change_words import Data
from reconciler.core.decide.notification_text import harmless
from reconciler.core.errors import KeyUnavailableError, OutsideError, ReconcilerError, RefusedError, with_id
from reconciler.core.model.notifications import Message
from reconciler.core.text import printable

_Result = TypeVar("_Result")
_NO_VALUES = "Names only, without values"


def review_server(config_file: str, max_age: str, seconds: float, progress: Progress) -> Review:
    """Look at everything; ``seconds`` are ``max_age`` as a number. What cannot be looked at is in the review's
    ``failures``. Raises ConfigError."""
    config = load_server_config(config_file)
    parts = _Parts(progress)
    status = parts.look("status", lambda: read_status(config_file, progress))
    comparisons = parts.look("comparisons", lambda: _comparisons(config, config_file, progress))
    ages = parts.look("age", lambda: read_secret_ages(config_file, None, seconds, progress)["environments"])
    check = parts.look("check", lambda: asyncio.run(_check(config, _head(status), parts.notes)))
    at = datetime.now(UTC).isoformat(timespec="seconds")
    return Review(config.host, at, status, comparisons, check, ages, max_age, parts.failures, tuple(parts.notes))


def mail_review(addresses: Sequence[str], subject: str, text: str, html: str) -> None:
    """Send a rendered review. Raises RefusedError for an address that is none, OutsideError where nobody takes it."""
    for address in addresses:
        if not re.fullmatch(r"[^\s,;<>@-][^\s,;<>@]*(@[^\s,;<>@]+)?", address):
            raise RefusedError(
                "is not an address", where=f"--mail {printable(address)}", hint="Give root or ops@example.org"
            )
    asyncio.run(send_mail(addresses, subject, text, html))


def notify_review(config_file: str, title: str, lines: Sequence[str]) -> None:
    """Send what needs an operator to every receiver of notifications. Raises OutsideError where one does not accept it,
    and what ``send_message`` raises."""
    config = load_server_config(config_file)
    host = harmless(config.host)
    message = Message(f"reconciler on {host}: {harmless(title)}", "\n".join(map(harmless, lines)))
    refused = [answer for answer in send_message(config, message) if not answer.accepted]
    if refused:
        receivers = "; ".join(f"line {answer.line} ({answer.receiver}) {answer.problem}" for answer in refused)
        hint = "`reconciler notify --test` tries every receiver"
        raise OutsideError(receivers, where="--notify", hint=hint, id="notification-dropped")


@dataclass(slots=True)
class _Parts:
    """Looks at one part after the other, and remembers why one could not be looked at."""

    progress: Progress
    failures: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def look(self, part: str, work: Callable[[], _Result]) -> _Result | None:
        self.progress(part)
        try:
            return work()
        except ReconcilerError as error:
            self.failures[part] = with_id(str(error), error.id)
        except Exception as error:  # noqa: BLE001  # a defect of one part must not hide the others
            self.failures[part] = _defect(error)
        return None


def _defect(error: Exception) -> str:
    """An unforeseen error, without its message, which may quote values."""
    where = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{type(error).__name__} in {os.path.basename(where.filename)}, line {where.lineno}"
    return f"internal error ({place}). This is a bug in reconciler: please report it [internal-error]"


def _comparisons(config: ServerConfig, config_file: str, progress: Progress) -> Sequence[Data]:
    return list(serve_request(config_file, {"kind": "comparisons"}, progress)) if config.comparisons else []


def _head(status: Data | None) -> str:
    """The commit that the branch is accepted at. Raises RefusedError for none."""
    heads = [environment["head"] for environment in status["environments"] if environment["head"]] if status else []
    if not heads:
        hint = "Start the daemon, or run `reconciler sync`"
        raise RefusedError("no commit of the branch is known here yet", hint=hint)
    return str(max(heads, key=lambda head: str(head["committed_at"]))["commit"])


async def _check(config: ServerConfig, commit: str, notes: list[str]) -> CheckReport:
    """`check` of this server's environments at the commit, with the server's keys as far as they can be used."""
    tree = await MirrorTrees(config).read(commit, lambda _: True)
    names = [name for name in dict.fromkeys(config.environment) if name in tree.directories()]
    servers = {name: [config] for name in names}

    async def run(tools: Any) -> CheckReport:
        return await check_tree(tree, config.repository.path, tools, only=names, servers=servers)

    tools = server_tools(config)
    try:
        return await run(tools)
    except KeyUnavailableError as error:
        notes.append(f"{_NO_VALUES}: {with_id(str(error), error.id)}")
        return await run(replace(tools, opener=None))
