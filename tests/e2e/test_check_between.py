"""Findings of `check` between environments and for server configurations, and those it must not report."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from reconciler.app.checks.command import check_environments
from reconciler.app.checks.run import CheckReport
from reconciler.app.diff.command import diff_commits
from tests.support.site import API, ENVIRONMENTS, EXAMPLE, WORKER, Site

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("in_clone")]


@pytest.fixture
def in_clone(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(site.root)


def check(site: Site, *, key: bool = False, only: Sequence[str] = (), servers: Sequence[str] = ()) -> CheckReport:
    return check_environments("envs", only, servers, str(site.keys) if key else None, lambda done, of: None)


def rules_of(report: CheckReport) -> list[str]:
    return sorted(finding.rule.id for finding in report.findings)


def lines_of(report: CheckReport) -> list[str]:
    return [f"{finding.path}:{finding.line} {finding.rule.id} {finding.message}" for finding in report.findings]


# --- one environment asked about, another concerned ---


@pytest.mark.parametrize("only", ENVIRONMENTS)
def test_a_shared_secret_is_reported_whichever_environment_is_asked_about(site: Site, only: str) -> None:
    for environment in ENVIRONMENTS:
        site.encrypt(f"{environment}/worker.env", WORKER.replace("{environment}", "same"))
    assert rules_of(check(site, key=True, only=[only])) == ["shared-secret"]


@pytest.mark.parametrize("only", ENVIRONMENTS)
def test_a_broken_x_differs_is_reported_whichever_environment_is_asked_about(site: Site, only: str) -> None:
    for environment in ENVIRONMENTS:
        text = API.format(environment=environment).replace(f"https://{environment}.", "https://same.")
        site.encrypt(f"{environment}/api.env", text)
    assert rules_of(check(site, key=True, only=[only])) == ["contract-differs"]


@pytest.mark.parametrize("only", ENVIRONMENTS)
def test_a_key_that_one_lacks_is_reported_whichever_environment_is_asked_about(site: Site, only: str) -> None:
    site.remove("env.example")
    site.encrypt("production/worker.env", WORKER.format(environment="production") + "NEW_KEY=1\n")
    assert rules_of(check(site, only=[only])) == ["environment-parity"]


def test_a_finding_between_two_other_environments_is_not_reported(site: Site) -> None:
    site.write("testing/environment.yaml", "targets: {}\n")
    for environment in ENVIRONMENTS:
        site.encrypt(f"{environment}/worker.env", WORKER.replace("{environment}", "same"))
    assert lines_of(check(site, key=True, only=["testing"])) == []


@pytest.mark.parametrize(("differs", "value"), [("must", "https://same.example.org"), ("never", "")])
@pytest.mark.parametrize("owner", ENVIRONMENTS)
def test_x_differs_counts_whichever_contract_says_it(site: Site, differs: str, value: str, owner: str) -> None:
    site.replace("contracts/api.yaml", ", x-differs: must", "")
    site.write("contracts/own.yaml", f"properties:\n  PUBLIC_URL: {{x-differs: {differs}}}\n")
    path = f"{owner}/environment.yaml"
    site.replace(path, "schema: contracts/api.yaml", "schema: [contracts/api.yaml, contracts/own.yaml]")
    for environment in ENVIRONMENTS:
        text = API.format(environment=environment)
        site.encrypt(
            f"{environment}/api.env", text.replace(f"https://{environment}.example.org", value) if value else text
        )
    assert rules_of(check(site, key=True)) == ["contract-differs"]


# --- names of secrets ---


def test_a_name_that_only_mentions_a_secret_is_not_one(site: Site) -> None:
    lines = (
        "ISSUER_TOKEN_URL=https://id.example.org\nCACHE_KEY_PREFIX=application:\nPASSWORD_RESET_PATH=/account/reset\n"
        "VAPID_PUBLIC_KEY=BNcRdreALRFXTkOO\nTOKEN_ISSUER=https://id.example.org\nSTRIPE_PUBLISHABLE_KEY=pk_live_value\n"
    )
    both(site, lines)
    assert lines_of(check(site, key=True)) == []


@pytest.mark.parametrize("name", ["API_KEY_1", "SESSION_SECRET_OLD", "DB_PASSWORD2", "app.token", "SECRET_KEY_BASE"])
def test_a_name_that_ends_in_a_word_for_a_secret_is_one(site: Site, name: str) -> None:
    both(site, f"{name}=invented-same-value\n")
    assert rules_of(check(site, key=True)) == ["shared-secret"]


def both(site: Site, lines: str) -> None:
    for environment in ENVIRONMENTS:
        site.encrypt(f"{environment}/worker.env", WORKER.format(environment=environment) + lines)
    site.replace("env.example", "API_TOKEN=\n", f"API_TOKEN=\n{lines}")


# --- examples ---


def test_keys_above_the_first_group_of_an_example_belong_to_any_file(site: Site) -> None:
    text = EXAMPLE.replace("# files: api.env\n", "").replace("LOG_LEVEL=info\n", "LOG_LEVEL=info\n# files: api.env\n")
    site.write("env.example", text)
    assert lines_of(check(site)) == []
    site.replace("env.example", "LOG_LEVEL=info\n", "LOG_LEVEL=info\nEVERYWHERE=1\n")
    assert rules_of(check(site)) == ["example-key-missing"] * 2


def test_no_key_is_missing_where_a_files_keys_cannot_be_known(site: Site) -> None:
    site.write("env.example", EXAMPLE.replace("# files: ", "# "))
    site.encrypt("production/worker.env", WORKER.format(environment="production"), kind="binary")
    assert lines_of(check(site)) == []
    site.write("production/worker.env", f"<<<<<<< a\n{site.read('staging/worker.env')}=======\n>>>>>>> b\n")
    assert rules_of(check(site)) == ["conflict-marker"]


# --- what a key opens ---


def test_a_file_that_cannot_be_read_breaks_no_contract(site: Site) -> None:
    site.encrypt("production/api.env", API.format(environment="production") + 'BROKEN="x\n')
    site.replace("contracts/api.yaml", "  OPTIONAL:", "  BROKEN: {type: string}\n  OPTIONAL:")
    site.replace("env.example", "OPTIONAL=\n", "OPTIONAL=\nBROKEN=\n")
    site.replace("staging/environment.yaml", "{schema: contracts/api.yaml}", "{ignore_keys: [BROKEN]}")
    assert rules_of(check(site, key=True)) == ["env-unreadable"]


def test_an_exemption_is_called_unused_only_where_the_files_could_be_opened(site: Site) -> None:
    reason = "it is known and wanted here"
    site.write("check.yaml", f"exempt:\n  - {{rule: placeholder, path: production/api.env, reason: {reason}}}\n")
    of_staging = check_environments("envs", [], [], str(site.staging.path), lambda done, of: None)
    assert lines_of(of_staging) == []
    assert rules_of(check(site, key=True)) == ["exemption-unused"]


# --- servers' files ---


def server(site: Site, name: str, allowed: str, environment: str = "production") -> str:
    path = site.root / name
    path.write_text(f"environment: {environment}\nrepository: {{url: /srv/config.git}}\nallowed_paths: [{allowed}]\n")
    return str(path)


@pytest.mark.parametrize("order", [1, -1])
def test_every_server_of_an_environment_is_checked(site: Site, order: int) -> None:
    servers = [server(site, "a.yaml", "/opt/app"), server(site, "b.yaml", "/srv/other")][::order]
    report = check(site, servers=servers)
    assert set(rules_of(report)) == {"manifest-invalid"}
    assert any("allowed_paths" in line for line in lines_of(report))


def test_a_server_that_follows_a_missing_environment_is_reported(site: Site) -> None:
    (finding,) = check(site, servers=[server(site, "a.yaml", "/opt/app", "producton")]).findings
    assert (finding.rule.id, finding.path, finding.line) == ("server-file-invalid", "a.yaml", 1)
    assert "producton" in finding.message


def dotenv(site: Site, text: str, *, encrypted: bool) -> None:
    """The project's .env of production."""
    if encrypted:
        if (site.envs / "production/.env").exists():
            edited = site.root / "edited"
            edited.write_text(text)
            options = ("--input-type", "dotenv", "--output-type", "dotenv", "envs/production/.env")
            site.sops("edit", *options, EDITOR=f"cp {edited}")
            edited.unlink()
        else:
            site.encrypt("production/.env", text)
    else:
        site.write("production/.env", text)


