"""`check` finds what lies below the directory in plain text, and shows none of it."""

from __future__ import annotations

import pytest

from reconciler.app.checks.command import check_environments
from reconciler.cli import reports
from reconciler.cli.layout import Page
from tests.support.site import EXAMPLE, FLAGS, Site

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("in_clone")]
SECRET = "Inv3ntedS3cretValue0fNobody"


def findings_of(site: Site, *, key: bool = False) -> list[tuple[str, str, int]]:
    report = check_environments("envs", [], [], str(site.keys) if key else None, lambda done, of: None)
    for write in reports.FORMATS.values():
        assert SECRET not in write(report)
    return [(finding.rule.id, finding.path.removeprefix("envs/"), finding.line) for finding in report.findings]


@pytest.mark.parametrize("directory", ["", "production/", "production/old/", "scripts/"])
@pytest.mark.parametrize(
    "name",
    [".env", ".env.production", "api.env.bak", "worker.dec.env", "worker.env~", ".worker.env.swp", ".env.swp", "A.ENV"],
)
def test_a_plain_env_file_without_a_target_is_found_anywhere(site: Site, directory: str, name: str) -> None:
    site.write(f"{directory}{name}", f"# mine\n\nAPI_TOKEN={SECRET}\n")
    assert findings_of(site) == [("not-encrypted", f"{directory}{name}", 3)]


def test_an_editors_swap_file_is_found(site: Site) -> None:
    site.write("production/.worker.env.swp", b"b0VIM 9.0\0\0\0" + SECRET.encode())
    assert findings_of(site) == [("not-encrypted", "production/.worker.env.swp", 1)]


@pytest.mark.parametrize("name", ["api.env.sample", ".env", "production/.env.dist", "scripts/x.env"])
def test_names_without_values_are_not_plain_text(site: Site, name: str) -> None:
    site.remove("env.example")
    site.write(name, "# files: api.env\n# what it is for\n\n")
    assert findings_of(site) == []


def test_a_partly_encrypted_env_file_outside_of_environments_is_found(site: Site) -> None:
    site.write("scripts/x.env", "B=1\n" + site.read("production/worker.env"))
    assert ("not-encrypted", "scripts/x.env", 1) in findings_of(site)


def test_a_value_that_looks_real_in_an_example_is_reported(site: Site) -> None:
    site.write("env.example", EXAMPLE.replace("API_TOKEN=", f"API_TOKEN={SECRET}"))
    assert findings_of(site) == [("plain-secret", "env.example", 13)]


@pytest.mark.parametrize(
    "value", ["your-api-token-1234567890", "example0123456789abcdef", "short1", "${TOKEN1_OF_MANY}"]
)
def test_a_placeholder_in_an_example_is_not_reported(site: Site, value: str) -> None:
    site.write("env.example", EXAMPLE.replace("API_TOKEN=", f"API_TOKEN={value}"))
    assert findings_of(site) == []


def test_a_secrets_name_in_a_plain_target_is_reported(site: Site) -> None:
    site.remove("env.example")
    for environment in ("production", "staging"):
        site.write(f"{environment}/flags.env", f"{FLAGS}API_TOKEN={SECRET}{environment}\nOTHER_TOKEN=\nTOKEN_URL=x\n")
    assert findings_of(site) == [("plain-secret", "production/flags.env", 2), ("plain-secret", "staging/flags.env", 2)]


# --- files that are no env files ---

OF_A_FORMAT = {
    "production/app.yaml": f"db:\n  password: {SECRET}\n",
    "production/app.toml": f"[db]\npassword = '{SECRET}'\n",
    "scripts/app.ini": f"[db]\npassword = {SECRET}\n",
    "app.json": f'{{\n  "clientSecret": "{SECRET}"\n}}\n',
    "production/conf.d/php.conf": f"location / {{\n  fastcgi_param DB_PASSWORD {SECRET};\n}}\n",
    "production/app.properties": f"# mine\nspring.datasource.password={SECRET}\n",
    "production/users.xml": f"<users>\n<user><password>{SECRET}</password></user></users>\n",
    "staging/.npmrc": f"# mine\n//registry.example.org/:_authToken={SECRET}\n",
    "scripts/run.sh": f"#!/bin/sh\ncurl https://me:{SECRET}@api.example.org\n",
}


@pytest.mark.parametrize("path", OF_A_FORMAT)
def test_a_secret_is_found_in_a_plain_file_of_any_format(site: Site, path: str) -> None:
    site.write(path, OF_A_FORMAT[path])
    assert [(path, line) for rule, path, line in findings_of(site) if rule == "plain-secret"] == [(path, 2)]


