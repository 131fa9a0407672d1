"""What the daemon's pages say of each situation, and that nothing in a name does more than be read."""

from __future__ import annotations

import functools
import re
import sys
from html.parser import HTMLParser
from types import FrameType
from typing import Any

import aiohttp
import pytest

from benchmarks.pages import overview
from reconciler.app.pages.html import render_html, stylesheet
from reconciler.app.pages.overview import comparison_facts, overview_facts, run_facts
from reconciler.core.errors import StoreError
from reconciler.core.forge_links import commit_address
from reconciler.core.history.entries import HistoryEntry
from tests.support import answers
from tests.support.cases import each
from tests.support.page_site import FakeViews, page_site

KNOWN = {"here": "", "root": "./", "host": "web-1", "now": answers.NOW, "at": answers.at("29T08:00:00")}
HOSTILE = "<script>x=1</script>\u202eevil\x00\x1b[31m\"'`" + "A" * 10_000


class _Text(HTMLParser):
    """The text of a page, and the tags in it."""

    def __init__(self) -> None:
        super().__init__()
        self.text: list[str] = []
        self.tags: list[tuple[str, list[tuple[str, str | None]]]] = []
        self._quiet = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, attrs))
        self._quiet = tag in ("style", "script")

    def handle_endtag(self, tag: str) -> None:
        self._quiet = False

    def handle_data(self, data: str) -> None:
        if not self._quiet:
            self.text.append(data)


def page(status: Any, runs: Any = ()) -> _Text:
    link = functools.partial(commit_address, "https://github.com/acme/config.git")
    parser = _Text()
    parser.feed(render_html("overview.html", script="refresh.js", **KNOWN, link=link, **overview_facts(status, runs)))
    return parser


def words(parser: _Text) -> str:
    return " ".join(" ".join(parser.text).split())


DOWN = answers.status(
    answers.state("in_sync", services=[answers.service("app/api", "exited (1)", False, reason="it ended 4 times")])
)
SERVICE_LOGS = "docker service logs --tail 50 shop_api"
DOWN_IN_SWARM = answers.status(
    answers.state("in_sync", services=[answers.service("shop/api", "starting", False, logs=SERVICE_LOGS)])
)
REPORTED = answers.status(
    answers.state("drifted", answers.plan(answers.drift("production/worker.env", effect="report")))
)
GIT_AWAY = answers.status(
    answers.state("in_sync", warning="git.example.org does not answer. Check the network. [git-unreachable]")
)
HELD = answers.STATUSES["held_back"]
HELD_STACK = answers.status(
    answers.state(
        "held",
        answers.plan(answers.update("production/api.env", effect="hold", sync="held", reason="its stack is held")),
        reason="production/app is held: git does not explain it. Accept it with `reconciler sync --accept-project x`\n"
        "1 waiting for an operator: worker.env: paused",
        error_id="project-edited",
    )
)
ROLLED_BACK = answers.status(
    answers.state(
        "rolled_back",
        reason=f"{answers.UNHEALTHY}. Rolled back; revision 02fdac92abcd is quarantined. Fix it with a new commit",
        error_id="unhealthy",
        quarantine=answers.STATUSES["quarantined"]["environments"][0]["quarantine"],
        warning="revision 02fdac92abcd is quarantined: see above [quarantined]",
    )
)


@each(
    ("status", "state", "reason", "step"),
    [
        (answers.STATUSES["quarantined"], "quarantined", "unhealthy for 30 s", "reconciler retry -e production"),
        (ROLLED_BACK, "rolled back", "unhealthy for 30 s", "Fix it with a new commit"),
        (answers.STATUSES["stalled"], "stalled", "40 of 45 keys would go", "Fix it with a new commit"),
        (answers.STATUSES["suspended"], "rollback failed", "unhealthy for 30 s", "reconciler retry -e production"),
        (answers.STATUSES["engine_away"], "engine away", "has not answered for 3 min", "Start the Docker engine"),
        (answers.STATUSES["hosts"], "failed", "does not answer on port 22", "The daemon retries within 5 minutes"),
        (answers.STATUSES["hosts"], "not reconciled yet", "", "Wait: the first reconciliation"),
        (HELD, "held", "a different file is there", "reconciler sync --take-over"),
        (HELD_STACK, "held", "production/app is held", "reconciler sync --accept-project x"),
        (HELD, "paused", "an incident", "reconciler resume production/worker.env"),
        (HELD, "pinned", "the incident of Friday", "reconciler unpin -e production"),
        (answers.STATUSES["drifted"], "orphan", "/opt/app/old.env stays", "reconciler forget production/old.env"),
        (REPORTED, "drifted", "edited on the server", "reconciler adopt production/worker.env"),
        (DOWN, "unhealthy", "it ended 4 times", "docker compose logs --tail 50 api"),
        (DOWN_IN_SWARM, "unhealthy", "starting", f"Read why: {SERVICE_LOGS}"),
        (GIT_AWAY, "warning", "git.example.org does not answer", "Check the network"),
    ],
)
def test_each_situation_is_named_with_its_reason_and_the_next_step(
    status: Any, state: str, reason: str, step: str
) -> None:
    attention = words(page(status)).partition("Environments")[0]
    for expected in (state, reason, step):
        assert expected in attention


