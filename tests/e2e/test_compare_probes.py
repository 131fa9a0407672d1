"""Parity probes of `reconciler compare`: commands and addresses asked on both sides."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.test_compare import compare, data, only_comparison, ssh, trusting, written
from tests.support.compose import ComposeProject
from tests.support.server import Server
from tests.support.site import Site
from tests.support.sshd import Sshd

SLEEPER = "image: IMAGE, network_mode: host, command: sleep 600, stop_grace_period: 0s"


def sides(root: Path, left: str, right: str) -> list[str]:
    """Two directories with the same env file, and another lock file each."""
    first = written(root / "first", {"a.env": "A=1\n", "lock.txt": left})
    second = written(root / "second", {"a.env": "A=1\n", "lock.txt": right})
    return [f"file:{first}", f"file:{second}", "--same-environment"]


def probed(root: Path, *arguments: str, code: int = 2, **probe: Any) -> dict[str, Any]:
    file = root / "probes.yaml"
    file.write_text(yaml.safe_dump({"probes": {"it": probe}}))
    (result,) = only_comparison(data(root, *arguments, "--probes", str(file), code=code))["probes"]
    return dict(result)


CAT = ["cat", "lock.txt"]


def test_a_different_output_is_reported_by_its_line_without_the_output(tmp_path: Path) -> None:
    arguments = sides(tmp_path, "one\ninvented-left\n", "one\ninvented-right\n")
    probe = probed(tmp_path, *arguments, run=CAT)
    assert probe["class"] == "differs"
    assert probe["first_different_line"] == 2
    assert (probe["left"], probe["right"]) == ("exit 0: 2 lines", "exit 0: 2 lines")


def test_white_space_and_ignored_text_make_no_difference(tmp_path: Path) -> None:
    arguments = sides(tmp_path, "a  b\nbuilt at 10:00\n\n", "a b \nbuilt at 11:00\n")
    assert probed(tmp_path, *arguments, run=CAT)["first_different_line"] == 2
    assert probed(tmp_path, *arguments, run=CAT, ignore="at [0-9:]+", code=0)["class"] == "same"


def test_a_reason_makes_it_expected_and_show_shows_it(tmp_path: Path) -> None:
    arguments = sides(tmp_path, "3a1 (head)\n", "3a0\n")
    probe = probed(tmp_path, *arguments, run=CAT, show=True, expected="the second one is upgraded tonight", code=0)
    assert (probe["class"], probe["reason"]) == ("expected", "the second one is upgraded tonight")
    assert (probe["left"], probe["right"]) == ("exit 0: 3a1 (head)", "exit 0: 3a0")


def test_a_reason_for_other_answers_is_none_for_a_probe_that_fails_on_one_side(tmp_path: Path) -> None:
    arguments = sides(tmp_path, "one\n", "two\n")
    reason = "each of them says its own name"
    assert probed(tmp_path, *arguments, run=CAT, expected=reason, code=0)["class"] == "expected"
    (tmp_path / "second" / "lock.txt").unlink()
    probe = probed(tmp_path, *arguments, run=CAT, expected=reason)
    assert (probe["class"], probe["right"], probe["reason"]) == (
        "differs",
        "exit 1: cat: lock.txt: No such file or directory",
        "",
    )
    probe = probed(tmp_path, *arguments, run=["env", "--", "./tool"], expected=reason)
    assert probe["class"] == "failed"
    written(tmp_path / "first", {"tool": "#!/bin/sh\necho one\n"}, mode=0o755)
    probe = probed(tmp_path, *arguments, run=["env", "--", "./tool"], expected=reason)
    assert (probe["class"], probe["left"]) == ("differs", "exit 0: 1 line")
    assert probe["right"].startswith("exit 127: ")
    assert "No such file or directory" in probe["right"]


@pytest.mark.parametrize("argv", [["no-such-program"], ["false"], ["cat", "no-such-file"]], ids=" ".join)
def test_a_command_that_fails_on_both_sides_proves_nothing(tmp_path: Path, argv: list[str]) -> None:
    assert probed(tmp_path, *sides(tmp_path, "", ""), run=argv)["class"] == "failed"


def test_bytes_that_are_not_text_make_a_difference_and_are_not_shown(tmp_path: Path) -> None:
    arguments = sides(tmp_path, "", "")
    (tmp_path / "first" / "lock.txt").write_bytes(b"caf\xe9\n")
    (tmp_path / "second" / "lock.txt").write_bytes(b"caf\xe8\n")
    probe = probed(tmp_path, *arguments, run=CAT, show=True)
    assert (probe["class"], probe["first_different_line"]) == ("differs", 1)
    assert (probe["left"], probe["right"]) == ("exit 0: caf\N{REPLACEMENT CHARACTER}",) * 2


def test_no_shell_reads_the_arguments(tmp_path: Path) -> None:
    probe = probed(tmp_path, *sides(tmp_path, "", ""), run=["echo", "$HOME; id"], show=True, code=0)
    assert probe["left"] == "exit 0: $HOME; id"


@pytest.mark.sshd
def test_over_ssh_it_runs_in_the_directory_of_the_side(sshd: Sshd, tmp_path: Path) -> None:
    left, *_ = sides(tmp_path, "same $x\n", "same $x\n")
    arguments = [left, ssh(sshd, tmp_path / "second"), "--same-environment", *trusting(sshd)]
    assert probed(tmp_path, *arguments, run=CAT, code=0)["class"] == "same"
    (tmp_path / "second" / "lock.txt").write_text("other\n")
    assert probed(tmp_path, *arguments, run=CAT)["class"] == "differs"
    assert probed(tmp_path, *arguments, run=["echo", "$HOME; id"], show=True, code=0)["right"] == "exit 0: $HOME; id"
    assert probed(tmp_path, *arguments, run=["sleep", "60"], timeout="1s")["right"] == "sleep timed out after 1 s"


class _Answers(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        code = 503 if "down" in self.path else 200
        body = f"{self.headers['Host']} {self.path}\n".encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def address() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Answers) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        serving.join()


@pytest.mark.sshd
def test_an_address_is_requested_from_the_machine_of_each_side(sshd: Sshd, tmp_path: Path, address: str) -> None:
    left, *_ = sides(tmp_path, "", "")
    arguments = [left, ssh(sshd, tmp_path / "second"), "--same-environment", *trusting(sshd)]
    probe = probed(tmp_path, *arguments, url=f"{address}/health", show=True, code=0)
    assert probe["class"] == "same"
    assert probe["left"] == f"status 200: {address.removeprefix('http://')} /health"
    assert probe["right"] == probe["left"]
    assert probed(tmp_path, *arguments, url=f"{address}/down")["class"] == "failed"
    assert probed(tmp_path, *arguments, url="http://127.0.0.1:9/")["left"] == "no answer"


@pytest.mark.docker
def test_a_probe_runs_in_the_container_of_a_service(
    compose_project: Callable[..., ComposeProject], tmp_path: Path
) -> None:
    text = f"services: {{api: {{{SLEEPER}, hostname: HOST}}}}\n"
    first, second = (compose_project(text.replace("HOST", name), {"a.env": "A=1\n"}) for name in ("one", "two"))
    first.up()
    second.up()
    arguments = [f"file:{first.directory}", f"file:{second.directory}", "--same-environment"]
    probe = probed(tmp_path, *arguments, run=["hostname"], service="api", show=True)
    assert (probe["left"], probe["right"], probe["class"]) == ("exit 0: one", "exit 0: two", "differs")
    warned_of = text.replace("HOST", "'${UNSET}'")
    first.write("compose.yaml", f"version: '3'\n{warned_of}")
    failing = ["sh", "-c", "echo broken >&2; exit 3"]
    elsewhere = sides(tmp_path, "", "")  # the project is not part of the side
    probe = probed(tmp_path, *elsewhere, run=failing, service="api", directory=str(first.directory))
    assert probe["left"] == "exit 3: broken"


@pytest.mark.docker
def test_a_probe_of_a_service_finds_a_project_that_was_started_with_options(
    compose_project: Callable[..., ComposeProject], tmp_path: Path
) -> None:
    text = f"services: {{api: {{{SLEEPER}, hostname: '${{NAME:?}}'}}}}\n"
    first, second = (compose_project(text, {"prod.env": f"NAME={name}\n"}) for name in ("one", "two"))
    for project in (first, second):
        assert project.compose("--env-file", "prod.env", "up", "-d", "--pull", "never").returncode == 0
    arguments = [f"file:{first.directory}", f"file:{second.directory}", "--same-environment"]
    probe = probed(tmp_path, *arguments, run=["hostname"], service="api", show=True)
    assert (probe["left"], probe["right"]) == ("exit 0: one", "exit 0: two")


@pytest.mark.docker
def test_a_probe_of_a_service_runs_in_the_project_below_the_side_and_shows_a_masked_error(
    compose_project: Callable[..., ComposeProject], tmp_path: Path
) -> None:
    text = f"services: {{api: {{{SLEEPER}}}}}\n"
    project = compose_project(text, {"a.env": "TOKEN=invented-secret\n"})
    (project.directory / "docker").mkdir()
    (project.directory / "compose.yaml").rename(project.directory / "docker" / "prod.yaml")
    files = ("--project-directory", "docker", "-f", "docker/prod.yaml")
    assert project.compose("-p", project.name, *files, "up", "-d", "--pull", "never").returncode == 0
    arguments = [f"file:{project.directory}", f"file:{project.directory}", "--same-environment"]
    assert (
        probed(tmp_path, *arguments, run=["echo", "here"], service="api", show=True, code=0)["left"] == "exit 0: here"
    )
    failing = ["sh", "-c", "echo cannot use invented-secret >&2; exit 3"]
    assert probed(tmp_path, *arguments, run=failing, service="api")["left"] == "exit 3: cannot use ***"
    probe = probed(tmp_path, *arguments, run=["true"], service="nobody")
    assert (probe["class"], probe["left"]) == ("failed", "no Compose project has a service nobody")


def test_the_servers_file_has_probes_and_git_has_none(server: Server, tmp_path: Path) -> None:
    arguments = sides(tmp_path, "1", "2")
    server.settings["probes"] = {"lock": {"run": CAT}}
    comparison = only_comparison(data(tmp_path, *arguments, "--config", str(server.config)))
    assert [probe["probe"] for probe in comparison["probes"]] == ["lock"]


def test_a_file_of_probes_in_the_clone_is_refused(site: Site) -> None:
    site.commit("Start")
    site.write("probes.yaml", yaml.safe_dump({"probes": {"it": {"run": ["touch", "never"]}}}))
    done = compare(site.root, "file:.", "file:.", "--probes", "envs/probes.yaml")
    assert done.returncode == 1
    assert "lies in the repository, where git could change it" in done.stderr


def test_all_mistakes_in_a_file_of_probes_are_reported_together(tmp_path: Path) -> None:
    wrong = {
        "u": {"url": "http://h:99999/"},
        "a": {"run": ["x"], "url": "http://h/"},
        "b": {"run": "x y"},
        "c": {"run": ["x"], "ignore": "("},
    }
    (tmp_path / "probes.yaml").write_text(yaml.safe_dump({"probes": wrong}))
    done = compare(tmp_path, "file:.", "file:.", "--probes", "probes.yaml")
    assert done.returncode == 1
    for message in (
        "an invalid host or port",
        "must have either run or url",
        "must be a list, not text",
        "is not a regular expression",
    ):
        assert message in done.stderr
