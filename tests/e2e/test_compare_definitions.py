"""Compose projects side by side in `reconciler compare`: what runs, and what `docker compose config` says of it."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.test_compare import compare, data, only_comparison, ssh, trusting, written
from tests.support.compose import ComposeProject
from tests.support.sshd import Sshd

pytestmark = [pytest.mark.slow, pytest.mark.docker, pytest.mark.sshd]

PROJECT = """
x-any: &any {image: IMAGE, stop_grace_period: 0s, command: sleep 600}
services:
  same: {<<: *any, network_mode: host, volumes: ["./conf:/conf:ro", "data:/data"]}
  api:
    <<: *any
    env_file: [api.env]
    build: {context: ., args: {KIND: NUMBER}}
    user: "NUMBER"
    restart: POLICY
    command: [sh, -c, "sleep 600 # --password=invented-NUMBER"]
    labels: {team.name: invented-NUMBER}
    environment: {LEVEL: "NUMBER", SAME: "1"}
    mem_limit: NUMBERm
    networks: {default: {aliases: [api-NUMBER]}}
    healthcheck: {test: [CMD, "true"], interval: NUMBERs}
    logging: {driver: json-file, options: {max-file: "NUMBER"}}
    volumes: ["./NUMBER:/place"]
    EXTRA
volumes: {data: }
"""
DIFFERENT = {
    *("build.args.KIND", "base_images", "user", "restart", "command", "labels.team.name", "environment.LEVEL"),
    *("mem_limit", "networks.default", "healthcheck.interval", "logging.options.max-file"),
    *("volumes./place", "container_name"),
}
CONSEQUENCES = {
    *("user", "restart", "command", "labels team.name", "memory", "aliases", "healthcheck interval"),
    *("logging options max-file", "mounts /place", "container_name"),
}


def project(make: Callable[..., ComposeProject], number: str, policy: str, extra: str = "") -> ComposeProject:
    text = PROJECT.replace("NUMBER", number).replace("POLICY", policy).replace("EXTRA", extra)
    dockerfile = f"ARG KIND=1\nFROM --platform=x scratch-{number}:${{KIND}} AS first\nFROM first\n"
    made = make(text, {"api.env": f"A={number}\n", "Dockerfile": dockerfile})
    (made.directory / "conf").mkdir()
    made.up()
    return made


def facts(entries: list[dict[str, Any]], service: str) -> dict[str, dict[str, Any]]:
    (entry,) = (entry for entry in entries if entry["service"] == service)
    return {fact["name"]: fact for fact in entry["facts"] if fact["class"] != "same"}


def test_every_difference_of_a_service_counts_once_and_no_value_is_shown(
    compose_project: Callable[..., ComposeProject], sshd: Sshd, tmp_path: Path
) -> None:
    first = project(compose_project, "41", "always")
    second = project(compose_project, "42", "on-failure", f"container_name: its-own-{first.name}")
    sides = (f"file:{first.directory}", ssh(sshd, second.directory), "--same-environment", *trusting(sshd))
    comparison = only_comparison(data(tmp_path, *sides))
    assert facts(comparison["services"], "same") == facts(comparison["definitions"], "same") == {}
    defined, running = (facts(comparison[kind], "api") for kind in ("definitions", "services"))
    assert {name: fact["class"] for name, fact in defined.items()} == {
        **dict.fromkeys(DIFFERENT, "differs"),
        "container_name": "missing-left",
    }
    explained = {name: fact["reason"] for name, fact in running.items() if fact["informational"]}
    assert explained == dict.fromkeys(CONSEQUENCES, "its Compose definition differs")
    assert comparison["unexplained"] == len(DIFFERENT) + 1  # and the key of api.env
    assert (defined["restart"]["left"], defined["restart"]["right"]) == ("always", "on-failure")
    assert defined["base_images"]["left"] == "scratch-41:41"
    assert (defined["volumes./place"]["left"], defined["mem_limit"]["left"]) == ("bind ./41", "41 MiB")
    assert defined["base_images"]["right"] == "scratch-42:42"
    assert "password=***" in defined["command"]["left"]
    assert (defined["labels.team.name"]["left"], defined["environment.LEVEL"]["left"]) == ("", "")
    text = compare(tmp_path, *sides, "--format", "markdown").stdout
    assert "### Compose definition of `api`" in text
    assert "13 fields of Compose definitions differ: api: " in text


def test_what_runs_otherwise_than_it_is_defined_counts_and_so_does_a_project_that_one_side_cannot_resolve(
    compose_project: Callable[..., ComposeProject], tmp_path: Path
) -> None:
    common = "image: IMAGE, network_mode: host, command: sleep 600, stop_grace_period: 0s"
    text = f"services: {{api: {{{common}, restart: POLICY}}}}\n"
    first, second = (compose_project(text.replace("POLICY", policy)) for policy in ("always", "unless-stopped"))
    first.up()
    second.up()
    (second.directory / "compose.yaml").write_text((first.directory / "compose.yaml").read_text())
    sides = (f"file:{first.directory}", f"file:{second.directory}", "--same-environment")
    comparison = only_comparison(data(tmp_path, *sides))
    assert facts(comparison["definitions"], "api") == {}
    assert facts(comparison["services"], "api")["restart"]["class"] == "differs"
    second.write("compose.yaml", "services: {api: {image: x, ports: invented-ports}}\n")
    comparison = only_comparison(data(tmp_path, *sides))
    assert comparison["definitions"] == []
    assert [problem for problem in comparison["problems"] if "`docker compose config` ended with" in problem]
    (first.directory / "compose.yaml").write_bytes((second.directory / "compose.yaml").read_bytes())
    comparison = only_comparison(data(tmp_path, *sides))
    assert not [problem for problem in comparison["problems"] if "docker compose config" in problem]
    assert len([remark for remark in comparison["remarks"] if "`docker compose config` ended with" in remark]) == 2


def test_nothing_that_a_compose_file_includes_is_fetched(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        for name in ("a", "b"):
            text = f"include: ['http://127.0.0.1:{server.getsockname()[1]}/x.git']\nservices: {{api: {{image: x}}}}\n"
            written(tmp_path / name, {"compose.yaml": text, "a.env": "A=1\n"})
        sides = (f"file:{tmp_path / 'a'}", f"file:{tmp_path / 'b'}", "--same-environment")
        comparison = only_comparison(data(tmp_path, *sides, code=0))
        assert comparison["definitions"] == []
        with pytest.raises(BlockingIOError):
            server.accept()
