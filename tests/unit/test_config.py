"""The server configuration: how it is read, which mistakes are refused with which message, its JSON Schema and page."""

from __future__ import annotations

import contextlib
import functools
import json
import re
import socket
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from reconciler.app.config import strict_yaml
from reconciler.app.config.credentials import require_credentials
from reconciler.app.config.manifest import LoneTarget, ManifestFile, StackTarget, TargetFields
from reconciler.app.config.schema import json_schema
from reconciler.app.config.server import ServerConfig, load_server_config
from reconciler.core.errors import ConfigError
from reconciler.core.model.targets import Check, OnDrift
from tests.support.cases import each

DATA = Path(__file__).parents[1] / "data"
PAGE = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text()
MINIMAL = "environment: production\nrepository: {url: /srv/config.git}\nallowed_paths: [/opt/app]\n"

Load = Callable[[str | bytes], ServerConfig]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def read(content: str | bytes) -> ServerConfig:
        file = tmp_path / "reconciler.yaml"
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        return load_server_config(str(file))

    return read


def refusal(load: Load, content: str | bytes) -> list[str]:
    """The lines of the error, without the directory of the file."""
    with pytest.raises(ConfigError) as caught:
        load(content)
    return [re.sub(r"^\S*/reconciler\.yaml", "FILE", line) for line in str(caught.value).splitlines()]


# --- what is read ---


def test_every_field_is_read() -> None:
    config = load_server_config(str(DATA / "server-full.yaml"))
    assert config.environment == ("production", "production-eu")
    assert config.host == "web-1"
    assert config.repository.url == "ssh://git@git.example.org/acme/config.git"
    assert config.repository.branch == "release"
    assert config.repository.path == "deploy/envs"
    assert config.repository.poll_interval == 45.0
    assert config.repository.ssh_key_file == "/etc/reconciler/deploy_key"
    assert config.repository.known_hosts_file == "/etc/reconciler/known_hosts"
    assert config.repository.token_file == "/etc/reconciler/token"
    assert config.repository.verify == "range"
    assert config.repository.allowed_signers_file == "/etc/reconciler/allowed_signers"
    assert config.repository.history_rewrites == "accept"
    assert config.decryption.age_key_file == "/etc/reconciler/age.key"
    assert config.decryption.sops_binary == "/usr/local/bin/sops"
    assert config.allowed_paths == ("/opt/app", "/srv/apps")
    assert config.allow_compose_files is True
    assert config.health_hosts == ("health.example.org", "10.0.0.7")
    assert config.state_dir == "/var/lib/other"
    assert config.backups.keep == 7
    assert config.backups.max_age == 30 * 86400.0
    assert config.drift.interval == 120.0
    assert config.drift.on_drift is OnDrift.REPORT
    assert config.http.listen == ("::1", 9465)
    assert config.http.allowed_hosts == ("reconciler.example.org", "10.0.0.4")
    assert config.http.page_url == "https://rec.example.org/web-1/"
    assert (config.http.socket_group, config.http.public_metrics) == ("www-data", True)
    assert config.http.token_file == "/etc/reconciler/http-token"
    assert config.webhook
    assert config.webhook.secret_file == "/etc/reconciler/webhook"
    assert config.forge
    assert config.forge.app
    assert (config.forge.app.id, config.forge.app.key_file) == (4711, "/etc/reconciler/app.pem")
    assert config.forge.app.installation == 12
    assert config.forge.plan_pull_requests == ("*", "change/*")
    address = ("github", "https://git.example.org/api/v3", "acme/configuration")
    assert config.forge_address
    assert (config.forge_address.kind, config.forge_address.api_url, config.forge_address.repository) == address
    assert config.notifications
    assert config.notifications.urls_file == "/etc/reconciler/notify"
    assert config.notifications.events == ("rolled_back", "service_down")
    assert (config.notifications.reminder, config.notifications.digest) == (4 * 3600.0, 30.0)
    assert config.rollback.git == "off"
    assert config.author == "robot <robot@example.org>"
    assert config.rollback.max_per_day == 5
    assert config.rollback.ssh_key_file == "/etc/reconciler/push_key"
    assert config.rollback.signing_key_file == "/etc/reconciler/signing_key"
    assert config.check("nginx") == Check("nginx", ("nginx", "-t", "-c", "{file}"))
    assert config.check("json").argv == ("/usr/bin/jq", "--exit-status", ".", "--file={file}")
    host = config.hosts["web-2"]
    assert (host.address, host.port, host.user) == ("10.0.0.5", 2222, "deploy")
    assert (host.key_file, host.known_hosts_file) == ("/etc/reconciler/web-2", "/etc/reconciler/web-2.known")
    assert (host.docker_socket, host.backup_dir) == ("/run/user/1000/docker.sock", "/var/backups/reconciler")
    assert host.jump
    assert (host.jump.address, host.jump.port, host.jump.user) == ("10.0.0.1", 2200, "hop")
    assert (host.jump.key_file, host.jump.known_hosts_file) == ("/etc/reconciler/hop", "/etc/reconciler/hop.known")
    assert (config.local, config.rollout.max_unavailable) == (False, 2)
    assert list(config.units) == ["production@web-3", "production-eu@web-2", "production-eu@web-3"]
    gate = config.promotion.gates["production"]
    assert (config.promotion.publish, gate.after, gate.for_) == (True, ("staging@web-1", "staging@web-2"), 1800.0)
    releases, machines = config.comparisons["releases"], config.comparisons["machines"]
    assert (releases.left, releases.right, releases.interval) == ("git:staging", "git:production", 300.0)
    assert (releases.same_environment, releases.ssh_key_file, releases.known_hosts_file) == (None, None, None)
    assert (machines.left, machines.right) == ("live:production-eu@web-2", "ssh://deploy@10.0.0.9:2222/opt/app")
    assert (machines.interval, machines.same_environment) == (900.0, True)
    assert (machines.ssh_key_file, machines.known_hosts_file) == (
        "/etc/reconciler/compare",
        "/etc/reconciler/compare.known",
    )


def test_the_full_file_leaves_no_field_out() -> None:
    """Or the test above would say nothing about it. A forge has one source of tokens: the App excludes the command."""
    written = yaml.safe_load((DATA / "server-full.yaml").read_text())
    assert {*_names(written), "token_command"} >= {path.rpartition(".")[2] for path in fields_of(ServerConfig)}


