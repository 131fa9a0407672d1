"""Which engine, proxy and certificates are used: as the docker command and git would choose, and who says so."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

import pytest

from reconciler.adapters.compose.context import LocalComposeContext
from reconciler.adapters.compose.engine_address import DEFAULT_URL, find_engine
from reconciler.adapters.git.command import git_environment, proxy
from reconciler.adapters.process import Limits
from reconciler.app.config.server import load_server_config
from reconciler.app.wiring.surroundings import git_surroundings
from reconciler.core.errors import EngineUnavailableError


def add_context(directory: Path, name: str, url: str, *, current: bool = False) -> None:
    """As `docker context create`, and `docker context use`, leave it."""
    meta = directory / "contexts" / "meta" / sha256(name.encode()).hexdigest() / "meta.json"
    meta.parent.mkdir(parents=True)
    meta.write_text(json.dumps({"Name": name, "Metadata": {}, "Endpoints": {"docker": {"Host": url}}}))
    (directory / "config.json").write_text(json.dumps({"currentContext": name} if current else {}))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home whose docker command uses the context rootless, and knows another."""
    add_context(tmp_path / ".docker", "other", "unix:///other.sock")
    add_context(tmp_path / ".docker", "rootless", "unix:///rootless.sock", current=True)
    return tmp_path


@pytest.mark.parametrize(
    ("variables", "url", "source"),
    [
        ({"DOCKER_HOST": "unix:///x.sock", "DOCKER_CONTEXT": "other"}, "unix:///x.sock", "DOCKER_HOST"),
        ({"DOCKER_HOST": "", "DOCKER_CONTEXT": "other"}, "unix:///other.sock", "the context other, by DOCKER_CONTEXT"),
        ({"DOCKER_CONTEXT": ""}, "unix:///rootless.sock", "the context rootless, by {home}/.docker/config.json"),
        ({"DOCKER_CONTEXT": "default"}, DEFAULT_URL, "the default"),
        ({"DOCKER_CONFIG": "{home}/nothing"}, DEFAULT_URL, "the default"),
    ],
    ids=["host", "context", "current", "default", "elsewhere"],
)
@pytest.mark.docker
async def test_the_engine_is_the_one_of_the_docker_command(
    variables: Mapping[str, str], url: str, source: str, home: Path
) -> None:
    given = {name: value.format(home=home) for name, value in variables.items()}
    environment = {"HOME": str(home), **given}
    address = find_engine(environment)
    assert (address.url, address.source) == (url, source.format(home=home))
    # The real command, in the environment that Compose would get, agrees: also after it was told to use another.
    context = LocalComposeContext(str(home), {"PATH": os.environ["PATH"], **environment})
    await context.engine()
    settings = Path(environment.get("DOCKER_CONFIG") or home / ".docker") / "config.json"
    if settings.exists():
        settings.write_text(json.dumps({"currentContext": "other"}))
    completed = await context.run(
        ["docker", "context", "inspect", "--format", "{{.Endpoints.docker.Host}}"], "/", Limits(60)
    )
    assert completed.stdout.decode().strip() == url, completed.stderr


def test_a_context_that_does_not_exist_is_named_with_who_names_it(home: Path) -> None:
    with pytest.raises(EngineUnavailableError, match="no Docker context gone") as raised:
        find_engine({"HOME": str(home), "DOCKER_CONTEXT": "gone"})
    assert "DOCKER_CONTEXT names this one" in raised.value.hint


def test_the_certificates_of_other_programs_are_given_to_git() -> None:
    def given(**inherited: str) -> Mapping[str, str]:
        return git_environment(url="", git_dir="/m", ssh_command=None, token_file=None, inherited=inherited)

    assert given(SSL_CERT_FILE="/ca.pem")["GIT_SSL_CAINFO"] == "/ca.pem"
    assert given(SSL_CERT_FILE="/ca.pem", GIT_SSL_CAINFO="/git.pem")["GIT_SSL_CAINFO"] == "/git.pem"
    assert "GIT_SSL_CAINFO" not in given()


def test_the_doctor_names_the_proxy_without_its_password() -> None:
    environment = {"HTTPS_PROXY": "http://ada:secret@proxy.example.org:3128", "SSL_CERT_FILE": "/ca.pem"}
    config = load_server_config(str(Path(__file__).parents[1] / "data" / "server-full.yaml"))
    repository = config.repository.model_copy(update={"url": "https://git.example.org/x.git"})
    over_https = config.model_copy(update={"repository": repository})
    assert dict(git_surroundings(over_https, environment)) == {
        "git proxy": "http://proxy.example.org:3128, from HTTPS_PROXY",
        "git certificates": "/ca.pem, from SSL_CERT_FILE",
    }
    assert proxy("ssh://git@git.example.org/x.git", environment) == ""
