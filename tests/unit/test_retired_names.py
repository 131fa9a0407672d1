"""A retired name is found in any case and between other words, never as a part of one."""

from __future__ import annotations

import pytest

from reconciler.core.checks.retired import RetiredName, RetiredNames


@pytest.mark.parametrize(
    ("name", "line", "names_it"),
    [
        ("gradient", "GRADIENT_API_KEY=x", True),
        ("gradient", "https://api.gradient.example", True),
        ("gradient", "gradients", False),
        ("OLD_KEY", "old_key: 1", True),
        ("OLD_KEY", "MY_OLD_KEY=1", False),
        ("web-1", "web-1-b", False),
        ("db1.example.org", "postgres://db1.example.org/app", True),
        ("db1.example.org", "db1xexample.org", False),
        ("gradient", "A=ENC[AES256_GCM,data:gradient,iv:x]", False),
    ],
)
def test_a_name_is_a_word_between_others(name: str, line: str, *, names_it: bool) -> None:
    assert bool(list(RetiredNames([RetiredName(name)]).lines(line))) is names_it
