"""What is right, in every shape that sops and people give it, and on which nothing may be reported."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from reconciler.app.checks.command import check_environments
from tests.support.commands import output
from tests.support.site import API, CONTRACT, ENVIRONMENTS, EXAMPLE, MANIFEST, WORKER, Site, sops_rules

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("in_clone")]
P = "production/environment.yaml"
Make = Callable[[Site], None]
VARIANTS: dict[str, Make] = {}


def clean(make: Make) -> Make:
    VARIANTS[make.__name__] = make
    return make


@clean
def as_it_is(site: Site) -> None:
    """Nothing is changed."""


# --- shapes of sops ---


@clean
def rotated(site: Site) -> None:
    site.in_place("rotate", "production/worker.env", "--in-place")


@clean
def updated_for_a_newcomer(site: Site) -> None:
    both = f"{site.production.public},{site.staging.public}"
    site.write(".sops.yaml", sops_rules(site).replace(f"age: {site.production.public}", f"age: {both}"))
    for name in ("api.env", "worker.env"):
        site.in_place("updatekeys", f"production/{name}", "--yes")


@clean
def set_by_sops_set_as_a_number(site: Site) -> None:
    site.in_place("set", "production/worker.env", value='["WORKERS"] 8')
    assert "type:float]" in site.read("production/worker.env")


@clean
def unset_by_sops_in_both(site: Site) -> None:
    for environment in ENVIRONMENTS:
        site.in_place("unset", f"{environment}/worker.env", value='["QUEUE"]')
    site.replace("env.example", "QUEUE=jobs\n", "")


@clean
def several_recipients_by_a_list(site: Site) -> None:
    both = (site.production.public, site.staging.public)
    listed = "".join(f"      - {key}\n" for key in both)
    rules = f"creation_rules:\n  - path_regex: ^production/\n    age:\n{listed}"
    site.write(".sops.yaml", f"{rules}  - path_regex: ^staging/\n    age: {site.staging.public}\n")
    for name, text in (("api.env", API), ("worker.env", WORKER)):
        site.encrypt(f"production/{name}", text.format(environment="production"), recipients=",".join(both))


@clean
def rules_with_anchors(site: Site) -> None:
    keys = f"keys:\n  - &production {site.production.public}\n  - &staging {site.staging.public}\n"
    groups = "".join(f"  - path_regex: ^{name}/\n    key_groups:\n      - age: [*{name}]\n" for name in ENVIRONMENTS)
    site.write(".sops.yaml", f"{keys}creation_rules:\n{groups}")


@clean
def rules_with_classes_as_go_writes_them(site: Site) -> None:
    site.replace(".sops.yaml", "^production/", "'^[[:alpha:]]{10}/[[:word:].]+\\.env\\z'")


@clean
def rules_at_the_top_of_the_repository(site: Site) -> None:
    (site.root / ".sops.yaml").write_text(sops_rules(site).replace("^", "^envs/"))
    site.remove(".sops.yaml")


@clean
def rules_beside_the_files(site: Site) -> None:
    site.remove(".sops.yaml")
    for name in ENVIRONMENTS:
        site.write(f"{name}/.sops.yaml", f"creation_rules:\n  - age: {site.key_of(name).public}\n")


@clean
def no_rules_at_all(site: Site) -> None:
    site.remove(".sops.yaml")


@clean
def rules_that_name_the_usual_suffix(site: Site) -> None:
    site.write(".sops.yaml", sops_rules(site, "    unencrypted_suffix: _unencrypted\n"))


@clean
def an_encrypted_yaml_file(site: Site) -> None:
    source(
        site, "settings.yaml", "database:\n  users: [ada, grace]\n  port: 5432\n# who may\nadmin: ada\n", kind="yaml"
    )


@clean
def an_encrypted_json_file(site: Site) -> None:
    source(site, "settings.json", '{"database": {"port": 5432, "on": true}, "admin": "ada"}', kind="json")


@clean
def an_encrypted_binary_file(site: Site) -> None:
    source(site, "server.key", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", kind="binary")


@clean
def an_env_file_that_only_binary_can_hold(site: Site) -> None:
    for environment in ENVIRONMENTS:
        text = f'KEY="several\nlines of {environment}"\n  # indented\n'
        site.encrypt(f"{environment}/odd.env", text, kind="binary")
        site.replace(f"{environment}/environment.yaml", "      flags.env", "      odd.env:\n      flags.env")


@clean
def mac_of_encrypted_values_only(site: Site) -> None:
    rules = f"creation_rules:\n  - age: {site.production.public}\n    mac_only_encrypted: true\n"
    (site.root / "mac-only.yaml").write_text(rules)
    types = ("--input-type", "dotenv", "--output-type", "dotenv", "--filename-override", "x")
    text = WORKER.format(environment="production").encode()
    site.write("production/worker.env", site.sops("--config", "mac-only.yaml", "encrypt", *types, stdin=text))
    assert "sops_mac_only_encrypted=true" in site.read("production/worker.env")


# --- shapes of env files ---


@clean
def comments_and_empty_values(site: Site) -> None:
    both(site, "# invented comment\nEMPTY=\nQUOTED_EMPTY=''")


@clean
def dollars_in_single_quotes(site: Site) -> None:
    both(site, "HASH_SALT='pa$$w$ord-{environment}'")


@clean
def doubled_dollars(site: Site) -> None:
    both(site, "REGEX=^a$$")


@clean
def a_reference_to_an_earlier_key(site: Site) -> None:
    both(site, "QUEUE_NAME=$QUEUE-main")


@clean
def a_reference_with_a_default(site: Site) -> None:
    both(site, "REGION=${REGION:-eu}")


@clean
def a_reference_that_the_server_must_define(site: Site) -> None:
    both(site, "REGION=${REGION:?where does it run}")


@clean
def words_that_only_look_like_placeholders(site: Site) -> None:
    both(site, "TITLE=todo-list\nNAME=your-shop.example.org\nCOLOUR=xxl\nEVENT=changemeeting\nTAG=<b>bold</b> text")


@clean
def the_same_value_that_is_no_secret(site: Site) -> None:
    both(site, "TIMEZONE=Europe/Berlin-and-longer")


@clean
def a_short_word_under_the_name_of_a_secret(site: Site) -> None:
    both(site, "CACHE_KEY=on\nTOKEN_TYPE=Bearer")


@clean
def names_with_dots_and_dashes_and_digits(site: Site) -> None:
    both(site, "spring.datasource-url=x\n2FA_MODE=on\nlower_case=1\nexport EXPORTED=1")


@clean
def unicode_values(site: Site) -> None:
    both(site, "GREETING=Grüß Gott, 你好")


@clean
def a_plain_file_with_windows_line_ends(site: Site) -> None:
    site.write("production/nginx.conf", "server {}\r\n")


@clean
def a_raw_env_file(site: Site) -> None:
    for environment in ENVIRONMENTS:
        site.replace(f"{environment}/environment.yaml", "flags.env: {encrypted: false}",
                     "flags.env: {encrypted: false, parser: raw}")  # fmt: skip
        site.write(f"{environment}/flags.env", 'FEATURE_SEARCH="$HOME of the value\n')


@clean
def a_line_of_equals_signs_in_a_plain_file(site: Site) -> None:
    site.write("production/nginx.conf", "# Title\n# =====\n=======\n")


# --- shapes of directories ---


@clean
def files_beside_the_sources(site: Site) -> None:
    for name in ("README.md", "README", ".gitkeep", ".gitattributes", "notes.md", "api.env.example"):
        site.write(
            f"production/{name}", "PUBLIC_URL=\nLOG_LEVEL=\nSESSION_SECRET=\nDATABASE_URL=\nADMIN_HASH=\nOPTIONAL=\n"
        )


@clean
def a_directory_that_is_no_environment(site: Site) -> None:
    site.write("scripts/deploy.sh", "echo hello\n")
    os.symlink("/etc/hostname", site.envs / "scripts" / "link")


@clean
def an_example_for_each_file(site: Site) -> None:
    site.remove("env.example")
    for name, text in (("api.env", API), ("worker.env", WORKER)):
        site.write(f"{name}.template", text.format(environment="x"))


@clean
def an_example_without_groups(site: Site) -> None:
    site.write("env.example", EXAMPLE.replace("# files: ", "# "))


@clean
def keys_that_an_example_calls_optional(site: Site) -> None:
    """One environment lacks them, the other has them, whether they are marked or switched off."""
    text = EXAMPLE.replace("WORKERS=4", "WORKERS=4 # optional\n# QUEUE_2=later\n#QUEUE_3=")
    site.write("env.example", text)
    site.encrypt("production/worker.env", "QUEUE=jobs\nQUEUE_2=x\nAPI_TOKEN=invented-token-production\n")


@clean
def a_default_that_one_environment_refuses(site: Site) -> None:
    site.write("contracts/quiet.yaml", "properties: {LOG_LEVEL: {enum: [error]}}\n")
    site.replace(P, "schema: contracts/api.yaml", "schema: [contracts/api.yaml, contracts/quiet.yaml]")
    site.encrypt("production/api.env", API.format(environment="production").replace("=info", "=error"))


@clean
def defaults_that_are_stand_ins(site: Site) -> None:
    text = EXAMPLE.replace("SESSION_SECRET=", "SESSION_SECRET=short").replace("LOG_LEVEL=info", "LOG_LEVEL=changeme")
    site.write("env.example", text)


@clean
def what_resembles_a_retired_name(site: Site) -> None:
    site.write("check.yaml", "retired: [ORKERS, api-token, sessio]\n")
    site.commit()


@clean
def no_example(site: Site) -> None:
    site.remove("env.example")


@clean
def a_source_that_only_one_environment_has(site: Site) -> None:
    site.encrypt("production/mailer.env", "MAIL_FROM=ada@example.org\n")
    site.replace(P, "      flags.env", "      mailer.env:\n      flags.env")


@clean
def an_environment_without_targets(site: Site) -> None:
    site.write("testing/environment.yaml", "targets: {}\n")


@clean
def an_environment_for_other_hosts_with_the_same_paths(site: Site) -> None:
    second = MANIFEST.replace("stacks:\n", "").replace("  app:\n", "  app2:\n    hosts: [web-2]\n")
    site.write(P, MANIFEST.replace("    directory", "    hosts: [web-1]\n    directory") + second)


@clean
def an_exemption_with_a_reason(site: Site) -> None:
    site.write("production/left-behind.txt", "hello\n")
    site.write(
        "check.yaml",
        "exempt:\n  - {rule: source-unused, path: production/left*, reason: kept until the move is done}\n",
    )


@clean
def an_exemption_of_a_rule_that_needs_a_key(site: Site) -> None:
    both(site, "API_SECRET=invented-shared-on-purpose")
    reason = "both ask the provider's test system"
    site.write("check.yaml", f"exempt:\n  - {{rule: shared-secret, path: '*/worker.env', reason: {reason}}}\n")


@clean
def keys_that_are_left_to_the_server(site: Site) -> None:
    site.replace(P, "{schema: contracts/api.yaml}", "{schema: contracts/api.yaml, ignore_keys: [LOG_LEVEL, OPT*]}")
    text = API.format(environment="production").replace("LOG_LEVEL=info\n", "").replace("OPTIONAL=\n", "")
    site.encrypt("production/api.env", text)


# --- contracts ---


@clean
def a_contract_in_two_layers(site: Site) -> None:
    site.write("contracts/production.yaml", 'properties:\n  LOG_LEVEL: {const: "info"}\n')
    site.replace(P, "schema: contracts/api.yaml", "schema: [contracts/api.yaml, contracts/production.yaml]")


@clean
def a_contract_with_definitions_and_conditions(site: Site) -> None:
    more = (
        "$defs:\n  address: {format: uri}\nallOf:\n"
        "  - if: {properties: {LOG_LEVEL: {const: debug}}, required: [LOG_LEVEL]}\n"
        "    then: {required: [DEBUG_REASON]}\n"
        "  - properties: {PUBLIC_URL: {$ref: '#/$defs/address'}}\n"
        "anyOf:\n  - {required: [DATABASE_URL]}\n  - {required: [SQLITE_FILE]}\n"
        "not: {required: [FORBIDDEN]}\n"
    )
    site.write("contracts/api.yaml", CONTRACT + more)


@clean
def a_contract_that_allows_names_by_pattern(site: Site) -> None:
    site.replace("contracts/api.yaml", "  OPTIONAL: {type: string}\n", "")
    site.write("contracts/api.yaml", site.read("contracts/api.yaml") + 'patternProperties:\n  "^OPT": true\n')


@clean
def a_value_that_contracts_let_environments_share(site: Site) -> None:
    site.replace("contracts/api.yaml", "writeOnly: true,", "writeOnly: true, x-differs: may,")
    same = "invented-session-for-both"
    for environment in ENVIRONMENTS:
        text = API.format(environment=environment).replace(f"invented-session-{environment}", same)
        site.encrypt(f"{environment}/api.env", text)


@clean
def values_that_must_not_differ_and_do_not(site: Site) -> None:
    site.replace("contracts/api.yaml", "LOG_LEVEL: {enum:", "LOG_LEVEL: {x-differs: never, enum:")


def source(site: Site, name: str, text: str, kind: str) -> None:
    for environment in ENVIRONMENTS:
        site.encrypt(f"{environment}/{name}", text, kind=kind)
        site.replace(f"{environment}/environment.yaml", "      flags.env", f"      {name}:\n      flags.env")


def both(site: Site, lines: str) -> None:
    """Add lines to worker.env of both environments, and their keys to the example."""
    for environment in ENVIRONMENTS:
        more = lines.replace("{environment}", environment)
        site.encrypt(f"{environment}/worker.env", f"{WORKER.format(environment=environment)}{more}\n")
    site.replace("env.example", "API_TOKEN=\n", f"API_TOKEN=\n{lines}\n")


@pytest.mark.parametrize("with_key", [False, True], ids=["keyless", "with-key"])
@pytest.mark.parametrize("name", VARIANTS)
def test_nothing_is_reported_where_nothing_is_wrong(site: Site, name: str, with_key: bool) -> None:
    VARIANTS[name](site)

    report = check_environments("envs", [], [], str(site.keys) if with_key else None, lambda done, of: None)

    assert [f"{finding.path}:{finding.line} {finding.rule.id} {finding.message}" for finding in report.findings] == []
    assert report.values >= (3 if with_key else 1)


def test_there_are_enough_clean_variants() -> None:
    assert len(VARIANTS) >= 40


@pytest.mark.skipif(shutil.which("gpg") is None, reason="gpg is not installed: apt-get install gnupg")
def test_a_file_for_a_pgp_key_too_is_fine(site: Site, tmp_path: Path) -> None:
    home = tmp_path / "g"
    home.mkdir(mode=0o700)
    env = {"PATH": os.environ["PATH"], "GNUPGHOME": str(home), "HOME": str(tmp_path)}
    output("gpg", "--batch", "--quiet", "--passphrase", "", "--quick-gen-key", "ops@example.org", env=env)
    listed = output("gpg", "--batch", "--with-colons", "--list-keys", env=env).decode().splitlines()
    fingerprint = next(line.split(":")[9] for line in listed if line.startswith("fpr:"))
    rule = f"    pgp: {fingerprint}\n"
    site.write(".sops.yaml", sops_rules(site).replace("  - path_regex: ^staging", f"{rule}  - path_regex: ^staging"))
    types = ("--input-type", "dotenv", "--output-type", "dotenv", "--filename-override", "x")
    to = ("--age", site.production.public, "--pgp", fingerprint)
    for name, text in (("api.env", API), ("worker.env", WORKER)):
        data = text.format(environment="production").encode()
        site.write(f"production/{name}", site.sops("--config", os.devnull, "encrypt", *to, *types, stdin=data, **env))

    output("gpgconf", "--kill", "all", env=env)

    report = check_environments("envs", [], [], None, lambda done, of: None)

    assert report.findings == ()
    with_key = check_environments("envs", [], [], str(site.keys), lambda done, of: None)
    assert (with_key.findings, with_key.values) == ((), report.values + 4)
