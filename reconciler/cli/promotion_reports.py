"""What `promote` answers. Pure; never a value."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from reconciler.app.promotion.promote import Promotion
from reconciler.cli.layout import Item, Page, counted
from reconciler.core.change_words import Data

_VALUES = {
    "copied": "copied",
    "generated": "a generated secret",
    "asked": "a value of its own, asked for",
}


def promotion_data(promotion: Promotion) -> dict[str, Any]:
    return {
        "left": promotion.left,
        "right": promotion.right,
        "keys": [
            {
                "key": key.key,
                "from": key.left,
                "to": key.right,
                "new": key.new,
                "secret": key.secret,
                "value": key.value_from.value,
                "names_left": key.names_left,
            }
            for key in promotion.plan.keys
        ],
        "left_out": [
            {"key": key.key, "from": key.left, "to": key.right, "reason": key.reason} for key in promotion.plan.left_out
        ],
        "branch": promotion.branch or None,
        "commit": promotion.commit or None,
        "findings": [
            {
                "rule": finding.rule.id,
                "severity": finding.rule.severity.value,
                "path": finding.path,
                "line": finding.line,
                "message": finding.message,
            }
            for finding in promotion.warnings
        ],
    }


def promotion_report(data: Data, page: Page) -> Iterator[str]:
    """The keys by file, what was left out and why, and the next step."""
    files: dict[str, list[Data]] = {}
    for key in data["keys"]:
        files.setdefault(key["to"], []).append(key)
    if not files:
        yield from page.text(f"{data['right']} lacks no key of {data['left']} that can be promoted.")
    items = []
    for file, keys in files.items():
        details = [_key(key, data["left"], page) for key in keys]
        items.append(Item((page.style("bold", file), f"from {keys[0]['from']}"), tuple(details)))
    yield from page.items(items)
    if data["left_out"]:
        yield ""
        yield from page.text(f"Left out ({counted(len(data['left_out']), 'key')}):")
        yield from page.items([Item((key["key"], key["to"], key["reason"])) for key in data["left_out"]])
    if data["findings"]:
        yield ""
        yield from page.text("New findings of `reconciler check`:")
        yield from page.items(
            [Item((finding["severity"], finding["path"], finding["message"])) for finding in data["findings"]]
        )
    if not files:
        return
    yield ""
    if data["commit"] is None:
        yield "Nothing was written."
        return
    branch = data["branch"]
    done = f"{page.style('green', 'Committed')} {data['commit'][:12]} to {branch}."
    yield from page.text(f"{done} Review it with `reconciler diff HEAD..{branch}`, push it, open a pull request.")


def _key(key: Data, left: str, page: Page) -> str:
    sign = page.style("green", "+") if key["new"] else page.style("yellow", "~")
    text = f"{sign} {key['key']}: {_VALUES[key['value']]}"
    return f"{text}; its value still names {left} or one of its hosts" if key["names_left"] else text
