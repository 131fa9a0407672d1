"""Comparisons of two sides: probes, pairs of files, hosts, services, owners."""

from __future__ import annotations

import json
from typing import Any

import pytest

from reconciler.core.compare.comparison import compare_sides
from reconciler.core.compare.definitions import read_definitions
from reconciler.core.compare.pairing import pair
from reconciler.core.compare.probes import compare_answers
from reconciler.core.compare.risk import Risk
from reconciler.core.compare.types import (
    Comparison,
    Expectations,
    Fact,
    Holder,
    Probe,
    ServiceExpectation,
    Side,
    SideFile,
    SideProject,
    Status,
    Value,
)
from reconciler.core.inventory import FoundContainer
from reconciler.core.model.commands import CommandResult
from reconciler.core.secret import Secret
from tests.support.cases import each

# --- probes ---

COMMAND = Probe("it", run=("alembic", "current"), expected="the second one is upgraded tonight")
ADDRESS = Probe("it", url="http://127.0.0.1/health", expected="each says its own name")


def ran(code: int | None, text: str = "", problem: str = "") -> CommandResult:
    return CommandResult(code, Secret(text.encode()), problem)


@pytest.mark.parametrize(
    ("probe", "good", "bad"),
    [
        (COMMAND, ran(0, "1"), ran(127)),
        (COMMAND, ran(0, "1"), ran(1, "1")),
        (COMMAND, ran(0, "1"), ran(None, problem="alembic is not installed")),
        (COMMAND, ran(0), ran(None, problem="alembic timed out after 30 s")),
        (ADDRESS, ran(200, "ok"), ran(503, "ok")),
        (ADDRESS, ran(200, "ok"), ran(404, "ok")),
        (ADDRESS, ran(200, "ok"), ran(None, problem="no answer")),
    ],
)
def test_a_probe_that_fails_on_one_side_is_never_expected(
    probe: Probe, good: CommandResult, bad: CommandResult
) -> None:
    for left, right in ((good, bad), (bad, good)):
        result = compare_answers(probe, left, right)
        assert (result.status, result.reason, result.unexplained) == (Status.DIFFERS, "", True)
    assert compare_answers(probe, bad, bad).status is Status.FAILED


@pytest.mark.parametrize(
    ("probe", "left", "right"),
    [(COMMAND, ran(0, "1"), ran(0, "2")), (ADDRESS, ran(200, "a"), ran(200, "b")), (ADDRESS, ran(200), ran(301))],
)
def test_other_answers_are_expected_for_the_probes_reason(
    probe: Probe, left: CommandResult, right: CommandResult
) -> None:
    result = compare_answers(probe, left, right)
    assert (result.status, result.reason, result.unexplained) == (Status.EXPECTED, probe.expected, False)


# --- pairs ---


def live_file(path: str, text: str = "A=1", *, top: str = "/srv", project: str = "") -> SideFile:
    """A file as it is found below the directory ``top`` of a machine."""
    aliases = (f"{top}/{path}", path, path.removeprefix(f"{project}/"))
    return SideFile(path, tuple(dict.fromkeys(aliases)), values(text), text)


def values(text: str) -> dict[str, Value]:
    pairs = (pair_text.split("=") for pair_text in text.split())
    return {key: Value(value, written=value) for key, value in pairs}


def names(left: list[SideFile], right: list[SideFile]) -> list[tuple[str, str]]:
    return [(both.left.name if both.left else "", both.right.name if both.right else "") for both in pair(left, right)]


def test_a_file_with_the_same_path_is_not_paired_with_another() -> None:
    left = [live_file(name, top="/left", project=name[0]) for name in ("a/.env", "b/.env")]
    right = [live_file("b/.env", top="/right", project="b")]
    assert names(left, right) == [("a/.env", ""), ("b/.env", "b/.env")]
    assert names(right, left) == [("", "a/.env"), ("b/.env", "b/.env")]


def test_the_whole_path_comes_before_a_name_below_the_directory_and_that_before_one_in_the_project() -> None:
    moved = SideFile("x.env", ("/opt/x.env", "x.env"), values("A=1"), None)
    left = [live_file("api.env", top="/opt"), live_file("shop/api.env", top="/opt", project="shop"), moved]
    right = [
        SideFile("y.env", ("/opt/x.env", "y.env"), values("A=2"), None),
        live_file("x.env", top="/srv"),
        live_file("shop/api.env", top="/srv", project="shop"),
        live_file("api.env", top="/srv"),
    ]
    assert names(left, right) == [
        ("api.env", "api.env"),
        ("shop/api.env", "shop/api.env"),
        ("x.env", "y.env"),
        ("", "x.env"),
    ]