@pytest.mark.parametrize(
    ("url", "forge", "kind", "api_url", "repository", "commit_url"),
    [
        pytest.param(
            "https://github.com/acme/config.git",
            "",
            "github",
            "https://api.github.com",
            "acme/config",
            "https://github.com/acme/config/commit/c",
            id="github",
        ),
        pytest.param(
            "ssh://git@ssh.github.com:443/acme/config.git",
            "",
            "github",
            "https://api.github.com",
            "acme/config",
            "https://github.com/acme/config/commit/c",
            id="github-over-443",
        ),
        pytest.param(
            "ssh://git@github.acme.example/acme/config.git",
            "kind: github",
            "github",
            "https://github.acme.example/api/v3",
            "acme/config",
            "https://github.acme.example/acme/config/commit/c",
            id="github-enterprise",
        ),
        pytest.param(
            "ssh://git@gitlab.com/acme/ops/config.git",
            "",
            "gitlab",
            "https://gitlab.com/api/v4",
            "acme/ops/config",
            "https://gitlab.com/acme/ops/config/-/commit/c",
            id="gitlab",
        ),
        pytest.param(
            "https://codeberg.org/acme/config",
            "",
            "forgejo",
            "https://codeberg.org/api/v1",
            "acme/config",
            "https://codeberg.org/acme/config/commit/c",
            id="codeberg",
        ),
        pytest.param(
            "ssh://git@git.example.org:2222/acme/config.git",
            "kind: gitea, api_url: http://git.example.org:3000/api/v1",
            "gitea",
            "http://git.example.org:3000/api/v1",
            "acme/config",
            "http://git.example.org:3000/acme/config/commit/c",
            id="gitea-in-the-clear",
        ),
        pytest.param(
            "ssh://git@bitbucket.org/acme/config.git",
            "",
            "bitbucket",
            "https://api.bitbucket.org/2.0",
            "acme/config",
            "https://bitbucket.org/acme/config/commits/c",
            id="bitbucket",
        ),
        pytest.param(
            "https://bitbucket.example.org/scm/OPS/config.git",
            "kind: bitbucket-server",
            "bitbucket-server",
            "https://bitbucket.example.org/rest",
            "OPS/config",
            "https://bitbucket.example.org/projects/OPS/repos/config/commits/c",
            id="bitbucket-server",
        ),
        pytest.param(
            "/srv/git/config",
            "kind: gitlab, api_url: https://git.example.org/api/v4, repository: acme/config",
            "gitlab",
            "https://git.example.org/api/v4",
            "acme/config",
            "https://git.example.org/acme/config/-/commit/c",
            id="local-path",
        ),
    ],
)
def test_the_forge_follows_from_the_repository(
    load: Load, url: str, forge: str, kind: str, api_url: str, repository: str, commit_url: str
) -> None:
    written = f"forge: {{token_file: /etc/token, {forge}}}\n"
    config = load(MINIMAL.replace("/srv/config.git", url) + written)
    address = config.forge_address
    assert address
    assert (address.kind, address.api_url, address.repository) == (kind, api_url, repository)
    assert address.commit_url("c") == commit_url


@pytest.mark.parametrize(
    ("url", "forge", "line"),
    [
        pytest.param(
            "https://git.example.org/a/b", "token_file: /t", "kind: is missing: git.example.org does", id="kind"
        ),
        pytest.param("/srv/config.git", "token_file: /t, kind: gitea", "api_url: is missing", id="path"),
        pytest.param("https://github.com/config", "token_file: /t", "repository: is not OWNER/NAME", id="no-owner"),
        pytest.param("https://github.com/a/b/c", "token_file: /t", "repository: is not OWNER/NAME", id="groups"),
        pytest.param("https://gitlab.com/a/b", "app: {id: 1, key_file: /k}", "app: is only for GitHub", id="app"),
        pytest.param("https://github.com/a/b", "kind: github", "forge: needs one of token_file", id="no-token"),
        pytest.param(
            "https://github.com/a/b",
            "token_file: /t, token_command: [t]",
            "forge: has several sources",
            id="two-tokens",
        ),
        pytest.param(
            "https://github.com/a/b",
            "token_file: /t, api_url: https://user:pw@x/",
            "api_url: is not the",
            id="password",
        ),
        pytest.param("https://github.com/a/b", "token_file: /t, repository: a/../b", "repository: ", id="dots"),
    ],
)
def test_what_the_repository_does_not_say_must_be_written(load: Load, url: str, forge: str, line: str) -> None:
    lines = refusal(load, MINIMAL.replace("/srv/config.git", url) + f"forge: {{{forge}}}\n")
    assert len(lines) == 1
    assert line in lines[0]
    assert "pw" not in lines[0]


def test_defaults(load: Load) -> None:
    config = load(MINIMAL)
    assert config.environment == ("production",)
    assert config.host == socket.gethostname()
    assert (config.repository.branch, config.repository.path) == ("main", "envs")
    assert config.repository.poll_interval == 30.0
    assert config.repository.ssh_key_file is None
    assert (config.repository.verify, config.repository.history_rewrites) == ("none", "refuse")
    assert (config.decryption.age_key_file, config.decryption.sops_binary) == (None, "sops")
    assert config.allow_compose_files is False
    assert config.health_hosts == ()
    assert config.state_dir == "/var/lib/reconciler"
    assert (config.backups.keep, config.backups.max_age) == (50, 90 * 86400.0)
    assert (config.drift.interval, config.drift.on_drift) == (60.0, OnDrift.RESTORE)
    assert config.http.listen == ("127.0.0.1", 9464)
    assert (config.http.socket_group, config.http.token_file, config.http.public_metrics) == (None, None, False)
    assert config.webhook is None
    assert config.notifications is None
    assert (config.rollback.git, config.rollback.max_per_day) == ("push", 3)
    assert (config.rollback.ssh_key_file, config.rollback.signing_key_file) == (None, None)
    assert config.author == f"reconciler <reconciler@{socket.gethostname()}>"
    assert (config.checks, config.hosts, config.comparisons) == ({}, {}, {})
    assert (config.promotion.publish, config.promotion.gates) == (False, {})
    assert (config.local, config.rollout.max_unavailable) == (True, 1)
    assert list(config.units) == ["production"]


HOSTS = """
environment: [production, staging]
host: control
hosts:
  web-2: {address: 10.0.0.2, user: deploy, known_hosts_file: /etc/reconciler/known, environment: production}
  web-1: {address: 10.0.0.1, user: deploy, known_hosts_file: /etc/reconciler/known}
"""


