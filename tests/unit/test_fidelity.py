"""What of a project a recreate would change, decided on plain data: no engine is needed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from reconciler.core.fidelity.compose_hash import HASH_LABEL, compose_hashes
from reconciler.core.fidelity.definition import defined_fields
from reconciler.core.fidelity.differences import definition_changes, has_unnamed_difference
from reconciler.core.fidelity.guard import Grants, ProjectSides, definitions, edits
from reconciler.core.model.compose import Container, Project, Service
from reconciler.core.secret import Secret
from reconciler.core.secrets.masking import masked
from tests.support.cases import each

ID = "0123456789ab" + "c" * 52


def service(name: str = "api", references: Mapping[str, Any] | None = None, **fields: Any) -> Service:
    own = {"image": "app:1", **fields}
    definition = {"service": own, "configs": {}, "secrets": {}, "networks": {}, "volumes": {}, **(references or {})}
    text = json.dumps(own, separators=(",", ":"))
    return Service(
        name, Secret(json.dumps(definition).encode()), own.get("environment", {}), text=Secret(text.encode())
    )


def project(*services: Service) -> Project:
    return Project("p", {each.name: each for each in services})


def container(made_from: Service, host: Mapping[str, Any] | None = None, **config: Any) -> Container:
    """As the engine shows a container of the service's image and network, with what ``host`` and ``config`` say."""
    environment = {name: value for name, value in made_from.environment.items() if value is not None}
    labels = {HASH_LABEL: min(compose_hashes(made_from.text))}
    facts = {
        "Name": "/p-api-1",
        "Config": {"Image": "app:1", "Hostname": ID[:12], "Labels": labels, **config},
        "HostConfig": {"NetworkMode": "p_default", "IpcMode": "private", **(host or {})},
        "NetworkSettings": {"Networks": {"default": {"Aliases": ["api", ID[:12]]}}},
        "Mounts": [],
    }
    return Container(ID, made_from.name, "running", image="app:1", environment=environment, facts=facts)


def held(now: Service, made_from: Service, after: Service | None = None, **more: Any) -> list[str]:
    sides = ProjectSides(project(now), project(after or now), [container(made_from, **more)])
    return edits(sides, {"api"}, Grants())


def test_nothing_is_held_where_the_hash_is_the_same() -> None:
    api = service(environment={"A": "<1> & 2"}, depends_on={"db": {}}, deploy={"replicas": 2})
    assert held(api, api) == []


def test_a_field_that_was_edited_is_named_with_both_sides() -> None:
    (sentence,) = held(service(privileged=True), service())
    assert sentence == "api: privileged: the container has nothing, the project now says yes"


def test_an_edit_that_the_change_takes_back_is_none() -> None:
    """A managed file was edited by hand, and git's content is what runs."""
    assert held(service(command=["b"]), service(), after=service()) == []


def test_what_a_hand_did_to_the_container_is_seen_though_the_hash_is_the_same() -> None:
    (sentence,) = held(service(), service(), host={"Memory": 1024})
    assert sentence == "api: memory: the container has 1024, the project now says nothing"


def test_a_tag_that_stands_for_another_image_by_now_is_named() -> None:
    api = service()
    runs = container(api)
    runs.facts["Image"] = "sha256:old"  # type: ignore[index]
    sides = ProjectSides(project(api), project(api), [runs], {"app:1": "sha256:new"})
    (sentence,) = edits(sides, {"api"}, Grants())
    assert sentence == "api: image id: the container has sha256:old, the project now says sha256:new"


def test_a_variable_is_named_and_its_value_is_not() -> None:
    (sentence,) = held(service(environment={"A": "s3cret-a"}), service(environment={"A": "s3cret-b"}))
    assert sentence == "api: environment: A differs, and no managed file that it reads explains that"


def test_a_variable_of_a_managed_file_is_explained_and_hides_nothing_else() -> None:
    now = service(environment={"A": "2"}, user="root")
    sides = ProjectSides(project(now), project(now), [container(service(environment={"A": "1"}))])
    (sentence,) = edits(sides, {"api"}, Grants(keys={"api": {"A"}}))
    assert sentence == "api: user: the container has nothing, the project now says root"