def test_the_worst_comes_first_and_what_is_known_anyway_last() -> None:
    every = [
        {**environment, "environment": name}
        for name in ("held_back", "engine_away", "drifted")
        for environment in answers.STATUSES[name]["environments"]
    ]
    text = words(page(answers.status(*every))).partition("Environments")[0]
    order = [text.index(word) for word in ("engine away engine_away", "held held_back", "pinned", "orphan")]
    assert order[:2] == sorted(order[:2])
    assert max(order[:2]) < min(order[2:])
    assert "2 things need an operator" in text


def test_what_comparisons_alert_of_is_on_the_overview_and_first_on_their_page() -> None:
    facts = overview_facts(answers.STATUSES["in_sync"], (), answers.PAIRS)
    assert [(entry.word, entry.where) for entry in facts["attention"]] == [
        ("missing", "releases: git:staging and git:production"),
        ("not compared", "machines"),
    ]
    assert facts["attention"][0].reason == "git:production lacks PAYMENT_TOKEN"
    assert facts["urgent"] == 2
    ordered = [pair["name"] for pair in comparison_facts(answers.PAIRS)["pairs"]]
    assert ordered == ["machines", "releases", "new", "hosts"]


def test_a_pause_beside_what_was_applied_holds_nothing() -> None:
    reason = "wrote api.env; api healthy on the new values; 1 waiting for an operator: worker.env: paused"
    held = answers.state("held", answers.plan(answers.PAUSED), reason=reason, error_id="paused")
    assert overview_facts(answers.status(held), ())["urgent"] == 0


def test_a_target_that_waits_for_the_engine_is_no_second_thing_to_do() -> None:
    waits = answers.update("production/api.env", effect="hold", sync="held", error_id="engine-unavailable")
    failed = answers.state("failed", answers.plan(waits), reason="no answer", retry=True, engine_away="no answer")
    assert [entry.word for entry in overview_facts(answers.status(failed), ())["attention"]] == ["failed"]


def test_a_quarantined_revision_names_its_author_and_subject() -> None:
    assert "Move the mail server by Ada Example" in words(page(ROLLED_BACK)).partition("Environments")[0]


def test_a_reason_is_said_once() -> None:
    for status in (answers.STATUSES["quarantined"], answers.STATUSES["suspended"], ROLLED_BACK):
        assert words(page(status)).count("the engine started it again and again") == 1


def test_where_all_is_well_it_says_so() -> None:
    assert words(page(answers.STATUSES["in_sync"])).count("Nothing needs an operator") == 1
    assert "No runs yet" in words(page(answers.STATUSES["in_sync"]))


def test_drift_and_runs_are_named_by_key_and_link_to_the_forge() -> None:
    parser = page(answers.STATUSES["drifted"], [run_facts(run) for run in answers.HISTORY])
    text = words(parser)
    for expected in ("- MADE_BY_HAND", "~ LOG_LEVEL", "104 more added", "rolled back", "Ada Example", "api.env update"):
        assert expected in text
    links = [value for _, attrs in parser.tags for name, value in attrs if name == "href" and value]
    assert f"https://github.com/acme/config/commit/{'02fdac92abcd'.ljust(40, '0')}" in links
    assert "./runs/8bc1d2e3" in links


def hostile(data: Any) -> Any:
    """The data with a hostile name wherever a name may be."""
    free = ("author", "subject", "target", "path", "service", "stack", "reason", "state", "source", "doing", "warning")
    free += ("name", "where", "left", "right", "note", "error", "verdict")  # of pairs of sides
    if isinstance(data, dict):
        return {name: HOSTILE if name in free and value else hostile(value) for name, value in data.items()}
    if isinstance(data, list | tuple):
        return [HOSTILE if isinstance(value, str) else hostile(value) for value in data]
    return data


def assert_harmless(parser: _Text) -> None:
    assert [tag for tag, _ in parser.tags if tag == "script"] == ["script"]  # our own
    assert not [attr for _, attrs in parser.tags for attr, _ in attrs if attr.startswith("on") or attr == "style"]
    text = "".join(parser.text) + "".join(value or "" for _, attrs in parser.tags for _, value in attrs)
    assert "<script>x=1</script>" in text
    assert not [character for character in text if not character.isprintable() and character != "\n"]
    assert len(max(re.findall("A+", text), key=len)) <= 4000


