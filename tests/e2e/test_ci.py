"""The jobs and hooks of deploy/ci: valid for their readers, and each of their commands run in a scratch clone."""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.commands import output, run
from tests.support.forks import forked_command
from tests.support.site import Site

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
CI = ROOT / "deploy" / "ci"
BIN = Path(sys.executable).parent
MARKER = "<!-- reconciler-diff -->"

GITHUB = yaml.safe_load((CI / "github.yml").read_text())["jobs"]["configuration"]
GITHUB_STEPS = {step["name"]: step for step in GITHUB["steps"] if "run" in step}
GITLAB = yaml.safe_load((CI / "gitlab-ci.yml").read_text())["configuration"]
HOOKS = {hook["id"]: hook for hook in yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())}


@pytest.fixture
def branch(site: Site) -> Site:
    """A clone whose branch main is one commit behind HEAD."""
    site.commit("Start")
    site.git("checkout", "--quiet", "-b", "topic")
    site.in_place("set", "production/worker.env", value='["WORKERS"] "8"')
    site.in_place("unset", "staging/worker.env", value='["QUEUE"]')
    site.commit("Change")
    return site


# --- valid for their readers ---


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(["--builtin-schema", "vendor.github-workflows", CI / "github.yml"], id="github"),
        pytest.param(
            ["--builtin-schema", "vendor.gitlab-ci", "--data-transform", "gitlab-ci", CI / "gitlab-ci.yml"], id="gitlab"
        ),
    ],
)
def test_a_job_fits_the_schema_of_its_server(arguments: list[str | Path]) -> None:
    output(BIN / "check-jsonschema", *arguments)


@pytest.mark.parametrize(
    ("command", "file"),
    [("validate-manifest", ROOT / ".pre-commit-hooks.yaml"), ("validate-config", CI / "pre-commit-config.yaml")],
)
def test_pre_commit_takes_the_hooks_and_the_example(command: str, file: Path, tmp_path: Path) -> None:
    output(BIN / "pre-commit", command, file, env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)})


def test_the_example_uses_hooks_that_there_are() -> None:
    (repository,) = yaml.safe_load((CI / "pre-commit-config.yaml").read_text())["repos"]
    assert {hook["id"] for hook in repository["hooks"]} == HOOKS.keys()


def test_every_command_of_the_jobs_is_run_by_a_test_below() -> None:
    assert set(GITHUB_STEPS) == {"Install", "Check", "Describe the change", "Comment"}
    assert len(GITLAB["script"]) == 6
    assert set(HOOKS) == {"reconciler-check", "reconciler-diff"}


# --- installing ---


@pytest.mark.parametrize("command", [GITHUB_STEPS["Install"]["run"], GITLAB["script"][0]], ids=["github", "gitlab"])
def test_the_command_is_installed(command: str, tmp_path: Path) -> None:
    target = tmp_path / "installed"
    settings = {"PIP_TARGET": str(target), "PIP_NO_DEPS": "1", "PIP_NO_BUILD_ISOLATION": "false", "PIP_NO_INDEX": "1"}
    bash(command, tmp_path, {"RECONCILER": str(ROOT), **settings})
    assert (target / "bin" / "reconciler").exists()
    assert (target / "reconciler" / "adapters" / "json_schema" / "worker.py").exists()


# --- GitHub ---


def bash(
    script: str, directory: Path, env: Mapping[str, str] | None = None, *, programs: Path | None = None, code: int = 0
) -> str:
    """Run it as the servers do; return what it printed."""
    places = [*([programs] if programs else []), forked_command().parent, BIN]
    path = os.pathsep.join([*map(str, places), os.environ["PATH"]])
    everything = {"PATH": path, "HOME": str(directory), **(env or {})}
    done = run("bash", "-eo", "pipefail", "-c", script, env=everything, cwd=directory)
    assert done.returncode == code, done.stdout.decode() + done.stderr.decode()
    return done.stdout.decode()


def github(site: Site, name: str, tmp_path: Path, *, code: int = 0) -> str:
    """Run a step, with its expressions replaced by what they stand for in this clone."""
    known = {
        "github.event.pull_request.base.sha": site.git("rev-parse", "main"),
        "github.event.pull_request.head.sha": site.git("rev-parse", "HEAD"),
        "github.event.pull_request.number": "7",
        "github.repository": "acme/config",
        "github.token": "a-token",
    }
    step = GITHUB_STEPS[name]
    env = {
        key: re.sub(r"\$\{\{ (.+?) \}\}", lambda match: known[match[1]], value)
        for key, value in step.get("env", {}).items()
    }
    temporary = {"RUNNER_TEMP": str(tmp_path), "GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md")}
    return bash(step["run"], site.root, {**env, **temporary}, programs=tmp_path / "bin", code=code)


