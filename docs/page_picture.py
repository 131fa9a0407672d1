"""Draws docs/page.png: the daemon's overview of a small server, in a real Chromium. Part of `make outputs`."""

from __future__ import annotations

import asyncio
import base64
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from reconciler.core.model.compose import Action, ActionKind  # noqa: E402
from reconciler.core.model.revisions import Revision  # noqa: E402
from reconciler.core.model.runs import Result, Run, RunChange  # noqa: E402
from tests.support import answers  # noqa: E402
from tests.support.browser import browser  # noqa: E402
from tests.support.page_site import FakeViews, page_site  # noqa: E402

PICTURE = ROOT / "docs" / "page.png"
WIDTH, HEIGHT = 1000, 860
COMMIT = "02fdac92abcd".ljust(40, "0")
REVISION = Revision(COMMIT, "", "Ada Example <ada@example.org>", answers.NOW, "Move the mail server")


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


def _runs() -> list[Run]:
    action = Action("app", "worker", ActionKind.RECREATE, "WORKER_CONCURRENCY changed")
    change = RunChange("worker.env", "update", changed=("WORKER_CONCURRENCY",))
    reason, end = "wrote worker.env; worker healthy on the new values", answers.NOW - 100
    facts = {"changes": (change,), "actions": (action,), "finished_at": end, "result": Result.APPLIED, "reason": reason}
    return [Run("8bc1d2e3", "production", "webhook", end - 12, REVISION, **facts)]


async def _draw() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        profile = Path(scratch) / "profile"
        profile.mkdir()
        async with page_site(FakeViews(_status(), _runs())) as site, browser(profile) as page:
            size = {"width": WIDTH, "height": HEIGHT, "deviceScaleFactor": 1, "mobile": False}
            await page.ask("Emulation.setDeviceMetricsOverride", **size)
            await page.ask("Emulation.setScrollbarsHidden", hidden=True)
            await page.open(site)
            answer = await page.ask("Page.captureScreenshot", optimizeForSpeed=False)
    PICTURE.write_bytes(base64.b64decode(answer["data"]))


if __name__ == "__main__":
    asyncio.run(_draw())
