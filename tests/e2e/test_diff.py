"""`reconciler diff` on commits of files made by the real sops: what changed, by key, without any key."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.forks import reconciler
from tests.support.json_answers import read_answer
from tests.support.site import API, ENVIRONMENTS, WORKER, Site, sops_rules

pytestmark = pytest.mark.slow

CANARY = "invented-"
NOTHING = {"added": [], "removed": [], "changed": []}


def diff(site: Site, *arguments: str, cwd: Path | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    given = {"PATH": os.environ.get("PATH", os.defpath), "HOME": "/nonexistent", **env}
    return reconciler("diff", *arguments, env=given, cwd=cwd or site.root)


def data(site: Site, span: str = "HEAD~1..HEAD", *arguments: str) -> dict[str, Any]:
    done = diff(site, span, "--json", *arguments)
    assert done.returncode == 0, done.stderr
    assert CANARY not in done.stdout
    content: dict[str, Any] = read_answer("diff", done.stdout)
    return content


def one_file(site: Site, *arguments: str) -> dict[str, Any]:
    (file,) = data(site, "HEAD~1..HEAD", *arguments)["files"]
    return dict(file)


@pytest.fixture
def committed(site: Site) -> Site:
    site.commit("Start")
    return site


def worker(site: Site, environment: str = "production", more: str = "") -> str:
    return WORKER.format(environment=environment) + more


# --- keys ---


def test_a_value_that_sops_encrypted_again_is_a_changed_key(committed: Site) -> None:
    committed.in_place("set", "production/worker.env", value='["WORKERS"] "8"')
    committed.commit()
    file = one_file(committed)
    assert file["keys"] == {"added": [], "removed": [], "changed": ["WORKERS"]}
    assert (file["environment"], file["source"], file["stack"], file["live"], file["status"]) == (
        "production", "worker.env", "app", "/opt/app/config/worker.env", "modified",
    )  # fmt: skip
    assert file["only_reencrypted"] is False


def test_added_and_removed_keys_are_named(committed: Site) -> None:
    committed.in_place("set", "production/worker.env", value='["NEW"] "1"')
    committed.in_place("unset", "production/worker.env", value='["QUEUE"]')
    committed.commit()
    assert one_file(committed)["keys"] == {"added": ["NEW"], "removed": ["QUEUE"], "changed": []}


def test_a_value_emptied_without_any_key_is_a_changed_key(committed: Site) -> None:
    lines = committed.read("production/worker.env").splitlines()
    committed.write("production/worker.env", "\n".join(["QUEUE=", *lines[1:], ""]))
    committed.commit()
    assert one_file(committed)["keys"]["changed"] == ["QUEUE"]


def test_only_a_key_shows_that_a_rotated_file_has_the_same_values(committed: Site) -> None:
    """Whoever has the public key can encrypt other values under the old ivs."""
    committed.in_place("rotate", "production/worker.env", "--in-place")
    committed.commit()
    file = one_file(committed)
    assert (file["keys"], file["rotated"], file["only_reencrypted"]) == (NOTHING, True, False)
    message = diff(committed, "HEAD~1..HEAD").stdout
    assert "every value was re-encrypted (rotate?); without a key it is unknown whether values changed" in message
    assert "no value changed" not in message
    file = one_file(committed, "--age-key-file", str(committed.keys))
    assert (file["keys"], file["rotated"], file["only_reencrypted"]) == (NOTHING, False, True)


def test_a_rotated_value_of_another_length_is_a_changed_key(committed: Site) -> None:
    committed.in_place("rotate", "production/worker.env", "--in-place")
    text = committed.read("production/worker.env")
    value = re.search(r"QUEUE=ENC\[AES256_GCM,data:([^,]+),", text)
    assert value is not None
    committed.replace("production/worker.env", value[1], "AAAA" + value[1])
    committed.commit()
    assert one_file(committed)["keys"]["changed"] == ["QUEUE"]


def test_new_recipients_are_reported_and_no_key_is_changed(committed: Site) -> None:
    both = f"{committed.production.public},{committed.staging.public}"
    rules = sops_rules(committed).replace(f"age: {committed.production.public}", f"age: {both}")
    committed.write(".sops.yaml", rules)
    committed.in_place("updatekeys", "production/worker.env", "--yes")
    committed.commit()
    changes = data(committed)
    (file,) = changes["files"]
    assert file["recipients"] == {"added": [committed.staging.public], "removed": []}
    assert (file["keys"], file["only_reencrypted"]) == (NOTHING, True)
    assert changes["others"] == [{"path": ".sops.yaml", "status": "modified"}]


def test_a_recipient_that_leaves_still_knows_the_old_values(committed: Site) -> None:
    both = f"{committed.production.public},{committed.staging.public}"
    committed.encrypt("production/worker.env", worker(committed), recipients=both)
    committed.commit()
    committed.in_place("updatekeys", "production/worker.env", "--yes")
    committed.commit()
    assert one_file(committed)["recipients"] == {"added": [], "removed": [committed.staging.public]}
    assert "knows the old values" in diff(committed, "HEAD~1..HEAD").stdout


def test_ciphertext_that_changed_under_its_old_iv_is_not_taken_for_a_rotation(committed: Site) -> None:
    """sops would never write that: somebody changed the file by hand."""
    text = committed.read("production/worker.env")
    value = re.search(r"QUEUE=ENC\[AES256_GCM,data:([^,]+),", text)
    assert value is not None
    committed.replace("production/worker.env", value[1], "A" * (len(value[1]) - 2) + "==")
    committed.commit()
    file = one_file(committed)
    assert (file["keys"]["changed"], file["only_reencrypted"]) == (["QUEUE"], False)


def test_added_and_removed_files_are_reported_with_all_their_keys(committed: Site) -> None:
    committed.encrypt("production/mailer.env", "MAIL_FROM=ada@example.org\n")
    committed.replace("production/environment.yaml", "      flags.env", "      mailer.env:\n      flags.env")
    committed.commit()
    changes = data(committed)
    (file,) = changes["files"]
    assert (file["status"], file["keys"]["added"]) == ("added", ["MAIL_FROM"])
    (target,) = changes["targets"]
    assert (target["environment"], target["change"], target["source"], target["stack"]) == (
        "production", "added", "mailer.env", "app",
    )  # fmt: skip
    back = data(committed, "HEAD..HEAD~1")
    assert (back["files"][0]["status"], back["files"][0]["keys"]["removed"]) == ("removed", ["MAIL_FROM"])


def test_plain_env_files_are_compared_by_their_variables(committed: Site) -> None:
    committed.write("production/flags.env", "# a comment\nFEATURE_SEARCH='on'\nFEATURE_CHAT=on\n")
    committed.commit()
    assert one_file(committed)["keys"] == {"added": ["FEATURE_CHAT"], "removed": [], "changed": []}


def test_other_plain_files_are_reported_as_changed(committed: Site) -> None:
    committed.write("production/nginx.conf", "server {}\n")
    committed.commit()
    assert (one_file(committed)["note"], one_file(committed)["keys"]) == ("content changed", NOTHING)
    (committed.envs / "production/nginx.conf").unlink()
    committed.commit()
    assert "content changed" not in one_file(committed)["note"]  # it is removed


def test_a_file_that_cannot_be_read_is_reported(committed: Site) -> None:
    committed.write("production/worker.env", "<<<<<<< ours\n" + committed.read("production/worker.env"))
    committed.commit()
    assert "`reconciler check` shows why" in one_file(committed)["note"]


def test_a_file_that_is_no_longer_encrypted_is_reported(committed: Site) -> None:
    committed.write("production/worker.env", worker(committed))
    committed.replace("production/environment.yaml", "worker.env: config/worker.env", "worker.env: {encrypted: false}")
    committed.commit()
    assert one_file(committed)["note"] == "is no longer encrypted"


@pytest.mark.parametrize("how", ["damaged", "partly plain", "plain"])
def test_readable_names_of_a_damaged_or_plain_file_are_reported(committed: Site, how: str) -> None:
    committed.in_place("unset", "production/worker.env", value='["QUEUE"]')
    first, *rest = committed.read("production/worker.env").splitlines()
    assert first.startswith("WORKERS=")
    made = {"damaged": [f"{first}junk", *rest], "partly plain": ["WORKERS=invented-4", *rest],
            "plain": ["WORKERS=invented-4", "API_TOKEN=invented-x"]}  # fmt: skip
    committed.write("production/worker.env", "\n".join([*made[how], ""]))
    committed.commit()
    file = one_file(committed)
    assert file["keys"]["removed"] == ["QUEUE"]
    assert "WORKERS" in file["keys"]["changed"]
    assert "check` shows why" in file["note"]
    assert "without a key" not in file["note"]
    assert "**Keys are removed:** `QUEUE`" in markdown(committed)


@pytest.mark.parametrize(
    ("old", "new", "detail"),
    [
        (
            "worker.env: config/worker.env",
            "worker.env: worker.env",
            "path /opt/app/config/worker.env → /opt/app/worker.env",
        ),
        ("worker.env: config/worker.env", "worker.env: {path: config/worker.env, mode: '0640'}", "mode 0600 → 0640"),
        ("schema: contracts/api.yaml", "mode: '0600'", "schema contracts/api.yaml → none"),
        ("directory: /opt/app", "directory: /srv/app", "path /opt/app/api.env → /srv/app/api.env"),
        ("  app:", "  web:", "stack app → web"),
    ],
)
def test_changed_fields_of_a_target_are_reported(committed: Site, old: str, new: str, detail: str) -> None:
    committed.replace("production/environment.yaml", old, new)
    committed.commit()
    targets = data(committed)["targets"]
    assert detail in [detail_line for target in targets for detail_line in target["details"]]
    assert {target["stack"] for target in targets} == {"web" if "web" in new else "app"}
    assert detail in diff(committed, "HEAD~1..HEAD").stdout
    assert f"`{detail}`" in markdown(committed)


def test_files_are_checked_again_when_only_their_contract_changes(committed: Site) -> None:
    committed.replace("contracts/api.yaml", "required: [", "required: [REQUIRED_KEY, ")
    committed.commit()
    changes = data(committed)
    assert changes["rechecked"] == ["production/api.env", "staging/api.env"]
    assert [(finding["rule"], finding["path"]) for finding in changes["findings"]] == [
        ("contract-required", "production/api.env"), ("contract-required", "staging/api.env"),
    ]  # fmt: skip
    assert "REQUIRED" in markdown(committed)


def test_a_plain_env_file_that_is_added_is_warned_of(committed: Site) -> None:
    committed.write("production/.env.bak", "API_TOKEN=invented-x\n")
    committed.commit()
    assert [(finding["rule"], finding["path"]) for finding in data(committed)["findings"]] == [
        ("not-encrypted", "production/.env.bak")
    ]
    assert "⚠️ `production/.env.bak`: is an env file in plain text" in markdown(committed)


# --- ranges ---


def test_a_range_shows_the_sum_of_its_commits(committed: Site) -> None:
    for value in ("5", "6", "4"):
        committed.in_place("set", "production/worker.env", value=f'["WORKERS"] "{value}"')
        committed.commit()
    assert one_file(committed)["keys"]["changed"] == ["WORKERS"]
    (file,) = data(committed, "HEAD~3..HEAD")["files"]
    assert file["keys"]["changed"] == ["WORKERS"]
    assert data(committed, "HEAD~3..HEAD", "--age-key-file", str(committed.keys))["files"][0]["keys"] == NOTHING


def test_three_dots_leave_out_later_commits_of_the_base(committed: Site) -> None:
    committed.git("checkout", "--quiet", "-b", "topic")
    committed.in_place("set", "production/worker.env", value='["WORKERS"] "8"')
    committed.commit()
    committed.git("checkout", "--quiet", "main")
    committed.in_place("set", "staging/worker.env", value='["WORKERS"] "9"')
    committed.commit()
    assert [file["environment"] for file in data(committed, "main...topic")["files"]] == ["production"]
    assert [file["environment"] for file in data(committed, "main..topic")["files"]] == ["production", "staging"]


def test_only_the_named_environments_are_reported(committed: Site) -> None:
    for environment in ENVIRONMENTS:
        committed.in_place("set", f"{environment}/worker.env", value='["WORKERS"] "8"')
    committed.commit()
    changes = data(committed, "HEAD~1..HEAD", "--environment", "staging")
    assert [file["environment"] for file in changes["files"]] == ["staging"]


def test_the_exit_code_shows_changes_only_on_request(committed: Site) -> None:
    committed.commit("Nothing")
    assert diff(committed, "HEAD~1..HEAD", "--exit-code").returncode == 0
    assert diff(committed, "HEAD~1..HEAD").stdout.endswith(": nothing changed\n")
    committed.write("production/nginx.conf", "server {}\n")
    committed.commit()
    assert diff(committed, "HEAD~1..HEAD").returncode == 0
    assert diff(committed, "HEAD~1..HEAD", "--exit-code").returncode == 2


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        pytest.param(["nowhere..HEAD"], "the commit nowhere does not exist", id="unknown"),
        pytest.param(["--output=/tmp/x..HEAD"], "--help", id="option"),
        pytest.param(["HEAD..$(reboot)"], "the commit $(reboot) does not exist", id="shell"),
        pytest.param(["HEAD..--all"], "is not a valid revision", id="option behind"),
        pytest.param(["HEAD..HEAD", "--path", "nowhere"], "does not exist in either commit", id="no directory"),
        pytest.param(["HEAD..HEAD", "-e", "prod"], "Available: production, staging", id="no environment"),
        pytest.param(["HEAD..HEAD", "--path", "../x"], "not a path inside the repository", id="outside"),
    ],
)
def test_commits_that_cannot_be_compared_exit_1_and_say_what_to_do(
    committed: Site, arguments: list[str], says: str
) -> None:
    done = diff(committed, *arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert says in done.stderr


def test_outside_of_a_repository_it_says_so(site: Site, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    done = diff(site, "HEAD~1..HEAD", cwd=tmp_path / "elsewhere")
    assert (done.returncode, "is not in a git repository" in done.stderr) == (1, True)


def test_histories_without_a_common_ancestor_are_said_so(committed: Site) -> None:
    committed.git("checkout", "--quiet", "--orphan", "other")
    committed.commit("Another beginning")
    done = diff(committed, "main...other")
    assert (done.returncode, "no common ancestor" in done.stderr, "fetch-depth: 0" in done.stderr) == (1, True, True)


def test_a_shallow_clone_says_what_it_lacks(committed: Site, tmp_path: Path) -> None:
    base = committed.git("rev-parse", "HEAD")
    committed.commit("More")
    committed.git("clone", "--quiet", "--depth", "1", f"file://{committed.root}", str(tmp_path / "shallow"))
    done = diff(committed, f"{base}..HEAD", cwd=tmp_path / "shallow")
    assert (done.returncode, "fetch-depth: 0" in done.stderr) == (1, True)


def test_it_works_from_a_subdirectory_and_in_a_worktree(committed: Site, tmp_path: Path) -> None:
    committed.in_place("set", "production/worker.env", value='["WORKERS"] "8"')
    committed.commit()
    committed.git("worktree", "add", "--quiet", str(tmp_path / "tree"), "HEAD")
    for directory in (committed.envs / "production", tmp_path / "tree"):
        assert "~ WORKERS" in diff(committed, "HEAD~1..HEAD", cwd=directory).stdout


def test_nothing_of_the_repositorys_own_configuration_is_run(committed: Site, tmp_path: Path) -> None:
    """Hooks, filters, textconv and external diffs would all be commands from somebody's clone."""
    marker = tmp_path / "ran"
    script = tmp_path / "script"
    script.write_text(f"#!/bin/sh\ntouch {marker}\ncat\n")
    script.chmod(0o755)
    (committed.root / ".gitattributes").write_text("*.env diff=spy filter=spy\n")
    committed.commit()
    for name in ("diff.spy.textconv", "diff.external", "filter.spy.smudge", "core.fsmonitor", "core.sshCommand"):
        committed.git("config", name, str(script))
    (committed.root / ".git/hooks").mkdir(exist_ok=True)
    (committed.root / ".git/hooks/post-index-change").symlink_to(script)
    assert diff(committed, "HEAD~1..HEAD").returncode == 0
    assert not marker.exists()