def test_of_files_with_one_name_the_most_alike_are_a_pair() -> None:
    left = [
        live_file(f"{name}/api.env", text, top="/l", project=name)
        for name, text in (("a", "A=1 B=1"), ("b", "A=2 B=2"))
    ]
    right = [
        live_file(f"{name}/api.env", text, top="/r", project=name)
        for name, text in (("c", "A=2 B=3"), ("d", "A=1 B=3"))
    ]
    assert names(left, right) == [("a/api.env", "d/api.env"), ("b/api.env", "c/api.env")]


# --- hosts ---


def source(name: str, path: str, text: str, *hosts: str) -> SideFile:
    """A source in git; ``path`` is its live one."""
    return SideFile(name, (path, path.rpartition("/")[2], name), values(text), text, hosts=hosts)


GIT = Side(
    "git:production",
    (
        source("shop-web-1/api.env", "/opt/shop/api.env", "A=1 B=1", "web-1"),
        source("shop-web-2/api.env", "/opt/shop/api.env", "A=2 B=2", "web-2"),
        source("shop-web-2/more.env", "/opt/shop/more.env", "M=1", "web-2"),
        source("all.env", "/opt/shop/all.env", "C=1"),
    ),
    "production",
)


def machine(text: str, *hosts: str, more: bool = True) -> Side:
    files = [live_file("api.env", text, top="/opt/shop"), live_file("all.env", "C=1", top="/opt/shop")]
    files += [live_file("more.env", "M=1", top="/opt/shop")] if more else []
    return Side("server", tuple(files), hosts=hosts)


def both_ways(machine: Side) -> Comparison:
    reverse, comparison = (
        compare_sides(*sides, Expectations(), different=False) for sides in ((machine, GIT), (GIT, machine))
    )
    assert comparison.unexplained == reverse.unexplained
    return comparison


def paired(comparison: Comparison) -> set[tuple[str, str]]:
    return {(file.left, file.right) for file in comparison.files}


def test_a_server_is_compared_with_the_sources_for_its_host() -> None:
    exact = both_ways(machine("A=2 B=2", "web-2.example.org", "WEB-2"))
    assert (exact.unexplained, len(exact.files)) == (0, 3)
    assert exact.left.left_out == ("files for hosts other than web-2",)
    first = both_ways(machine("A=1 B=1", "web-1", more=False))
    assert (first.unexplained, paired(first)) == (0, {("shop-web-1/api.env", "api.env"), ("all.env", "all.env")})


def test_another_hosts_values_are_not_taken_for_this_ones() -> None:
    wrong = both_ways(machine("A=1 B=1", "web-2"))
    assert ("shop-web-2/api.env", "api.env") in paired(wrong)
    assert wrong.unexplained == 2
    assert both_ways(machine("A=1 B=1", "web-1")).unexplained == 2  # more.env with its key is not for it


def test_a_server_without_a_known_name_is_compared_with_the_most_similar_host() -> None:
    for text, host, more in (("A=2 B=2", "web-2", True), ("A=1 B=1", "web-1", False)):
        guessed = both_ways(machine(text, "elsewhere", more=more))
        assert (guessed.unexplained, (f"shop-{host}/api.env", "api.env") in paired(guessed)) == (0, True)
        assert guessed.left.left_out == (
            f"files for hosts other than {host}, chosen because its files are the most similar",
        )
    assert both_ways(machine("A=1 B=2", "elsewhere")).unexplained == 1
    assert both_ways(machine("A=2 B=2", "elsewhere", more=False)).unexplained == 2


def test_between_two_revisions_every_host_counts() -> None:
    later = Side("git:production@later", GIT.files[1:], "production")
    comparison = compare_sides(GIT, later, Expectations(), different=False)
    assert ("shop-web-1/api.env", "") in paired(comparison)
    assert ("shop-web-2/api.env", "shop-web-2/api.env") in paired(comparison)


# --- services ---


def containers(*names: str, state: str = "running") -> tuple[FoundContainer, ...]:
    """``shop/api`` is a container of the service api of the project shop."""
    pairs = (name.split("/") for name in names)
    return tuple(FoundContainer(service, state, image="api:1", project=project) for project, service in pairs)


