"""People come and go: one commit, no file left behind, and a checklist of what they know."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reconciler.app.recipients import change
from reconciler.app.recipients.actions import RecipientAction
from tests.support.age_key import AgeKey, make_age_key
from tests.support.commands import CommandFailed
from tests.support.forks import reconciler
from tests.support.json_answers import read_answer
from tests.support.site import ENVIRONMENTS, Site

pytestmark = pytest.mark.slow

MANY = 30  # more than one portion of what an interruption loses at most


@pytest.fixture
def cleo(tmp_path: Path) -> AgeKey:
    return make_age_key(tmp_path)


def run(site: Site, *arguments: str, key: Path | None = None) -> subprocess.CompletedProcess[str]:
    env = {"PATH": os.environ.get("PATH", os.defpath), "HOME": "/nonexistent", "GIT_CONFIG_GLOBAL": os.devnull}
    env |= {"GIT_AUTHOR_NAME": "Ada", "GIT_AUTHOR_EMAIL": "ada@example.org"}
    env |= {"GIT_COMMITTER_NAME": "Ada", "GIT_COMMITTER_EMAIL": "ada@example.org"}
    keys = {"SOPS_AGE_KEY_FILE": str(key or site.keys)}
    return reconciler(*arguments, env={**env, **keys}, cwd=site.root)


def data_of(command: str, done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode in (0, 2), done.stderr
    return dict(read_answer(command, done.stdout))


def sources(site: Site, revision: str) -> dict[str, bytes]:
    names = site.git("ls-tree", "-r", "--name-only", revision, "envs").splitlines()
    return {name: site.git("show", f"{revision}:{name}").encode() + b"\n" for name in names if name.endswith(".env")}


def opened(site: Site, files: Mapping[str, bytes], key: AgeKey) -> dict[str, bytes]:
    """What the key opens, decrypted."""
    plain = {}
    for name, data in files.items():
        kind = ("--input-type", "dotenv", "--output-type", "dotenv")
        with contextlib.suppress(CommandFailed):
            plain[name] = site.sops("decrypt", *kind, stdin=data, SOPS_AGE_KEY_FILE=str(key.path))
    return plain


def test_somebody_comes_and_goes(site: Site, cleo: AgeKey) -> None:
    (site.envs / "production/worker.env").chmod(0o755)
    site.commit()
    before = sources(site, "HEAD")
    done = run(site, "recipients", "add", "cleo", cleo.public, "-e", "production", "--json")
    added = data_of("recipients", done)
    assert sorted(added["files"]) == ["envs/production/api.env", "envs/production/worker.env"]
    assert sources(site, "HEAD") == before  # nothing is checked out
    assert site.git("status", "--porcelain") == ""
    after = sources(site, "recipients/add-cleo")
    assert opened(site, after, cleo) == {name: opened(site, before, site.production)[name] for name in added["files"]}
    # No value has another ciphertext, and the staging files are the same bytes.
    line = after["envs/production/api.env"].splitlines()[1]
    assert line in before["envs/production/api.env"].splitlines()
    assert after["envs/staging/api.env"] == before["envs/staging/api.env"]
    site.git("merge", "--quiet", "recipients/add-cleo")
    assert site.git("ls-tree", "HEAD", "envs/production/worker.env").startswith("100755")
    assert run(site, "check").returncode == 0

    again = run(site, "recipients", "add", "cleo", cleo.public, "-e", "production", "--branch", "again")
    assert (again.returncode, "cleo: can read all of that already" in again.stderr) == (1, True)

    done = run(site, "recipients", "remove", "cleo", "--json")
    removed = data_of("recipients", done)
    site.git("merge", "--quiet", "--squash", "recipients/remove-cleo")
    site.git("commit", "--quiet", "--no-edit")
    assert opened(site, sources(site, "HEAD"), cleo) == {}
    assert opened(site, sources(site, "HEAD"), site.production).keys() == set(added["files"])
    assert line not in sources(site, "HEAD")["envs/production/api.env"].splitlines()  # a new data key
    assert cleo.public not in site.read(".sops.yaml")
    assert run(site, "check").returncode == 0
    secrets = [(value["file"], value["key"]) for value in removed["known"]["values"] if value["secret"]]
    assert ("envs/production/worker.env", "API_TOKEN") in secrets
    assert ("envs/production/api.env", "DATABASE_URL") in secrets
    assert not any(file.startswith("envs/staging/") for file, _ in secrets)

    # The checklist ends when every secret was replaced.
    done = run(site, "age", "--known-to", "cleo", "--json")
    assert done.returncode == 2
    assert read_answer("age", done.stdout)["known"]["values"] == removed["known"]["values"]
    for file, key in secrets:
        replaced = run(site, "set", file.removeprefix("envs/"), key, "--generate", "32")
        assert replaced.stderr == ""  # the contract refuses some of the new values
        site.commit("Replace a secret")
    done = run(site, "age", "--known-to", "cleo")
    assert (done.returncode, done.stdout.splitlines()[0]) == (0, "cleo knows no secret any more.")


async def test_an_interrupted_removal_continues(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files that were done are not done again, and nothing refers to the unfinished commit afterwards."""
    key = site.staging.public
    site.replace(".sops.yaml", f"age: {site.production.public}", f"age: {site.production.public},{key}")
    for number in range(MANY):
        both = f"{site.production.public},{key}"
        site.encrypt(f"production/more/{number}.env", f"TOKEN={number}\n", recipients=both)
    for name in ("api.env", "worker.env"):
        site.in_place("updatekeys", f"production/{name}", "--yes", "--input-type", "dotenv")
    site.commit()
    monkeypatch.chdir(site.root)
    for variable, value in (("NAME", "Ada"), ("EMAIL", "ada@example.org")):
        monkeypatch.setenv(f"GIT_AUTHOR_{variable}", value)
        monkeypatch.setenv(f"GIT_COMMITTER_{variable}", value)
    request = change.RecipientRequest(
        RecipientAction.REMOVE, key, "", ("production",), "leave", "envs", str(site.production.path)
    )

    def interrupt(done: int, of: int) -> None:
        if 0 < done < of:
            raise KeyboardInterrupt

    site.git("config", "commit.gpgSign", "true")  # asks for a signature once, at the end
    site.git("config", "gpg.program", "false")
    with pytest.raises(KeyboardInterrupt):
        await change.change_recipients(request, interrupt)
    site.git("config", "commit.gpgSign", "false")
    assert site.git("branch", "--list", "leave") == ""
    seen: list[int] = []
    changed = await change.change_recipients(request, lambda done, of: seen.append(done))
    assert seen[0] == changed.continued > 0
    assert len(changed.files) == MANY + 2
    assert opened(site, sources(site, "leave"), site.staging).keys() == {
        f"envs/staging/{name}" for name in ("api.env", "worker.env")
    }
    assert site.git("for-each-ref", "refs/reconciler") == ""


