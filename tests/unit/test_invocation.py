"""How a project is run: the manifest, the labels of the containers, and what happens where they disagree."""

from __future__ import annotations

from dataclasses import replace

import pytest

from reconciler.core.decide.invocation import of_stack, resolve_invocation
from reconciler.core.errors import StartedOtherwiseError
from reconciler.core.model.compose import Invocation, StartedAs
from reconciler.core.model.targets import Stack

STACK = Stack("production", "app", "/opt/app")
USUAL = ("/opt/app/compose.yaml",)
PLAIN = StartedAs("app", "/opt/app", USUAL)
PROD = StartedAs("blue", "/opt/app", (*USUAL, "/opt/app/prod.yaml"), ("/opt/app/.env.prod",), created=1.0)


def test_nothing_is_given_that_compose_does_by_itself() -> None:
    assert resolve_invocation(STACK, [PLAIN], USUAL) == Invocation("/opt/app", project="app")


def test_without_containers_the_manifest_counts() -> None:
    stack = replace(STACK, files=("a.yaml", "/srv/b.yaml"), env_files=("../x.env",), project="p", profiles=("ops",))
    assert resolve_invocation(stack, [], USUAL) == Invocation(
        "/opt/app", ("/opt/app/a.yaml", "/srv/b.yaml"), "p", ("/opt/x.env",), ("ops",)
    )


def test_where_the_manifest_is_silent_the_labels_count() -> None:
    invocation = resolve_invocation(STACK, [PROD], USUAL)
    assert invocation == Invocation("/opt/app", PROD.files, "blue", PROD.env_files)
    assert resolve_invocation(replace(STACK, project="blue"), [PROD], USUAL) == invocation


def test_a_new_override_beside_the_compose_file_is_not_taken_along() -> None:
    """Else whoever may write a file there decides what runs."""
    with_override = (*USUAL, "/opt/app/compose.override.yaml")
    assert resolve_invocation(STACK, [PLAIN], with_override).files == USUAL


def test_a_project_directory_elsewhere_is_given() -> None:
    started = replace(PLAIN, files=("/opt/app/deploy/c.yaml",))
    assert resolve_invocation(STACK, [started], ()).project_directory == "/opt/app"
    assert resolve_invocation(STACK, [replace(started, directory="/opt/app/deploy")], ()).project_directory == ""


def test_of_several_ways_the_newest_counts() -> None:
    """Compose leaves the older label on a container that a later `up` did not have to recreate."""
    older = replace(PROD, files=USUAL, env_files=(), created=0.5)
    assert resolve_invocation(STACK, [older, PROD], USUAL).env_files == PROD.env_files
    assert resolve_invocation(STACK, [replace(older, created=2.0), PROD], USUAL).env_files == ()


def test_what_does_not_run_any_more_says_nothing() -> None:
    stopped = replace(PROD, running=False, created=9.0)
    assert resolve_invocation(STACK, [PLAIN, stopped], USUAL).project == "app"
    assert resolve_invocation(STACK, [stopped], USUAL).project == "blue"


def test_a_link_on_the_way_is_not_a_disagreement() -> None:
    stack = replace(STACK, directory="/srv/app", files=("compose.yaml", "prod.yaml"))
    invocation = resolve_invocation(stack, [PROD], (), lambda path: path.replace("/srv/", "/opt/"))
    assert invocation.files == ("/srv/app/compose.yaml", "/srv/app/prod.yaml")
    assert invocation.env_files == PROD.env_files


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"project": "green"}, "project is green, its containers were started with -p blue"),
        (
            {"files": ("compose.yaml",)},
            "files is compose.yaml, its containers were started with -f compose.yaml, prod.yaml",
        ),
        ({"env_files": (".env",)}, "env_files is .env, its containers were started with --env-file .env.prod"),
        (
            {"project_directory": "x"},
            "project_directory is x, its containers were started with --project-directory /opt/app",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_disagreement_names_both_sides_and_what_to_do(fields: dict[str, object], words: str) -> None:
    with pytest.raises(StartedOtherwiseError) as raised:
        resolve_invocation(replace(STACK, **fields), [PROD], USUAL)  # type: ignore[arg-type]
    assert words in str(raised.value)
    assert "Nothing was touched" in str(raised.value)
    assert "up -d` in /opt/app yourself" in raised.value.hint


def test_a_container_without_the_option_is_said_to_be() -> None:
    with pytest.raises(StartedOtherwiseError, match="were started without --env-file"):
        resolve_invocation(replace(STACK, env_files=("a.env",)), [PLAIN], USUAL)


def test_a_container_that_agrees_is_enough() -> None:
    """Another project of the directory, or an older label, is nothing that this stack must agree with."""
    stack = replace(STACK, files=("compose.yaml", "prod.yaml"))
    assert resolve_invocation(stack, [replace(PLAIN, created=5.0), PROD], USUAL).project == "blue"


def test_a_project_of_that_name_elsewhere_is_another_one() -> None:
    """Else a manifest could have any project of the server recreated."""
    away = replace(PLAIN, project="away", directory="/srv/away", files=("/srv/away/compose.yaml",))
    with pytest.raises(StartedOtherwiseError, match=r"project_directory is /opt/app, .* /srv/away"):
        resolve_invocation(replace(STACK, project="away"), [away], USUAL)


def test_two_projects_of_the_same_files_must_be_distinguished() -> None:
    green = replace(PLAIN, project="green")
    with pytest.raises(StartedOtherwiseError, match="app, green"):
        resolve_invocation(STACK, [PLAIN, green], USUAL)
    assert resolve_invocation(STACK, [PLAIN, PROD], USUAL).project == "app"
    assert resolve_invocation(replace(STACK, project="green"), [PLAIN, green], USUAL).project == "green"


def test_containers_are_the_stacks_by_name_directory_or_files() -> None:
    away = replace(PLAIN, project="away", directory="/srv/away", files=("/srv/away/compose.yaml",))
    deploy = replace(PLAIN, project="deploy", directory="/opt/app/deploy", files=("/opt/app/deploy/c.yaml",))
    every = [PLAIN, PROD, away, deploy]
    assert of_stack(STACK, every, USUAL) == [PLAIN, PROD]
    assert of_stack(replace(STACK, project="away"), every, USUAL) == [away]
    assert deploy in of_stack(replace(STACK, files=("deploy/c.yaml",)), every, USUAL)
    assert of_stack(replace(STACK, directory="/opt"), every, ()) == [PLAIN, PROD, deploy]


def test_a_command_for_an_operator_is_short_and_quoted() -> None:
    invocation = replace(resolve_invocation(STACK, [PROD], USUAL), env_files=("/opt/app/my env",))
    assert invocation.command("up -d") == (
        "docker compose -p blue -f compose.yaml -f prod.yaml --env-file 'my env' up -d"
    )
