"""A service that the engine itself keeps, beside its project: decided on plain data."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest

from reconciler.core.fidelity.deployed import Standing, judge_deployed
from reconciler.core.fidelity.guard import Grants, ProjectSides, definitions, edits
from reconciler.core.model.compose import DeployedService, Fields, Project, Service
from reconciler.core.secret import Secret

BASE: Fields = {"image": {"": "app:1"}, "environment": {"A": "s3cret-a", "B": "s3cret-b"}, "replicas": {"": "2"}}


def service(**changed: Mapping[str, str]) -> Service:
    fields = {**BASE, **changed}
    environment = dict(fields["environment"])
    text = json.dumps({"service": {"environment": environment, "image": fields["image"][""], **changed}})
    return Service("api", Secret(text.encode()), environment, deploys_as=fields, digest=repr(fields))


def deployed(made_from: Service, by_hand: Mapping[str, Mapping[str, str]] | None = None) -> DeployedService:
    fields = {**made_from.deploys_as, **(by_hand or {})}
    return DeployedService("api", fields, "7", made_from.digest, int(fields["replicas"][""]))


def guarded(
    runs: DeployedService, now: Service | None, after: Service, grants: Grants | None = None
) -> tuple[list[str], list[str]]:
    """What is held as an edit of the project, and what as a change that git may not make."""
    before = Project("p", {"api": now}) if now else None
    sides = ProjectSides(before, Project("p", {"api": after}), deployed={"api": runs})
    allowed = grants or Grants()
    return edits(sides, ["api"], allowed), definitions(sides, allowed)[0]


def test_a_service_that_nobody_touched_is_in_sync() -> None:
    assert judge_deployed(deployed(service()), service(), service()).standing is Standing.IN_SYNC


def test_what_git_changes_is_no_edit() -> None:
    after = service(environment={"A": "1", "B": "s3cret-b"})
    assert judge_deployed(deployed(service()), service(), after).standing is Standing.IN_SYNC
    assert guarded(deployed(service()), service(), after) == ([], [])


@pytest.mark.parametrize(
    ("by_hand", "places"),
    [
        ({"environment": {"A": "other", "C": "new"}}, ["environment A", "environment B", "environment C"]),
        ({"image": {"": "app:2"}}, ["image "]),
        ({"secret content": {"/run/secrets/token": "aaaaaaaaaaaa"}}, ["secret content /run/secrets/token"]),
        ({"a field of tomorrow": {"": "x"}}, ["a field of tomorrow "]),
    ],
)
def test_what_a_hand_changed_is_named_where_the_project_is_what_was_deployed(
    by_hand: Mapping[str, Mapping[str, str]], places: list[str]
) -> None:
    judgement = judge_deployed(deployed(service(), by_hand), service(), service())
    assert judgement.standing is Standing.EDITED_BY_HAND
    assert [f"{difference.name} {difference.item}" for difference in judgement.differences] == places
    assert "s3cret" not in repr(judgement)
    assert guarded(deployed(service(), by_hand), service(), service()) == ([], [])


def test_a_scale_by_hand_is_no_edit() -> None:
    assert judge_deployed(deployed(service(), {"replicas": {"": "5"}}), service(), service()).differences == ()


def test_a_hand_edit_is_told_apart_from_a_live_file_that_was_edited_too() -> None:
    """The project as it is now holds the edit of the live file; what git will bring is what was deployed."""
    now = service(environment={"A": "edited", "B": "s3cret-b"})
    judgement = judge_deployed(deployed(service(), {"image": {"": "app:2"}}), now, service())
    assert (judgement.standing, [it.name for it in judgement.differences]) == (Standing.EDITED_BY_HAND, ["image"])


def test_a_project_that_was_edited_since_the_deploy_is_held() -> None:
    now = service(user={"": "root"}, environment={"A": "x", "B": "s3cret-b"})
    after = service(user={"": "root"}, environment={"A": "y", "B": "s3cret-b"})
    (held,), _ = guarded(deployed(service()), now, after, Grants(keys={"api": {"A"}}))
    assert held == "api: user: the service has nothing, the project now says root"
    (held,), _ = guarded(deployed(service()), now, after)
    assert "environment: A of the service and of the project differ" in held
    assert "s3cret" not in held


def test_the_content_of_a_mounted_file_is_no_edit_of_the_project() -> None:
    runs = deployed(service(**{"config content": {"/app.conf": "aaaaaaaaaaaa"}}))
    now = service(**{"config content": {"/app.conf": "bbbbbbbbbbbb"}})
    assert judge_deployed(runs, now, now).standing is Standing.IN_SYNC


def test_a_service_excuses_no_change_that_git_may_not_make() -> None:
    after = service(user={"": "root"})
    assert guarded(deployed(service()), service(), after)[1] == ['api: user would change from nothing to {"": "root"}']
    assert guarded(deployed(after), service(), after)[1] == []


def test_a_service_that_somebody_else_deployed_is_held_like_an_edited_project() -> None:
    runs = DeployedService("api", {**BASE, "user": {"": "7"}}, replicas=2)
    assert judge_deployed(runs, service(), service()).standing is Standing.PROJECT_EDITED
