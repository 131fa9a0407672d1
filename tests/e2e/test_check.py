"""Every mistake is found and named, and nothing is reported where nothing is wrong; on files made by the real sops.

The rules are applied in this process, with the real sops and the real evaluation of contracts; that the command does
the same is shown by tests/e2e/test_check_command.py.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest

from reconciler.adapters.json_schema import client
from reconciler.app.checks import time_limit
from reconciler.app.checks.command import check_environments
from reconciler.app.checks.run import CheckReport
from reconciler.core.checks import rules
from tests.support.site import API, ENVIRONMENTS, EXAMPLE, FLAGS, MANIFEST, WORKER, Site, sops_rules

pytestmark = pytest.mark.slow

NEWCOMER = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"  # of age's own documentation
CANARY = "invented-"  # every secret of the site begins so


@pytest.fixture(autouse=True)
def short_limits(in_clone: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Less time for what never ends."""
    monkeypatch.setattr(time_limit, "_LIMIT", 0.5)
    monkeypatch.setitem(client.LIMITS.resources, resource.RLIMIT_CPU, 1)


def check(
    site: Site, *, key: bool = False, environments: Sequence[str] = (), servers: Sequence[str] = ()
) -> CheckReport:
    key_file = str(site.keys) if key else None
    return check_environments("envs", environments, servers, key_file, lambda done, of: None)


def lines_of(report: CheckReport) -> list[str]:
    return [f"{finding.path}:{finding.line} {finding.rule.id} {finding.message}" for finding in report.findings]


# --- mistakes ---


@dataclass(frozen=True, slots=True)
class Seeded:
    """A mistake: how it is made, and what is found: (rule, path below envs, line, words of the message)."""

    make: Callable[[Site], None]
    expected: tuple[tuple[rules.Rule, str, int, str], ...]
    key: bool


MISTAKES: dict[str, Seeded] = {}
Make = Callable[[Site], None]


def mistake(
    rule: rules.Rule, path: str, line: int, says: str, *more: tuple[rules.Rule, str, int, str], key: bool = False
) -> Callable[[Make], Make]:
    def register(make: Make) -> Make:
        MISTAKES[make.__name__] = Seeded(make, ((rule, path, line, says), *more), key)
        return make

    return register


P = "production/environment.yaml"


@mistake(rules.MANIFEST_INVALID, P, 5, "did you mean schema?")
def a_misspelt_field(site: Site) -> None:
    site.replace(P, "schema:", "shema:")


@mistake(rules.MANIFEST_INVALID, P, 8, "cannot be read as YAML")
def a_manifest_that_is_no_yaml(site: Site) -> None:
    site.replace(P, "encrypted: false}\n", "encrypted: false\n")


@mistake(rules.MANIFEST_INVALID, P, 8, "path: ")
def a_path_that_leads_upwards(site: Site) -> None:
    site.replace(P, "nginx/nginx.conf", "../nginx.conf")


@mistake(rules.MANIFEST_INVALID, P, 1, "is a symbolic link")
def a_manifest_that_is_a_link(site: Site) -> None:
    site.remove(P)
    (site.envs / P).symlink_to("../staging/environment.yaml")


@mistake(
    rules.MANIFEST_MISSING, "production/api.env", 1, "no environment.yaml",
    (rules.NOT_ENCRYPTED, "production/flags.env", 1, "is an env file in plain text"),
)  # fmt: skip
def an_environment_without_a_manifest(site: Site) -> None:
    site.remove(P)


@mistake(rules.TARGET_CONFLICT, P, 6, "has the live path of")
def two_targets_on_one_path(site: Site) -> None:
    site.replace(P, "config/worker.env", "api.env")


@mistake(rules.TARGET_CONFLICT, P, 10, "which must be a directory")
def a_live_file_where_a_directory_must_be(site: Site) -> None:
    site.write(P, site.read(P) + "targets:\n  motd: {path: /opt/app/nginx, encrypted: false}\n")
    site.write("production/motd", "hello\n")


@mistake(rules.SOURCE_MISSING, P, 6, "worker.env does not exist", (rules.SOURCE_UNUSED, "production/w.env", 1, ""))
def a_renamed_source(site: Site) -> None:
    (site.envs / "production/worker.env").rename(site.envs / "production/w.env")


@mistake(rules.SOURCE_MISSING, P, 8, "nginx.conf does not exist")
def a_target_without_its_source(site: Site) -> None:
    site.remove("production/nginx.conf")


@mistake(rules.SOURCE_UNUSED, "production/old.env", 1, "not the source of a target")
def a_source_without_a_target(site: Site) -> None:
    site.encrypt("production/old.env", "A=1\n")


@mistake(rules.SOURCE_UNUSABLE, "production/nginx.conf", 1, "is a symbolic link")
def a_source_that_is_a_link_to_the_outside(site: Site) -> None:
    site.remove("production/nginx.conf")
    (site.envs / "production/nginx.conf").symlink_to("/etc/hostname")


@mistake(rules.SOURCE_UNUSABLE, P, 8, "is a directory", (rules.SOURCE_UNUSED, "production/nginx.conf/x", 1, ""))
def a_source_that_is_a_directory(site: Site) -> None:
    site.remove("production/nginx.conf")
    site.write("production/nginx.conf/x", "")