# --- with a key ---


def test_with_a_key_equal_values_in_other_environments_are_reported_by_name(committed: Site) -> None:
    committed.in_place("set", "production/worker.env", value='["API_TOKEN"] "invented-token-staging"')
    committed.commit()
    file = one_file(committed, "--age-key-file", str(committed.keys))
    assert file["equal"] == {"API_TOKEN": {"new": ["staging"]}}
    committed.in_place("set", "production/worker.env", value='["API_TOKEN"] "invented-another"')
    committed.commit()
    file = one_file(committed, "--age-key-file", str(committed.keys))
    assert file["equal"] == {"API_TOKEN": {"old": ["staging"]}}


def test_with_a_key_only_values_that_really_changed_are_reported(committed: Site) -> None:
    """Decrypted and encrypted again, every ciphertext differs."""
    committed.encrypt("production/worker.env", worker(committed, more="# again\n"))
    committed.commit()
    assert one_file(committed)["keys"]["changed"] == ["API_TOKEN", "QUEUE", "WORKERS"]
    assert one_file(committed, "--age-key-file", str(committed.keys))["keys"] == NOTHING


def test_with_a_key_the_names_in_a_binary_store_are_known(committed: Site) -> None:
    for environment in ENVIRONMENTS:
        committed.encrypt(f"{environment}/worker.env", worker(committed, environment), kind="binary")
    committed.commit()
    committed.encrypt("production/worker.env", worker(committed, more="NEW=1\n"), kind="binary")
    committed.commit()
    assert one_file(committed)["keys"] == NOTHING
    assert "content changed" in one_file(committed)["note"]
    assert one_file(committed, "--age-key-file", str(committed.keys))["keys"]["added"] == ["NEW"]