GRANTED = [
    pytest.param({"image": "app:2"}, "image_tag", id="tag"),
    pytest.param({"image": "registry:5000/app@sha256:0"}, None, id="repository"),
    pytest.param({"labels": {"a": "b"}}, "labels", id="labels"),
    pytest.param({"ports": [{"target": 1}]}, "ports", id="ports"),
    pytest.param({"mem_limit": "1"}, "resources", id="limit"),
    pytest.param({"deploy": {"replicas": 2}}, "replicas", id="replicas"),
    pytest.param({"deploy": {"resources": {"limits": {"memory": "1"}}}}, "resources", id="deploy"),
    pytest.param({"deploy": {"resources": {"reservations": {"devices": [{}]}}}}, None, id="gpu"),
    *[
        pytest.param({field: "x"}, None, id=field)
        for field in (
            *("volumes", "command", "entrypoint", "user", "privileged", "devices", "cap_add", "network_mode", "pid"),
            *("ipc", "security_opt", "userns_mode", "volumes_from", "networks", "healthcheck", "a_field_of_tomorrow"),
        )
    ],
]


@each(("fields", "word"), GRANTED)
def test_what_git_may_change_is_a_short_list(fields: dict[str, Any], word: str | None) -> None:
    sides = ProjectSides(project(service()), project(service(**fields)))
    sentences, words = definitions(sides, Grants())
    assert len(sentences) == 1
    assert words == ((word,) if word else ())
    allowed, _ = definitions(sides, Grants(fields=frozenset({word} if word else {"image_tag", "ports", "labels"})))
    assert allowed == ([] if word else sentences)
    assert definitions(sides, Grants(any_field=True)) == ([], ())


@pytest.mark.parametrize(
    "fields", [{"expose": ["1"]}, {"links": ["x"]}, {"deploy": {"replicas": 2}}, {"a_field_of_tomorrow": "x"}]
)
def test_a_container_excuses_no_change_that_it_does_not_show(fields: dict[str, Any]) -> None:
    now, after = service(), service(**fields)
    if "deploy" in fields:
        after = replace(after, replicas=2)
    sentences, _ = definitions(ProjectSides(project(now), project(after), [container(now)]), Grants())
    assert len(sentences) == 1


def test_a_shell_that_has_set_a_variable_is_no_edit_of_another_field() -> None:
    said, started = service(environment={"B": None, "TZ": None}), service(environment={"B": None, "TZ": "UTC"})
    assert not has_unnamed_difference(said, container(started))
    assert has_unnamed_difference(service(expose=["1"], environment={"B": None, "TZ": None}), container(started))


def test_variables_and_the_content_of_mounted_files_are_always_gits_to_change() -> None:
    def with_config(content: str, **more: str) -> Service:
        return service(environment={"A": content}, references={"configs": {"c": {"content": content, **more}}})

    assert definition_changes(with_config("1"), with_config("2")) == ()
    (change,) = definition_changes(with_config("1"), with_config("1", file="/etc/shadow"))
    assert (change.name, change.grant) == ("config c", None)


def test_a_volume_that_leads_elsewhere_is_a_change_of_the_project() -> None:
    def mounts(device: str) -> Service:
        return service(references={"volumes": {"v": {"driver_opts": {"o": "bind", "device": device}}}})

    (change,) = definition_changes(mounts("/srv/data"), mounts("/etc"))
    assert (change.name, change.grant) == ("volume v", None)


def test_an_image_gives_what_the_service_leaves_out() -> None:
    image = {"Cmd": ["run"], "Entrypoint": ["/init"], "User": "7", "Labels": {"a": "b"}, "Volumes": {"/v": {}}}
    plain = defined_fields(service(), "p", image)
    assert (plain["command"], plain["entrypoint"], plain["user"]) == ({"": '["run"]'}, {"": '["/init"]'}, {"": "7"})
    assert plain["mounts"] == {"/v": "anonymous volume"}
    own = defined_fields(service(entrypoint=["/mine"]), "p", image)
    assert (own["command"], own["entrypoint"]) == ({}, {"": '["/mine"]'})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('["sleep","1"]', "sleep 1"),
        ('["db","--password","hunter2"]', "db --password ***"),
        ('["db","--password=hunter2"]', "db --password=***"),
        ('["sh","-c","db --token abc && x"]', "sh -c 'db --token *** && x'"),
        ('["go","known-value-1"]', "go ***"),
        ("https://ada:secret@example.org/", "***"),
        ("/opt/known-value-1/data", "/opt/***/data"),
        ("/srv/data", "/srv/data"),
    ],
)
def test_no_secret_of_a_command_line_or_a_path_is_shown(text: str, expected: str) -> None:
    assert masked(text, ["known-value-1"]) == expected