@mistake(rules.SOURCE_UNUSABLE, "production/nginx.conf", 1, "LFS pointer")
def a_source_that_is_an_lfs_pointer(site: Site) -> None:
    site.write("production/nginx.conf", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")


@mistake(rules.SOURCE_UNUSABLE, "production/nginx.conf", 1, "larger than 5242880 bytes")
def a_source_that_is_too_large(site: Site) -> None:
    site.write("production/nginx.conf", b"#" * (5 * 1024 * 1024 + 1))


@mistake(rules.SOURCE_UNUSABLE, "production/nginx.conf", 1, "is a named pipe")
def a_source_that_is_a_named_pipe(site: Site) -> None:
    site.remove("production/nginx.conf")
    os.mkfifo(site.envs / "production/nginx.conf")


@mistake(rules.CHECK_SETTINGS, "check.yaml", 2, "no-such-rule is not a rule")
def an_exemption_from_an_unknown_rule(site: Site) -> None:
    exempt(site, "no-such-rule", "x")


@mistake(rules.CHECK_SETTINGS, "check.yaml", 2, "reason: is missing")
def an_exemption_without_a_reason(site: Site) -> None:
    site.write("check.yaml", "exempt:\n  - {rule: placeholder, path: staging/api.env}\n")


@mistake(rules.CHECK_SETTINGS, "check.yaml", 2, "cannot be turned off")
def an_exemption_from_the_rule_about_exemptions(site: Site) -> None:
    exempt(site, "exemption-unused", "check.yaml")


@mistake(rules.EXEMPTION_UNUSED, "check.yaml", 2, "no longer finds anything")
def an_exemption_that_exempts_nothing_any_more(site: Site) -> None:
    exempt(site, "source-missing", "production/environment.yaml")


# encryption


@mistake(rules.PLAIN_SECRET, "production/flags.env", 2, "API_TOKEN looks like a secret")
def a_secret_in_a_plain_target(site: Site) -> None:
    site.write("production/flags.env", f"{FLAGS}API_TOKEN=invented-plain\n")
    site.replace("env.example", "FEATURE_SEARCH=on\n", "FEATURE_SEARCH=on\nAPI_TOKEN=\n")
    site.replace("staging/environment.yaml", "{encrypted: false}", "{encrypted: false, ignore_keys: [API_TOKEN]}")


@mistake(rules.NOT_ENCRYPTED, "production/worker.env", 1, "plain values for QUEUE, WORKERS, API_TOKEN")
def a_plain_env_file(site: Site) -> None:
    site.write("production/worker.env", WORKER.format(environment="production"))


@mistake(rules.NOT_ENCRYPTED, "production/worker.env", 2, "WORKERS")
def a_plain_value_in_an_encrypted_file(site: Site) -> None:
    encrypted = next(line for line in site.read("production/worker.env").splitlines() if line.startswith("WORKERS"))
    site.replace("production/worker.env", encrypted, "WORKERS=4")


@mistake(rules.NOT_ENCRYPTED, "production/worker.env", 1, "the comment in line 1")
def a_plain_comment_in_an_encrypted_file(site: Site) -> None:
    site.write("production/worker.env", "# ask Ada for the token\n" + site.read("production/worker.env"))


@mistake(rules.NOT_ENCRYPTED, "production/worker.env", 4, "is not encrypted at line 4")
def a_name_that_sops_leaves_plain(site: Site) -> None:
    site.encrypt("production/worker.env", WORKER.format(environment="production") + "TOKEN_unencrypted=invented-x\n")


@mistake(
    rules.NOT_ENCRYPTED, "production/worker.env", 1, "rule encrypted_regex",
    (rules.PARTIAL_ENCRYPTION, ".sops.yaml", 2, "encrypted_regex"),
    (rules.PARTIAL_ENCRYPTION, ".sops.yaml", 5, "encrypted_regex"),
)  # fmt: skip
def a_rule_that_encrypts_a_part_only(site: Site) -> None:
    rule = "    encrypted_regex: TOKEN$\n"
    site.write(".sops.yaml", sops_rules(site, rule))
    site.encrypt("production/worker.env", WORKER.format(environment="production"), "--encrypted-regex", "TOKEN$")


@mistake(rules.PARTIAL_ENCRYPTION, "production/worker.env", 1, "unencrypted_suffix")
def a_file_whose_rule_leaves_a_suffix_plain(site: Site) -> None:
    text = WORKER.format(environment="production")
    site.encrypt("production/worker.env", text, "--unencrypted-suffix", "_plain")


@mistake(rules.BAD_CIPHERTEXT, "production/worker.env", 2, "WORKERS is damaged")
def junk_after_a_value(site: Site) -> None:
    lines = site.read("production/worker.env").splitlines()
    lines[1] += "junk"
    site.write("production/worker.env", "\n".join(lines) + "\n")


@mistake(rules.BAD_CIPHERTEXT, "production/worker.env", 1, "sops_… lines are missing")
def metadata_cut_off_by_a_merge(site: Site) -> None:
    lines = [line for line in site.read("production/worker.env").splitlines() if not line.startswith("sops_")]
    site.write("production/worker.env", "\n".join(lines) + "\n")


@mistake(rules.BAD_CIPHERTEXT, "production/worker.env", 2, "is not of the form KEY=ENC[…]")
def a_line_without_an_equals_sign(site: Site) -> None:
    site.replace("production/worker.env", "\n", "\nWORKERS\n", 1)


@mistake(rules.COPIED_CIPHERTEXT, "production/worker.env", 2, "WORKERS has the ciphertext of QUEUE")
def a_value_copied_to_another_key(site: Site) -> None:
    first, second, *rest = site.read("production/worker.env").splitlines()
    copied = "WORKERS=" + first.partition("=")[2]
    assert second.startswith("WORKERS=")
    site.write("production/worker.env", "\n".join([first, copied, *rest, ""]))


@mistake(
    rules.SHARED_CIPHERTEXT, "staging/worker.env", 1, "3 value(s) have the same ciphertext as in production/worker.env",
    (rules.RECIPIENTS_DIFFER, "staging/worker.env", 1, "not encrypted for age1"),
)  # fmt: skip
def a_file_copied_to_another_environment(site: Site) -> None:
    shutil.copy(site.envs / "production/worker.env", site.envs / "staging/worker.env")


@mistake(
    rules.METADATA_KIND, "production/worker.env", 1, "is encrypted for HashiCorp Vault only",
    (rules.RECIPIENTS_DIFFER, "production/worker.env", 1, "not encrypted for age1"),
)  # fmt: skip
def a_file_for_vault_alone(site: Site) -> None:
    lines = [line for line in site.read("production/worker.env").splitlines() if not line.startswith("sops_age")]
    lines.insert(3, "sops_hc_vault__list_0__map_vault_address=http://192.0.2.1")
    site.write("production/worker.env", "\n".join(lines) + "\n")


@mistake(rules.RECIPIENTS_DIFFER, "production/worker.env", 1, "for HashiCorp Vault, which the rule does not name")
def a_key_of_vault_that_no_rule_names(site: Site) -> None:
    lines = site.read("production/worker.env").splitlines()
    lines.insert(3, "sops_hc_vault__list_0__map_vault_address=http://192.0.2.1")
    site.write("production/worker.env", "\n".join(lines) + "\n")


@mistake(rules.METADATA_KIND, "production/worker.env", 0, "split among groups (Shamir)")
def a_split_key(site: Site) -> None:
    groups = f"[{{age: [{site.production.public}]}}, {{age: [{site.staging.public}]}}]"
    (site.root / "split.yaml").write_text(f"creation_rules:\n  - key_groups: {groups}\n")
    types = ("--input-type", "dotenv", "--output-type", "dotenv", "--filename-override", "x")
    text = WORKER.format(environment="production").encode()
    site.write("production/worker.env", site.sops("--config", "split.yaml", "encrypt", *types, stdin=text))


@mistake(rules.METADATA_KIND, ".sops.yaml", 2, "creation_rules[0] splits the key among groups")
def a_creation_rule_that_splits_the_key(site: Site) -> None:
    key = site.production.public
    site.replace(".sops.yaml", f"    age: {key}", f"    key_groups: [{{age: [{key}]}}, {{age: [{key}]}}]", 1)


@mistake(rules.METADATA_KIND, ".sops.yaml", 6, "creation_rules[2] encrypts for kms, pgp only")
def a_creation_rule_without_an_age_key(site: Site) -> None:
    rule = "  - path_regex: ^later/\n    kms: arn:aws:kms:eu-west-1:1:key/x\n    pgp: ABCDEF01\n"
    site.write(".sops.yaml", sops_rules(site) + rule)


@mistake(rules.STORE_FORMAT, "production/worker.env", 1, "is a JSON store, which its name does not say")
def an_env_file_in_a_json_store(site: Site) -> None:
    site.write("production/worker.env", as_json_store(site, WORKER.format(environment="production")))


def as_json_store(site: Site, text: str) -> bytes:
    types = ("--input-type", "dotenv", "--output-type", "json", "--filename-override", "x")
    return site.sops("encrypt", "--age", site.production.public, *types, stdin=text.encode())


@mistake(rules.ENCRYPTED_TWICE, "production/api.env", 1, "each value is as long as an encrypted one")
def values_that_were_encrypted_again_without_the_lines_of_sops(site: Site) -> None:
    store = json.loads(as_json_store(site, API.format(environment="production")))
    lines = [f"{key}={value}" for key, value in store.items() if key != "sops"]
    site.encrypt("production/api.env", "\n".join([*lines, ""]))


@mistake(rules.RECIPIENTS_DIFFER, "production/worker.env", 1, "not encrypted for age1")
def a_file_that_was_not_updated_for_a_new_recipient(site: Site) -> None:
    site.write(".sops.yaml", sops_rules(site).replace(site.production.public, f"{site.production.public},{NEWCOMER}"))
    for_both = f"{site.production.public},{NEWCOMER}"
    assert for_both in site.read(".sops.yaml")
    text = site.read("production/api.env")
    # The other file is as it would be after updatekeys; only its metadata is looked at.
    entry = next(line for line in text.splitlines() if "map_recipient" in line)
    more = f"{entry}\nsops_age__list_1__map_enc=x\nsops_age__list_1__map_recipient={NEWCOMER}"
    site.write("production/api.env", text.replace(entry, more))


@mistake(rules.RECIPIENTS_DIFFER, "production/worker.env", 1, "which the rule does not name")
def a_recipient_that_has_left(site: Site) -> None:
    everybody = f"{site.production.public},{site.staging.public}"
    site.encrypt("production/worker.env", WORKER.format(environment="production"), recipients=everybody)


@mistake(
    rules.NO_CREATION_RULE, "staging/api.env", 1, "no rule of envs/.sops.yaml matches",
    (rules.NO_CREATION_RULE, "staging/worker.env", 1, ""),
)  # fmt: skip
def an_environment_without_a_creation_rule(site: Site) -> None:
    site.replace(".sops.yaml", "^staging/", "^stage/")


@mistake(rules.SOPS_CONFIG_INVALID, ".sops.yaml", 2, "is not a valid age key (a typo?)")
def a_mistyped_recipient(site: Site) -> None:
    key = site.production.public
    site.replace(".sops.yaml", key, key[:20] + ("q" if key[20] != "q" else "p") + key[21:])


@mistake(rules.SOPS_CONFIG_INVALID, ".sops.yaml", 1, "is not valid YAML")
def sops_settings_that_are_no_yaml(site: Site) -> None:
    site.write(".sops.yaml", "creation_rules: [\n")


@mistake(rules.SOPS_CONFIG_INVALID, ".sops.yaml", 1, "not a supported regular expression")
def a_creation_rule_with_a_broken_pattern(site: Site) -> None:
    site.replace(".sops.yaml", "^production/", '"^production/("')


@mistake(rules.SOPS_CONFIG_INVALID, ".sops.yaml", 1, "takes too long")
def a_creation_rule_whose_pattern_never_ends(site: Site) -> None:
    site.replace(".sops.yaml", "^production/", "((.+)+)+$x")


@mistake(rules.PRIVATE_KEY, "notes.txt", 2, "contains a private key")
def a_private_key_in_plain_text(site: Site) -> None:
    site.write("notes.txt", "the key:\n" + site.staging.path.read_text())


@mistake(rules.PRIVATE_KEY, "production/nginx.conf", 1, "contains a private key")
def a_private_key_in_a_plain_source(site: Site) -> None:
    site.write("production/nginx.conf", "-----BEGIN RSA PRIVATE KEY-----\nAAAA\n-----END RSA PRIVATE KEY-----\n")


@mistake(rules.ENCRYPTED_MARKED_PLAIN, "production/flags.env", 1, "would read the ciphertext")
def an_encrypted_file_that_is_marked_plain(site: Site) -> None:
    site.encrypt("production/flags.env", FLAGS)


# the lines of a file


@mistake(rules.CONFLICT_MARKER, "production/worker.env", 1, "a merge conflict")
def a_merge_conflict_in_an_encrypted_file(site: Site) -> None:
    ours = site.read("production/worker.env")
    site.write("production/worker.env", f"<<<<<<< HEAD\n{ours}=======\n{ours}>>>>>>> theirs\n")


@mistake(rules.CONFLICT_MARKER, P, 1, "a merge conflict")
def a_merge_conflict_in_a_manifest(site: Site) -> None:
    site.write(P, f"<<<<<<< HEAD\n{MANIFEST}=======\n{MANIFEST}>>>>>>> theirs\n")


@mistake(rules.CONFLICT_MARKER, "production/nginx.conf", 2, "a merge conflict")
def a_merge_conflict_in_a_plain_file(site: Site) -> None:
    site.write("production/nginx.conf", "server {}\n<<<<<<< HEAD\na\n=======\nb\n>>>>>>> theirs\n")


@mistake(rules.CONFLICT_MARKER, "production/worker.env", 2, "is left from a merge conflict")
def a_line_that_a_merge_conflict_left(site: Site) -> None:
    site.replace("production/worker.env", "\n", "\n=======\n", 1)


@mistake(rules.CONFLICT_MARKER, "production/worker.env", 2, "is left from a merge conflict")
def a_line_that_a_merge_conflict_of_three_left(site: Site) -> None:
    site.replace("production/worker.env", "\n", "\n||||||| base\n", 1)


@mistake(rules.BAD_CIPHERTEXT, "production/worker.env", 1, "byte order mark")
def a_byte_order_mark(site: Site) -> None:
    site.write("production/worker.env", "\ufeff" + site.read("production/worker.env"))


@mistake(rules.LINE_ENDING, "production/worker.env", 1, "Windows line endings")
def windows_line_ends_in_an_encrypted_file(site: Site) -> None:
    site.replace("production/worker.env", "\n", "\r\n")


@mistake(rules.LINE_ENDING, "production/flags.env", 1, "Windows line endings")
def windows_line_ends_in_a_plain_env_file(site: Site) -> None:
    site.replace("production/flags.env", "\n", "\r\n")


@mistake(rules.LINE_ENDING, "production/settings.yaml", 1, "Windows line endings")
def windows_line_ends_in_an_encrypted_yaml_file(site: Site) -> None:
    site.encrypt("production/settings.yaml", "a: invented-a\nb: invented-b\n", kind="yaml")
    site.replace("production/settings.yaml", "\n", "\r\n")
    site.replace(P, "      flags.env", "      settings.yaml:\n      flags.env")


@mistake(rules.DUPLICATE_KEY, "production/worker.env", 4, "QUEUE is already set in line 1")
def an_empty_duplicate_that_needs_no_key(site: Site) -> None:
    lines = site.read("production/worker.env").splitlines()
    lines.insert(3, "QUEUE=")
    site.write("production/worker.env", "\n".join(lines) + "\n")


@mistake(rules.DUPLICATE_KEY, "production/flags.env", 2, "FEATURE_SEARCH is already set in line 1")
def a_duplicate_in_a_plain_env_file(site: Site) -> None:
    site.write("production/flags.env", FLAGS * 2)


@mistake(rules.SOPS_KEY, "production/worker.env", 1, "sops_")
def a_variable_with_a_name_of_sops_own(site: Site) -> None:
    site.write("production/worker.env", "sops_TOKEN=\n" + site.read("production/worker.env"))


@mistake(rules.SOPS_KEY, "production/flags.env", 2, "encrypted twice")
def metadata_in_a_plain_env_file(site: Site) -> None:
    site.write("production/flags.env", FLAGS + "sops_version=3.11.0\n")


@mistake(rules.KEY_NAME, "production/worker.env", 2, "not a name that Compose accepts")
def a_name_that_compose_refuses(site: Site) -> None:
    lines = site.read("production/worker.env").splitlines()
    lines.insert(1, "NOT A NAME=")
    site.write("production/worker.env", "\n".join(lines) + "\n")


@mistake(rules.ENV_UNREADABLE, "production/flags.env", 2, "a quote is opened and never closed")
def an_unclosed_quote_in_a_plain_env_file(site: Site) -> None:
    site.write("production/flags.env", FLAGS + 'MOTD="hello\n')


# retired names


def really_in_git(site: Site) -> None:
    """What git ignores stays out."""
    (site.root / ".git").rmdir()
    site.git("init", "--quiet", "--initial-branch=main", "--template=")
    site.git("add", "--all")
    site.git("commit", "--quiet", "-m", "Change")


@mistake(
    rules.RETIRED_NAME, "production/worker.env", 3, "names API_TOKEN, which is retired: the queue asks for none now",
    (rules.RETIRED_NAME, "staging/worker.env", 3, "names API_TOKEN, which is retired"),
    (rules.RETIRED_NAME, "env.example", 13, "names API_TOKEN"),
)  # fmt: skip
def a_key_that_is_retired(site: Site) -> None:
    """Another one, whose name holds it, is not."""
    site.write("check.yaml", "retired:\n  - {name: API_TOKEN, reason: the queue asks for none now}\n")
    site.replace("env.example", "API_TOKEN=", "API_TOKEN=\n# MY_API_TOKEN=\n# API_TOKEN_2=")
    really_in_git(site)


@mistake(
    rules.RETIRED_NAME, "production/worker.env", 2, "the value of QUEUE names something that is retired",
    (rules.RETIRED_NAME, "production/worker.env", 1, "a value or comment that is encrypted names gradient"),
    (rules.RETIRED_NAME, "production/nginx.conf", 2, "names gradient, which is retired"),
    (rules.RETIRED_NAME, P, 2, "names gradient"),
    (rules.RETIRED_NAME, "contracts/api.yaml", 10, "names gradient"),
    (rules.RETIRED_NAME, "../compose.yaml", 2, "names gradient"),
    (rules.RETIRED_NAME, "../.github/workflows/deploy.yml", 1, "names gradient"),
    (rules.RETIRED_NAME, "../docs/gradient.md", 1, "its path names gradient"),
    key=True,
)  # fmt: skip
def a_provider_that_is_retired(site: Site) -> None:
    """In every kind of file; not in one that git ignores, in binary data, nor as a part of a word."""
    site.write("check.yaml", "retired: [gradient]\n")
    text = "# the queue of gradient\nQUEUE=https://api.gradient.example.org\nWORKERS=4\nAPI_TOKEN=invented-token-1\n"
    site.encrypt("production/worker.env", text)
    site.write("production/nginx.conf", "server { listen 80; }\nupstream gradient { server 127.0.0.1:81; }\n")
    site.replace(P, "  app:\n", "  app: # Gradient's\n", 1)
    site.replace("contracts/api.yaml", "  ADMIN_HASH: {", "  ADMIN_HASH: {description: for GRADIENT_ADMIN, ")
    for path, content in {
        "../compose.yaml": "services:\n  gradient: {image: app}\n",
        "../.github/workflows/deploy.yml": "run: deploy --to=gradient\n",
        "../docs/gradient.md": "Nothing.\n",
        "../docs/ignored.md": "gradient\n",
        "../docs/words.md": "linear gradients, agradient\n",
        "../docs/picture.bin": b"\0gradient\n",
        "../.gitignore": "ignored.md\n",
    }.items():
        site.write(path, content)
    really_in_git(site)


# parity


@mistake(
    rules.EXAMPLE_KEY_MISSING, "production/worker.env", 1, "WORKERS is missing in worker.env; env.example:12 has it"
)
def a_key_that_only_the_example_has(site: Site) -> None:
    site.encrypt("production/worker.env", "QUEUE=jobs\nAPI_TOKEN=invented-token-production\n")


@mistake(
    rules.EXAMPLE_KEY_UNKNOWN, "production/worker.env", 4, "NEW_KEY is not in env.example",
    (rules.EXAMPLE_KEY_UNKNOWN, "staging/worker.env", 4, "NEW_KEY is not in env.example"),
)  # fmt: skip
def a_key_that_the_example_lacks(site: Site) -> None:
    for environment in ENVIRONMENTS:
        site.encrypt(f"{environment}/worker.env", WORKER.format(environment=environment) + f"NEW_KEY={environment}\n")


@mistake(rules.EXAMPLE_FILE_UNKNOWN, "env.example", 15, "no target has the source mailer.env")
def an_example_that_names_a_file_that_is_not_there(site: Site) -> None:
    site.replace("env.example", "# files: flags.env", "# files: flags.env mailer.env")


@mistake(rules.ENVIRONMENT_PARITY, "staging/worker.env", 1, "NEW_KEY is missing here, but exists in production")
def a_key_that_one_environment_lacks(site: Site) -> None:
    site.replace("env.example", EXAMPLE.partition("# files: worker.env")[2].partition("# files: flags")[0], "\n")
    site.replace("env.example", "# files: worker.env\n", "")
    site.encrypt("production/worker.env", WORKER.format(environment="production") + "NEW_KEY=1\n")


@mistake(
    rules.ENVIRONMENT_PARITY, "staging/stag.env", 1,
    "NEW_KEY is missing here, but exists in production/production.env",
)  # fmt: skip
def a_key_that_the_same_file_of_another_name_lacks(site: Site) -> None:
    """Named after the environment on one side, after its short form on the other."""
    for environment, name in (("production", "production.env"), ("staging", "stag.env")):
        more = "NEW_KEY=1\n" if environment == "production" else ""
        site.encrypt(f"{environment}/{name}", WORKER.format(environment=environment) + more)
        site.replace(f"{environment}/environment.yaml", "worker.env: config", f"{name}: config")
        site.remove(f"{environment}/worker.env")
    site.replace("env.example", EXAMPLE.partition("# files: worker.env")[2].partition("# files: flags")[0], "\n")
    site.replace("env.example", "# files: worker.env\n", "")


@mistake(
    rules.EXAMPLE_CONTRACT, "env.example", 4, "LOG_LEVEL must be one of debug, info, warning, error",
    (rules.EXAMPLE_CONTRACT, "env.example", 8, "NEVER is not allowed"),
    (rules.EXAMPLE_CONTRACT, "env.example", 5, "SESSION_SECRET is optional here, but contracts/api.yaml:3 requires it"),
    (rules.EXAMPLE_CONTRACT, "env.example", 1, "PUBLIC_URL is missing; contracts/api.yaml:3 requires it"),
    (rules.EXAMPLE_KEY_UNKNOWN, "production/api.env", 2, "PUBLIC_URL"),
    (rules.EXAMPLE_KEY_UNKNOWN, "staging/api.env", 2, "PUBLIC_URL"),
)  # fmt: skip
def an_example_that_its_contract_refuses(site: Site) -> None:
    """A wrong default, a key that is not allowed although switched off, and two that are required."""
    text = EXAMPLE.replace("LOG_LEVEL=info", "LOG_LEVEL=chatty").replace("PUBLIC_URL=https://example.org\n", "\n")
    text = text.replace("SESSION_SECRET=", "# SESSION_SECRET=").replace("OPTIONAL=\n", "# NEVER=1\nOPTIONAL=\n")
    site.write("env.example", text)


@mistake(rules.ENV_UNREADABLE, "env.example", 3, "")
def an_example_that_cannot_be_read(site: Site) -> None:
    site.write("env.example", "# files: api.env\nA=1\nB='\n")


# contracts


@mistake(
    rules.CONTRACT_INVALID, "contracts/api.yaml", 3, "is not a valid JSON Schema",
)  # fmt: skip
def a_contract_that_is_no_json_schema(site: Site) -> None:
    site.replace("contracts/api.yaml", "required: [PUBLIC_URL, LOG_LEVEL, SESSION_SECRET]", "required: PUBLIC_URL")


@mistake(rules.CONTRACT_INVALID, "contracts/api.yaml", 6, "points out of the file")
def a_contract_that_refers_to_the_network(site: Site) -> None:
    site.replace("contracts/api.yaml", "{type: string, format: uri,", '{$ref: "https://192.0.2.1/x", format: uri,')


@mistake(rules.CONTRACT_INVALID, "contracts/api.yaml", 6, "is not checked here")
def a_contract_with_a_format_that_nobody_checks(site: Site) -> None:
    site.replace("contracts/api.yaml", "{type: string, format: uri,", "{type: string, format: url,")


@mistake(rules.CONTRACT_INVALID, "contracts/api.yaml", 7, "put it in quotes")
def a_contract_whose_values_are_no_texts(site: Site) -> None:
    site.replace("contracts/api.yaml", "enum: [debug,", "enum: [off, debug,")


@mistake(rules.CONTRACT_INVALID, "contracts/api.yaml", 6, "x-differs: must be one of")
def a_contract_with_a_misspelt_keyword(site: Site) -> None:
    site.replace("contracts/api.yaml", "x-differs: must", "x-differs: always")


@mistake(rules.CONTRACT_INVALID, "production/nginx.conf", 1, "no keys")
def a_contract_for_a_file_without_keys(site: Site) -> None:
    site.replace(P, "path: nginx/nginx.conf,", "path: nginx/nginx.conf, schema: contracts/api.yaml,")


@mistake(rules.CONTRACT_MISSING, P, 5, "contracts/nowhere.yaml of api.env does not exist")
def a_contract_that_does_not_exist(site: Site) -> None:
    site.replace(P, "contracts/api.yaml", "contracts/nowhere.yaml")


@mistake(rules.CONTRACT_REQUIRED, "production/api.env", 1, "REQUIRED_KEY is missing; contracts/api.yaml:3 requires it",
         (rules.CONTRACT_REQUIRED, "staging/api.env", 1, "REQUIRED_KEY"),
         (rules.EXAMPLE_CONTRACT, "env.example", 1, "REQUIRED_KEY is missing"))  # fmt: skip
def a_key_that_the_contract_requires(site: Site) -> None:
    site.replace("contracts/api.yaml", "required: [", "required: [REQUIRED_KEY, ")


@mistake(rules.CONTRACT_FORBIDDEN, "production/api.env", 7, "OPTIONAL is not allowed (`additionalProperties`",
         (rules.CONTRACT_FORBIDDEN, "staging/api.env", 7, "OPTIONAL"),
         (rules.EXAMPLE_CONTRACT, "env.example", 8, "OPTIONAL is not allowed"))  # fmt: skip
def a_key_that_the_contract_does_not_know(site: Site) -> None:
    site.replace("contracts/api.yaml", "  OPTIONAL: {type: string}\n", "")


@mistake(rules.CONTRACT_FORBIDDEN, "production/api.env", 7, "OPTIONAL is not allowed (`false`",
         (rules.CONTRACT_FORBIDDEN, "staging/api.env", 7, "OPTIONAL"),
         (rules.EXAMPLE_CONTRACT, "env.example", 8, "OPTIONAL is not allowed"))  # fmt: skip
def a_key_that_the_contract_forbids(site: Site) -> None:
    site.replace("contracts/api.yaml", "OPTIONAL: {type: string}", "OPTIONAL: false")


@mistake(rules.CONTRACT_DEPRECATED, "production/api.env", 7, "OPTIONAL is deprecated (contracts/api.yaml:11)",
         (rules.CONTRACT_DEPRECATED, "staging/api.env", 7, "OPTIONAL"))  # fmt: skip
def a_deprecated_key(site: Site) -> None:
    site.replace("contracts/api.yaml", "OPTIONAL: {type: string}", "OPTIONAL: {deprecated: true}")


@mistake(rules.CONTRACT_AGE, "production/api.env", 4, "SESSION_SECRET is at least")
def a_secret_older_than_it_may_be(site: Site) -> None:
    text = site.read("production/api.env")
    written = next(line for line in text.splitlines() if line.startswith("sops_lastmodified="))
    site.replace("production/api.env", written, "sops_lastmodified=2016-01-01T00:00:00Z")


# with a key


@mistake(rules.DECRYPT_FAILED, "production/worker.env", 1, "its MAC does not match", key=True)
def a_bad_merge_that_left_no_marks(site: Site) -> None:
    base = site.read("production/worker.env")
    site.in_place("set", "production/worker.env", value='["QUEUE"] "others"')
    theirs = site.read("production/worker.env").splitlines()
    site.write("production/worker.env", base)
    site.in_place("set", "production/worker.env", value='["WORKERS"] "8"')
    ours = site.read("production/worker.env").splitlines()
    site.write("production/worker.env", "\n".join([theirs[0], *ours[1:], ""]))


@mistake(rules.INTERPOLATION, "production/worker.env", 4, "MAIL_PASSWORD: Compose treats the text after a $", key=True)
def an_unquoted_dollar_sign(site: Site) -> None:
    keyed(site, "MAIL_PASSWORD=invented-pa$sword", "MAIL_PASSWORD=invented-staging")


@mistake(rules.ENV_UNREADABLE, "production/worker.env", 1, "(line 4 of the plaintext)", key=True)
def an_unclosed_quote_that_nobody_sees_without_the_key(site: Site) -> None:
    keyed(site, 'MAIL_PASSWORD="invented-', "MAIL_PASSWORD=invented-staging")


@mistake(rules.PLACEHOLDER, "production/worker.env", 4, "MAIL_PASSWORD still has a placeholder", key=True)
def a_placeholder(site: Site) -> None:
    keyed(site, "MAIL_PASSWORD=changeme", "MAIL_PASSWORD=invented-staging")


@mistake(rules.PLACEHOLDER, "production/worker.env", 4, "MAIL_PASSWORD still has a placeholder", key=True)
def a_placeholder_that_says_what_belongs_there(site: Site) -> None:
    keyed(site, "MAIL_PASSWORD=your_mail_password_here", "MAIL_PASSWORD=invented-staging")


@mistake(rules.PLACEHOLDER, "production/worker.env", 4, "MAIL_PASSWORD still has a placeholder", key=True)
def a_placeholder_behind_a_prefix(site: Site) -> None:
    keyed(site, "MAIL_PASSWORD=sk-xxxxxxxx", "MAIL_PASSWORD=invented-staging")


@mistake(rules.PLACEHOLDER, "production/worker.env", 4, "MAIL_URL still has a placeholder", key=True)
def a_placeholder_within_an_address(site: Site) -> None:
    keyed(site, "MAIL_URL=smtp://app:changeme@mail.example.org", "MAIL_URL=smtp://mail.example.org")


@mistake(rules.PLACEHOLDER, "production/flags.env", 1, "FEATURE_SEARCH still has a placeholder")
def a_placeholder_in_a_plain_file_needs_no_key(site: Site) -> None:
    site.write("production/flags.env", "FEATURE_SEARCH=TODO\n")


@mistake(rules.SHARED_SECRET, "staging/worker.env", 4, "MAIL_PASSWORD is the same secret as MAIL_PASSWORD", key=True)
def one_secret_in_two_environments(site: Site) -> None:
    keyed(site, "MAIL_PASSWORD=invented-same", "MAIL_PASSWORD=invented-same")


@mistake(
    rules.CONTRACT_VALUE,
    "production/api.env",
    3,
    "LOG_LEVEL must be one of debug, info, warning, error (`enum` of contracts/api.yaml:7)",
    key=True,
)
def a_value_that_is_none_of_the_choices(site: Site) -> None:
    api(site, "LOG_LEVEL=info", "LOG_LEVEL=invented-loud")


@mistake(
    rules.CONTRACT_VALUE,
    "production/api.env",
    5,
    "DATABASE_URL must be a URI such as https://example.org (`format` of contracts/api.yaml:9)",
    key=True,
)
def a_value_that_is_no_address(site: Site) -> None:
    api(site, "DATABASE_URL=postgresql://", "DATABASE_URL=//not an address ")


@mistake(rules.CONTRACT_VALUE, "production/api.env", 5, "DATABASE_URL breaks `not` of contracts/api.yaml:9", key=True)
def a_value_that_is_forbidden(site: Site) -> None:
    api(
        site,
        "DATABASE_URL=postgresql://app:invented-production@db.example.org/app",
        "DATABASE_URL=postgresql://localhost/app",
    )


@mistake(
    rules.CONTRACT_VALUE,
    "production/api.env",
    4,
    "SESSION_SECRET must have at least 16 characters (`minLength`",
    key=True,
)
def a_value_that_is_too_short(site: Site) -> None:
    api(site, "invented-session-production", "invented-x")


@mistake(
    rules.CONTRACT_VALUE,
    "production/api.env",
    3,
    "LOG_LEVEL must be warning (`const` of contracts/production.yaml:2)",
    key=True,
)
def a_value_against_the_overlay_of_its_environment(site: Site) -> None:
    site.write("contracts/production.yaml", 'properties:\n  LOG_LEVEL: {const: "warning"}\n')
    site.replace(P, "schema: contracts/api.yaml", "schema: [contracts/api.yaml, contracts/production.yaml]")


@mistake(rules.CONTRACT_INVALID, "contracts/api.yaml", 1, "takes too long", key=True)
def a_contract_whose_pattern_never_ends(site: Site) -> None:
    site.replace(
        "contracts/api.yaml", 'ADMIN_HASH: {pattern: "^\\\\$2b\\\\$"}', 'ADMIN_HASH: {pattern: "^(.+)+(.+)+[0]$"}'
    )
    api(site, "invented-session-production", "invented-session-production-" + "a" * 4000)
    api(site, "'$2b$12$inventedproduction'", "'" + "a" * 60 + "'")


@mistake(
    rules.CONTRACT_INVALID, "contracts/production.yaml", 1, "takes too long",
    (rules.CONTRACT_VALUE, "production/api.env", 3, "LOG_LEVEL must be one of debug"), key=True,
)  # fmt: skip
def an_overlay_whose_pattern_never_ends_beside_a_contract_that_speaks(site: Site) -> None:
    site.write("contracts/production.yaml", 'properties:\n  ADMIN_HASH: {pattern: "^(.+)+(.+)+(.+)+$x"}\n')
    site.replace(P, "schema: contracts/api.yaml", "schema: [contracts/api.yaml, contracts/production.yaml]")
    api(site, "LOG_LEVEL=info", "LOG_LEVEL=invented-loud")


@mistake(rules.CONTRACT_DIFFERS, "staging/api.env", 2, "PUBLIC_URL must differ", key=True)
def a_value_that_must_differ_and_does_not(site: Site) -> None:
    api(site, "https://production.example.org", "https://staging.example.org")


@mistake(rules.CONTRACT_DIFFERS, "staging/api.env", 3, "LOG_LEVEL must be the same as in production/api.env", key=True)
def a_value_that_must_never_differ_and_does(site: Site) -> None:
    site.replace("contracts/api.yaml", "LOG_LEVEL: {enum:", "LOG_LEVEL: {x-differs: never, enum:")
    api(site, "LOG_LEVEL=info", "LOG_LEVEL=error")


@mistake(rules.SERVER_FILE_INVALID, "../server.yaml", 1, "allowed_paths: is missing")
def a_server_file_that_cannot_be_used(site: Site) -> None:
    (site.root / "server.yaml").write_text("environment: production\nrepository: {url: /srv/config.git}\n")


@mistake(rules.PROJECT_FILE, P, 5, "Compose reads /opt/app/compose.override.yaml as a project")
def a_target_that_is_a_compose_file(site: Site) -> None:
    server = "environment: production\nrepository: {url: /srv/config.git}\nallowed_paths: [/opt/app]\n"
    (site.root / "server.yaml").write_text(server)
    site.replace(P, "      api.env:", "      compose.override.yaml: {encrypted: false}\n      api.env:")
    site.write("production/compose.override.yaml", "services: {}\n")


@mistake(rules.HEALTH_TIMEOUT, "production/compose.yaml", 4, "allows api 92 s to become healthy, and health.timeout")
def a_health_check_that_allows_more_than_the_timeout(site: Site) -> None:
    site.replace(P, "      api.env:", "      compose.yaml: {encrypted: false}\n      api.env:")
    check = "healthcheck: {test: 'true', start_period: 1m26s, interval: 1s, timeout: 1s}"
    site.write("production/compose.yaml", f"services:\n  api:\n    image: api\n    {check}\n")


@mistake(rules.MANIFEST_INVALID, P, 3, "lies outside allowed_paths")
def a_manifest_that_its_server_would_not_let_write(site: Site) -> None:
    server = "environment: production\nrepository: {url: /srv/config.git}\nallowed_paths: [/srv/app]\n"
    (site.root / "server.yaml").write_text(server)


def exempt(site: Site, rule: str, path: str) -> None:
    site.write("check.yaml", f"exempt:\n  - {{rule: {rule}, path: {path}, reason: it is known and wanted}}\n")


def keyed(site: Site, production: str, staging: str) -> None:
    """Add a line to worker.env of both environments, and its key to the example."""
    for environment, line in zip(ENVIRONMENTS, (production, staging), strict=True):
        site.encrypt(f"{environment}/worker.env", WORKER.format(environment=environment) + line + "\n")
    site.replace("env.example", "API_TOKEN=\n", f"API_TOKEN=\n{staging.partition('=')[0]}=\n")


def api(site: Site, old: str, new: str) -> None:
    """Change a line of production's api.env."""
    text = site.sops("decrypt", "--input-type", "dotenv", "--output-type", "dotenv", "envs/production/api.env").decode()
    assert old in text
    site.encrypt("production/api.env", text.replace(old, new))


@pytest.mark.parametrize("name", MISTAKES)
def test_a_seeded_mistake_is_found_and_named(site: Site, name: str) -> None:
    seeded = MISTAKES[name]
    seeded.make(site)
    server = site.root / "server.yaml"

    report = check(site, key=seeded.key, servers=[str(server)] if server.exists() else [])

    # Consequences of a mistake (an unreadable file lacks its keys) are reported too, but the mistake itself only once.
    findings = [(finding.rule.id, os.path.relpath(finding.path, "envs")) for finding in report.findings]
    assert sorted(findings) == sorted((rule.id, path) for rule, path, _, _ in seeded.expected), lines_of(report)
    for rule, path, line, says in seeded.expected:
        of_it = [
            matching
            for matching in report.findings
            if matching.rule is rule and os.path.relpath(matching.path, "envs") == path
        ]
        assert any(line in (0, finding.line) and says in finding.message for finding in of_it), lines_of(report)
    assert not any(CANARY in line for line in lines_of(report))


def test_there_are_enough_seeded_mistakes_and_every_rule_has_one() -> None:
    assert len(MISTAKES) >= 40
    seeded = {rule.id for mistake in MISTAKES.values() for rule, _, _, _ in mistake.expected}
    assert seeded == set(rules.BY_ID)
