"""What `recipients` and `age --known-to` answer. Pure; never a value."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from reconciler.app.recipients.change import Recipient, RecipientChange
from reconciler.app.recipients.known_secrets import KnownSecrets
from reconciler.cli.layout import Item, Page, counted
from reconciler.core.change_words import Data
from reconciler.core.sops.key_mismatch import brief_keys
from reconciler.core.text import absolute, ago, instant

_MOST = 20  # files


def recipients_data(recipients: Sequence[Recipient]) -> dict[str, Any]:
    return {
        "recipients": [
            {
                "name": recipient.name,
                "key": recipient.key,
                "rules": list(recipient.rules),
                "files": recipient.files,
                "unlisted": list(recipient.unlisted),
                "lacking": list(recipient.lacking),
            }
            for recipient in recipients
        ]
    }


def recipients_report(data: Data, page: Page) -> Iterator[str]:
    """Everybody with the rules that name them, and where files differ from the rules."""
    if not data["recipients"]:
        yield "Nothing is encrypted here, and .sops.yaml names nobody."
        return
    yield from page.items([_recipient(recipient, page) for recipient in data["recipients"]])


def _recipient(recipient: Data, page: Page) -> Item:
    name = page.style("bold", recipient["name"] or "(no name)")
    cells = (name, brief_keys([recipient["key"]]), f"reads {counted(recipient['files'], 'file')}")
    details = [f"rule {rule}" for rule in recipient["rules"]] or ["in no rule of .sops.yaml"]
    details += [f"reads {path}, against its rule" for path in recipient["unlisted"][:_MOST]]
    details += [f"cannot read {path} yet, although its rule says so" for path in recipient["lacking"][:_MOST]]
    return Item(cells, tuple(details))


def change_data(change: RecipientChange) -> dict[str, Any]:
    return {
        "action": change.action.value,
        "name": change.name,
        "key": change.key,
        "rules": list(change.rules),
        "files": list(change.files),
        "continued": change.continued,
        "branch": change.branch,
        "commit": change.commit,
        "known": None if change.known is None else known_data(change.known),
    }


def change_report(data: Data, page: Page) -> Iterator[str]:
    adds = data["action"] == "add"
    who = data["name"] or brief_keys([data["key"]])
    done = f"{counted(len(data['files']), 'file')} encrypted for {who} {'too' if adds else 'no longer'}"
    more = f", {data['continued']} of them by the run before" if data["continued"] else ""
    rules = [f"rule {rule}" for rule in data["rules"]]
    yield from page.items([Item((done + more,), tuple(rules))])
    yield ""
    if data["known"]:
        yield from known_report(data["known"], page)
        yield ""
    branch = f"{page.style('green', 'Committed')} {data['commit'][:12]} to {data['branch']}."
    yield from page.text(f"{branch} Review it with `git diff HEAD..{data['branch']}`, push it, open a pull request.")


def known_data(known: KnownSecrets) -> dict[str, Any]:
    return {
        "name": known.name,
        "key": known.key,
        "values": [
            {
                "file": value.file,
                "key": value.key,
                "since": None if value.since is None else instant(value.since).replace(" ", "T").replace("Z", "+00:00"),
                "secret": value.secret,
            }
            for value in known.values
        ],
    }


def _since(value: Data, page: Page) -> str:
    relative = f" ({ago(value['since'], page.now)})" if page.now is not None else ""
    return f"{absolute(value['since'])}{relative}"


def known_report(data: Data, page: Page) -> Iterator[str]:
    """The secrets that somebody knows, by file, the oldest first: a checklist."""
    secrets = [value for value in data["values"] if value["secret"]]
    others = len(data["values"]) - len(secrets)
    if not secrets:
        yield from page.text(f"{data['name']} knows no secret any more.")
    else:
        yield from page.text(f"{data['name']} knows {counted(len(secrets), 'secret')}. Replace each, the oldest first:")
    by_file: dict[str, list[Data]] = {}
    for value in secrets:
        by_file.setdefault(value["file"], []).append(value)
    for file, values in by_file.items():
        details = [f"[ ] {value['key'] or 'the whole file'}  since {_since(value, page)}" for value in values]
        yield from page.items([Item((page.style("bold", file),), tuple(details))])
    if others:
        plain = [f"{value['file']}: {value['key']}" for value in data["values"] if not value["secret"]]
        text = f"Also {counted(others, 'value')} whose names mean no secret"
        yield from page.text(f"{text}: {', '.join(plain)}" if page.verbose else f"{text}; -v lists them.")
