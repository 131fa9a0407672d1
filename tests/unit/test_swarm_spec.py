"""A service of a project beside the ServiceSpec that a Swarm keeps, on small recorded specs: no Swarm is needed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from reconciler.core.fidelity.deployed import deployed_differences
from reconciler.core.fidelity.swarm_service import deployed_service, expected_fields, network_ids
from reconciler.core.model.compose import Service
from reconciler.core.secret import Secret
from tests.support.cases import each

# As an engine of 20.10 keeps what `docker stack deploy` gives it of `image: app:1`.
CONTAINER: dict[str, Any] = {
    "Image": "app:1",
    "Labels": {"com.docker.stack.namespace": "st"},
    "Privileges": {"CredentialSpec": None, "SELinuxContext": None},
    "Isolation": "default",
}
TASK = {"Resources": {}, "Placement": {}, "Networks": [{"Target": "n1", "Aliases": ["api"]}], "ForceUpdate": 0}
SPEC = {"Name": "st_api", "Mode": {"Replicated": {"Replicas": 1}}, "EndpointSpec": {"Mode": "vip"}}
# What `docker service update` writes down of it by itself.
DEFAULTS: dict[str, Any] = {
    "StopGracePeriod": 10_000_000_000,
    "DNSConfig": {},
    "Privileges": {"CredentialSpec": None, "SELinuxContext": None, "NoNewPrivileges": False},
}
POLICY = {"Condition": "any", "Delay": 5_000_000_000, "MaxAttempts": 0}
UPDATE = {"Parallelism": 1, "FailureAction": "pause", "Monitor": 5_000_000_000, "Order": "stop-first"}


def differing(
    own: Mapping[str, Any], container: Mapping[str, Any], task: Mapping[str, Any] | None = None, **more: Any
) -> list[str]:
    """The items by which a service that says ``own`` differs from a spec with ``container`` and ``task``."""
    definition = {"service": {"image": "app:1", **own}, **more.pop("definition", {})}
    service = Service("api", Secret(json.dumps(definition).encode()), {})
    labels = {"com.docker.stack.image": definition["service"]["image"], "com.docker.stack.namespace": "st"}
    whole = {**TASK, "ContainerSpec": {**CONTAINER, **container}, **(task or {})}
    facts = {"Spec": {**SPEC, "Labels": labels, "TaskTemplate": whole, **more}, "Version": {"Index": 7}}
    assert network_ids([facts]) == {each["Target"] for each in whole["Networks"]}
    deployed = deployed_service("st", facts, {"n1": "st_default"})
    service = Service("api", service.definition, {}, deploys_as=expected_fields("st", service))
    return [f"{it.name} {it.item}".rstrip() for it in deployed_differences(service, deployed)]


@each(
    ("own", "container"),
    [
        pytest.param({}, {}, id="nothing said"),
        pytest.param({}, {"Image": "app:1@sha256:0"}, id="digest resolved"),
        pytest.param({"image": "app"}, {"Image": "docker.io/library/app:latest@sha256:0"}, id="latest"),
        pytest.param({"image": "r:5000/app@sha256:0"}, {"Image": "r:5000/app@sha256:0"}, id="digest named"),
        pytest.param(
            {"environment": {"A": "x=1", "B": None, "C": ""}}, {"Env": ["C=", "A=x=1", "B"]}, id="environment"
        ),
        pytest.param({"healthcheck": {"start_interval": "1s"}}, {"Healthcheck": {}}, id="dropped by an older engine"),
        pytest.param({"extra_hosts": ["a=192.0.2.1", "b=::1"]}, {"Hosts": ["192.0.2.1 a", "::1 b"]}, id="hosts"),
        pytest.param({"stop_signal": "INT", "restart": "no"}, {"StopSignal": "SIGINT"}, id="signal"),
        pytest.param({"cap_drop": ["ALL", "net_raw"]}, {"CapabilityDrop": ["CAP_ALL"]}, id="all capabilities"),
        pytest.param({"tmpfs": ["/x"], "privileged": True, "devices": ["/dev/x"]}, {}, id="ignored by the deploy"),
        pytest.param({}, DEFAULTS, id="defaults written down"),
    ],
)
def test_the_same_in_other_words_is_no_difference(own: dict[str, Any], container: dict[str, Any]) -> None:
    assert differing(own, container) == []


def test_defaults_of_policies_are_no_difference() -> None:
    assert differing({}, {}, {"RestartPolicy": POLICY}, UpdateConfig=UPDATE, RollbackConfig=UPDATE) == []
    said = {"deploy": {"restart_policy": {"condition": "any"}, "update_config": {"parallelism": 1}, "replicas": 1}}
    assert differing(said, {}) == []


@pytest.mark.parametrize(
    ("own", "container", "items"),
    [
        pytest.param({"image": "app@sha256:0"}, {"Image": "app@sha256:1"}, ["image"], id="digest"),
        pytest.param({}, {"Image": "other/app:1"}, ["image"], id="repository"),
        pytest.param({"environment": {"A": ""}}, {}, ["environment A"], id="empty is not unset"),
        pytest.param(
            {}, {"Privileges": {"SELinuxContext": {"Disable": True}}}, ["privileges SELinuxContext"], id="SELinux"
        ),
        pytest.param({"init": False}, {}, ["init"], id="no init is not unsaid"),
        pytest.param({}, {"Healthcheck": {"StartInterval": 5}}, ["healthcheck start_interval"], id="of a newer engine"),
    ],
)
def test_a_hand_edit_is_a_difference(own: dict[str, Any], container: dict[str, Any], items: list[str]) -> None:
    assert differing(own, container) == items


@pytest.mark.parametrize(
    ("definition", "digits", "another"),
    [
        ({"digest": "0123456789ab"}, ["secret content /run/secrets/token"], ["secrets /run/secrets/token"]),
        ({"external": True}, ["secrets /run/secrets/token"], []),
    ],
    ids=["ours", "external"],
)
def test_a_secret_has_other_content_or_is_another_one(
    definition: dict[str, Any], digits: list[str], another: list[str]
) -> None:
    secrets = {"secrets": {"token": {"name": "st_token_0123456789ab", **definition}}}
    own = {"secrets": [{"source": "token", "target": "/run/secrets/token", "mode": "0400"}]}

    def found(name: str) -> list[str]:
        file = {"Name": "token", "UID": "0", "GID": "0", "Mode": 0o400}
        reference = {"Secrets": [{"File": file, "SecretID": "x", "SecretName": name}]}
        return differing(own, reference, definition=secrets)

    assert found("st_token_0123456789ab") == []
    assert found("st_token_ffffffffffff") == digits
    assert found("mine") == digits + another


def test_a_network_that_is_gone_or_another_one_is_named() -> None:
    task = {"Networks": [{"Target": "n1", "Aliases": ["api", "www"]}, {"Target": "n2"}]}
    assert differing({}, {}, task) == ["aliases www in st_default", "networks n2"]


def test_a_range_of_ports_is_no_error() -> None:
    own = {"ports": [{"target": 80, "published": "8000-8005", "protocol": "tcp"}]}
    assert differing(own, {}) == ["ports 8000-8005->80/tcp"]
