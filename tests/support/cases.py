"""Many cases of a pure function in one test, where pytest's own work for a test would be most of what it costs."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

# Those of pytest are no Exception.
FAILURES = (Exception, pytest.fail.Exception)


def each(
    names: str | tuple[str, ...], cases: Iterable[Any], ids: Iterable[Any] | Callable[[Any], str] | None = None
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Takes what ``pytest.mark.parametrize`` takes, but makes one test that goes through all cases.

    All that fail are reported, each with its id. The cases share the fixtures of the test: for those that change
    something, use ``parametrize``.
    """
    names = tuple(name.strip() for name in names.split(",")) if isinstance(names, str) else names
    table = dict(_table(names, list(cases), ids))

    def decorate(test: Callable[..., Any]) -> Callable[..., Any]:
        assert not inspect.iscoroutinefunction(test), "use parametrize"

        @functools.wraps(test)
        def run_all(**fixtures: Any) -> None:
            failures = []
            for name, values in table.items():
                try:
                    test(**fixtures, **values)
                except FAILURES as failure:
                    failure.add_note(f"case: {name}")
                    failures.append(failure)
            if len(failures) == 1:
                raise failures[0]
            if failures:
                raise BaseExceptionGroup(f"{len(failures)} of {len(table)} cases", failures)

        signature = inspect.signature(test)
        rest = [parameter for name, parameter in signature.parameters.items() if name not in names]
        assert len(rest) == len(signature.parameters) - len(names), f"{test.__name__} does not take {names}"
        run_all.__signature__ = signature.replace(parameters=rest)  # type: ignore[attr-defined]
        return run_all

    return decorate


def _table(
    names: tuple[str, ...], cases: list[Any], ids: Iterable[Any] | Callable[[Any], str] | None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The id of each case, and its values by name."""
    given = ids if ids is None or callable(ids) else [str(name) for name in ids]
    for number, case in enumerate(cases):
        marked = hasattr(case, "values") and hasattr(case, "marks")
        assert not (marked and case.marks), "a case cannot be marked"
        values = tuple(case.values) if marked else (case,) if len(names) == 1 else tuple(case)
        if marked and case.id is not None:
            name = str(case.id)
        elif callable(given):
            name = given(*values)
        else:
            name = given[number] if given else ascii(values)[:200]
        yield f"{name} ({number})", dict(zip(names, values, strict=True))