def services(
    left: tuple[FoundContainer, ...], right: tuple[FoundContainer, ...], *expected: ServiceExpectation
) -> dict[str, dict[str, Fact]]:
    """The facts that differ and count, by service."""
    sides = (Side("left", (), services=left), Side("right", (), services=right))
    results = compare_sides(*sides, Expectations(services=expected), different=False).services
    return {
        service.service: {fact.name: fact for fact in service.facts if fact.unexplained or fact.reason}
        for service in results
    }


def test_an_additional_project_on_one_side_does_not_separate_the_others() -> None:
    facts = services(containers("shop/api", "shop/web"), containers("shop/api", "shop/web", "mon/web"))
    assert {name: list(by_name) for name, by_name in facts.items()} == {
        "shop/api": [],
        "shop/web": [],
        "mon/web": ["container"],
    }
    assert facts["mon/web"]["container"].status is Status.MISSING_LEFT


def test_a_project_of_another_name_is_paired_by_its_services() -> None:
    assert services(containers("shop/api"), containers("prod/api")) == {"api": {}}
    facts = services(containers("shop/api", "mon/web"), containers("prod/api", "mon/web", "mon/db"))
    assert {name: list(by_name) for name, by_name in facts.items()} == {
        "shop/api": [],
        "mon/web": [],
        "mon/db": ["container"],
    }
    facts = services(containers("a/api", "b/api"), containers("c/api"))  # it is unknown which one
    assert [list(by_name) for by_name in facts.values()] == [["container"]] * 3


def test_how_many_containers_there_are_is_a_fact() -> None:
    facts = services(containers(*["shop/api"] * 3), containers("shop/api"))["api"]
    assert [(name, fact.left, fact.right, fact.unexplained) for name, fact in facts.items()] == [
        ("containers", "3", "1", True)
    ]
    single, two = containers("shop/api"), containers("shop/api", "shop/api")
    down = containers("shop/api", state="exited")
    facts = services((*two, *down), (*single, *down, *down))["api"]
    assert (facts["state"].left, facts["state"].right) == ("1 exited, 2 running", "2 exited, 1 running")
    assert set(facts) == {"state"}


@pytest.mark.parametrize("service", ["api", "shop/api", "shop/*", "*"])
def test_an_expected_service_may_be_named_with_and_without_its_project(service: str) -> None:
    reason = "the second one is smaller"
    entry = ServiceExpectation(service, ("containers",), reason)
    for left, right in (("shop/api",), ("shop/api",)), (("shop/api", "mon/web"), ("shop/api", "mon/web")):
        results = services(containers(*left), containers(*right, "shop/api"), entry)
        facts = [fact for by_name in results.values() for fact in by_name.values()]
        assert [(fact.status, fact.reason) for fact in facts] == [(Status.EXPECTED, reason)]


def one_service(**fields: Any) -> tuple[FoundContainer, ...]:
    return (FoundContainer(**{"service": "api", "state": "running", "project": "shop", **fields}),)


@each(
    ("fields", "counts"),
    [
        ({}, []),
        *(({"state": state}, ["state"]) for state in ("restarting", "exited", "dead", "paused", "created")),
        ({"state": "exited", "ended": True}, []),
        ({"health": "unhealthy"}, ["health"]),
        ({"health": "starting"}, []),
        ({"state": "exited", "health": "unhealthy"}, ["state"]),
    ],
)
def test_a_bad_state_counts_on_both_sides_and_on_one(fields: dict[str, Any], counts: list[str]) -> None:
    bad = one_service(**fields)
    assert list(services(bad, bad)["api"]) == counts
    for sides in ((bad, ()), ((), bad)):
        assert list(services(*sides)["api"]) == ["container", *counts]
    allowed = ServiceExpectation("api", ("state", "health"), "it is switched off for the migration")
    assert {fact.status for fact in services(bad, bad, allowed)["api"].values()} <= {Status.EXPECTED}


def test_a_cause_counts_once() -> None:
    running, down = one_service(health="healthy"), one_service(state="exited")
    assert list(services(running, down)["api"]) == ["state"]


def test_what_runs_is_shown_without_the_values_of_variables() -> None:
    def running(word: str) -> tuple[FoundContainer, ...]:
        return one_service(fields={"command": f'["run", "{word}"]', "labels x": word, "restart": word})

    sides = (Side(word, (), services=running(word)) for word in ("word-1", "word-2"))
    (result,) = compare_sides(*sides, Expectations(), different=False, known=("word-1", "word-2")).services
    facts = {fact.name: (fact.left, fact.right) for fact in result.facts if fact.unexplained}
    assert facts == {"command": ("run ***", "run ***"), "labels x": ("", ""), "restart": ("word-1", "word-2")}