@pytest.mark.parametrize("encrypted", [True, False])
def test_only_a_control_key_that_changes_is_reported(site: Site, encrypted: bool) -> None:
    """Against git: HEAD for what is not committed, the default branch for a branch."""
    fields = "" if encrypted else "encrypted: false"
    site.replace("production/environment.yaml", "      flags.env", f"      .env: {{{fields}}}\n      flags.env")
    site.remove("env.example")
    dotenv(site, "COMPOSE_PROJECT_NAME=shop\nLEVEL=info\n", encrypted=encrypted)
    site.commit()
    servers = [server(site, "a.yaml", "/opt/app")]
    site.git("update-ref", "refs/remotes/origin/main", "HEAD")
    site.git("symbolic-ref", "refs/remotes/origin/HEAD", "refs/remotes/origin/main")

    dotenv(site, "COMPOSE_PROJECT_NAME=shop\nLEVEL=debug\n", encrypted=encrypted)
    assert not any("project-file" in line for line in lines_of(check(site, servers=servers)))
    dotenv(site, "COMPOSE_PROJECT_NAME=store\nLEVEL=debug\n", encrypted=encrypted)
    for commit in (False, True):
        if commit:
            site.commit()
        (line,) = (line for line in lines_of(check(site, servers=servers)) if "project-file" in line)
        assert line.startswith("envs/production/.env:1 project-file COMPOSE_PROJECT_NAME changes what Compose runs")
    (file,) = diff_commits("HEAD~1..HEAD", "envs", (), None, lambda done, of: None).files
    assert [finding.message.split()[0] for finding in file.findings] == ["COMPOSE_PROJECT_NAME"]