def test_contracts_check_the_new_version(committed: Site) -> None:
    text = API.format(environment="production").replace("LOG_LEVEL=info", "LOG_LEVEL=invented-loud")
    committed.encrypt("production/api.env", text + "UNKNOWN=1\n")
    committed.commit()
    assert [finding["rule"] for finding in one_file(committed)["findings"]] == ["contract-forbidden"]
    findings = one_file(committed, "--age-key-file", str(committed.keys))["findings"]
    assert sorted(finding["rule"] for finding in findings) == ["contract-forbidden", "contract-value"]


def test_a_contract_inside_an_environment_is_checked_too(committed: Site) -> None:
    committed.write("production/contract.yaml", committed.read("contracts/api.yaml"))
    committed.replace("production/environment.yaml", "contracts/api.yaml", "production/contract.yaml")
    committed.commit()
    committed.encrypt("production/api.env", API.format(environment="production") + "UNKNOWN=1\n")
    committed.commit()
    assert [finding["rule"] for finding in one_file(committed)["findings"]] == ["contract-forbidden"]


# --- the comment ---


def markdown(site: Site, span: str = "HEAD~1..HEAD", *arguments: str) -> str:
    done = diff(site, span, "--format", "markdown", *arguments)
    assert done.returncode == 0, done.stderr
    assert CANARY not in done.stdout
    return done.stdout


