"""What only the text of compose files shows."""

from __future__ import annotations

import pytest

from reconciler.adapters.compose.uses import names_in


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("$A-${B}-${C:-x}", {"A", "B", "C"}),
        ("$$A", set()),  # a dollar, and no variable
        ("$A$$B", {"A"}),
        ("$$$A", {"A"}),
    ],
)
def test_the_variables_that_a_text_is_interpolated_with(text: str, names: set[str]) -> None:
    assert names_in(text) == names