@pytest.mark.parametrize("name", answers.STATUSES)
def test_hostile_names_are_text_of_bounded_length(name: str) -> None:
    assert_harmless(page(hostile(answers.STATUSES[name]), [hostile(run) for run in answers.HISTORY]))


def test_hostile_names_in_a_comparison_are_text_too() -> None:
    parser = _Text()
    facts = {"pairs": [hostile(answers.PAIRS[0])], "unexplained": 2, "most": 9, "link": lambda _: ""}
    parser.feed(render_html("comparison.html", script="refresh.js", **KNOWN, **facts))
    assert_harmless(parser)


def test_a_run_has_a_page_of_its_own_with_everything() -> None:
    run = {**answers.HISTORY[1], "backup": "20261129T075912Z-8bc1d2e3", "accepted": ["ada (uid 1000)"]}
    parser = _Text()
    parser.feed(render_html("run.html", script="refresh.js", **KNOWN, link=lambda _: "", run=run_facts(run)))
    text = words(parser)
    for expected in ("rolled back", "production@web-1", "manual", "28 s", "reconciler restore 2026", "[unhealthy]"):
        assert expected in text
    assert all(key in text for key in answers.MANY)
    assert not [value for _, attrs in parser.tags for name, value in attrs if name == "href" and "commit" in str(value)]


async def test_where_the_state_cannot_be_read_the_page_says_so() -> None:
    class Broken(FakeViews):
        def history_of(self, identity: str) -> HistoryEntry | None:
            raise StoreError("cannot be read", where="state.db", hint="Free some room")

    async with (
        page_site(Broken(answers.STATUSES["in_sync"])) as site,
        aiohttp.ClientSession() as session,
        session.get(f"{site}/runs/8bc1d2e3") as answer,
    ):
        assert answer.status == 503
        assert "state.db: cannot be read. Free some room" in await answer.text()
        assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'; ")


COMMIT = "02fdac92abcd" * 3
FORGES = {
    "ssh://git@github.com/acme/config.git": "https://github.com/acme/config/commit/",
    "ssh://git@ssh.github.com:443/acme/config.git": "https://github.com/acme/config/commit/",
    "https://user:secret@github.example.org/acme/config": "https://github.example.org/acme/config/commit/",
    "https://gitlab.com/acme/team/config.git/": "https://gitlab.com/acme/team/config/-/commit/",
    "https://gitlab.example.org:8443/acme/config.git": "https://gitlab.example.org:8443/acme/config/-/commit/",
    "ssh://git@gitea.example.org:2222/acme/config.git": "https://gitea.example.org/acme/config/commit/",
    "https://codeberg.org/acme/config.git": "https://codeberg.org/acme/config/commit/",
    "ssh://git@bitbucket.org/acme/config.git": "https://bitbucket.org/acme/config/commits/",
    "ssh://git@bitbucket.example.org:7999/ops/config.git": (
        "https://bitbucket.example.org/projects/ops/repos/config/commits/"
    ),
    "https://bitbucket.example.org/scm/~ada/config.git": (
        "https://bitbucket.example.org/users/ada/repos/config/commits/"
    ),
    'https://github.com/acme/"onclick=x.git': "https://github.com/acme/%22onclick%3Dx/commit/",
    "ssh://git@git.example.org/acme/config.git": "",
    "https://github.com/only": "",
    "/srv/git/github.com/config.git": "",
    "javascript://github.com/acme/config": "",
    "https://github.com:x/acme/config": "",
    "https://[github/acme/config": "",
}


@each(("url", "expected"), FORGES.items(), ids=list(FORGES))
def test_a_commit_links_to_the_forge_where_its_address_is_known(url: str, expected: str) -> None:
    assert commit_address(url, COMMIT) == (f"{expected}{COMMIT}" if expected else "")
    assert commit_address(url, "../../x") == ""


def _calls(targets: int) -> int:
    """How many functions of Python's the rendering of so many targets calls."""
    count = 0

    def note(_: FrameType, event: str, __: object) -> None:
        nonlocal count
        count += event == "call"

    sys.setprofile(note)
    try:
        overview(targets)
    finally:
        sys.setprofile(None)
    return count


def test_the_work_grows_with_the_targets_and_no_faster() -> None:
    overview(1)
    few, many = _calls(200), _calls(800)
    assert many < 4.5 * few
    assert few < 200 * 400  # about a tenth of this makes 10 ms


def test_the_stylesheet_names_nothing_elsewhere() -> None:
    assert not re.search(r"url\(|@import|https?:", stylesheet())
