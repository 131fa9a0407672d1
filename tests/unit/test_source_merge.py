"""What `import --update` makes of a source: the variables of the live file, and the rest as git has it."""

from __future__ import annotations

import pytest

from reconciler.core.dotenv.readings import key_diff
from reconciler.core.model.targets import Parser
from reconciler.core.onboarding.source_merge import merge_source
from tests.support.cases import each

GIT = "# the api\nA=1\n#\n# where it listens\nPORT='80'\nexport B=2\n"


def merged(git: str, live: str, ignore_keys: tuple[str, ...] = ()) -> tuple[str, list[str] | None]:
    """The content for git, and the labels that sops sets or removes."""
    result = merge_source(git.encode(), live.encode(), Parser.COMPOSE, ignore_keys)
    if not ignore_keys:
        assert key_diff(result.content.reveal(), live.encode()).empty
    return result.content.reveal().decode(), None if result.edits is None else list(result.edits)


@each(
    ("live", "content", "labels"),
    [
        pytest.param("A=1\nPORT=80\nB=2\n", GIT, [], id="only-comments-and-quotes-differ"),
        pytest.param("B='2'\nPORT=80\nA=1\n", GIT, [], id="another-order"),
        pytest.param("A=1\nPORT=81\nB=2\n", GIT.replace("'80'", "81"), ["PORT"], id="a-value"),
        pytest.param("A=1\nPORT=80\nB=3\n", GIT.replace("B=2", "B=3"), ["export B"], id="an-exported-value"),
        pytest.param("A=1\nPORT=80\nB=2\n#\nC=3\n", f"{GIT}C=3\n", ["C"], id="a-key-at-the-end"),
        pytest.param("A=1\nB=2\n", GIT.replace("PORT='80'\n", ""), ["PORT"], id="a-key-is-gone"),
        pytest.param("A=1\nC=3\nPORT=80\nB=2\n", GIT.replace("A=1\n", "A=1\nC=3\n"), None, id="a-key-in-between"),
        pytest.param("C=3\nA=1\nPORT=80\nB=2\n", f"C=3\n{GIT}", None, id="a-key-at-the-top"),
        pytest.param(
            "A=1\nPORT=80\nB=2\n#\n# the mail\nC=3\n", f"{GIT}#\n# the mail\nC=3\n", None, id="a-key-with-a-comment"
        ),
        pytest.param(
            "A=1\n#\n# the mail\nC=3\nPORT=80\nB=2\n",
            GIT.replace("#\n# where", "#\n# the mail\nC=3\n# where"),
            None,
            id="a-key-with-a-comment-behind-a-blank-line-that-git-has",
        ),
        pytest.param(
            "A=1\n# PORT=80\nB=2\n", GIT.replace("PORT='80'", "# PORT=80"), None, id="a-key-that-was-commented-out"
        ),
    ],
)
def test_only_what_changed_for_a_container_changes(live: str, content: str, labels: list[str] | None) -> None:
    assert merged(GIT, live) == (content, labels)


def test_a_value_that_refers_to_another_changes_only_where_it_is_written() -> None:
    assert merged("A=1\nB=$A\n", "A=2\nB=$A\n") == ("A=2\nB=$A\n", ["A"])


def test_where_the_order_matters_the_servers_is_taken() -> None:
    assert merged("B=1\nA=2\n", "A=3\nB=$A\n")[0] == "A=3\nB=$A\n"


def test_a_key_that_is_left_to_the_server_stays_as_git_has_it() -> None:
    assert merged("A=1\nF_X=0\n", "A=2\nF_X=1\nF_Y=1\n", ("F_*",)) == ("A=2\nF_X=0\n", ["A"])


def test_comments_that_git_does_not_get_are_counted() -> None:
    assert merge_source(b"A=1\n# b\nB=1\n", b"# a\nA=1\n# b\nB=1\n", Parser.COMPOSE).comments == 1
