"""The daemon's pages on a real port, of answers that no daemon gave."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from aiohttp import web

from reconciler.app.daemon.connections import HEADERS
from reconciler.app.daemon.http import CurrentViews, Views
from reconciler.app.daemon.pages import page_routes
from reconciler.core.model.requests import SecretAges
from reconciler.core.model.runs import Run
from tests.support import answers


@dataclass(slots=True)
class FakeViews:
    """What the pages use of the daemon; it is its own daemon and store."""

    data: Any
    known_runs: Sequence[Run] = ()
    ages: SecretAges | None = None
    host: str = "web-1"
    compared: Sequence[Any] = ()
    repository_url: str = "ssh://git@github.com/acme/config.git"
    secret_ages: SecretAges | None = field(init=False)

    def __post_init__(self) -> None:
        self.secret_ages = self.ages

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

    def runs(self, _: object = None, limit: int = 20) -> Sequence[Run]:
        return self.known_runs[:limit]

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
