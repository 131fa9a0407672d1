"""The limits of the house style hold in production code; `make figures` shows the figures behind them."""

from __future__ import annotations

from benchmarks.structure import long_functions, long_modules, read_modules, shared_class_names

PRODUCTION = read_modules("reconciler")


def test_no_module_is_too_long() -> None:
    assert long_modules(PRODUCTION) == []


def test_no_function_is_too_long() -> None:
    assert long_functions(PRODUCTION) == []


def test_no_two_public_classes_share_a_name() -> None:
    assert shared_class_names(PRODUCTION) == {}