def test_an_environment_is_on_this_machine_first_then_on_its_hosts_in_their_order(load: Load) -> None:
    config = load(MINIMAL.replace("environment: production\n", HOSTS))
    assert list(config.units) == ["production", "production@web-2", "production@web-1", "staging", "staging@web-1"]
    assert config.hosts["web-1"].docker_socket == "/var/run/docker.sock"
    assert (config.hosts["web-1"].key_file, config.hosts["web-1"].backup_dir) == (None, None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("environment: production}", "environment: prodution}"), "hosts.web-2.environment: prodution is not one of"),
        (("host: control", "host: web-1"), "hosts.web-1: is this machine itself"),
    ],
    ids=["an environment that is not followed", "this machine"],
)
def test_hosts_that_make_no_sense_are_refused(load: Load, change: tuple[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        load(MINIMAL.replace("environment: production\n", HOSTS.replace(*change)))


def test_an_environment_that_would_be_on_no_host_is_refused(load: Load) -> None:
    only_one = "".join(line for line in HOSTS.splitlines(True) if "web-1:" not in line)
    with pytest.raises(ConfigError, match="local: is false, and staging has no hosts"):
        load(MINIMAL.replace("environment: production\n", only_one) + "local: false\n")


def test_a_machine_that_is_not_a_host_and_has_none_is_refused(load: Load) -> None:
    with pytest.raises(ConfigError, match="local: is false, and there are no hosts"):
        load(MINIMAL + "local: false\n")


@pytest.mark.parametrize(
    ("left", "message"),
    [
        (
            "live:prodution",
            "live:prodution is not one of the server's environments and hosts; accepted: live:production",
        ),
        ("live:staging@web-2", "live:staging@web-2 is not one of the server's environments and hosts"),
        ("git:production", "comparisons.pair.right: is the left side itself"),
        ("git:production@v1", "is not a side to compare; accepted: git:ENVIRONMENT"),
        ("file:/opt/app", "is not a side to compare"),
        ("ssh://deploy:s3cret@web-1/opt/app", "is not a side to compare"),
        ("ssh://deploy@web-1:99999/opt", "has an invalid host or port"),
        ("ssh://deploy@web-1/opt/../etc", "is not a side to compare"),
    ],
    ids=[
        "an environment that is not followed",
        "a host of another environment",
        "the other side",
        "a revision",
        "a file of this machine",
        "a password",
        "a port",
        "a path that goes up",
    ],
)
def test_sides_that_the_daemon_cannot_compare_are_refused(load: Load, left: str, message: str) -> None:
    pair = f"comparisons: {{pair: {{left: '{left}', right: 'git:production'}}}}\n"
    with pytest.raises(ConfigError, match=re.escape(message)) as error:
        load(MINIMAL.replace("environment: production\n", HOSTS) + pair)
    assert "s3cret" not in str(error.value)


@pytest.mark.parametrize(
    ("gate", "message"),
    [
        ("qa: {after: [staging@web-1]}", "promotion.gates.qa: qa is not one of the server's environments"),
        ("production: {after: [production@web-2]}", "would wait forever"),
        ("production: {after: [staging]}", "is not an environment on a host"),
        ("production: {after: [staging@web-1], for: 8d}", "is longer than a week"),
        ("production: {after: []}", "must not be empty"),
    ],
)
def test_gates_that_would_never_open_are_refused(load: Load, gate: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        load(f"{MINIMAL}promotion: {{gates: {{{gate}}}}}\n")


@pytest.mark.parametrize("side", ["live:staging", "live:production@web-2", "ssh://[fe80::1]", "ssh://web-1/opt/app/"])
def test_sides_that_the_daemon_can_compare(load: Load, side: str) -> None:
    pair = f"comparisons: {{pair: {{left: '{side}', right: 'git:production'}}}}\n"
    assert load(MINIMAL.replace("environment: production\n", HOSTS) + pair).comparisons["pair"].left == side


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1s", 1.0), ("90s", 90.0), ("5m", 300.0), ("2h", 7200.0), ("90d", 7776000.0), ("3650d", 315360000.0)],
)
def test_durations(load: Load, text: str, seconds: float) -> None:
    assert load(f"{MINIMAL}drift: {{interval: {text}}}").drift.interval == seconds


@pytest.mark.parametrize("number", [1, 100_000])
def test_ranges_include_their_ends(load: Load, number: int) -> None:
    assert load(f"{MINIMAL}backups: {{keep: {number}}}").backups.keep == number


@pytest.mark.parametrize("value", ["off", "'off'", "Off", "no", "false"])
def test_off_needs_no_quotes_although_yaml_takes_it_for_false(load: Load, value: str) -> None:
    assert load(f"{MINIMAL}rollback: {{git: {value}}}").rollback.git == "off"


@pytest.mark.parametrize(("path", "read"), [(".", ""), ("./", ""), ("a//b/", "a/b"), ("./envs", "envs")])
def test_the_path_in_the_repository_is_tidied_up(load: Load, path: str, read: str) -> None:
    assert load(MINIMAL.replace("url:", f"path: {path}, url:")).repository.path == read


@pytest.mark.parametrize(
    ("path", "read"),
    [
        ("/opt/app/", "/opt/app"),
        ("//opt//app", "/opt/app"),
        ("/opt/./app", "/opt/app"),
        ("'/opt/my app'", "/opt/my app"),
    ],
)
def test_absolute_paths_are_tidied_up(load: Load, path: str, read: str) -> None:
    assert load(MINIMAL.replace("/opt/app", path)).allowed_paths == (read,)


WITH_CREDENTIALS = """
decryption: {age_key_file: "${CREDENTIALS_DIRECTORY}/age.key"}
webhook: {secret_file: "${CREDENTIALS_DIRECTORY}/webhook"}
repository: {url: ssh://git@git.example.org/c.git, ssh_key_file: "${CREDENTIALS_DIRECTORY}/git"}
hosts: {web-2: {address: web-2, user: deploy, key_file: "${CREDENTIALS_DIRECTORY}/web-2", known_hosts_file: /etc/known}}
environment: production
allowed_paths: [/opt/app]
"""


def test_credentials_of_the_service_are_files_of_any_setting(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", "/run/credentials/reconciler.service")
    config = load(WITH_CREDENTIALS)
    assert config.webhook is not None
    files = [config.decryption.age_key_file, config.webhook.secret_file, config.repository.ssh_key_file]
    names = ["age.key", "webhook", "git", "web-2"]
    assert [*files, config.hosts["web-2"].key_file] == [f"/run/credentials/reconciler.service/{name}" for name in names]
    require_credentials(config.model_dump())


def test_credentials_are_named_where_no_service_manager_gave_any(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    config = load(WITH_CREDENTIALS)
    with pytest.raises(ConfigError, match="is used, but not set") as error:
        require_credentials(config.model_dump())
    settings = "repository.ssh_key_file, decryption.age_key_file, webhook.secret_file, hosts.web-2.key_file"
    assert error.value.where == settings


@pytest.mark.parametrize(
    "path",
    ["$CREDENTIALS_DIRECTORY/age.key", "${HOME}/age.key", "/etc/${CREDENTIALS_DIRECTORY}", "${CREDENTIALS_DIRECTORY}/"],
)
def test_no_other_variable_and_no_other_place_is_expanded(
    load: Load, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", "/run/credentials/reconciler.service")
    text = f"{MINIMAL}decryption: {{age_key_file: '{path}'}}\n"
    if path.startswith("/"):
        assert load(text).decryption.age_key_file == path
    else:
        (line,) = refusal(load, text)
        assert "is not a file's absolute path" in line


@pytest.mark.parametrize(
    ("listen", "read", "shown"),
    [
        ("0.0.0.0:80", ("0.0.0.0", 80), "0.0.0.0:80"),
        ("localhost:0", ("localhost", 0), "localhost:0"),
        ("'[::]:9464'", ("::", 9464), "[::]:9464"),
        ("unix:/run//reconciler/./http.sock", ("/run/reconciler/http.sock",), "unix:/run/reconciler/http.sock"),
    ],
)
def test_listen_addresses(load: Load, listen: str, read: tuple[str, ...], shown: str) -> None:
    config = load(f"{MINIMAL}http: {{listen: {listen}, token_file: /etc/reconciler/http-token}}")
    assert (config.http.listen, str(config.http.listen)) == (read, shown)


@pytest.mark.parametrize(
    ("listen", "refused"),
    [
        ("0.0.0.0:9464", True),
        ("[::]:9464", True),
        ("10.0.0.5:9464", True),
        ("[::ffff:10.0.0.5]:9464", True),
        ("127.1.2.3:9464", False),
        ("[::1]:9464", False),
        ("[::ffff:127.0.0.1]:9464", False),
        ("web-1:9464", False),  # only the daemon knows: see test_http_access.py
        ("unix:/run/reconciler/http.sock", False),
    ],
)
def test_nobody_listens_to_other_machines_without_a_token(load: Load, listen: str, refused: bool) -> None:
    text = f"{MINIMAL}http: {{listen: '{listen}'}}"
    if not refused:
        assert load(text).http.token_file is None
        return
    with pytest.raises(ConfigError, match=r"http\.listen: lets other machines connect.*; accepted: a tok") as error:
        load(text)
    assert error.value.id == "http-token-missing"


def test_the_config_cannot_be_changed(load: Load) -> None:
    with pytest.raises(ValueError, match="frozen"):
        load(MINIMAL).state_dir = "/tmp"


# --- what is refused ---

BAD_VALUES = [
    # id, what replaces or follows the minimal file, the line that says so
    (
        "unknown field",
        "drft: {}",
        "FILE:4: drft: is not a known field, did you mean drift?; accepted: environment, host",
    ),
    ("nothing like it", "zzz: 1", "FILE:4: zzz: is not a known field; accepted: environment, host"),
    (
        "unknown inner field",
        "drift: {intervall: 5s}",
        "FILE:4: drift.intervall: is not a known field, did you mean inte",
    ),
    (
        "number for duration",
        "drift: {interval: 60}",
        "FILE:4: drift.interval: must be text, not a number: put it in quo",
    ),
    (
        "duration without unit",
        "drift: {interval: '60'}",
        'drift.interval: "60" is not a duration; accepted: 10s, 5m, 2',
    ),
    ("milliseconds", "drift: {interval: 500ms}", 'drift.interval: "500ms" is not a duration; accepted: 10s, 5m, 2h or'),
    ("words", "drift: {interval: in 5s}", 'drift.interval: "in 5s" is not a duration; accepted: 10s'),
    ("no time at all", "drift: {interval: 0s}", 'drift.interval: "0s" is not a duration; accepted: 10s'),
    ("eleven years", "drift: {interval: 4000d}", 'drift.interval: "4000d" is longer than ten years; accepted: 10s'),
    (
        "choice",
        "drift: {on_drift: fix}",
        'FILE:4: drift.on_drift: "fix" is not one of the choices; accepted: restore, ',
    ),
    (
        "boolean for choice",
        "drift: {on_drift: yes}",
        "drift.on_drift: must be text, not a true/false value; accepted: re",
    ),
    (
        "false for choice",
        "drift: {on_drift: off}",
        "drift.on_drift: must be text, not a true/false value; accepted: rest",
    ),
    (
        "true for revert",
        "rollback: {git: on}",
        "rollback.git: must be text, not a true/false value; accepted: push, bran",
    ),
    (
        "text for boolean",
        "allow_compose_files: 'no'",
        "allow_compose_files: must be true or false, not text; accepted: ",
    ),
    ("no backups", "backups: {keep: 0}", "FILE:4: backups.keep: is out of range; accepted: a whole number from 1 to"),
    (
        "text for number",
        "backups: {keep: '5'}",
        "backups.keep: must be a whole number, not text; accepted: a whole numbe",
    ),
    (
        "true for number",
        "backups: {keep: true}",
        "backups.keep: must be a whole number, not a true/false value; accepte",
    ),
    (
        "fraction",
        "backups: {keep: 5.0}",
        "backups.keep: must be a whole number, not a number; accepted: a whole number fr",
    ),
    (
        "text for mapping",
        "backups: lots",
        "FILE:4: backups: must be a mapping, not text; accepted: a mapping with keep, max",
    ),
    (
        "nothing for mapping",
        "backups:",
        "FILE:4: backups: must be a mapping, not nothing; accepted: a mapping with keep",
    ),
    (
        "text for list",
        "health_hosts: a",
        "FILE:4: health_hosts: must be a list, not text; accepted: a list such as [a,",
    ),
    (
        "host with port",
        "health_hosts: [b, 'a:/1']",
        'FILE:4: health_hosts[1]: "a:/1" is not a host; accepted: a host nam',
    ),
    (
        "listen without port",
        "http: {listen: 127.0.0.1}",
        'http.listen: "127.0.0.1" is not an address to listen at; acc',
    ),
    (
        "listen port only",
        "http: {listen: 9464}",
        "http.listen: must be text, not a number: put it in quotes; accepted: ho",
    ),
    ("listen port", "http: {listen: 'a:65536'}", 'http.listen: "a:65536" has a port above 65535; accepted: host:port'),
    (
        "listen IPv6",
        "http: {listen: '[::x]:1'}",
        'http.listen: "[::x]:1" is not an address to listen at; accepted: host:',
    ),
    ("listen relative socket", "http: {listen: 'unix:http.sock'}", '"unix:http.sock" is not an address to listen at'),
    ("listen at a directory", "http: {listen: 'unix:/run/'}", '"unix:/run/" is not an address to listen at'),
    ("listen upwards", "http: {listen: 'unix:/run/../etc/x'}", '"unix:/run/../etc/x" is not an address to listen at'),
    (
        "listen long socket",
        f"http: {{listen: 'unix:/{'a' * 107}'}}",
        "http.listen: is longer than the 107 bytes of a socket's path",
    ),
    ("listen bad IPv6", "http: {listen: '[1::2::3]:1'}", "accepted: host:port, such as 127.0.0.1:9464 or [::1]:9464"),
    (
        "relative state_dir",
        "state_dir: var/lib",
        "state_dir: \"var/lib\" is not an absolute path without '..'; accepted: ",
    ),
    (
        "state_dir upwards",
        "state_dir: /var/../x",
        "state_dir: \"/var/../x\" is not an absolute path without '..'; accept",
    ),
    ("home", "decryption: {age_key_file: ~/age.key}", "decryption.age_key_file: is not a file's absolute path"),
    (
        "directory for file",
        "decryption: {age_key_file: /etc/}",
        "decryption.age_key_file: is not a file's absolute path",
    ),
    ("author", "rollback: {author: me}", 'rollback.author: "me" is not an author; accepted: Name <address@host>'),
    (
        "reverts",
        "rollback: {max_per_day: 0}",
        "rollback.max_per_day: is out of range; accepted: a whole number from 1 to ",
    ),
    ("webhook without secret", "webhook: {}", "FILE:4: webhook.secret_file: is missing; accepted: a path such as /etc"),
    (
        "check as text",
        "checks: {a: nginx -t}",
        "FILE:4: checks.a: must be a list, not text; accepted: a list such as [a,",
    ),
    ("check empty", "checks: {a: []}", "FILE:4: checks.a: must not be empty; accepted: a list of at least one"),
    (
        "check without file",
        "checks: {a: [nginx, -t]}",
        "checks.a: does not say where the staged file goes ({file}); acc",
    ),
    (
        "check runs the file",
        "checks: {a: ['{file}']}",
        "FILE:4: checks.a: would run the staged file itself; accepted: a ",
    ),
    (
        "check with a number",
        "checks: {a: [b, 5, '{file}']}",
        "FILE:4: checks.a[1]: must be text, not a number: put it in",
    ),
    ("check name", "checks: {a b: [c, '{file}']}", 'FILE:4: checks.a b: "a b" is not a name; accepted: up to 63 lett'),
    ("host name", "host: web 1", 'FILE:4: host: "web 1" is not a name; accepted: up to 63 letters'),
    ("ssh host", "hosts: {b: {address: -x, port: 0}}", 'FILE:4: hosts.b.address: "-x" is not a host; accepted: a host'),
    ("field like our own mark", "'[key]': 1", "FILE:4: [key]: is not a known field; accepted: environment, host"),
    ("ssh user", "hosts: {b: {user: -l}}", 'FILE:4: hosts.b.user: "-l" is not a user or group; accepted: its name or'),
]


@each(("text", "line"), [pytest.param(*case[1:], id=case[0]) for case in BAD_VALUES])
def test_a_mistake_is_named_with_file_line_field_and_what_is_accepted(load: Load, text: str, line: str) -> None:
    lines = refusal(load, MINIMAL + text)
    assert any(line in refused for refused in lines), lines
    assert all(re.match(r"FILE:4: [a-z_\[\]]+.*; accepted: \S", refused) for refused in lines), lines


BAD_MINIMAL = [
    ("no environment", "production", "[]", "FILE:1: environment: must not be empty; accepted: a list of at least one"),
    (
        "environment upwards",
        "production",
        "../x",
        'FILE:1: environment: "../x" is not a name; accepted: up to 63 letters',
    ),
    ("nested environment", "production", "a/b", 'FILE:1: environment: "a/b" is not a name; accepted: up to 63'),
    ("environment number", "production", "[5, 6]", "FILE:1: environment[0]: must be text, not a number: put it in q"),
    ("environment twice", "production", "[a, A]", "FILE:1: environment: names an environment twice; accepted: each"),
    ("environment mapping", "production", "{a: b}", "FILE:1: environment: must be a list, not a mapping; accepted: a"),
    (
        "no address",
        "url: /srv/config.git",
        "branch: main",
        "FILE:2: repository.url: is missing; accepted: ssh://…, http",
    ),
    ("empty address", "/srv/config.git", "''", "FILE:2: repository.url: is not an address; accepted: ssh://…, https"),
    ("address with NUL", "/srv/config.git", '"a\\0b"', "FILE:2: repository.url: holds a control or invisible charact"),
    (
        "repository empty",
        "{url: /srv/config.git}",
        "",
        "FILE:2: repository: must be a mapping, not nothing; accepted: a",
    ),
    (
        "branch option",
        "url:",
        "branch: --all, url:",
        'FILE:2: repository.branch: "--all" is not a branch; accepted: a ',
    ),
    ("branch range", "url:", "branch: a..b, url:", 'FILE:2: repository.branch: "a..b" is not a branch; accepted: a b'),
    ("path upwards", "url:", "path: a/../../b, url:", 'FILE:2: repository.path: "a/../../b" is not a directory of th'),
    ("path absolute", "url:", "path: /envs, url:", 'FILE:2: repository.path: "/envs" is not a directory of the repo'),
    ("signers missing", "url:", "verify: tip, url:", "FILE:2: repository.allowed_signers_file: is missing, and veri"),
    ("nothing allowed", "[/opt/app]", "[]", "FILE:3: allowed_paths: must not be empty; accepted: a list of at least"),
    ("everything allowed", "[/opt/app]", "[/opt/app, //]", "FILE:3: allowed_paths: must not hold /; accepted: directo"),
    ("one allowed as text", "[/opt/app]", "/opt/app", "FILE:3: allowed_paths: must be a list, not text; accepted: a l"),
    ("relative allowed", "[/opt/app]", "[app]", 'FILE:3: allowed_paths[0]: "app" is not an absolute path without'),
]


@each(("old", "new", "line"), [pytest.param(*case[1:], id=case[0]) for case in BAD_MINIMAL])
def test_what_every_file_has_is_checked_too(load: Load, old: str, new: str, line: str) -> None:
    lines = refusal(load, MINIMAL.replace(old, new, 1))
    assert any(refused.startswith(line) for refused in lines), lines


VERIFYING = MINIMAL.replace("url:", "verify: VERIFY, allowed_signers_file: /etc/signers, url:")


@pytest.mark.parametrize("verify", ["tip", "range"])
@pytest.mark.parametrize("rollback", ["", "rollback: {}", "rollback: {git: push}", "rollback: {signing_key_file: ~}"])
def test_a_revert_that_a_verified_branch_would_refuse_is_not_pushed(load: Load, verify: str, rollback: str) -> None:
    (line,) = refusal(load, VERIFYING.replace("VERIFY", verify) + rollback)
    problem = "rollback.signing_key_file: is missing, and repository.verify with rollback.git: push needs it"
    assert line.partition(" ")[2] == f"{problem}; accepted: an absolute path"


@pytest.mark.parametrize(
    ("verify", "rollback"),
    [
        ("none", "git: push"),
        ("tip", "git: off"),
        ("range", "git: branch"),
        ("range", "git: push, signing_key_file: /etc/key"),
    ],
)
def test_a_signing_key_is_needed_for_nothing_else(load: Load, verify: str, rollback: str) -> None:
    assert load(f"{VERIFYING.replace('VERIFY', verify)}rollback: {{{rollback}}}")


def test_all_errors_are_reported_together_in_the_order_of_the_file(load: Load) -> None:
    lines = refusal(
        load,
        "environment: production\n"
        "repository: {branch: -x, verify: range}\n"
        "allowed_paths: [/opt/app]\n"
        "state_dir: /opt/app/state\n"
        "backups: {keep: many, max_age: 5}\n"
        "backups: {}\n"
        "extra: 1\n"
        "drift: *once\n",
    )
    assert [line.partition("; ")[0] for line in lines] == [
        "FILE:2: repository.allowed_signers_file: is missing, and verify needs it",
        'FILE:2: repository.branch: "-x" is not a branch',
        "FILE:2: repository.url: is missing",
        "FILE:2: rollback.signing_key_file: is missing, and repository.verify with rollback.git: push needs it",
        "FILE:4: state_dir: lies below allowed_paths, where git may write",
        "FILE:5: backups.keep: must be a whole number, not text",
        "FILE:5: backups.max_age: must be text, not a number: put it in quotes",
        "FILE:6: backups: appears twice, first in line 5",
        "FILE:7: extra: is not a known field",
        "FILE:8: drift: aliases (*name) are not read",
        "FILE:8: drift: must be a mapping, not nothing",
    ]


@each(
    ("text", "field"),
    [
        pytest.param("state_dir: /opt/app", "state_dir", id="the state itself"),
        pytest.param("state_dir: /opt/app/state", "state_dir", id="the state"),
        pytest.param("state_dir: //opt/app//state", "state_dir", id="the state, untidy"),
        pytest.param("decryption: {age_key_file: /opt/app/age.key}", "decryption.age_key_file", id="a key"),
        pytest.param("decryption: {sops_binary: /opt/app/sops}", "decryption.sops_binary", id="a program"),
        pytest.param(
            "decryption: {age_key_command: [/opt/app/keys]}", "decryption.age_key_command[0]", id="a key's program"
        ),
        pytest.param("webhook: {secret_file: /opt/app/secret}", "webhook.secret_file", id="a secret"),
        pytest.param(
            "forge: {kind: gitea, api_url: https://g/, repository: a/b, token_command: [/opt/app/t]}",
            "forge.token_command[0]",
            id="a token's program",
        ),
        pytest.param("http: {token_file: /opt/app/token}", "http.token_file", id="the token"),
        pytest.param("http: {listen: 'unix:/opt/app/http.sock'}", "http.listen", id="a socket"),
        pytest.param("checks: {a: [/opt/app/check, '{file}']}", "checks.a[0]", id="a check's program"),
        pytest.param(
            "hosts: {b: {address: c, user: d, key_file: /opt/app/k, known_hosts_file: /etc/k}}",
            "hosts.b.key_file",
            id="another host's key",
        ),
    ],
)
def test_git_must_not_be_able_to_replace_files_of_the_daemon(load: Load, text: str, field: str) -> None:
    lines = refusal(load, MINIMAL + text)
    expected = (
        f"FILE:4: {field}: lies below allowed_paths, where git may write; accepted: a path outside of allowed_paths"
    )
    assert lines[-1] == expected


def test_a_path_that_only_begins_like_an_allowed_one_is_not_part_of_it(load: Load) -> None:
    assert load(f"{MINIMAL}state_dir: /opt/app-state").state_dir == "/opt/app-state"


def test_git_must_not_be_able_to_replace_this_file(load: Load, tmp_path: Path) -> None:
    lines = refusal(load, MINIMAL.replace("/opt/app", str(tmp_path)))
    assert lines == [
        "FILE:3: allowed_paths: holds this file, which git could then write; accepted: directories of live files"
    ]


def test_allowed_paths_do_not_reach_into_the_default_state(load: Load) -> None:
    lines = refusal(load, MINIMAL.replace("/opt/app", "/var/lib/reconciler/backups"))
    assert lines == ["FILE:3: allowed_paths: reaches into state_dir; accepted: directories of live files"]


# --- what is not a YAML mapping ---

UNREADABLE = [
    pytest.param(b"", "FILE:1: is empty", id="empty"),
    pytest.param(b"# nothing\n", "FILE:1: is empty", id="comments only"),
    pytest.param(b"~", "FILE:1: is empty", id="null"),
    pytest.param(b"\n- a", "FILE:2: must be a mapping of fields", id="list"),
    pytest.param(b"just text", "FILE:1: must be a mapping of fields", id="text"),
    pytest.param(b"a: 1\nb: \xff", "FILE:2: is not UTF-8 text", id="not UTF-8"),
    pytest.param("a: 1".encode("utf-16"), "FILE:1: is not UTF-8 text", id="UTF-16"),
    pytest.param(b"a: 1\nb: \x00", "FILE:2: holds a control character", id="NUL"),
    pytest.param(b"a: 1\n--- \nb: 2", "FILE:2: holds a second document", id="two documents"),
    pytest.param(b"a: " + b"x" * 1024 * 1024, "FILE: is larger than 1024 KiB", id="too large"),
    pytest.param(
        b"a:\n\tb: 1",
        "FILE:2:1: cannot be read as YAML: found character that cannot start any token; "
        "indent with spaces, not with tabs",
        id="tab",
    ),
    pytest.param(
        b"a: 1\n b: 2",
        "FILE:2:3: cannot be read as YAML: mapping values are not allowed in this context",
        id="indentation",
    ),
    pytest.param(
        b"a:\n  [1,\nb: 2\n",
        "FILE:4:1: cannot be read as YAML: did not find expected ',' or ']' (begun in line 2)",
        id="open bracket",
    ),
]


@each(("content", "message"), UNREADABLE)
def test_anything_but_a_yaml_mapping_is_refused_in_one_line(load: Load, content: bytes, message: str) -> None:
    assert refusal(load, content) == [message]


@pytest.mark.parametrize(("content", "message"), UNREADABLE)
def test_the_parser_without_libyaml_finds_the_same_places(
    load: Load, monkeypatch: pytest.MonkeyPatch, content: bytes, message: str
) -> None:
    monkeypatch.setattr(strict_yaml, "_Parser", yaml.SafeLoader)
    assert refusal(load, content)[0].split(": ")[1] == message.split(": ")[1]


def test_a_broken_line_is_not_quoted(load: Load) -> None:
    (line,) = refusal(load, MINIMAL + "token: 'hunter2 hunter2\n")
    assert "hunter2" not in line


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param(
            "5: a", "a key that is not text; accepted: text; numbers, on, off, yes and no in quotes", id="number"
        ),
        pytest.param(
            "on: a", "a key that is not text; accepted: text; numbers, on, off, yes and no in quotes", id="on"
        ),
        pytest.param(
            "[a]: b", "a key that is not text; accepted: text; numbers, on, off, yes and no in quotes", id="list"
        ),
        pytest.param("? {a: b}\n: c", "a key that is not text; accepted: text", id="mapping"),
        pytest.param(
            "drift: !!map {}", "drift: tags (!name) are not read; accepted: plain values, text in quotes", id="tag"
        ),
        pytest.param(
            "host: !x a", "host: tags (!name) are not read; accepted: plain values, text in quotes", id="own tag"
        ),
        pytest.param(
            "host: ! 'a'", "host: tags (!name) are not read; accepted: plain values, text in quotes", id="bare tag"
        ),
        pytest.param(
            "host: a\nhost: b", "host: appears twice, first in line 4; accepted: each name once", id="duplicate"
        ),
        pytest.param(
            "drift: {interval: 1s, interval: 2s}", "drift.interval: appears twice, first in line 4", id="inner"
        ),
    ],
)
def test_yaml_that_pyyaml_would_accept_is_refused(load: Load, text: str, message: str) -> None:
    lines = refusal(load, MINIMAL + text)
    assert any(message in line for line in lines), lines


def test_dates_and_things_that_only_look_like_numbers_are_text(load: Load) -> None:
    config = load(f"{MINIMAL}host: 2026-13-45\nchecks: {{0x_: [a, '{{file}}', 0x_, =, 1:2:x]}}\n")
    assert config.host == "2026-13-45"
    assert config.checks == {"0x_": ("a", "{file}", "0x_", "=", "1:2:x")}


# --- what a message may show ---


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("repository: {url: 1, token_file: hunter2}", id="token where its file belongs"),
        pytest.param("webhook: {secret_file: hunter2}", id="secret where its file belongs"),
        pytest.param("decryption: {age_key_file: hunter2}", id="key where its file belongs"),
        pytest.param('repository: {url: "https://u:hunter2@h/\\n"}', id="address"),
        pytest.param("checks: {a: [run, '--password=hunter2']}", id="argument"),
        pytest.param(f"state_dir: {'x' * 60}hunter2", id="long value"),
        pytest.param(f"{'x' * 60}hunter2: 1", id="long key"),
    ],
)
def test_values_that_may_be_secrets_are_not_shown(load: Load, text: str) -> None:
    assert "hunter2" not in "\n".join(refusal(load, f"environment: production\nallowed_paths: [/opt/app]\n{text}"))


def test_sixty_characters_are_shown_and_no_more(load: Load) -> None:
    key, value = "k" * 60, "/" * 59 + "."
    assert f"{key}: is not a known field" in refusal(load, f"{MINIMAL}{key}: 1")[0]
    assert f"{key}…: is not a known field" in refusal(load, f"{MINIMAL}{key}k: 1")[0]
    assert f'author: "{value}" is not' in refusal(load, f"{MINIMAL}rollback: {{author: {value}}}")[0]
    assert "author: is not" in refusal(load, f"{MINIMAL}rollback: {{author: {value}.}}")[0]


def test_control_characters_do_not_reach_the_terminal(load: Load) -> None:
    lines = refusal(load, f'{MINIMAL}"a\\e[31mb\\u202e": 1\nhost: "x\\e[0m"')
    assert lines[0].partition(": is")[0] == "FILE:4: a\\x1b[31mb\\u202e"
    assert all(line.isprintable() for line in lines)


def test_a_flood_of_mistakes_is_counted_rather_than_listed(load: Load) -> None:
    lines = refusal(load, MINIMAL + "".join(f"x{number}: 1\n" for number in range(150)))
    assert len(lines) == 101
    assert lines[-1] == "FILE: and 50 more problems"


# --- the file itself ---


def test_a_missing_file_says_how_to_name_another(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_server_config(str(tmp_path / "none.yaml"))
    hint = "Name the file with --config or RECONCILER_CONFIG."
    assert str(caught.value) == f"{tmp_path}/none.yaml: cannot be read (No such file or directory). {hint}"


@pytest.mark.parametrize("path", ["", "/", "a\0b", "a\ud800"])
def test_no_path_gives_anything_but_a_config_error(path: str) -> None:
    with pytest.raises(ConfigError):
        load_server_config(path)


# --- anything at all ---

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12) | st.sampled_from(
    ["production", "/opt/app", "../x", "10s", "off", "{file}", "/", "*a", "a\0b", "main", "127.0.0.1:80"]
)  # fmt: skip
INNER_FIELDS = ["url", "branch", "interval", "keep", "secret_file", "address", "git", "listen"]
KEYS = st.text(max_size=6) | st.sampled_from([*ServerConfig.model_fields, *INNER_FIELDS])
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=6), max_leaves=12
)
ANYTHING = (
    st.binary(max_size=200)
    | st.text(alphabet="abc:-[]{}&*!|>%@'\"#,? \n\t0", max_size=80).map(str.encode)
    | st.dictionaries(KEYS, VALUES, max_size=8).map(lambda data: yaml.dump(data, Dumper=yaml.CSafeDumper).encode())
)


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=ANYTHING)
def test_any_content_is_read_or_refused(load: Load, content: bytes) -> None:
    with contextlib.suppress(ConfigError):
        load(content)


