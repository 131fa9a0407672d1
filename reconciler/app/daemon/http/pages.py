"""The daemon's read-only pages: what the API says, as HTML that needs nothing from elsewhere.

What renders them is imported with the first page: where nobody opens one, nobody pays for its memory.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from aiohttp import web
from aiohttp.typedefs import Handler

from reconciler.app.daemon.answers import serialize
from reconciler.app.daemon.requests import find_run, list_runs
from reconciler.core.errors import ReconcilerError, with_id
from reconciler.core.forge_links import commit_address
from reconciler.core.history.entries import iso_instant
from reconciler.core.model.targets import environment_of

if TYPE_CHECKING:
    from reconciler.app.daemon.http.interfaces import CurrentViews, Views

_LAST_RUNS = 20
_MOST_DIFFERENCES = 200  # of a pair
_OLD = 90  # days after which a secret is old, as in the alert
_SCRIPT = "refresh.js"


def page_routes(source: CurrentViews) -> list[web.RouteDef]:
    """The pages, of the daemon that runs."""

    def serving(render: Callable[[Views, web.Request], Awaitable[web.Response]]) -> Handler:
        async def serve(request: web.Request) -> web.StreamResponse:
            async with source.use() as views:
                try:
                    return await render(views, request)
                except ReconcilerError as error:  # the state cannot be read
                    text, here = with_id(str(error), error.id), request.path[1:]
                    return _page(views, "message.html", here, status=503, heading="Cannot be shown now", text=text)

        return serve

    pages = {"/": _overview, "/runs/{run}": _run, "/secrets": _secrets, "/comparison": _comparison}
    return [web.get(path, serving(render)) for path, render in pages.items()]


async def _overview(views: Views, _: web.Request) -> web.Response:
    from reconciler.app.pages.overview import overview_facts

    status = await views.status()
    runs = list_runs(views.store, views.daemon.reconcilers, {"environments": [], "limit": _LAST_RUNS})
    return _page(views, "overview.html", "", **overview_facts(status, runs, views.comparisons()))


async def _run(views: Views, request: web.Request) -> web.Response:
    from reconciler.app.pages.overview import run_facts

    known = find_run(views.store, request.match_info["run"])
    if known is None:
        text = "It is older than the history, or no run has that id. `reconciler history` lists them."
        return _page(views, "message.html", "runs/", status=404, heading="No such run", text=text)
    return _page(views, "run.html", "runs/", run=run_facts(known))


async def _secrets(views: Views, _: web.Request) -> web.Response:
    from reconciler.app.pages.overview import secrets_facts

    return _page(views, "secrets.html", "secrets", oldest_days=_OLD, **secrets_facts(_ages(views)))


async def _comparison(views: Views, _: web.Request) -> web.Response:
    from reconciler.app.pages.overview import comparison_facts

    facts = comparison_facts(views.comparisons())
    return _page(views, "comparison.html", "comparison", most=_MOST_DIFFERENCES, **facts)


def _ages(views: Views) -> list[dict[str, Any]]:
    """The ages that the daemon has read; by environment, as they are the same on every host."""
    now, ages = views.daemon.now(), {}
    for unit, reconciler in views.daemon.reconcilers.items():
        name, known = environment_of(unit), reconciler.secret_ages
        if known is not None:
            ages[name] = serialize.serialize_ages(name, known.revision, known.targets, now - _OLD * 86400)
        else:
            ages.setdefault(name, {"environment": name, "revision": None, "targets": []})
    return list(ages.values())


def _page(views: Views, template: str, here: str, *, status: int = 200, **facts: Any) -> web.Response:
    """The page ``here``. Its links are relative: a reverse proxy may serve the pages below a path of its own."""
    from reconciler.app.pages.html import render_html

    now = views.daemon.now()
    text = render_html(
        template,
        script=_SCRIPT,
        here=here,
        root="../" if "/" in here else "./",
        host=views.host,
        now=now,
        at=iso_instant(now),
        link=functools.partial(commit_address, views.repository_url),
        **facts,
    )
    return web.Response(status=status, text=text, content_type="text/html", charset="utf-8", headers=_headers())


@functools.cache
def _headers() -> dict[str, str]:
    from reconciler.app.pages.html import asset, content_policy

    policy = content_policy(asset(_SCRIPT), "connect-src 'self'", "img-src data:", "frame-ancestors 'none'")
    return {
        "Content-Security-Policy": policy,
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-store",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "X-Frame-Options": "DENY",
    }
