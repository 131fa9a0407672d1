"""The shipped alert rules: what they say, each proven in both directions by promtool, each explained in the runbook.
test_alert_chain.py takes them all the way."""

from __future__ import annotations

import functools
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.cases import each
from tests.support.commands import run
from tests.support.components import program
from tests.support.forks import reconciler
from tests.support.monitoring import DEPLOY

RULES = DEPLOY / "prometheus/rules.yml"
PROOFS = [DEPLOY / "prometheus/rules_test.yml", DEPLOY / "prometheus/rules_slow_test.yml"]
ROOT = DEPLOY.parent
RUNBOOK = ROOT / "docs/runbook.md"
DASHBOARD = DEPLOY / "grafana/dashboards/reconciler.json"
SEVERITIES = {"critical", "warning", "info"}
# Alerts that are not about one environment, or not about one target; and those about two sides.
OF_THE_SERVER = {
    "ReconcilerDown",
    "ReconcilerLoopStuck",
    "ReconcilerStateDiskFull",
    "ReconcilerNotificationsFailing",
}
OF_A_PAIR = {"ReconcilerKeyMissing", "ReconcilerComparisonFailed"}
OF_A_TARGET = {"Drift", "ConflictingWriter", "Conflict", "PausedLong", "Orphan", "SecretTooOld"}
EXPECTED = {
    "Down", "LoopStuck", "Drift", "ConflictingWriter", "Conflict", "Stalled", "Stale", "GitUnreachable",
    "DecryptFailed", "VerificationFailed", "RolledBack", "RollbackFailed", "Quarantined", "PausedLong", "Unhealthy",
    "BackupFailed", "SecretTooOld", "EngineDown", "StateDiskFull", "Orphan", "KeyMissing", "ComparisonFailed",
    "NotificationsFailing", "ServiceDrift",
}  # fmt: skip


def recorded() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def rules() -> list[dict[str, Any]]:
    return [rule for rule in recorded() if "alert" in rule]


@functools.cache
def proofs() -> list[dict[str, Any]]:
    return [proof for file in PROOFS for proof in yaml.safe_load(file.read_text())["tests"]]


EACH = each("rule", rules(), ids=lambda rule: rule["alert"])


def test_every_alert_is_there() -> None:
    assert sorted(rule["alert"] for rule in rules()) == sorted(f"Reconciler{name}" for name in EXPECTED)


# --- what each says --------------------------------------------------------------------------------------------------


