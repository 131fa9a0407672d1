"""The shipped dashboard: its structure, and that a real Prometheus, which has scraped a real daemon to which everything
has happened, has data for every panel. How Grafana draws it is not tested: none is installed."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.cases import each
from tests.support.compose import MAY_CRASH, ComposeProject
from tests.support.monitoring import DEPLOY, Prometheus, prometheus
from tests.support.server import Server
from tests.support.waiting import eventually

DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "grafana/dashboards/reconciler.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
QUERIES = [(f"{panel['title']} {target['refId']}", target["expr"]) for panel in PANELS for target in panel["targets"]]
ROWS = [
    *("Overview", "Drift", "Delivery", "Health and rollbacks", "Swarm services", "Source and crypto", "Backups"),
    *("Daemon", "Environments compared"),
]
VARIABLES = {"$host": ".*", "$environment": ".*", "$__rate_interval": "1m", "$__range": "5m"}

TOKEN = b"the webhook's own token"
HTTP_TOKEN = "the-token-of-the-http-server"


# --- structure -------------------------------------------------------------------------------------------------------


def test_it_has_the_rows_in_their_order_and_says_what_it_was_made_for() -> None:
    assert [panel["title"] for panel in DASHBOARD["panels"] if panel["type"] == "row"] == ROWS
    assert DASHBOARD["schemaVersion"] >= 36
    assert (DASHBOARD["uid"], DASHBOARD["title"]) == ("reconciler", "reconciler")


def test_no_panel_has_the_number_or_the_place_of_another() -> None:
    numbers = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(numbers)) == len(numbers)
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] >= 0
        assert place["x"] + place["w"] <= 24
    for first, second in combinations(DASHBOARD["panels"], 2):
        assert not _overlap(first["gridPos"], second["gridPos"]), (first["title"], second["title"])


def _overlap(first: dict[str, int], second: dict[str, int]) -> bool:
    return all(
        first[start] < second[start] + second[size] and second[start] < first[start] + first[size]
        for start, size in (("x", "w"), ("y", "h"))
    )


def test_every_panel_asks_the_data_source_that_is_provisioned() -> None:
    provisioned = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/prometheus.yml").read_text())
    (source,) = provisioned["datasources"]
    expected = {"type": source["type"], "uid": source["uid"]}
    variables = DASHBOARD["templating"]["list"]
    queried = [*PANELS, *(target for panel in PANELS for target in panel["targets"]), *variables]
    assert [item["datasource"] for item in queried] == [expected] * len(queried)
    assert [variable["name"] for variable in variables] == ["host", "environment"]


def test_the_dashboard_provider_is_of_the_kind_that_grafana_reads() -> None:
    (provider,) = yaml.safe_load((DEPLOY / "grafana/provisioning/dashboards/reconciler.yml").read_text())["providers"]
    assert (provider["type"], Path(provider["options"]["path"]).is_absolute()) == ("file", True)


@each(("name", "query"), QUERIES, ids=[name for name, _ in QUERIES])
def test_a_query_is_narrowed_by_the_dashboards_variables(name: str, query: str) -> None:
    selectors = re.findall(r"(\w+){([^}]*)}", query)
    assert selectors
    # Prometheus's own series of a scrape has no host; it gets one from a series of the daemon.
    wide = [metric for metric, matchers in selectors if 'host=~"$host"' not in matchers]
    assert wide in ([], ["scrape_duration_seconds"]), name


@each(("name", "query"), QUERIES, ids=[name for name, _ in QUERIES])
def test_a_query_does_not_add_up_what_two_servers_call_by_one_name(name: str, query: str) -> None:
    """Each may have an environment production with a target api.env."""
    for labels in re.findall(r"by \(([^)]+)\)", query):
        assert "host" in labels or not {"environment", "target", "stack", "service"} & set(labels.split(", ")), name


# --- data ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def watched(stack_server: Callable[..., tuple[Server, ComposeProject]], tmp_path: Path) -> Iterator[Prometheus]:
    """A Prometheus that has seen a revision applied, drift corrected, drift reported, and a rollback."""
    server, project = stack_server(MAY_CRASH + "    deploy: {replicas: 2}\n")
    server.settings["drift"]["interval"] = "1s"
    server.settings["webhook"] = {"secret_file": str(tmp_path / "token")}
    (tmp_path / "token").write_bytes(TOKEN)
    (tmp_path / "http-token").touch(0o600)
    (tmp_path / "http-token").write_text(HTTP_TOKEN)
    server.settings["http"]["token_file"] = str(tmp_path / "http-token")
    manifest = server.manifest({"api.env": None, "notes.env": {"on_drift": "report"}})
    server.settings["comparisons"] = {"releases": {"left": "git:staging", "right": "git:production"}}
    server.commit({"notes.env": b"N=1\nNEW=1\n"}, server.plain(["notes.env"]), environment="staging")
    server.commit({"api.env": b"MODE=good\n", "notes.env": b"N=1\n"}, manifest)
    assert server.sync()["result"] == "applied"
    project.up()
    with server.daemon() as daemon, prometheus(tmp_path / "prometheus", daemon.port, token=HTTP_TOKEN) as watching:
        eventually(lambda: watching.samples('reconciler_last_result{result="in_sync"} == 1'), timeout=30)
        server.commit({"api.env": b"MODE=better\n"})
        assert daemon.post("/webhook", b"", {"X-Gitlab-Token": TOKEN.decode()})[0] == 202
        eventually(lambda: watching.samples("reconciler_commit_to_applied_seconds_count == 1"), timeout=60)
        (server.app / "api.env").write_bytes(b"MODE=by hand\n")
        corrected = 'reconciler_drift_corrected_total{target="production/api.env"} == 1'
        eventually(lambda: watching.samples(corrected), timeout=60)
        server.commit({"api.env": b"MODE=bad\n"})
        assert server.sync()["result"] == "rolled_back"
        (server.app / "notes.env").write_bytes(b"N=by hand\n")
        eventually(lambda: watching.samples('reconciler_sync_status{status="drifted"} == 1'), timeout=60)
        yield watching


@pytest.mark.docker
@pytest.mark.prometheus
def test_every_panel_has_data(watched: Prometheus) -> None:
    assert [name for name, query in QUERIES if not _has_data(watched, query)] == []
    # What was seen is what has happened, not only that there is a series.
    happened = {
        "reconciler_rollback_total{kind='local', result='ok'}": 1,
        "reconciler_failure_to_recovered_seconds_count": 1,
        "reconciler_drift{target='production/notes.env', kind='content'}": 1,
        "reconciler_health_status{stack='app', status='healthy'}": 1,
        "reconciler_service_healthy{service='api'}": 1,
        "reconciler_service_containers{service='api'}": 2,
        "reconciler_engine_up": 1,
        "reconciler_quarantined": 1,
        "reconciler_webhook_requests_total{code='202'}": 1,
        "reconciler_backups{target='production/api.env'}": 4,
        "reconciler_environment_differences{class='missing-right'}": 1,
    }
    values = {query: [value for _, value in watched.samples(query)] for query in happened}
    assert values == {query: [value] for query, value in happened.items()}


def _has_data(watching: Prometheus, query: str) -> bool:
    """Whether the query gives a number; rates need a few scrapes. Raises AssertionError for one that is not valid."""
    for variable, value in VARIABLES.items():
        query = query.replace(variable, value)
    assert "$" not in query
    watching.samples(query)
    try:
        return eventually(lambda: any(not math.isnan(value) for _, value in watching.samples(query)), timeout=10)
    except AssertionError:
        return False