def test_the_comment_has_a_marker_a_summary_a_table_and_a_warning_for_removed_keys(committed: Site) -> None:
    committed.in_place("unset", "production/worker.env", value='["QUEUE"]')
    committed.in_place("set", "staging/worker.env", value='["WORKERS"] "8"')
    committed.commit()
    text = markdown(committed)
    lines = text.splitlines()
    assert lines[0] == "<!-- reconciler-diff -->"
    assert "**2 files in 2 environments: 0 keys added, 1 key removed, 1 key changed**" in lines
    assert "> ⚠️ **Keys are removed:** `QUEUE` from `production/worker.env`." in text
    rows = [line for line in lines if line.startswith("| ")]
    assert rows == [
        "| environment | file | stack | added | removed | changed | notes |",
        "| production | `worker.env` | `app` |  | `QUEUE` |  |  |",
        "| staging | `worker.env` | `app` |  |  | `WORKERS` |  |",
    ]


def test_names_cannot_break_the_comment(committed: Site) -> None:
    name = "a|b`c<img src=x>@team.env"
    committed.write(f"production/{name}", "A=1\n")
    committed.replace(
        "production/environment.yaml", "      flags.env", f"      '{name}': {{encrypted: false}}\n      flags.env"
    )
    committed.commit()
    text = markdown(committed)
    (row,) = [line for line in text.splitlines() if "img" in line and line.startswith("|")]
    assert row.replace("\\|", "").count("|") == 8
    outside = re.sub("`[^`]*`", "", text)
    assert "<img" not in outside
    assert "@team" not in outside


