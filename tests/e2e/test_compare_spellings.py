"""`reconciler compare` of services that say the same in two spellings, or nearly, as the real Compose resolves them."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.e2e.test_compare import data, only_comparison, written

pytestmark = [pytest.mark.slow]

_LIMIT = "deploy: {resources: {limits: {%s}}}"
EQUAL = (
    ("image: nginx", "image: docker.io/library/nginx:latest"),
    ("image: 'registry.example.org:5000/a'", "image: 'registry.example.org:5000/a:latest'"),
    ("ports: ['8100-8101:80-81']", "ports: ['8101:81', {target: 80, published: '8100'}]"),
    ("ports: ['80']", "ports: ['0:80']"),
    ("expose: ['1', '2']", "expose: [2, 1]"),
    (
        "volumes: ['./d/:/d:ro', 'vol:/v']",
        "volumes: ['vol:/v:rw', {type: bind, source: $PWD/d, target: /d, read_only: true}]",
    ),
    ("tmpfs: /run", "tmpfs: [/run]"),
    ("tmpfs: [/run, /tmp]", "tmpfs: [/tmp, /run]"),
    ("secrets: [x, y]", "secrets: [{source: y, target: /run/secrets/y}, {source: x, target: x}]"),
    ("configs: [x, y]", "configs: [{source: y, target: /y}, x]"),
    ("scale: 2", "deploy: {replicas: 2}"),
    ("", "deploy: {replicas: 1}"),
    ("mem_limit: 512m", _LIMIT % "memory: 512M"),
    ("cpus: 0.5", _LIMIT % "cpus: '0.5'"),
    ("pids_limit: 9", _LIMIT % "pids: 9"),
    ("mem_reservation: 64m", "deploy: {resources: {reservations: {memory: 64M}}}"),
    ("restart: always", "deploy: {restart_policy: {condition: any}}"),
    ("restart: 'no'", ""),
    ("init: false", ""),
    ("stop_grace_period: 10s", ""),
    ("stop_grace_period: 1m30s", "stop_grace_period: 90s"),
    ("stop_signal: SIGINT", "stop_signal: INT"),
    ("profiles: [a, b]", "profiles: [b, a]"),
    ("ulimits: {nofile: 1024}", "ulimits: {nofile: {soft: 1024, hard: 1024}}"),
    ("cap_add: [NET_ADMIN, SYS_TIME]", "cap_add: [CAP_SYS_TIME, NET_ADMIN]"),
    ("security_opt: ['no-new-privileges:true', apparmor=a]", "security_opt: ['apparmor:a', no-new-privileges]"),
    ("group_add: [a, b]", "group_add: [b, a]"),
    ("links: [a01]", "links: ['a01:a01']"),
    ("networks: {n: {aliases: [a, b]}}", "networks: {n: {aliases: [b, a]}}"),
    ("healthcheck: {disable: true}", "healthcheck: {test: [NONE]}"),
    ("healthcheck: {test: run x}", "healthcheck: {test: [CMD-SHELL, run x]}"),
    ("depends_on: [a01]", "depends_on: {a01: {condition: service_started}}"),
    ("extra_hosts: ['a=10.0.0.1', 'b:10.0.0.2']", "extra_hosts: {b: 10.0.0.2, a: 10.0.0.1}"),
    ("devices: [/dev/null]", "devices: ['/dev/null:/dev/null:rwm']"),
    ("x-note: 1", "x-note: 2"),
)
OTHER = (
    ("image: 'nginx:1'", "image: nginx", "image"),
    ("command: []", "", "command"),
    ("entrypoint: []", "", "entrypoint"),
    ("environment: [UNSET_ANYWHERE]", "environment: {UNSET_ANYWHERE: ''}", "environment.UNSET_ANYWHERE"),
    ("labels: {a: ''}", "", "labels.a"),
    ("scale: 2", "deploy: {replicas: 3}", "scale"),
    ("mem_limit: 512m", _LIMIT % "memory: 513M", "mem_limit"),
    ("restart: always", "deploy: {restart_policy: {condition: none}}", "restart"),
    ("ulimits: {nofile: 1024}", "ulimits: {nofile: {soft: 1024, hard: 2048}}", "ulimits.nofile"),
    ("configs: [x]", "configs: [{source: y, target: /x}]", "configs./x"),
    ("secrets: [{source: x, mode: 0400}]", "secrets: [x]", "secrets./run/secrets/x"),
    ("dns: [192.0.2.1, 192.0.2.2]", "dns: [192.0.2.2, 192.0.2.1]", "dns"),
    ("healthcheck: {disable: true}", "", "healthcheck.disable"),
    ("cap_add: [SYS_TIME]", "cap_add: [SYS_NICE]", "cap_add"),
)
TOP = """
volumes: {vol: {driver: DRIVER}}
networks: {n: {}}
configs: {x: {file: x}, y: {file: x}}
secrets: {x: {file: x}, y: {file: x}}
"""


def project(texts: list[str], top: str) -> dict[str, str]:
    services = {f"a{number:02}": {"image": "x", **(yaml.safe_load(text) or {})} for number, text in enumerate(texts, 1)}
    return {"compose.yaml": f"name: shop\n{yaml.safe_dump({'services': services})}{top}", "x": "1\n"}


def test_only_what_compose_does_otherwise_is_a_difference(tmp_path: Path) -> None:
    pairs = [*EQUAL, *((left, right) for left, right, _ in OTHER)]
    written(tmp_path / "left", project([left for left, _ in pairs], TOP.replace("{driver: DRIVER}", "{}")))
    written(tmp_path / "right", project([right for _, right in pairs], TOP.replace("DRIVER", "local")))
    comparison = only_comparison(
        data(tmp_path, f"file:{tmp_path / 'left'}", f"file:{tmp_path / 'right'}", "--same-environment")
    )
    reported = {
        (entry["service"], fact["name"])
        for entry in comparison["definitions"]
        for fact in entry["facts"]
        if fact["class"] != "same"
    }
    assert reported == {(f"a{number:02}", name) for number, (*_, name) in enumerate(OTHER, len(EQUAL) + 1)}
