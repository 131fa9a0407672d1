"""The limits of the house style hold in production code; `make figures` shows the figures behind them."""

from __future__ import annotations

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