def test_a_name_that_two_keys_have_had_gives_nobody_the_all_clear(site: Site, cleo: AgeKey) -> None:
    site.commit()
    for key in (cleo.public, site.staging.public):
        site.git("commit", "--quiet", "--allow-empty", "-m", f"Remove a key\n\nRecipient-removed: {key} = Dora")
    done = run(site, "age", "--known-to", "dora")
    assert (done.returncode, "dora: several keys have had this name" in done.stderr) == (1, True)
    done = run(site, "age", "--known-to", site.staging.public)
    assert (done.returncode, "knows 4 secrets" in done.stdout) == (2, True)


def test_a_shallow_clone_gives_nobody_the_all_clear(site: Site, tmp_path: Path) -> None:
    site.commit()
    site.git("clone", "--quiet", "--depth", "1", f"file://{site.root}", str(tmp_path / "shallow"))
    shallow = replace(site, root=tmp_path / "shallow")
    done = run(shallow, "age", "--known-to", site.staging.public)
    assert done.returncode == 1
    assert "is a shallow clone" in done.stderr


REFUSALS = {
    "no environment": (
        ("add", "cleo", "{key}"),
        "say for which environments. Name them with --environment: production",
    ),
    "a private key": (("add", "cleo", "AGE-SECRET-KEY-1"), "is not a public key"),
    "mistyped": (("add", "cleo", "{key}x", "-e", "production"), "is not a public key"),
    "nobody": (("remove", "dora"), "dora: is no recipient here"),
    "the last one": (("remove", "{production}"), "would have no recipient left"),
    "oneself": (("remove", "{staging}"), "your own key would not open it any more. Somebody who stays removes you"),
    "no files": (("add", "cleo", "{key}", "-e", "nowhere"), "has no encrypted file with a rule"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals_change_nothing(site: Site, cleo: AgeKey, case: str) -> None:
    commit = site.commit()
    arguments, says = REFUSALS[case]
    if case == "oneself":
        site.replace(".sops.yaml", site.staging.public, f"{site.staging.public},{cleo.public}")
        commit = site.commit("Somebody else is there")
    publics = {"production": site.production.public, "staging": site.staging.public}
    given = [text.format(key=cleo.public, **publics) for text in arguments]
    done = run(site, "recipients", *given, key=site.staging.path if case == "oneself" else None)
    assert done.returncode == 1
    assert says in done.stderr
    assert site.git("for-each-ref", "--format=%(objectname)") == commit


def test_without_a_key_that_opens_every_file_nothing_is_committed(site: Site, cleo: AgeKey) -> None:
    site.commit()
    done = run(site, "recipients", "add", "cleo", cleo.public, "-e", "production", key=site.staging.path)
    assert done.returncode == 1
    assert "not encrypted for" in done.stderr
    assert site.git("branch", "--list", "recipients/*") == ""


def test_the_list_shows_where_files_differ_from_their_rule(site: Site, cleo: AgeKey) -> None:
    site.replace(".sops.yaml", site.production.public, f"{site.production.public},{cleo.public}")
    site.commit()
    members = data_of("recipients", run(site, "recipients", "list", "--json"))["recipients"]
    lacking = {member["key"]: member["lacking"] for member in members}
    assert lacking[cleo.public] == ["envs/production/api.env", "envs/production/worker.env"]
    assert lacking[site.staging.public] == []
    assert len(members) == len(ENVIRONMENTS) + 1