# --- definitions ---


def resolved(**api: Any) -> dict[str, Any]:
    return {"services": {"api": {"image": "api:1", **api}}, "networks": {"default": {"name": "shop_default"}}}


def definitions(left: dict[str, Any], right: dict[str, Any], *, different: bool = False) -> dict[str, Fact]:
    """What differs between two projects, each named after its side, by the name of the field."""
    sides = []
    for name, document in (("shop", left), ("prod", right)):
        project = SideProject(name, f"/srv/{name}")
        text = json.dumps(document).replace("shop_", f"{name}_").replace("/srv/shop", f"/srv/{name}")
        keys = {"FROM_FILE": Value(name), "SAME": Value("x")}
        files = (SideFile("a.env", ("a.env",), keys, None, services=("api",)),)
        sides.append(Side(name, files, definitions=read_definitions(text.encode(), project)))
    results = compare_sides(*sides, Expectations(), different=different, known=("in-a-file",)).definitions
    return {fact.name: fact for result in results for fact in result.facts if fact.status is not Status.SAME}


def test_names_of_projects_and_their_directories_are_no_difference() -> None:
    same = resolved(volumes=[{"type": "bind", "source": "/srv/shop/conf", "target": "/c"}], container_name="shop_api")
    assert definitions(same, same) == {}


def test_fields_of_definitions_are_compared_without_values() -> None:
    ports = [
        {"target": 80, "protocol": "tcp", "published": number, "host_ip": "127.0.0.1"} for number in ("8080", "9090")
    ]
    environment = {"MODE": "hidden-1", "DB_PASSWORD": "hidden-2", "FROM_FILE": "1", "SAME": "1", "EMPTY": None}
    left = resolved(ports=ports, environment=environment, labels={"a": "hidden-3"}, command=["run", "hidden-1"])
    second = {**environment, "MODE": "hidden-4", "FROM_FILE": "2", "SAME": "2"}
    right = resolved(ports=ports[:1], environment=second, labels={"a": "hidden-5"}, command=["run", "in-a-file"])
    facts = definitions(left, right, different=True)
    assert {name: fact.status for name, fact in facts.items()} == {
        "ports.80/tcp": Status.DIFFERS,
        "environment.MODE": Status.DIFFERS,
        "environment.SAME": Status.DIFFERS,  # something overrides the file
        "environment.DB_PASSWORD": Status.SAME_SECRET,
        "labels.a": Status.DIFFERS,
        "command": Status.DIFFERS,
    }
    assert (facts["command"].left, facts["command"].right) == ("run ***", "run ***")
    assert facts["ports.80/tcp"].right == "host_ip 127.0.0.1 published 8080"
    assert not any("hidden" in fact.left + fact.right for fact in facts.values())
    assert facts["environment.DB_PASSWORD"].risk is Risk.HIGH
    assert "environment.DB_PASSWORD" not in definitions(left, right)


# --- owners ---


@each(
    ("left", "right", "like"),
    [
        (Holder("root", 0), Holder("", 4242), False),
        (Holder("app", 1000), Holder("app", 1001), True),  # the name has another number there
        (Holder("app", 1000), Holder("other", 1000), False),
        (Holder("", 4242), Holder("", 4242), True),
        (Holder("", 4242), Holder("", 4243), False),
        (Holder("app", 1000), Holder("", 1000), True),
        (Holder(number=1000), Holder("app", 1000), True),  # a number in the manifest
        (Holder(number=1000), Holder("app", 1001), False),
        (Holder("app"), Holder("", 1000), False),  # that name does not exist there
        (Holder("root", 0), Holder("", 0), True),
    ],
)
def test_owners_are_compared_by_name_or_by_number(left: Holder, right: Holder, like: bool) -> None:
    for first, second in ((left, right), (right, left)):
        sides = (SideFile("a.env", ("a.env",), {}, None, owner=holder, group=holder) for holder in (first, second))
        first, second = (Side("side", (file,)) for file in sides)
        (file,) = compare_sides(first, second, Expectations(), different=False).files
        status = Status.SAME if like else Status.DIFFERS
        assert {fact.name: fact.status for fact in file.facts} == {"owner": status, "group": status}


def test_an_owner_that_is_not_known_is_not_compared() -> None:
    sides = (SideFile("a.env", ("a.env",), {}, None, owner=each) for each in (Holder("app"), Holder()))
    first, second = (Side("side", (file,)) for file in sides)
    assert compare_sides(first, second, Expectations(), different=False).files[0].facts == ()
