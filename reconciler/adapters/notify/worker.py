"""A separate program: sends one message to one receiver with apprise, both read from standard input.

apprise_messenger.py starts it with limits of time and memory. What it prints is a clause of ours: apprise's own log
and its exceptions may quote the URL.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from typing import Any

from apprise import Apprise, AppriseAsset, NotifyFormat, NotifyType

_STATUS = re.compile(r"error[=: ]+([1-5]\d\d)\b")


class _Collected(logging.Handler):
    """What apprise logs, kept for its status codes only."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def main() -> None:
    request = json.load(sys.stdin)
    log = _Collected()
    logging.basicConfig(handlers=[log], level=logging.WARNING, force=True)
    try:
        problem = _send(request["url"], request["message"], log)
    except Exception as error:  # noqa: BLE001  # a plugin's defect; its text may quote the URL
        problem = f"apprise failed ({type(error).__name__})"
    sys.stdout.write(json.dumps({"problem": problem}))
    sys.stdout.flush()
    os._exit(0)  # without waiting for threads of the library


def _send(url: str, message: dict[str, Any] | None, log: _Collected) -> str:
    asset = AppriseAsset(app_id="reconciler", app_desc="reconciler", app_url="", image_url_mask="", async_mode=False)
    receivers = Apprise(asset=asset)
    if not receivers.add(url):
        return "is not a URL that apprise knows"
    if message is None:
        return ""
    kind = NotifyType.FAILURE if message["bad"] else NotifyType.INFO
    if receivers.notify(message["body"], message["title"], notify_type=kind, body_format=NotifyFormat.TEXT):
        return ""
    text = "\n".join(log.lines)
    if match := _STATUS.search(text):
        return f"answered with status {match[1]}"
    return "could not be reached" if "onnection" in text else "did not accept it"


if __name__ == "__main__":
    main()