# --- the JSON Schema ---


Which = typing.Literal["server", "manifest"]


@functools.cache
def schema_of(which: Which) -> dict[str, Any]:
    return json_schema(which)


@functools.cache
def validator(which: Which) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(schema_of(which))


def schema_accepts(which: Which, text: str) -> bool:
    return validator(which).is_valid(yaml.load(text, Loader=yaml.CSafeLoader))


@pytest.mark.parametrize("which", ["server", "manifest"])
def test_the_schema_is_a_2020_12_schema_with_an_id(which: Which) -> None:
    schema = json.loads(json.dumps(json_schema(which)))
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["$id"] == f"urn:reconciler:schema:{which}"
    assert schema["title"] == {"server": "reconciler.yaml", "manifest": "environment.yaml"}[which]


@pytest.mark.parametrize("which", ["server", "manifest"])
def test_the_schema_describes_every_field(which: Which) -> None:
    schema = json_schema(which)
    sections = [schema, *schema["$defs"].values()]
    bare = [name for section in sections for name, field in section["properties"].items() if "description" not in field]
    assert bare == []
    assert all(section["description"] and section["title"] for section in sections)


@pytest.mark.parametrize("name", ["server-full.yaml", "server-minimal.yaml"])
def test_the_schema_accepts_what_is_read(name: str) -> None:
    assert load_server_config(str(DATA / name))
    assert schema_accepts("server", (DATA / name).read_text())