@EACH
def test_an_alert_has_a_severity_and_says_what_and_where(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in SEVERITIES
    said = rule["annotations"]
    assert said.keys() == {"summary", "description", "runbook_url"}
    for text in (said["summary"], said["description"]):
        assert "$labels.host" in text
    labels = {name for text in said.values() for name in re.findall(r"\$labels\.(\w+)", text)}
    assert re.search(r"On {{ [^}]+ }}, start with `(reconciler|systemctl) [^`]+`", said["description"])
    if rule["alert"] in OF_A_PAIR:
        assert {"comparison", "left", "right"} <= labels
    elif rule["alert"] not in OF_THE_SERVER:
        assert "environment" in labels
    if rule["alert"].removeprefix("Reconciler") in OF_A_TARGET:
        assert "target" in labels


@EACH
def test_an_alert_reads_states_that_end_with_the_repair(rule: dict[str, Any]) -> None:
    """An increase that precedes the first scrape of a series does not exist for Prometheus, and a window that runs out
    is no repair."""
    assert re.findall(r"\b(increase|i?rate|delta|changes|resets)\b|_total\b", rule["expr"]) == []


@EACH
def test_no_alert_takes_two_servers_for_one(rule: dict[str, Any]) -> None:
    """An address that Prometheus has for a server does not tell it from another: each may be 127.0.0.1:9464."""
    labels = re.findall(r"\b(?:on|by) \(([^)]+)\)", rule["expr"])
    assert [names for names in labels if "host" not in names and rule["alert"] != "ReconcilerDown"] == []


def test_a_failed_rollback_is_critical() -> None:
    (rule,) = [rule for rule in rules() if rule["alert"] == "ReconcilerRollbackFailed"]
    assert rule["labels"]["severity"] == "critical"


# --- the runbook -----------------------------------------------------------------------------------------------------


def test_the_runbook_has_a_section_for_each_alert_and_no_other() -> None:
    sections = re.findall(r"^## (Reconciler\w+)$", RUNBOOK.read_text(), re.MULTILINE)
    assert sorted(sections) == sorted(rule["alert"] for rule in rules())
    address = '{{ query "reconciler:runbook_url" | first | label "url" }}'
    links = {rule["alert"]: rule["annotations"]["runbook_url"] for rule in rules()}
    assert links == {name: f"{address}#{name.lower()}" for name in sections}


def test_the_address_of_the_runbook_is_in_one_place_and_known_before_the_first_alert() -> None:
    (group,) = yaml.safe_load(RULES.read_text())["groups"]  # the rules of one group are evaluated in their order
    assert group["rules"][0]["record"] == "reconciler:runbook_url"
    address = group["rules"][0]["labels"]["url"]
    assert re.fullmatch(r"https://\S+/docs/runbook\.md", address)
    assert RULES.read_text().count("://") == 1


@EACH
def test_a_section_says_what_it_means_how_to_look_and_what_to_do(rule: dict[str, Any]) -> None:
    text = RUNBOOK.read_text().split(f"## {rule['alert']}\n")[1].split("\n## ")[0]
    assert [part in text for part in ("**Means:**", "**Look:**", "**Do:**")] == [True] * 3
    assert rule["labels"]["severity"] in text


def test_the_runbook_and_the_alerts_name_only_commands_and_options_that_there_are() -> None:
    said = "".join(re.sub(r"{{.*?}}", "X", rule["annotations"]["description"]) for rule in rules())
    named = re.findall(r"`reconciler ([a-z]+)([^`]*)`", RUNBOOK.read_text() + said)
    env = {"PATH": os.defpath, "HOME": "/nonexistent"}
    helps = {command: reconciler(command, "--help", env=env) for command in {command for command, _ in named}}
    assert {command: result.returncode for command, result in helps.items()} == dict.fromkeys(helps, 0)
    for command, rest in named:
        for option in re.findall(r"--[a-z-]+", rest):
            assert option in helps[command].stdout, (command, option)


def test_words_that_the_runbook_quotes_are_printed_somewhere() -> None:
    # A note from the code, a word of an enumeration, or a panel's title.
    sources = [file.read_text() for file in (ROOT / "reconciler").rglob("*.py")]
    printed = "\n".join([*sources, (ROOT / "docs/errors.md").read_text(), DASHBOARD.read_text()])
    prose = re.sub(r"`[^`]*`", "", RUNBOOK.read_text())  # not what commands are typed with
    quoted = re.findall(r'"([^"]+)"', prose)
    assert len(quoted) > 15
    assert [words for words in quoted if re.sub(r"\s+", " ", words) not in printed] == []


# --- proven by promtool ----------------------------------------------------------------------------------------------


@EACH
def test_an_alert_has_a_proof_that_it_fires_and_one_that_it_stays_silent(rule: dict[str, Any]) -> None:
    fires, silent = [], []
    for proof in proofs():
        name, _, reason = proof["name"].partition(": ")
        (expression,) = proof["promql_expr_test"]
        if f'"{rule["alert"]}"' not in expression["expr"]:
            continue
        assert reason
        assert name in (f"{rule['alert']} fires", f"{rule['alert']} stays silent")
        (fires if expression["exp_samples"] else silent).append(name)
    assert set(fires) == {f"{rule['alert']} fires"}
    assert set(silent) == {f"{rule['alert']} stays silent"}


@pytest.mark.prometheus
def test_promtool_understands_the_rules_and_the_example() -> None:
    for kind, file in (("rules", RULES), ("config", DEPLOY / "prometheus/prometheus.yml")):
        done = run(program("promtool") or "", "check", kind, file)
        assert done.returncode == 0, done.stderr.decode()
    for name in ("alertmanager.yml", "alertmanager-receivers.yml"):
        done = run(program("amtool") or "", "check-config", DEPLOY / "prometheus" / name)
        assert done.returncode == 0, done.stderr.decode()


@pytest.mark.prometheus
@pytest.mark.parametrize("proof", PROOFS, ids=lambda path: path.name)
def test_promtool_proves_every_alert(proof: Path) -> None:
    done = run(program("promtool") or "", "test", "rules", proof, timeout=180)
    assert done.returncode == 0, (done.stdout + done.stderr).decode()


def test_every_duration_of_the_rules_is_shortened_by_one_factor() -> None:
    script = DEPLOY / "prometheus/quicken.py"
    quick = yaml.safe_load(run(sys.executable, script, "60", stdin=RULES.read_bytes()).stdout)
    durations = {rule["alert"]: rule["for"] for rule in quick["groups"][0]["rules"] if "for" in rule}
    assert durations.keys() == {rule["alert"] for rule in rules() if "for" in rule}
    assert (durations["ReconcilerDown"], durations["ReconcilerPausedLong"]) == ("2000ms", "240000ms")
    thresholds = {rule["alert"]: rule["expr"] for rule in quick["groups"][0]["rules"] if "alert" in rule}
    assert thresholds["ReconcilerGitUnreachable"].endswith("> 15 * 60 / 60")
    assert thresholds["ReconcilerSecretTooOld"].endswith("> 90 * 86400 / 60")