@pytest.fixture
def gh(tmp_path: Path) -> Path:
    """A gh that notes its arguments, and lists the comments in the file ``comments``; jq's filter is shown applied."""
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "gh"
    program.write_text(
        f'#!/bin/sh\nprintf "%s\\n" "$*" >> {tmp_path}/calls\n'
        f'case "$*" in *--jq*) cat {tmp_path}/comments 2>/dev/null || true;; esac\n'
    )
    program.chmod(0o755)
    return tmp_path / "calls"


def test_the_check_annotates_and_fails_where_something_is_wrong(branch: Site, tmp_path: Path) -> None:
    assert "::" not in github(branch, "Check", tmp_path, code=2).partition("::")[0]
    annotations = github(branch, "Check", tmp_path, code=2).splitlines()
    assert annotations[0].startswith("::error file=envs/staging/worker.env,line=1,title=example-key-missing::QUEUE")
    branch.git("checkout", "--quiet", "main")
    github(branch, "Check", tmp_path)


def test_the_change_is_described_in_the_summary(branch: Site, tmp_path: Path) -> None:
    github(branch, "Describe the change", tmp_path)
    text = (tmp_path / "summary.md").read_text()
    assert text.startswith(MARKER)
    assert "`WORKERS`" in text
    assert text == (tmp_path / "comment.md").read_text()


def test_the_first_comment_is_posted_and_later_ones_replace_it(branch: Site, tmp_path: Path, gh: Path) -> None:
    body = f"-F body=@{tmp_path}/comment.md"
    github(branch, "Comment", tmp_path)
    look, post = gh.read_text().splitlines()
    assert look.startswith("api --paginate repos/acme/config/issues/7/comments --jq ")
    assert MARKER in look
    assert post == f"api --silent --method POST repos/acme/config/issues/7/comments {body}"

    (tmp_path / "comments").write_text("4711\n4712\n")
    github(branch, "Comment", tmp_path)
    assert gh.read_text().splitlines()[-1] == (
        f"api --silent --method PATCH repos/acme/config/issues/comments/4711 {body}"
    )


def test_the_job_may_do_no_more_than_it_needs() -> None:
    workflow = yaml.safe_load((CI / "github.yml").read_text())
    assert workflow["permissions"] == {"contents": "read", "pull-requests": "write"}
    checkout = GITHUB["steps"][0]["with"]
    assert checkout == {"fetch-depth": 0, "persist-credentials": False}
    for step in GITHUB_STEPS.values():
        assert "${{" not in step["run"], "what a pull request says must not become part of a script"


# --- GitLab ---


