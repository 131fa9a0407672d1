"""The habits of the command line: options before the command, the version, exit codes, completion."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path

import pytest

from reconciler.cli import exit_codes, main
from reconciler.cli.manual import manual

ROOT = Path(__file__).parents[2]


def run(arguments: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> int:
    """The exit code of the command line in this process."""
    monkeypatch.setattr("sys.argv", ["reconciler", *arguments])
    with pytest.raises(SystemExit) as end:
        main.main()
    return int(end.value.code or 0)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--config", "/none/of", "plan", "--json"],
        ["--config=/none/of", "--json", "plan"],
        ["-v", "--json", "--config", "/none/of", "plan"],
        ["plan", "--config", "/none/of"],
    ],
)
def test_shared_options_stand_before_or_behind_the_command(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RECONCILER_CONFIG", "/not/this")  # an option takes precedence, wherever it stands
    assert run(arguments, monkeypatch) == exit_codes.ERROR
    assert "/none/of: cannot be read" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("arguments", [["--config", "x", "check"], ["check", "--config", "x"], ["--json", "version"]])
def test_an_option_that_a_command_does_not_take_is_refused_in_front_of_it_too(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments, monkeypatch) == exit_codes.ERROR
    assert "No such option" in capsys.readouterr().err


def test_version_is_an_option_and_a_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["version"], monkeypatch) == exit_codes.IN_SYNC
    version = capsys.readouterr().out
    assert run(["--version"], monkeypatch) == exit_codes.IN_SYNC
    assert capsys.readouterr().out == version != ""


def test_every_command_is_listed_with_its_module(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module, names in main.MODULES.items():
        assert set(importlib.import_module(f"reconciler.cli.{module}").commands.by_name) == set(names)
    assert {path.stem for path in (ROOT / "reconciler/cli").glob("*.py") if "@commands." in path.read_text()} == set(
        main.MODULES
    )
    assert run(["stats"], monkeypatch) == exit_codes.ERROR
    assert "Did you mean" in (message := capsys.readouterr().err)
    assert "'status'" in message


def test_ctrl_c_is_its_own_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("reconciler.app.daemon.commands.plan_environments", interrupted)
    assert run(["plan"], monkeypatch) == exit_codes.INTERRUPTED == 130


def test_the_manual_page_is_what_make_man_writes_today() -> None:
    assert (ROOT / "deploy/man/reconciler.1").read_text() == manual(), "run `make man`"


def test_the_documented_exit_codes_are_those_of_the_commands() -> None:
    table = (ROOT / "docs/commands.md").read_text().partition("## Exit codes")[2].partition("\n## ")[0]
    rows = [line.split(" | ") for line in table.splitlines() if line.startswith("| ")][1:]
    documented = {int(code.strip("| ")): meaning.rstrip("| ").rstrip(".") for code, meaning in rows}
    assert documented == exit_codes.MEANINGS