# Mistakes that need two fields, or a look at what a pattern matched; and to JSON Schema 5.0 is a whole number.
BEYOND_SHAPE = {"eleven years", "listen port", "listen bad IPv6", "check without file", "check runs the file"}
BEYOND_SHAPE |= {"listen long socket", "environment twice", "signers missing", "everything allowed", "fraction"}


@each("text", [pytest.param(case[1], id=case[0]) for case in BAD_VALUES if case[0] not in BEYOND_SHAPE])
def test_the_schema_refuses_what_the_reader_refuses(text: str) -> None:
    assert not schema_accepts("server", MINIMAL + text)


@each(("old", "new"), [pytest.param(*case[1:3], id=case[0]) for case in BAD_MINIMAL if case[0] not in BEYOND_SHAPE])
def test_the_schema_refuses_what_the_reader_refuses_of_required_fields(old: str, new: str) -> None:
    assert not schema_accepts("server", MINIMAL.replace(old, new, 1))


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.dictionaries(KEYS, VALUES, max_size=2))
def test_the_schema_accepts_all_that_the_reader_accepts(load: Load, changes: dict[str, Any]) -> None:
    text = yaml.dump({**yaml.safe_load(MINIMAL), **changes}, Dumper=yaml.CSafeDumper)
    try:
        load(text)
    except ConfigError:
        return
    assert schema_accepts("server", text)