@pytest.mark.parametrize("path", ["production/flags.env", "production/nginx.conf"])
def test_a_secret_by_its_form_is_found_in_a_plain_source(site: Site, path: str) -> None:
    site.remove("env.example")
    for environment in ("production", "staging"):
        site.write(f"{environment}/flags.env", FLAGS)
    site.write(path, f"FEATURE_SEARCH=https://me:{SECRET}@db.example.org\n")
    assert findings_of(site) == [("plain-secret", path, 1)]


@pytest.mark.parametrize(
    "path", ["README.md", "app.yaml.example", "production/environment.yaml", "contracts/api.yaml", ".sops.yaml"]
)
def test_placeholders_and_what_this_program_reads_hold_no_plain_secrets(site: Site, path: str) -> None:
    before = (site.envs / path).read_text() if (site.envs / path).exists() else ""
    site.write(path, f"{before}# x: https://me:{SECRET}@db.example.org\n#password: swordfish\n")
    if not before:
        site.write(path, "password: swordfish\nurl: https://me:swordfish@db.example.org\n")
    assert findings_of(site) == []


def test_a_secret_in_a_file_that_git_ignores_is_no_finding(site: Site) -> None:
    site.git("init", "--quiet", "--template=")
    for path in ("ignored.yaml", "held.yaml"):
        site.write(path, f"password: {SECRET}\n")
    site.write(".gitignore", "ignored.yaml\n")
    site.git("add", "--all")
    assert [path for rule, path, _ in findings_of(site) if rule == "plain-secret"] == ["held.yaml"]


# --- odd entries ---


def test_a_linked_environment_is_an_error(site: Site) -> None:
    (site.envs / "testing").symlink_to("production")
    assert findings_of(site) == [("source-unusable", "testing", 1)]


def test_a_linked_file_of_rules_is_an_error(site: Site) -> None:
    (site.envs / ".sops.yaml").rename(site.root / "rules.yaml")
    (site.envs / ".sops.yaml").symlink_to("../rules.yaml")
    assert findings_of(site) == [("sops-config-invalid", ".sops.yaml", 1)]


@pytest.mark.parametrize("name", ["environment.yml", "Environment.yaml"])
def test_a_misspelt_manifest_is_an_error(site: Site, name: str) -> None:
    site.write(f"testing/{name}", "targets: {}\n")
    assert findings_of(site) == [("manifest-invalid", f"testing/{name}", 1)]


# --- secrets that look like names ---


@pytest.mark.parametrize("line", [SECRET, f"{SECRET}=", f"{SECRET}==", f"{SECRET.lower()}0123456789="])
@pytest.mark.parametrize("name", ["production/flags.env", "env.example"])
def test_a_bare_secret_is_reported_by_its_line(site: Site, name: str, line: str) -> None:
    site.write(name, f"{site.read(name)}{line}\n")
    number = len(site.read(name).splitlines())
    assert findings_of(site) == [("key-name", name, number)]
    assert SECRET.lower() not in str(check_environments("envs", [], [], None, lambda done, of: None).findings)


def test_a_line_without_value_that_may_be_a_secret_in_an_encrypted_file_is_reported_by_its_line(site: Site) -> None:
    site.write("production/worker.env", f"{SECRET}=\n{site.read('production/worker.env')}")
    assert findings_of(site) == [("key-name", "production/worker.env", 1)]


def test_a_bare_secret_that_only_the_key_shows_is_reported_without_it(site: Site) -> None:
    site.remove("env.example")
    site.encrypt("production/worker.env", f"{SECRET}\nWORKERS=4\n", kind="binary")
    assert findings_of(site, key=True) == [("key-name", "production/worker.env", 1)]


def test_the_name_of_a_directory_cannot_write_to_the_terminal(site: Site) -> None:
    site.write("x\n::error::y\x1b[31m/environment.yaml", "targets: {}\n")
    report = check_environments("envs", [], [], None, lambda done, of: None)
    for written in ("\n".join(reports.check_report(report, Page())), reports.FORMATS["github"](report)):
        assert "\x1b" not in written
        assert not any(line.startswith("::error::y") for line in written.splitlines())
        assert len(written.splitlines()) == 1 + len(report.findings)


def test_an_address_in_the_description_of_a_contract_is_no_plain_secret(site: Site) -> None:
    contract = site.read("contracts/api.yaml")
    site.write("contracts/api.yaml", f"{contract}description: https://me:swordfish1@db.example.org\n")
    assert findings_of(site) == []
