"""What needs an operator in what the daemon knows of an environment: the worst first, each with its next step. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from reconciler.core.change_words import Data, Said, cause_of, is_orphan, reason_of, rest_of_reason
from reconciler.core.decide.promotion import PROMOTION_WAITS
from reconciler.core.errors import with_id
from reconciler.core.text import absolute, author_name, listed

BAD, WAITS, KNOWN = "bad", "mid", "info"
_ORDER = (BAD, WAITS, KNOWN)
_MOST_NAMES = 10
_FIX = "Fix it with a new commit."
_RETRIES = "The daemon retries within 5 minutes; `reconciler doctor` checks every component."
_WAITS_FOR_ANOTHER = ("paused", "engine-unavailable")  # ids of held targets whose pause or engine is an entry itself
_STACK_HELD = " is held: "  # in the line of a reason that says why a stack is
_ENDED_BADLY = {
    "stalled": (BAD, f"{_FIX} Until then nothing of this revision is written."),
    "failed": (BAD, _RETRIES),
    "rolled_back": (BAD, _FIX),
    "rolling_back": (WAITS, "Wait: the services are still starting on their old values."),
}


@dataclass(frozen=True, slots=True)
class Attention:
    """One thing that needs an operator (``kind``: bad or mid), or that they know of (info): the state in a ``word``,
    ``where`` it is, ``reason`` (lines), the ``next`` steps, since when, and the targets or services it is about."""

    kind: str
    word: str
    where: str
    reason: str = ""
    next: tuple[str, ...] = ()
    since: str | None = None
    items: tuple[Data, ...] = ()


def attention_of(environments: Sequence[Data], pairs: Iterable[Data] = ()) -> list[Attention]:
    """All of it, of what GET /api/v1/status says of the environments and /api/v1/comparison of the pairs, the worst
    first."""
    every = [entry for environment in environments for entry in _attention_of(environment, Said())]
    every += [entry for pair in pairs for entry in _compared(pair)]
    return sorted(every, key=lambda entry: _ORDER.index(entry.kind))


def _attention_of(environment: Data, said: Said) -> Iterator[Attention]:
    yield from _ended(environment, said)
    yield from _quarantined(environment, said)
    yield from _engine(environment, said)
    yield from _services(environment)
    for line in said.unsaid(environment["warning"] or "").split("\n"):
        if line and not (environment["quarantine"] and " is quarantined: " in line):
            yield Attention(WAITS, "warning", environment["environment"], line)
    yield from _targets(environment, said)
    yield from _standing(environment)


def _ended(environment: Data, said: Said) -> Iterator[Attention]:
    """How the last reconciliation ended, and the stacks that are suspended since."""
    name, result, since = environment["environment"], environment["result"], environment["since"]
    if result is None:
        yield Attention(KNOWN, "not reconciled yet", name, next=("Wait: the first reconciliation has not ended.",))
    suspended = environment["suspended"]
    retry = (f"Fix what the reason names, then run `reconciler retry -e {name}`.",)
    if result == "rollback_failed":
        reason = with_id(said.unsaid(reason_of(environment)), environment["error_id"])
        yield Attention(BAD, result, name, reason, retry, since)
    elif result in _ENDED_BADLY and not (result == "rolled_back" and environment["quarantine"]):
        kind, step = _ENDED_BADLY[result]
        if result == "failed" and not environment["retry"]:
            step = _FIX
        reason = with_id(said.unsaid(reason_of(environment)), environment["error_id"])
        yield Attention(kind, result, name, reason, (step,), since)
    elif result == "held" and environment["error_id"] == PROMOTION_WAITS:
        yield Attention(WAITS, "held", name, said.unsaid(reason_of(environment)), (), since)
    for stack, reason in suspended.items():
        where = f"{name}/{stack}" if stack else f"{name}, files of no stack"
        if unsaid := said.unsaid(reason):
            yield Attention(BAD, "suspended", where, unsaid, retry)


def _quarantined(environment: Data, said: Said) -> Iterator[Attention]:
    quarantine, name = environment["quarantine"], environment["environment"]
    if quarantine is None:
        return
    rolled_back = environment["result"] == "rolled_back"
    reason = with_id(reason_of(environment), environment["error_id"]) if rolled_back else quarantine["reason"]
    revision = quarantine["revision"]
    author = f" by {author_name(revision['author'])}" if revision["author"] else ""
    lines = [f"{revision['subject']}{author}".strip(), said.unsaid(reason)]
    if revert := quarantine["revert"]:
        lines.append(revert["reason"] or f"The revert in git is {revert['state']}")
    word, where = "rolled_back" if rolled_back else "quarantined", f"{name} at {revision['commit'][:12]}"
    step = f"Fix it with a new commit, or run `reconciler retry -e {name}` to apply this revision again."
    yield Attention(BAD, word, where, "\n".join(filter(None, lines)), (step,), quarantine["since"])


def _engine(environment: Data, said: Said) -> Iterator[Attention]:
    name, away = environment["environment"], said.unsaid(environment.get("engine_away") or "")
    unknown = said.unsaid(environment.get("services_unknown") or "")
    if away:
        step = "Start the Docker engine there. Drift of files is still corrected; new content waits."
        yield Attention(BAD, "engine away", name, away, (step,))
    elif unknown:
        step = "`reconciler doctor` checks whether the Docker engine answers."
        yield Attention(WAITS, "services unknown", name, unknown, (step,))


def _services(environment: Data) -> Iterator[Attention]:
    services = [service for service in environment.get("services", ()) if not service["healthy"]]
    down = [service for service in services if not service.get("acknowledged")]
    if down:
        silent = [service for service in down if not _says_why(service)]
        steps = tuple(f"Read why: {command}." for command in _log_commands(silent))
        yield Attention(BAD, "unhealthy", environment["environment"], next=steps, items=tuple(map(_service, down)))


def _log_commands(services: Sequence[Data]) -> Iterator[str]:
    """The commands that show what the services printed."""
    names = dict.fromkeys(service["service"] for service in services if not service["logs"])
    if names:
        yield f"`docker compose logs --tail 50 {' '.join([*names][:5])}` in the stack's directory"
    if commands := dict.fromkeys(f"`{service['logs']}`" for service in services if service["logs"]):
        yield ", ".join([*commands][:5])


def _says_why(service: Data) -> bool:
    """Whether its reason names the logs, or it has none, as no node runs it."""
    return service["state"] == "pending" or " logs " in service.get("reason", "")


def _service(service: Data) -> Data:
    reason = f": {service['reason']}" if service.get("reason") else ""
    return {"name": f"{service['stack']}/{service['service']}", "text": f"{service['state']}{reason}", "keys": None}


def _targets(environment: Data, said: Said) -> Iterator[Attention]:
    """Targets that wait for somebody, those in the same situation together, and why their stacks are held."""
    changes = environment["after"]["changes"] if environment["after"] else ()
    held, edited, orphans = [], [], []
    for change in changes:
        if change["effect"] == "hold":
            if change["error_id"] not in _WAITS_FOR_ANOTHER and (change["stack"] or "") not in environment["suspended"]:
                held.append(change)
        elif is_orphan(change):
            orphans.append(change)
        elif change["effect"] == "report":
            edited.append(change)
    name = environment["environment"]
    # What is held says what to do itself.
    stacks = [line for line in reason_of(environment).split("\n") if _STACK_HELD in line]
    reason = said.unsaid("\n".join(stacks)) if environment["result"] == "held" else ""
    if held or reason:
        yield Attention(WAITS, "held", name, reason, items=tuple(map(_target, held)))
    for word, kind, members, step in (
        ("drifted", WAITS, edited, "Bring the edit to git with `reconciler adopt TARGET`, or undo it on the server."),
        ("orphan", KNOWN, orphans, "`reconciler forget TARGET` ends it; `--delete` deletes its file, after a backup."),
    ):
        if members:
            steps = (step.replace("TARGET", members[0]["target"]),)
            yield Attention(kind, word, name, next=steps, items=tuple(map(_target, members)))


def _target(change: Data) -> Data:
    rest = f"{change['path']} stays" if is_orphan(change) else rest_of_reason(change)
    edited_by = f"edited by {change['edited_by']}" if change["edited_by"] else ""
    text = "; ".join(filter(None, (cause_of(change), edited_by, rest)))
    keys = change["keys"] if any(change["keys"].values()) else None
    return {"name": change["target"], "text": with_id(text, change["error_id"]), "keys": keys}


def _compared(pair: Data) -> Iterator[Attention]:
    """What the alerts of comparisons are about: a pair that cannot be compared, or whose right side lacks something."""
    name = pair["name"]
    shows = f"`reconciler compare {name}` shows all of it."
    if pair["error"]:
        reason = with_id(pair["error"], pair["error_id"])
        yield Attention(WAITS, "not compared", name, reason, (shows,), pair["failing_since"])
    lacking = [
        difference["name"] or difference["where"]
        for difference in pair["differences"]
        if difference["unexplained"] and difference["class"] == "missing-right"
    ]
    if lacking:
        reason = f"{pair['right']} lacks {listed(lacking, _MOST_NAMES)}"
        step = f"Add it there, or expect it in `expected-differences.yaml`. {shows}"
        yield Attention(WAITS, "missing", f"{name}: {pair['left']} and {pair['right']}", reason, (step,))


def _standing(environment: Data) -> Iterator[Attention]:
    """What an operator has ordered, until it ends."""
    name = environment["environment"]
    if pin := environment["pin"]:
        where = f"{name} at {pin['revision']['commit'][:12]}"
        step = f"`reconciler unpin -e {name}` follows the branch again."
        yield Attention(KNOWN, "pinned", where, pin["reason"], (step,), pin["since"])
    for pause in environment["pauses"]:
        scope = pause["scope"]
        command = f"`reconciler resume {scope}`" if scope else f"`reconciler resume --all -e {name}`"
        step = f"It ends by itself {absolute(pause['until'])}; {command} ends it now."
        yield Attention(KNOWN, "paused", scope or name, pause["reason"], (step,), pause["since"])