def test_the_schema_shows_defaults_as_they_are_written() -> None:
    schema = json_schema("server")
    assert schema["$defs"]["Drift"]["properties"]["interval"]["default"] == "60s"
    assert schema["$defs"]["Http"]["properties"]["listen"]["default"] == "127.0.0.1:9464"


# --- the page ---


def fields_of(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """The dotted path of every field below ``model``; NAME, SOURCE and [] stand for keys and items."""
    for name, field in model.model_fields.items():
        if model is ManifestFile and name == "defaults":
            yield name
            continue
        yield from _below(field.annotation, prefix + (field.alias or name))


def _below(annotation: Any, path: str) -> Iterator[str]:
    arguments = [argument for argument in typing.get_args(annotation) if argument is not type(None)]
    origin = typing.get_origin(annotation)
    if isinstance(annotation, type) and issubclass(annotation, TargetFields):
        yield path  # has a table of its own
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield from fields_of(annotation, path + ".")
    elif origin is dict:
        yield from _below(arguments[1], f"{path}.{'SOURCE' if path.endswith('targets') else 'NAME'}")
    elif origin is tuple and isinstance(arguments[0], type) and issubclass(arguments[0], BaseModel):
        yield from _below(arguments[0], f"{path}[]")
    elif origin is not None and origin is not tuple and arguments:
        yield from _below(arguments[0], path)
    else:
        yield path


def _names(data: Any) -> Iterator[str]:
    for name, value in data.items():
        yield name if name not in data.get("checks", {}) else ""
        if name == "checks":
            yield "NAME"
        elif isinstance(value, dict):
            yield from _names(value)


def table(name: str) -> dict[str, str]:
    """A table of the page: field → default."""
    rows = PAGE.partition(f"<!-- table: {name} -->\n")[2].partition("\n\n")[0].splitlines()[2:]
    cells = [row.strip("| ").split(" | ") for row in rows]
    assert all(len(row) == 4 for row in cells)
    return {row[0].strip("`"): row[2] for row in cells}


def schema_field(which: Which, path: str) -> tuple[dict[str, Any], bool]:
    """The JSON Schema of a field, and whether it is required."""
    root = schema_of(which)
    current, required = root, False
    for part in path.split("."):
        if part in ("NAME", "SOURCE"):
            current = next(iter(current["patternProperties"].values()))
        else:
            name = part.removesuffix("[]")
            required = name in current.get("required", ())
            current = current["properties"][name]
            current = current.get("items", current) if part.endswith("[]") else current
        reference = current.get("$ref") or next(
            (choice["$ref"] for choice in current.get("anyOf", ()) if "$ref" in choice), None
        )
        current = root["$defs"][reference.rpartition("/")[2]] if reference else current
    return current, required


@pytest.mark.parametrize(("name", "model"), [("server", ServerConfig), ("manifest", ManifestFile)])
def test_the_page_has_every_field_with_its_default(name: Which, model: type[BaseModel]) -> None:
    documented = table(name)
    assert sorted(documented) == sorted(fields_of(model))
    for path, default in documented.items():
        check_default(path, default, *schema_field(name, path))


def test_the_page_has_every_field_of_a_target() -> None:
    documented = table("target")
    for model in (StackTarget, LoneTarget):
        assert set(documented) == {field.alias or name for name, field in model.model_fields.items()}
    for path, default in documented.items():
        check_default(path, default, schema_of("manifest")["$defs"]["StackTarget"]["properties"][path], False)


def check_default(path: str, documented: str, schema: dict[str, Any], required: bool) -> None:
    if required:
        assert documented == "required", path
    elif schema.get("default", "") is None:
        assert documented == "–", path
    elif "default" in schema:
        default = schema["default"]
        written = default if isinstance(default, str) else json.dumps(default)
        assert documented.strip("`").strip('"') == written, path
    else:
        assert documented not in ("required", ""), path


@pytest.mark.parametrize(
    ("which", "text"), re.findall(r"^```yaml (server|manifest)\n(.+?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
)
def test_the_examples_of_the_page_fit_the_schemas(which: Which, text: str) -> None:
    assert schema_accepts(which, text)


def test_the_least_server_file_of_the_page_is_read(load: Load) -> None:
    (text,) = re.findall(r"^```yaml server\n(.+?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
    assert load(text).allowed_paths == ("/opt/app",)


def test_the_example_of_comparisons_is_read(load: Load) -> None:
    page = (Path(__file__).parents[2] / "docs" / "compare.md").read_text()
    (text,) = re.findall(r"^```yaml comparisons\n(.+?)^```$", page, flags=re.MULTILINE | re.DOTALL)
    pairs = load(MINIMAL.replace("environment: production\n", HOSTS) + text).comparisons
    assert [(pair.right, pair.interval) for pair in pairs.values()] == [
        ("git:production", 900.0),
        ("live:production@web-2", 3600.0),
    ]
