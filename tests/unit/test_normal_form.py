"""The normal form of env files: the same variables, in lines that sops keeps."""

from __future__ import annotations

import pytest

from reconciler.core.dotenv.grammar import EnvFileError
from reconciler.core.dotenv.interpolation import resolve_env_file, resolve_raw_env_file
from reconciler.core.model.targets import Parser
from reconciler.core.sops.dotenv_lines import UnfitError, read_lines
from reconciler.core.sops.normal_form import Rewriting, normal_form
from tests.docker.test_dotenv_differential import corpus, generate
from tests.support.cases import each

CANARY = "cAn4ry"
SCOPES = ({}, {"A": "outside", "B": "outside", "EL_SET": "x", "UNSET": "", "C": "$A"})


def formed(text: str, reader: Parser = Parser.COMPOSE, *, mounted: bool = False) -> str:
    return normal_form(text.encode(), reader, mounted=mounted).data.decode()


def variables(data: bytes, reader: Parser, scope: dict[str, str]) -> object:
    resolve = resolve_raw_env_file if reader is Parser.RAW else resolve_env_file
    try:
        return resolve(data, scope)
    except EnvFileError as error:
        return error.code


@each(
    ("text", "normal", "lines"),
    [
        pytest.param("A=1\nB=2\n", "A=1\nB=2\n", [], id="nothing"),
        pytest.param("\nA=1\n\n \t\nB=2\n\n", "#\nA=1\n#\n#\nB=2\n#\n", [1, 3, 4, 6], id="blank-lines"),
        pytest.param("A=1\n  # c\n", "A=1\n# c\n", [2], id="an-indented-comment"),
        pytest.param("A=1\nB=2", "A=1\nB=2\n", [2], id="no-last-line-feed"),
        pytest.param("\ufeffA=1\n", "A=1\n", [1], id="a-byte-order-mark"),
        pytest.param("# c\r\n\r\nA=1\r\nB='x' # y\r\n", "# c\n#\nA=1\nB='x' # y\n", [1, 2, 3, 4], id="windows"),
        pytest.param("A=1 \t\n# c \nB=' x '  \n", "A=1\n# c \nB=' x '\n", [1, 3], id="blanks-at-the-end"),
        pytest.param("A: 1 # one\nB : '2'\n", "A=1 # one\nB='2'\n", [1, 2], id="a-colon"),
        pytest.param("A='x' B=y\n", "A='x'\nB=y\n", [1], id="two-in-a-line"),
        pytest.param('export A="1\n2" # c\nB=3\n', 'export A="1\\n2" # c\nB=3\n', [1], id="several-lines"),
        pytest.param('A="\\\\n\n\\"$B ${C} \\$d\\\n"\n', 'A="\\\\n\\n\\"$B ${C} $$d\\\\\\n"\n', [1], id="escapes"),
        pytest.param("A='$B\n\"\\n'\n", 'A="\\$B\\n\\"\\\\n"\n', [1], id="single-quotes"),
        pytest.param("A=1\nB=$C\nA=2\n", "# A=1\nB=$C\nA=2\n", [1], id="a-key-twice"),
        pytest.param('A="1\n2"\nA=3\nA=4\n', '# A="1\\n2"\n# A=3\nA=4\n', [1, 3], id="a-key-three-times"),
        pytest.param("export\nA=1\n", "# export\nA=1\n", [1], id="export-of-nothing"),
        pytest.param("", "", [], id="empty"),
    ],
)
def test_each_line_is_rewritten_as_little_as_needed(text: str, normal: str, lines: list[int]) -> None:
    form = normal_form(text.encode(), Parser.COMPOSE)
    assert (form.data.decode(), [rewriting.line for rewriting in form.rewritings]) == (normal, lines)


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        pytest.param("\nTZ\nA=1\n", 2, "without a value", id="a-bare-key"),
        pytest.param(f"A={CANARY}\nB=$A\nA=2\n", 1, "line 2 needs this value", id="a-reference-to-the-first"),
        pytest.param(f"A={CANARY}\nA=$A:2\n", 1, "line 2 needs this value", id="a-value-that-grows"),
        pytest.param(f"A=1\n\nb_unencrypted={CANARY}\n", 3, "in plain text", id="a-name-that-sops-leaves-plain"),
        pytest.param(f"\nsops_x={CANARY}\n", 2, "its own metadata", id="a-name-of-sops"),
        pytest.param(f'K="a"\n-----BEGIN\n{CANARY}\n', 2, "without a value", id="an-unquoted-certificate"),
    ],
)
def test_a_file_without_a_normal_form_is_refused_with_its_line(text: str, line: int, reason: str) -> None:
    with pytest.raises(UnfitError) as caught:
        normal_form(text.encode(), Parser.COMPOSE)
    assert (caught.value.line, reason in caught.value.reason) == (line, True)
    assert CANARY not in str(caught.value)


def test_the_grammar_of_docker_run_keeps_every_byte_of_a_value() -> None:
    assert formed("\r\n # c\r\nA= 'x' \r\nA=1\t\n", Parser.RAW) == "#\n# c\n# A= 'x'\nA=1\t\n"
    assert formed("A=$A\nA=2\n", Parser.RAW) == "# A=$A\nA=2\n"  # it has no references


@pytest.mark.parametrize("text", ['A="1\n2"\n', "A=1\nA=2\n", "A: 1\n", "\ufeffA=1\n"])
def test_of_a_file_that_a_container_reads_itself_only_comments_change(text: str) -> None:
    assert formed("\r\nA=1 \r\n  # c\n", mounted=True) == "#\nA=1 \r\n# c\n"
    with pytest.raises(UnfitError, match="a container reads the file itself"):
        formed(text, mounted=True)


def test_generated_files_and_the_corpus_mean_the_same_and_fit_into_sops() -> None:
    files = [*corpus(), *(data for seed in (1, 2, 3) for data in generate(seed, 500))]
    forms = 0
    for data in files:
        for reader in (Parser.COMPOSE, Parser.RAW):
            try:
                form = normal_form(data, reader)
            except (EnvFileError, UnfitError):
                continue
            forms += 1
            read_lines(form.data, reader)
            assert [variables(form.data, reader, scope) for scope in SCOPES] == [
                variables(data, reader, scope) for scope in SCOPES
            ], data
            assert normal_form(form.data, reader).data == form.data, data
            assert not normal_form(form.data, reader).rewritings, data
            assert bool(form.rewritings) == (form.data != data), data
    assert forms > len(files) // 2


def test_a_rewriting_shows_no_value() -> None:
    form = normal_form(f"A={CANARY}\n\nB='{CANARY}\nx'\nA={CANARY}".encode(), Parser.COMPOSE)
    assert CANARY not in repr(form)
    assert form.rewritings[1] == Rewriting(2, "the blank line becomes a comment")