def test_the_name_of_an_environment_is_not_a_link(committed: Site) -> None:
    manifest = "targets: {motd: {path: /opt/motd, encrypted: false}}\n"
    committed.write("www.evil.example/environment.yaml", manifest)
    committed.write("www.evil.example/motd", "hello\n")
    committed.commit()
    outside = re.sub("`[^`]*`", "", markdown(committed))
    assert "evil.example" in outside
    assert "www.evil" not in outside


def test_a_large_change_stays_within_the_limits_of_git_servers(committed: Site) -> None:
    lines = "".join(f"SOME_RATHER_LONG_NAME_{number}=1\n" for number in range(400))
    for number in range(120):
        committed.write(f"production/many-{number}.env", lines)
    targets = "".join(f"      many-{number}.env: {{encrypted: false}}\n" for number in range(120))
    committed.replace("production/environment.yaml", "      flags.env", f"{targets}      flags.env")
    committed.commit()
    text = markdown(committed)
    assert len(text) < 65_536
    assert re.search(r"\| and \d+ more files \|", text)
    assert "and 380 more" in text
    committed.git("rm", "--quiet", "-r", "envs/production")
    committed.commit()
    removed = markdown(committed)
    assert len(removed) < 65_536
    assert re.search(r"and \d+ more", removed)


