"""What `history verify` and `report` answer, as lines, as Markdown, and as the facts of report.html. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from reconciler.cli.layout import Detail, Item, Page, counted
from reconciler.core.change_words import Data, files_removed
from reconciler.core.errors import with_id
from reconciler.core.markdown import code, plain_text
from reconciler.core.model.runs import Result
from reconciler.core.text import absolute, author_name, duration, listed

_MOST = 20
_SECTIONS = (("Changed", "changed"), ("Failed", "failed"), ("Decided", "decided"))


def verification_report(verification: Data, page: Page) -> Iterator[str]:
    """Whether the chain holds; else the first bad entry."""
    head = verification["head"]
    if not verification["whole"]:
        problem = f"{verification['problem']}. Compare with an earlier export; what follows it proves nothing"
        yield from page.text(f"{page.style('red', 'broken')}: {with_id(problem, verification['error_id'])}", 0, 2)
        return
    span = f", {head['first']} to {head['last']}" if verification["entries"] else ""
    count = counted(verification["entries"], "entry", "entries")
    yield from page.text(f"{page.style('green', 'whole')}: {count}{span}.")
    yield from page.text(f"head {head['sha256']}")


def history_report(report: Data, page: Page) -> Iterator[str]:
    """The figures first, then what is overdue, what failed, changed and was decided."""
    yield from page.text(page.style("bold", _title(report)))
    yield from page.items([Item((name, value)) for name, value in _figures(report)])
    for warning in report["warnings"]:
        yield from page.text(page.style("yellow", warning), 2, 2)
    yield ""
    yield page.style("bold", "Overdue" if report["overdue"] else "Nothing is overdue.")
    yield from page.items([_overdue_item(item, page) for item in report["overdue"]])
    for title, name in _SECTIONS:
        if runs := report[name]:
            yield ""
            yield page.style("bold", title)
            visible = runs if page.verbose else runs[:_MOST]
            yield from page.items([_run_item(run, page) for run in visible])
            if len(visible) < len(runs):
                yield f"  {len(runs) - len(visible)} more; -v lists them"


def markdown_report(report: Data, page: Page) -> Iterator[str]:
    """The same as Markdown; what comes from elsewhere is no markup there."""
    yield f"# {plain_text(_title(report))}"
    yield ""
    yield from (f"- {name}: **{value}**" for name, value in _figures(report))
    yield from (f"- {plain_text(warning)}" for warning in report["warnings"])
    yield from ("", "## Overdue", "")
    if not report["overdue"]:
        yield "Nothing."
    else:
        yield from _table(("what", "where", "since", "why"), [_overdue_cells(item) for item in report["overdue"]])
    for title, name in _SECTIONS:
        if report[name]:
            yield from ("", f"## {title}", "")
            heads = ("when", "result", "environment", "revision", "targets", "who", "reason")
            yield from _table(heads, [_run_cells(run) for run in report[name]])


def page_facts(report: Data) -> dict[str, Any]:
    """What report.html shows."""
    return {
        "title": _title(report),
        "figures": _figures(report),
        "report": report,
        "sections": [(title, report[name]) for title, name in _SECTIONS],
        "who": _who,
    }


def _title(report: Data) -> str:
    return f"{report['host']}: {absolute(report['since'])} to {absolute(report['until'])}"


def _figures(report: Data) -> list[tuple[str, str]]:
    changed, failed, rate = len(report["changed"]), len(report["failed"]), report["success_rate"]
    mean, worst = report["mean_recovery_seconds"], report["worst_recovery_seconds"]
    recovered = counted(len(report["recoveries"]), "recovery", "recoveries")
    return [
        ("changes that succeeded", "no change" if rate is None else f"{changed} of {changed + failed} ({rate:.1%})"),
        ("mean time to recovery", "no recovery" if mean is None else f"{duration(mean)} ({recovered})"),
        ("worst time to recovery", "no recovery" if worst is None else duration(worst)),
        ("overdue", str(len(report["overdue"]))),
    ]


def _overdue_item(item: Data, page: Page) -> Item:
    since = page.since(item["since"]) if item["since"] else ""
    return Item((page.style("yellow", item["kind"]), item["where"], since), (item["reason"],) if item["reason"] else ())


def _run_item(run: Data, page: Page) -> Item:
    details: list[Detail] = (
        [", ".join((*run["targets"], *run["services"]))] if run["targets"] or run["services"] else []
    )
    if reason := files_removed(run["reason"]):
        details.append(with_id(reason, run["error_id"]))
    return Item((absolute(run["at"]), page.state(run["result"]), run["environment"], _revision(run)), tuple(details))


def _revision(run: Data) -> str:
    commit, who = run["commit"][:12], _who(run)
    joint = ", " if who.startswith(("edited by", "requested by")) else " by "
    return joint.join(filter(None, [commit, who]))


def _who(run: Data) -> str:
    """Of a decision who asked; of a run the commit's author, or who had edited the files, and who asked for it."""
    caller = f"requested by {run['requested_by']}" if run["requested_by"] else ""
    if run["result"] == Result.DONE:
        return str(run["requested_by"])
    edited = f"edited by {listed(run['edited_by']) or 'unknown'}"
    return ", ".join(
        filter(None, [edited if run["result"] == Result.CORRECTED else author_name(run["author"]), caller])
    )


def _overdue_cells(item: Data) -> Sequence[str]:
    return item["kind"], code(item["where"]), absolute(item["since"]) if item["since"] else "", _cell(item["reason"])


def _run_cells(run: Data) -> Sequence[str]:
    targets = " ".join(code(target) for target in run["targets"])
    who, state = plain_text(_who(run)), run["result"].replace("_", " ")
    reason = _cell(with_id(run["reason"], run["error_id"]))
    return absolute(run["at"]), state, code(run["environment"]), code(run["commit"][:12]), targets, who, reason


def _cell(text: str) -> str:
    return "<br>".join(plain_text(line) for line in text.split("\n"))


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(heads)} |"
    yield f"|{'---|' * len(heads)}"
    yield from (f"| {' | '.join(cells)} |" for cells in rows)
