"""The daemon's pages in a real browser: what is read, how it refreshes itself, and that everybody can use it."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from reconciler.cli.server_review_reports import as_html
from tests.support import answers
from tests.support.browser import Page, browser
from tests.support.components import AXE
from tests.support.page_site import AGES, APPLIED, FakeViews, page_site
from tests.support.server import Daemon, Server
from tests.support.waiting import until
from tests.unit.test_pages import DOWN, HOSTILE, hostile

WIDTHS = (1280, 360)
SCHEMES = ("light", "dark")
TEXT = "document.querySelector('main').innerText"


@pytest.fixture
async def page(tmp_path: Path) -> AsyncIterator[Page]:
    (tmp_path / "profile").mkdir()
    async with browser(tmp_path / "profile") as opened:
        yield opened


async def findings(page: Page) -> list[str]:
    """What axe-core finds of serious and critical impact, as rule and element."""
    await page.evaluate(AXE.read_text() + "; 1")
    result = json.loads(
        await page.evaluate("axe.run({resultTypes: ['violations']}).then(result => JSON.stringify(result.violations))")
    )
    return [
        f"{violation['id']}: {node['html'][:200]}"
        for violation in result
        if violation["impact"] in ("serious", "critical")
        for node in violation["nodes"]
    ]


async def look_like(page: Page, width: int, scheme: str) -> None:
    await page.ask("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
    await page.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])


def everything() -> Any:
    """Every situation at once, and every name a hostile one in an environment of its own."""
    environments = [
        {**environment, "environment": f"{environment['environment']}-{number}"}
        for number, status in enumerate([*answers.STATUSES.values(), DOWN, hostile(answers.STATUSES["drifted"])])
        for environment in status["environments"]
    ]
    return answers.status(*environments)


PAGES = {
    "/": (HOSTILE[:20], "things need an operator", "rollback failed", "engine away", "not reconciled yet"),
    "/runs/8bc1d2e3": (
        "WORKER_CONCURRENCY",
        "Ada Example",
        "bob (uid 1001)",
        "a slow queue",
        "reconciler restore 20261129T075912Z-8bc1d2e3",
    ),
    "/secrets": ("2 old", answers.LONG, "400 days ago", "the whole file"),
    "/comparison": ("4 unexplained findings", "PAYMENT_TOKEN", "web-3: does not answer", "not compared yet"),
    "/runs/none": ("No such run",),
}


@pytest.mark.browser
async def test_every_page_fits_is_usable_by_everybody_and_loads_nothing(page: Page) -> None:
    compared = [*answers.PAIRS, hostile(answers.PAIRS[0])]
    async with page_site(FakeViews(everything(), [APPLIED], AGES, compared=compared)) as site:
        for path, expected in PAGES.items():
            await page.open(site + path)
            text = await page.evaluate(TEXT)
            assert [part for part in expected if part not in text] == []
            for width, scheme in zip(WIDTHS, SCHEMES, strict=True):
                await look_like(page, width, scheme)
                assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (path, width)
                if path == "/" or width == WIDTHS[0]:  # axe-core takes a while
                    assert await findings(page) == [], (path, width, scheme)
            assert await page.evaluate("typeof x") == "undefined"
        assert [message for message in page.messages if "404" not in message] == []  # that of /runs/none
        assert {url for url in page.requests if not url.startswith(site)} == set()


def drifted(daemon: Daemon) -> int:
    (environment,) = json.loads(daemon.get("/api/v1/status")[1])["environments"]
    return sum(change["sync"] == "drifted" for change in environment["after"]["changes"])


async def refreshed(page: Page, text: str) -> None:
    """Have the page ask again, as when its tab comes to the front, and wait until it shows the text."""
    await page.evaluate(
        f"""new Promise(done => {{
            const look = () => document.body.textContent.includes({json.dumps(text)}) && done(1);
            new MutationObserver(look).observe(document.body, {{subtree: true, childList: true, characterData: true}});
            document.dispatchEvent(new Event('visibilitychange'));
            look();
        }})"""
    )


@pytest.mark.browser
async def test_a_daemons_page_is_whole_without_a_script_and_refreshes_itself_with_one(
    page: Page, server: Server
) -> None:
    targets = {f"file-{number:02}.conf": {"encrypted": False, "on_drift": "report"} for number in range(15)}
    contents: dict[str, bytes | None] = dict.fromkeys(targets, b"a=1\n")
    server.commit(contents, server.plain(targets), message="<script>x=1</script> first")
    with server.daemon() as daemon:
        site = f"http://127.0.0.1:{daemon.port}"
        (server.app / "file-03.conf").write_bytes(b"a=2\n")
        await until(lambda: drifted(daemon) == 1)
        with urllib.request.urlopen(site) as answer:  # noqa: ASYNC210  # another process answers
            policy = answer.headers["Content-Security-Policy"].split("; ")
            assert {"default-src 'none'", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'none'"} < {*policy}
            assert not [part for part in policy if "unsafe" in part or "*" in part or "http" in part]
            fixed = ("X-Content-Type-Options", "Referrer-Policy", "Cache-Control")
            assert [answer.headers[name] for name in fixed] == ["nosniff", "no-referrer", "no-store"]

        await page.ask("Emulation.setScriptExecutionDisabled", value=True)
        await page.open(site)
        plain = await page.evaluate("document.querySelector('main').textContent")
        for expected in (
            "1 thing needs an operator",
            "<script>x=1</script> first",
            "Ada Example",
            "14 targets in sync",
        ):
            assert expected in plain
        assert "reconciler adopt production/file-03.conf" in " ".join(plain.split())
        await page.ask("Emulation.setScriptExecutionDisabled", value=False)

        await page.ask("Emulation.setDeviceMetricsOverride", width=600, height=300, deviceScaleFactor=1, mobile=False)
        await page.open(site)
        await page.evaluate("document.querySelector('details').open = true")
        await page.evaluate("document.querySelector('summary').focus()")
        await page.evaluate("scrollTo(0, 700)")
        (server.app / "file-04.conf").write_bytes(b"a=3\n")
        await until(lambda: drifted(daemon) == 2)
        await refreshed(page, "13 targets in sync")
        state = "[document.querySelector('details').open, document.activeElement.tagName, scrollY]"
        assert await page.evaluate(state) == [True, "SUMMARY", 700]

        assert server.cli("reload").returncode == 0
        run = await page.evaluate("document.querySelector('.runs a').href")
        await page.open(run)
        assert "file-03.conf" in await page.evaluate(TEXT)
        await page.open(site)
        daemon.stop()
        await refreshed(page, "The daemon does not answer.")
        assert await page.evaluate("document.querySelector('#asof').textContent.endsWith(' old')")
        assert [message for message in page.messages if "ERR_CONNECTION_REFUSED" not in message] == []


@pytest.mark.browser
async def test_the_page_of_a_review_fits_is_usable_by_everybody_and_loads_nothing(page: Page, tmp_path: Path) -> None:
    file = tmp_path / "review.html"
    file.write_text(as_html(answers.REVIEW))
    for width in WIDTHS:
        for scheme in SCHEMES:
            await look_like(page, width, scheme)
            await page.open(f"file://{file}")
            assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth"), width
            assert await findings(page) == [], (width, scheme)
    assert page.messages == []
    assert {url.partition(":")[0] for url in page.requests} == {"file"}
