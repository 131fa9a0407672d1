"""Compare two sides: pair their files, judge each key and file, and put services and probes side by side. Pure.

Fingerprints, with a new key for every run, show which values are equal; no value is in a result. See docs/compare.md.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from reconciler.core.compare.definitions import compare_definitions, without_consequences
from reconciler.core.compare.judging import Judge
from reconciler.core.compare.pairing import for_machine, pair
from reconciler.core.compare.services import compare_services
from reconciler.core.compare.types import Comparison, Expectations, ProbeResult, Side


def compare_sides(
    left: Side,
    right: Side,
    expected: Expectations,
    *,
    different: bool,
    probes: Sequence[ProbeResult] = (),
    chosen: Sequence[tuple[str, str]] = (),
    known: Collection[str] = (),
) -> Comparison:
    """Given two sides, return the result for each file, key and service. ``chosen`` are names of files that an operator
    wants to be compared with each other, ``known`` values that must not be shown."""
    left, right = for_machine(left, right), for_machine(right, left)
    judge = Judge(frozenset({left.environment, right.environment}), expected, different)
    files = [
        (both, replace(judge.file(both.left, both.right), paired_by=both.paired_by))
        for both in pair(left.files, right.files, chosen)
    ]
    services, definitions = without_consequences(
        compare_services(left, right, expected, known),
        compare_definitions(left, right, expected, known, files, different=different),
    )
    return Comparison(
        left, right, different, tuple(result for _, result in files), services, tuple(probes), definitions
    )


def are_different(left: Side, right: Side) -> bool:
    """Whether two sides are two environments, by their names: two names that differ, or no name on either side.

    With one name, a server is compared with its own environment in git, or with another server of it.
    """
    if left.environment and right.environment:
        return left.environment != right.environment
    return not (left.environment or right.environment)
