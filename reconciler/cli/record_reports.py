"""What `history`, `backups`, `restore`, `adopt`, `age` and `doctor` answer. Pure; never a value of a variable."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from reconciler.cli.layout import Detail, Item, Page, counted
from reconciler.core.change_words import Data, done_to_file, files_removed
from reconciler.core.errors import with_id
from reconciler.core.text import absolute, author_name

_MOST_FILES = 10
_LEVELS = {"ok": "green", "warning": "yellow", "error": "red"}


def history_report(runs: Sequence[Data], page: Page) -> Iterator[str]:
    """The runs and decisions: when, result, revision, author and trigger; below, what each did, for whom and why."""
    yield from page.items([_run(run, page) for run in runs], indent=0, apart=True) if runs else ["No runs yet."]


def _run(run: Data, page: Page) -> Item:
    revision = run["revision"]
    author = author_name(revision["author"])
    commit = revision["commit"][:12] or "no revision yet"
    head = f"{commit} by {author}" if author else commit
    cells = (page.style("bold", absolute(run["started_at"])), page.state(run["result"]), head)
    details: list[Detail] = [page.style("dim", f"{run['environment']}, {run['trigger']}, run {run['run']}")]
    if run["requested_by"] and not run["reason"].startswith(run["requested_by"]):  # a decision's sentence says it
        stated = f": {run['request_reason']}" if run["request_reason"] else ""
        details.append(f"requested by {run['requested_by']}{stated}")
    for change in run["changes"]:
        keys = [part for parts in page.keys(change) for part in parts]
        details.append((f"{change['source']} ({done_to_file(change)})", *keys))
        if change["edited_by"]:
            details.append(f"{change['source']} edited by: {change['edited_by']}")
    details += [f"{action['service']} ({action['action']}): {action['reason']}" for action in run["actions"]]
    if reason := files_removed(run["reason"]):
        details.append(with_id(reason, run["error_id"]))
    return Item(cells, tuple(details))


def backups_report(backups: Sequence[Data], page: Page) -> Iterator[str]:
    """The backups, newest first; after `--verify` also what is wrong with them."""
    if not backups:
        yield "No backups yet."
        return
    yield from page.items([_backup(backup, page) for backup in backups], indent=0)
    if "problems" in backups[0]:
        damaged = sum(bool(backup["problems"]) for backup in backups)
        yield ""
        yield f"{counted(len(backups), 'backup')} read, {damaged} damaged."


def _backup(backup: Data, page: Page) -> Item:
    commits = " → ".join(str(backup.get(name) or "none")[:12] for name in ("from_commit", "to_commit"))
    files = [file["source"] + ("" if file["existed"] else " (did not exist)") for file in backup["files"]]
    if (more := len(files) - _MOST_FILES) > 0 and not page.verbose:
        files[_MOST_FILES:] = [f"and {counted(more, 'file')} more; -v lists them"]
    problems = tuple(f"{page.style('red', 'damaged')}: {problem}" for problem in backup.get("problems", ()))
    cells = (page.style("bold", backup["backup"]), backup["environment"] or "", commits)
    return Item(tuple(filter(None, cells)), (tuple(files), *problems))


def restore_report(restored: Data, page: Page) -> Iterator[str]:
    for path in restored["restored"]:
        yield from page.text(f"{page.style('green', 'restored')} {path}", 0, 2)
    count = counted(len(restored["restored"]), "file")
    yield from page.text(f"Restored {count} from {restored['from']}; backup {restored['backup']} has what was there.")
    yield from page.text(
        "Running services keep their values until they are recreated. Unless paused (`reconciler pause`), the next "
        "reconciliation writes what git has at the target revision again."
    )


def adopt_report(adopted: Data, page: Page) -> Iterator[str]:
    details = ["the whole file"] if adopted["whole"] else page.keys(adopted["keys"])
    yield from page.items([Item((adopted["target"],), tuple(details))])
    yield ""
    yield from page.text(f"{page.style('green', 'Pushed')} {adopted['commit'][:12]} to {adopted['branch']}.")
    yield from page.text(
        f"Open a pull request from it to {adopted['base_branch']}; nothing has changed on this server."
    )


def age_report(ages: Data, max_age: str, page: Page) -> Iterator[str]:
    """Secrets oldest first within their target; ``max_age`` as it was typed, "" for none."""
    every = [key for environment in ages["environments"] for target in environment["targets"] for key in target["keys"]]
    for environment in ages["environments"]:
        if not environment["targets"]:
            yield f"{environment['environment']} has no encrypted targets."
        for target in environment["targets"]:
            yield page.style("bold", target["target"])
            keys = sorted(target["keys"], key=lambda key: key["last_rotated"] or "~")
            yield from page.items([_key_age(key, max_age, page) for key in keys])
    if max_age and every:
        old = sum(key["too_old"] for key in every)
        yield ""
        yield f"{old} of {counted(len(every), 'secret')} {'is' if old == 1 else 'are'} older than {max_age}."


def _key_age(key: Data, max_age: str, page: Page) -> Item:
    rotated = page.style("dim", "empty") if key["empty"] else f"rotated {page.exact(key['last_rotated'])}"
    old = (page.style("red", f"older than {max_age}"),) if key["too_old"] else ()
    return Item((key["key"] or "the whole file", rotated, *old))


def notify_report(deliveries: Sequence[Data], page: Page) -> Iterator[str]:
    """Each receiver of the test message, and whether it was accepted."""
    yield from page.items([_delivery(delivery, page) for delivery in deliveries], indent=0)
    bad = sum(not delivery["accepted"] for delivery in deliveries)
    yield ""
    yield f"{bad} of {counted(len(deliveries), 'receiver')} did not accept it." if bad else "All accepted it."


def _delivery(delivery: Data, page: Page) -> Item:
    level = page.style(*(("green", "ok   ") if delivery["accepted"] else ("red", "error")))
    problem = "accepted" if delivery["accepted"] else delivery["problem"]
    return Item((f"{level}   line {delivery['line']}", delivery["receiver"], problem))


def doctor_report(findings: Sequence[Data], page: Page) -> Iterator[str]:
    """Each component with its result, and below it what to do."""
    yield from page.items([_finding(finding, page) for finding in findings], indent=0)
    bad = [finding for finding in findings if finding["level"] != "ok"]
    counts = [counted(sum(finding["level"] == level for finding in bad), level) for level in ("error", "warning")]
    yield ""
    yield f"{counted(len(findings), 'check')}: {', '.join(counts)}." if bad else "All is well."


def _finding(finding: Data, page: Page) -> Item:
    level = page.style(_LEVELS[finding["level"]], f"{finding['level']:7}")
    advice = (f"→ {finding['advice']}",) if finding["advice"] else ()
    return Item((f"{level}   {finding['component']}", finding["result"]), advice)
