"""Draws docs/page.png: the daemon's overview of a small server, in a real Chromium. Part of `make outputs`."""

from __future__ import annotations

import asyncio
import base64
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.support import answers  # noqa: E402
from tests.support.browser import browser  # noqa: E402
from tests.support.page_site import APPLIED, FakeViews, page_site  # noqa: E402

PICTURE = ROOT / "docs" / "page.png"
WIDTH, HEIGHT = 1000, 860


def _status() -> object:
    held = answers.change(
        "production/nginx.conf",
        "held",
        "first_contact",
        "hold",
        keys=answers.keys(changed=("worker_connections",)),
        reason="a different file is already there and was never ours; compare the keys, then run `reconciler sync "
        "--take-over production/nginx.conf`",
        error_id="different-file",
    )
    since = answers.at("29T05:00:00")
    names = [f"production/{name}.env" for name in ("api", "scheduler", "worker")]
    services = [answers.service(f"app/{name}") for name in ("api", "nginx", "scheduler", "worker")]
    plan = answers.plan(held, *(answers.change(name, since=since) for name in names))
    remote = answers.plan(answers.change("production@web-2/api.env", since=since))
    return answers.status(
        answers.state("held", plan, services=services),
        answers.state("in_sync", remote, "production@web-2", services=[answers.service("app/api")]),
    )


async def _draw() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        profile = Path(scratch) / "profile"
        profile.mkdir()
        async with page_site(FakeViews(_status(), [APPLIED])) as site, browser(profile) as page:
            size = {"width": WIDTH, "height": HEIGHT, "deviceScaleFactor": 1, "mobile": False}
            await page.ask("Emulation.setDeviceMetricsOverride", **size)
            await page.ask("Emulation.setScrollbarsHidden", hidden=True)
            await page.open(site)
            answer = await page.ask("Page.captureScreenshot", optimizeForSpeed=False)
    PICTURE.write_bytes(base64.b64decode(answer["data"]))


if __name__ == "__main__":
    asyncio.run(_draw())
