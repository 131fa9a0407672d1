"""What an operator is told to do next, by what runs the stack."""

from __future__ import annotations

from dataclasses import replace

import pytest

from reconciler.core.decide.next_steps import next_steps
from reconciler.core.model.compose import Invocation, Project
from reconciler.core.model.targets import Stack, StackKind

COMPOSE = Stack("production", "app", "/opt/app")
SWARM = replace(COMPOSE, kind=StackKind.SWARM)
PROJECT = Project("shop", {}, Invocation("/opt/app", project="shop"))


@pytest.mark.parametrize(
    ("stack", "sentences"),
    [
        (
            COMPOSE,
            [
                "docker compose -p shop logs",
                "`docker compose -p shop up -d` in /opt/app: services are only ever recreated",
                "`docker compose -p shop up -d --remove-orphans` in /opt/app removes it",
                "`docker compose -p shop up -d api` in /opt/app gives it those of the project",
            ],
        ),
        (
            SWARM,
            [
                "docker stack ps --no-trunc shop",
                "deploy it once by hand, then `reconciler sync --accept-project production/app` gives it its values",
                "`docker service rm shop_api shop_web` removes them",
                "A change of it will wait for `reconciler sync --accept-project production/app`",
            ],
        ),
    ],
    ids=["compose", "swarm"],
)
def test_each_step_is_what_the_runner_understands(stack: Stack, sentences: list[str]) -> None:
    steps = next_steps(stack, PROJECT)
    assert [steps.look, steps.first_start(), steps.remove(["api", "web"]), steps.give_values("api")] == sentences


def test_without_the_project_the_manifest_names_the_stack() -> None:
    assert next_steps(SWARM, None).look == "docker stack ps --no-trunc app"
    assert next_steps(replace(SWARM, project="shop"), None).logs("api") == "docker service logs --tail 50 shop_api"
    assert next_steps(COMPOSE, None).look == "docker compose logs"
