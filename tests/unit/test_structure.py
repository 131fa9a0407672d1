"""The limits of the house style hold in production code; `make figures` shows the figures behind them."""

from __future__ import annotations

import ast

import pytest

from benchmarks.structure import Module, long_functions, long_modules, read_modules, shared_class_names

pytestmark = pytest.mark.xdist_group("sources")  # parsed once


@pytest.fixture(scope="module")
def production() -> list[Module]:
    return read_modules("reconciler")


def test_no_module_is_too_long(production: list[Module]) -> None:
    assert long_modules(production) == []


def test_no_function_is_too_long(production: list[Module]) -> None:
    assert long_functions(production) == []


def test_no_two_public_classes_share_a_name(production: list[Module]) -> None:
    assert shared_class_names(production) == {}


# What runs a stack is told apart where it is chosen and read, and in one table of what an operator does next.
ROOMS_OF_KINDS = (
    *("reconciler/adapters/swarm/", "reconciler/app/wiring/", "reconciler/app/config/"),
    *("reconciler/core/fidelity/swarm_", "reconciler/core/model/targets.py", "reconciler/core/decide/next_steps.py"),
    "reconciler/core/onboarding/manifest.py",  # writes down the kind, unless it is the default
)


def test_nothing_else_decides_by_what_runs_a_stack(production: list[Module]) -> None:
    outside = [module for module in production if not module.path.startswith(ROOMS_OF_KINDS)]
    assert [where for module in outside for where in decisions_by_kind(module)] == []


@pytest.mark.parametrize(
    "text",
    [
        *("stack.kind is StackKind.SWARM", "stack.kind is not DEFAULT_KIND", "project.kind == 'swarm'"),
        *("{StackKind.COMPOSE: 1}[stack.kind]", "from reconciler.core.fidelity.swarm_spec import ignored_fields"),
        "match stack.kind:\n    case StackKind.SWARM: pass",
    ],
)
def test_a_decision_by_what_runs_a_stack_is_noticed(text: str) -> None:
    assert decisions_by_kind(Module("reconciler/engine/new.py", 1, ast.parse(text))) != []


def decisions_by_kind(module: Module) -> list[str]:
    """Where a module names a kind, compares one, or takes what belongs to one."""
    lines = []
    for node in ast.walk(module.tree):
        match node:
            case ast.Attribute(value=ast.Name(id="StackKind")) | ast.Constant(value="swarm"):
                lines.append(node.lineno)
            case ast.Compare() if any(isinstance(it, ast.Name) and it.id == "DEFAULT_KIND" for it in node.comparators):
                lines.append(node.lineno)
            case ast.ImportFrom(module=str(source)) if "swarm" in source:
                lines.append(node.lineno)
    return [f"{module.path}:{line}" for line in lines]
