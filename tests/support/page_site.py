"""The daemon's pages on a real port, of answers that no daemon gave."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

from aiohttp import web

from reconciler.app.daemon.http.connections import HEADERS
from reconciler.app.daemon.http.interfaces import CurrentViews, Views
from reconciler.app.daemon.http.pages import page_routes
from reconciler.core.history.entries import HistoryEntry, run_facts_of
from reconciler.core.model.compose import Action, ActionKind
from reconciler.core.model.requests import KeyAge, SecretAges, TargetAge
from reconciler.core.model.revisions import Revision
from reconciler.core.model.runs import Result, Run, RunChange
from reconciler.core.model.targets import Target
from tests.support import answers

REVISION = Revision(
    "02fdac92abcd".ljust(40, "0"), "", "Ada Example <ada@example.org>", answers.NOW, "Move the mail server"
)
APPLIED = Run(
    id="8bc1d2e3",
    environment="production",
    trigger="webhook",
    started_at=answers.NOW - 112,
    revision=REVISION,
    changes=(RunChange("worker.env", "update", changed=("WORKER_CONCURRENCY",), edited_by="bob (uid 1001), likely"),),
    actions=(Action("app", "worker", ActionKind.RECREATE, "WORKER_CONCURRENCY changed"),),
    backup="20261129T075912Z-8bc1d2e3",
    requested_by="ada (uid 1000)",
    request_reason="a slow queue",
    finished_at=answers.NOW - 100,
    result=Result.APPLIED,
    reason="wrote worker.env; worker healthy on the new values",
)
AGES = SecretAges(
    REVISION,
    (
        TargetAge(Target("production", "blob", "/opt/app/blob"), (KeyAge("", answers.NOW - 400 * 86400),)),
        TargetAge(
            Target("production", "api.env", "/opt/app/api.env"),
            (KeyAge("FRESH", answers.NOW - 86400), KeyAge("UNUSED", None), KeyAge(answers.LONG, 0.0)),
        ),
    ),
)


@dataclass(slots=True)
class FakeViews:
    """What the pages use of the daemon; it is its own daemon and store."""

    data: Any
    known_runs: Sequence[Run] = ()
    secret_ages: SecretAges | None = None
    host: str = "web-1"
    compared: Sequence[Any] = ()
    repository_url: str = "ssh://git@github.com/acme/config.git"

    @property
    def daemon(self) -> FakeViews:
        return self

    @property
    def store(self) -> FakeViews:
        return self

    @property
    def reconcilers(self) -> dict[str, Any]:
        return {environment["environment"]: self for environment in self.data["environments"]}

    async def status(self) -> Any:
        return self.data

    def environments(self) -> Sequence[str]:
        return ()  # that have an unfinished run

    def history(self, *_: object, **__: object) -> list[HistoryEntry]:
        return [HistoryEntry(1, "", json.dumps(run_facts_of(run)), "") for run in self.known_runs]

    def history_of(self, identity: str) -> HistoryEntry | None:
        return next((entry for entry in self.history() if entry.facts["run"] == identity), None)

    def comparisons(self) -> list[Any]:
        return list(self.compared)

    def run(self, identity: str) -> Run | None:
        return next((run for run in self.known_runs if run.id == identity), None)

    def now(self) -> float:
        return answers.NOW


@contextlib.asynccontextmanager
async def page_site(views: FakeViews) -> AsyncIterator[str]:
    """The address of the pages of these views, served while inside."""
    source = CurrentViews()
    app = web.Application()
    app.add_routes(page_routes(source))

    async def sign(_: web.Request, response: web.StreamResponse) -> None:
        response.headers.update(HEADERS)

    app.on_response_prepare.append(sign)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        async with source.provide(cast(Views, views)):
            yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