class Notes(BaseHTTPRequestHandler):
    """The notes of one merge request, a page each."""

    bodies: list[str]
    requests: list[tuple[str, str, str]]

    def _answer(self, data: Any, next_page: str = "") -> None:
        self.send_response(200)
        self.send_header("X-Next-Page", next_page)
        self.end_headers()
        self.wfile.write(json.dumps(data).encode())

    def _note(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        body = json.loads(self.rfile.read(length))["body"] if length else ""
        self.requests.append((self.command, self.path.partition("?")[0], body))
        assert self.headers["PRIVATE-TOKEN"] == "a-token"

    def do_GET(self) -> None:
        self._note()
        page = int(self.path.rpartition("page=")[2])
        notes = [{"id": page, "body": self.bodies[page - 1]}] if page <= len(self.bodies) else []
        self._answer(notes, str(page + 1) if page < len(self.bodies) else "")

    def do_POST(self) -> None:
        self._note()
        self._answer({})

    do_PUT = do_POST  # noqa: N815  # the name http.server asks for

    def log_message(self, format: str, *args: Any) -> None: ...


@contextmanager
def gitlab_server(bodies: list[str]) -> Iterator[tuple[str, list[tuple[str, str, str]]]]:
    requests: list[tuple[str, str, str]] = []
    handler = type("Handler", (Notes,), {"bodies": bodies, "requests": requests})
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/api/v4", requests
        finally:
            server.shutdown()
            thread.join()


def gitlab(site: Site, number: int, *, url: str = "", code: int = 0, **more: str) -> str:
    env = {
        "CI_MERGE_REQUEST_DIFF_BASE_SHA": site.git("rev-parse", "main"),
        "CI_COMMIT_SHA": site.git("rev-parse", "HEAD"),
        "CI_API_V4_URL": url,
        "CI_PROJECT_ID": "3",
        "CI_MERGE_REQUEST_IID": "7",
        **({"RECONCILER_TOKEN": "a-token"} if url else {}),
        **more,
    }
    return bash(GITLAB["script"][number], site.root, env, code=code)


@pytest.mark.parametrize(
    ("before", "method", "path"),
    [
        pytest.param([], "POST", "notes", id="first"),
        pytest.param(["hello", f"{MARKER}\nold"], "PUT", "notes/2", id="replaced, on the second page"),
        pytest.param(["hello", f"no {MARKER}"], "POST", "notes", id="somebody quoted it"),
    ],
)
def test_the_note_is_posted_once_and_then_replaced(branch: Site, before: list[str], method: str, path: str) -> None:
    gitlab(branch, 3)
    with gitlab_server(before) as (url, requests):
        gitlab(branch, 4, url=url)
    assert requests[-1][:2] == (method, f"/api/v4/projects/3/merge_requests/7/{path}")
    assert requests[-1][2] == (branch.root / "comment.md").read_text()
    assert requests[-1][2].startswith(MARKER)


def test_without_a_token_no_note_is_posted(branch: Site) -> None:
    gitlab(branch, 3)
    assert gitlab(branch, 4) == ""


def test_in_a_pipeline_of_merged_results_only_the_branchs_own_changes_are_described(branch: Site) -> None:
    topic = branch.git("rev-parse", "HEAD")
    branch.git("checkout", "--quiet", "main")
    branch.in_place("set", "production/worker.env", value='["API_TOKEN"] "invented-other"')
    branch.commit("Meanwhile")
    branch.git("checkout", "--quiet", "--detach")
    branch.git("merge", "--quiet", "--no-commit", "--strategy", "ours", "topic")
    branch.commit("Merged result")
    gitlab(branch, 3, CI_MERGE_REQUEST_SOURCE_BRANCH_SHA=topic, CI_MERGE_REQUEST_DIFF_BASE_SHA=f"{topic}~1")
    text = (branch.root / "comment.md").read_text()
    assert "WORKERS" in text
    assert "API_TOKEN" not in text


def test_the_report_is_written_and_then_the_job_fails(branch: Site) -> None:
    gitlab(branch, 1)
    report = json.loads((branch.root / "gl-code-quality-report.json").read_text())
    assert {finding["check_name"] for finding in report} == {"example-key-missing"}
    assert "example-key-missing" in gitlab(branch, 2)
    gitlab(branch, 5, code=2)
    branch.git("checkout", "--quiet", "main")
    gitlab(branch, 2)
    gitlab(branch, 5)


# --- pre-commit ---


def hook(site: Site, name: str, *, code: int = 0, **env: str) -> str:
    settings = HOOKS[name]
    return bash(shlex.join([*shlex.split(settings["entry"]), *settings.get("args", [])]), site.root, env, code=code)


def test_a_push_is_described_by_the_refs_of_pre_commit_and_never_blocked(branch: Site) -> None:
    """A clone made by `git init` and `git fetch`, as CI makes it, has no origin/HEAD."""
    assert "origin/HEAD is not set" in hook(branch, "reconciler-diff")
    refs = {
        "PRE_COMMIT_FROM_REF": branch.git("rev-parse", "main"),
        "PRE_COMMIT_TO_REF": branch.git("rev-parse", "topic"),
    }
    assert "~ WORKERS" in hook(branch, "reconciler-diff", **refs)
    refs["PRE_COMMIT_FROM_REF"] = "0" * 40
    assert "origin/HEAD is not set" in hook(branch, "reconciler-diff", **refs)


@pytest.mark.parametrize("name", HOOKS)
def test_the_hooks_also_check_the_rules_beside_the_environments(name: str) -> None:
    for path in (".sops.yaml", "envs/production/api.env"):
        assert re.search(HOOKS[name]["files"], path)


def test_later_steps_run_only_after_what_they_need() -> None:
    assert "steps.install.outcome == 'success'" in GITHUB_STEPS["Describe the change"]["if"]
    assert "steps.describe.outcome == 'success'" in GITHUB_STEPS["Comment"]["if"]


def test_the_hooks_run_what_they_name(branch: Site, tmp_path: Path) -> None:
    assert "example-key-missing" in hook(branch, "reconciler-check", code=2)
    branch.git("clone", "--quiet", "--branch", "topic", str(branch.root), str(tmp_path / "second"))
    second = Site(tmp_path / "second", branch.production, branch.staging, branch.keys)
    second.git("remote", "set-head", "origin", "main")
    assert "~ WORKERS" in hook(second, "reconciler-diff")