def test_nothing_changed_is_said_so(committed: Site) -> None:
    committed.commit("Nothing")
    assert "**Nothing changed**" in markdown(committed)


# --- renamed and removed ---


def manifest_with(site: Site, old: str, new: str) -> None:
    site.replace("production/environment.yaml", old, new)


def rename(site: Site, old: str, new: str) -> None:
    site.git("mv", f"envs/production/{old}", f"envs/production/{new}")


@pytest.mark.parametrize("with_key", [False, True], ids=["keyless", "with a key"])
def test_a_renamed_source_is_one_file_with_the_key_that_changed(committed: Site, with_key: bool) -> None:
    rename(committed, "worker.env", "jobs.env")
    manifest_with(committed, "worker.env: config/worker.env", "jobs.env: config/worker.env")
    committed.in_place("set", "production/jobs.env", value='["WORKERS"] "8"')
    committed.commit()

    options = ("--age-key-file", str(committed.keys)) if with_key else ()
    content = data(committed, "HEAD~1..HEAD", *options)
    (file,) = content["files"]
    assert (file["source"], file["status"], file["renamed_from"]) == ("jobs.env", "renamed", "worker.env")
    assert file["keys"] == {"added": [], "removed": [], "changed": ["WORKERS"]}
    assert file["note"] == ""
    (target,) = content["targets"]
    assert (target["change"], target["source"], target["renamed_from"]) == ("renamed", "jobs.env", "worker.env")
    text = diff(committed, "HEAD~1..HEAD").stdout
    assert "1 file in 1 environment: 0 keys added, 0 keys removed, 1 key changed" in text.splitlines()[0]
    assert (
        "production/jobs.env   → /opt/app/config/worker.env (stack app), renamed from worker.env\n    ~ WORKERS\n"
        in text
    )
    assert "target" not in text


@pytest.mark.parametrize(
    ("prune", "says"),
    [
        (
            "",
            "worker.env stays on the server (prune is not set): `reconciler forget production/worker.env --delete`",
        ),
        (", prune: true", "the live file /opt/app/config/worker.env is deleted, after a backup (prune is set)"),
    ],
)
def test_a_renamed_target_says_what_becomes_of_its_old_live_file(committed: Site, prune: str, says: str) -> None:
    manifest_with(committed, "worker.env: config/worker.env", f"worker.env: {{path: config/worker.env{prune}}}")
    committed.commit()
    rename(committed, "worker.env", "jobs.env")
    manifest_with(committed, "worker.env: {path: config/worker.env", "jobs.env: {path: config/jobs.env")
    committed.commit()

    (file,) = data(committed)["files"]
    assert (file["status"], file["keys"]) == ("renamed", NOTHING)
    assert says in file["note"]
    assert "target" not in diff(committed, "HEAD~1..HEAD").stdout


def test_a_removed_or_moved_target_says_what_becomes_of_its_live_file(committed: Site) -> None:
    manifest_with(committed, "      worker.env: config/worker.env\n", "")
    manifest_with(committed, "nginx/nginx.conf", "web/nginx.conf")
    committed.git("rm", "-q", "envs/production/worker.env")
    committed.commit()

    text = diff(committed, "HEAD~1..HEAD").stdout
    assert text.count("/opt/app/config/worker.env stays on the server (prune is not set)") == 1
    assert "→ /opt/app/web/nginx.conf; the live file /opt/app/nginx/nginx.conf stays on the server" in text


def test_files_that_have_little_in_common_are_not_a_rename(committed: Site) -> None:
    committed.git("rm", "-q", "envs/production/worker.env")
    committed.encrypt("production/other.env", "SOMETHING=else\n")
    manifest_with(committed, "worker.env: config/worker.env", "other.env: config/other.env")
    committed.commit()
    assert sorted(file["status"] for file in data(committed)["files"]) == ["added", "removed"]
