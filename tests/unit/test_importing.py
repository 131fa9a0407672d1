"""The draft of an import from the inventories of one or several machines."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from reconciler.app.config.manifest import read_manifest
from reconciler.app.config.server import ServerConfig
from reconciler.app.onboarding import import_files
from reconciler.core.errors import RefusedError
from reconciler.core.inventory import FoundFile, FoundProject, Inventory, Use, UsedFile
from reconciler.core.model.targets import Format, Manifest, Parser
from reconciler.core.onboarding.draft import draft_environment
from reconciler.core.onboarding.manifest import contract_schema
from reconciler.core.onboarding.source_names import as_binary
from reconciler.core.onboarding.types import Draft, ImportSource, PlainFiles
from reconciler.core.secret import Secret
from reconciler.core.secrets.plaintext import reason_for_secrecy
from tests.support.cases import each

SHOP = "/opt/shop"


def file(path: str, data: bytes = b"A=1\n", mode: int = 0o600, owner: str = "root") -> FoundFile:
    return FoundFile(path, Secret(data), mode, 0, 0, owner, owner)


def project(*files: UsedFile, name: str = "shop", directory: str = SHOP, **more: Any) -> FoundProject:
    main = (f"{directory}/compose.yaml",)
    return FoundProject(name, directory, main, files, **{"main_files": main, **more})


def used(path: str, use: Use = Use.ENV_FILE, services: tuple[str, ...] = ("api",), **more: Any) -> UsedFile:
    return UsedFile(file(path, **more), use, services)


def draft(*projects: Iterable[FoundProject], loose: Iterable[FoundFile] = (), plain: PlainFiles | None = None) -> Draft:
    """Of machines web-1, web-2 … with these projects each."""
    sources = [
        ImportSource(f"web-{number}", Inventory("/", tuple(each), tuple(loose) if number == 1 else ()))
        for number, each in enumerate(projects, start=1)
    ]
    return draft_environment("production", sources, plain=plain)


def manifest(drafted: Draft, host: str = "web-1") -> Manifest:
    """As the daemon of that machine reads it."""
    text = import_files.manifest_text(drafted, {})
    server = {
        "environment": "production",
        "host": host,
        "repository": {"url": "/x"},
        "allowed_paths": ["/opt", "/etc/a"],
    }
    return read_manifest(text, environment="production", file="x", server=ServerConfig.model_validate(server))


def paths(drafted: Draft, host: str = "web-1") -> dict[str, str]:
    return {target.source: target.path for target in manifest(drafted, host).targets}


def test_machines_that_are_alike_share_a_stack_for_every_host() -> None:
    shop = project(used(f"{SHOP}/api.env"))
    drafted = draft([shop], [shop])
    assert [(stack.name, stack.hosts) for stack in drafted.stacks] == [("shop", ())]
    assert drafted.files[0].hosts == ("web-1", "web-2")
    assert paths(drafted, "web-1") == paths(drafted, "web-2") == {"api.env": f"{SHOP}/api.env"}


@pytest.mark.parametrize(
    "different",
    [
        pytest.param(used(f"{SHOP}/api.env", data=b"A=2\n"), id="another-value"),
        pytest.param(used(f"{SHOP}/api.env", mode=0o640), id="another-mode"),
        pytest.param(used(f"{SHOP}/api.env", owner="deploy"), id="another-owner"),
    ],
)
def test_machines_that_differ_have_a_stack_each(different: UsedFile) -> None:
    same = used(f"{SHOP}/common.env")
    drafted = draft([project(used(f"{SHOP}/api.env"), same)], [project(different, same)])
    assert [(stack.name, stack.hosts) for stack in drafted.stacks] == [
        ("shop-web-1", ("web-1",)),
        ("shop-web-2", ("web-2",)),
    ]
    assert paths(drafted, "web-1") == {
        "shop-web-1/api.env": f"{SHOP}/api.env",
        "shop-web-1/common.env": f"{SHOP}/common.env",
    }
    (target, _) = manifest(drafted, "web-2").targets
    assert (target.mode, target.owner or "root") == (different.file.mode, different.file.owner)


def test_a_project_of_one_machine_only_is_for_that_host() -> None:
    blog = project(used("/opt/blog/b.env"), name="blog", directory="/opt/blog")
    shop = project(used(f"{SHOP}/api.env"))
    drafted = draft([shop, blog], [shop])
    assert [(stack.name, stack.hosts) for stack in drafted.stacks] == [("shop", ()), ("blog", ("web-1",))]
    assert set(paths(drafted, "web-2")) == {"shop/api.env"}


def test_a_file_that_two_projects_use_is_one_target_with_a_note() -> None:
    shared = "/opt/shared.env"
    drafted = draft([project(used(shared)), project(used(shared), name="blog", directory="/opt/blog")])
    assert [(entry.stack, entry.file.path) for entry in drafted.files] == [("shop", shared)]
    assert [stack.name for stack in drafted.stacks] == ["shop"]
    assert any("is used by blog too" in note for note in drafted.notes)


def test_a_file_that_several_services_use_is_one_target() -> None:
    path = f"{SHOP}/api.env"
    drafted = draft([project(used(path), used(path, services=("worker",)), used(path, Use.MOUNT, ("cron",)))])
    (entry,) = drafted.files
    assert entry.services == ("api", "cron", "worker")
    assert "env_file of api, cron, worker" in import_files.manifest_text(drafted, {}).decode()


def test_names_are_unique_readable_and_never_lead_out() -> None:
    names = (
        ".env",
        "api.env",
        "config/api.env",
        "deep/config/api.env",
        "other/API.ENV",
        "a b;c.env",
        "-x.env",
        "..b.env",
    )
    others = ("environment.yaml", "site.conf.template", "x.env.old", "x.old.env")
    drafted = draft(
        [
            project(
                *(used(f"{SHOP}/{name}") for name in (*names, *others[2:])),
                *(used(f"{SHOP}/{name}", Use.MOUNT, data=b"a: b\n", mode=0o644) for name in others[:2]),
            )
        ]
    )
    sources = [entry.source for entry in drafted.files]
    assert len({source.casefold() for source in sources}) == len(names) + len(others)
    assert {
        "shop.env",
        "api.env",
        "config-api.env",
        "x.old.env",
        "shop.environment.yaml.bin",
        "site.conf-template",
    } <= set(sources)
    assert not [source for source in sources if ".." in source or source.startswith(("/", "-", "."))]
    assert all(entry.source.endswith(".env") for entry in drafted.files if entry.format is Format.DOTENV)
    assert set(paths(drafted).values()) == {entry.file.path for entry in drafted.files}


def test_the_raw_grammar_and_compose_files_of_another_name_are_written_down() -> None:
    shop = project(replace(used(f"{SHOP}/raw.env", data=b'A="x\n'), raw=True), main_files=(f"{SHOP}/prod.yaml",))
    drafted = draft([shop])
    (target,), (stack,) = manifest(drafted).targets, manifest(drafted).stacks
    assert (target.parser, stack.files) == (Parser.RAW, ("prod.yaml",))
    assert drafted.files[0].keys == ("A",)


def test_a_first_contract_knows_secrets_by_their_names() -> None:
    names = ("DB_PASS", "PGPASSWORD", "GITHUB_PAT", "TOKEN_URL")
    drafted = draft([project(used(f"{SHOP}/api.env", data="".join(f"{name}=x\n" for name in names).encode()))])
    assert contract_schema(drafted.files[0])["properties"] == {
        **{name: {"writeOnly": True} for name in names[:-1]},
        "TOKEN_URL": {},
    }


def test_a_comment_of_another_language_is_explained() -> None:
    (entry,) = draft([project(used(f"{SHOP}/api.env", data=b"// production\nMODE = 'x'\n"))]).files
    assert (entry.format, entry.parser) == (Format.BINARY, Parser.OPAQUE)
    assert "line 1" in entry.reason
    assert "begin a comment with #" in entry.reason


NGINX, REDIS = f"{SHOP}/nginx.conf", f"{SHOP}/redis.conf"


def mounted(nginx: bytes = b"server { listen 80; }\n") -> list[FoundProject]:
    """One mounted file in which nothing looks like a secret, and one that holds one."""
    files = (used(NGINX, Use.MOUNT, data=nginx), used(REDIS, Use.MOUNT, data=b"requirepass hunter2\n"))
    return [project(*files, used(f"{SHOP}/api.env"))]


def formats(drafted: Draft) -> dict[str, Format]:
    return {entry.file.path: entry.format for entry in drafted.files if entry.mounted}


def test_every_mounted_file_is_encrypted_by_default() -> None:
    drafted = draft(mounted())
    assert formats(drafted) == {NGINX: Format.BINARY, REDIS: Format.BINARY}
    (note,) = (note for note in drafted.notes if "--plain" in note)
    assert NGINX in note
    assert REDIS not in note
    assert all(target.encrypted for target in manifest(drafted).targets)


def test_a_file_named_with_plain_is_plain() -> None:
    drafted = draft(mounted(), plain=PlainFiles((f"{SHOP}/nginx*",)))
    assert formats(drafted) == {NGINX: Format.PLAIN, REDIS: Format.BINARY}
    assert not [note for note in drafted.notes if "--plain" in note]
    assert {target.path for target in manifest(drafted).targets if not target.encrypted} == {NGINX}


def test_a_pattern_does_not_make_a_secret_plain_and_the_name_of_the_file_does() -> None:
    with pytest.raises(RefusedError) as refused:
        draft(mounted(), plain=PlainFiles(("*.conf",)))
    assert refused.value.where == REDIS
    assert f"--plain {REDIS}" in refused.value.hint
    assert "hunter2" not in str(refused.value)
    assert formats(draft(mounted(), plain=PlainFiles((REDIS,))))[REDIS] is Format.PLAIN


def test_variables_are_never_plain_and_a_pattern_without_a_match_is_reported() -> None:
    with pytest.raises(RefusedError):
        draft(mounted(), plain=PlainFiles((f"{SHOP}/api.env",)))
    assert any("--plain *.cfg matches no" in note for note in draft(mounted(), plain=PlainFiles(("*.cfg",))).notes)


def test_a_plain_file_stays_plain_unless_it_looks_like_a_secret_now() -> None:
    earlier = PlainFiles(kept=(NGINX,))
    assert formats(draft(mounted(), plain=earlier)) == {NGINX: Format.PLAIN, REDIS: Format.BINARY}
    assert formats(draft(mounted(b"auth_token hunter2;\n"), plain=earlier))[NGINX] is Format.BINARY


def test_an_included_compose_file_is_not_a_file_of_the_stack() -> None:
    both = (f"{SHOP}/compose.yaml", f"{SHOP}/part/compose.yaml")
    drafted = draft([replace(project(used(f"{SHOP}/api.env")), compose_files=both)])
    assert manifest(drafted).stacks[0].files == ()


def test_system_files_compose_files_and_ciphertexts_are_left_out_and_reported() -> None:
    mounts = ("/etc/localtime", "/usr/share/zoneinfo/UTC", f"{SHOP}/compose.yaml")
    files = [used(path, Use.MOUNT) for path in mounts] + [
        used(f"{SHOP}/api.env"),
        used(f"{SHOP}/e.env", data=b"A=ENC[x]\n"),
    ]
    drafted = draft([project(*files)])
    assert [entry.file.path for entry in drafted.files] == [f"{SHOP}/api.env"]
    assert {left.path for left in drafted.left_out} == {*mounts, f"{SHOP}/e.env"}


def test_loose_files_are_imported_only_without_projects_and_if_all_machines_have_them() -> None:
    lone = file("/etc/a/b.env")
    assert paths(draft([], loose=[lone])) == {"b.env": "/etc/a/b.env"}
    for drafted in (draft([project(used(f"{SHOP}/api.env"))], loose=[lone]), draft([], [], loose=[lone])):
        assert [left.path for left in drafted.left_out] == ["/etc/a/b.env"]


def test_gaps_of_the_inventory_are_reported() -> None:
    source = ImportSource(
        "web-1", Inventory("/", (project(used(f"{SHOP}/a.env"), problem="x is missing"),), unread=("no y",))
    )
    notes = draft_environment("production", [source]).notes
    assert "no y" in notes
    assert any("x is missing" in note for note in notes)


def test_the_commonest_owner_is_the_default_and_a_mode_never_is() -> None:
    wide = [used(f"{SHOP}/{name}.env", mode=0o644, owner="deploy") for name in "ab"]
    drafted = draft([project(*wide, used(f"{SHOP}/c.env"))])
    text = yaml.safe_load(import_files.manifest_text(drafted, {}))
    assert text["defaults"] == {"owner": "deploy", "group": "deploy"}
    assert {target.path: target.mode for target in manifest(drafted).targets} == {
        target.file.path: target.mode for target in drafted.files
    }
    assert sum("world-readable" in note for note in drafted.notes) == 2


def test_names_of_services_cannot_break_the_manifest() -> None:
    env_file = UsedFile(file(f"{SHOP}/api.env"), Use.ENV_FILE, ("api\nstacks: {}", "ok"))
    drafted = draft([project(env_file, name="on: # {x}", directory="/opt/on: #")])
    assert [target.path for target in manifest(drafted).targets] == [f"{SHOP}/api.env"]
    assert manifest(drafted).stacks[0].directory == "/opt/on: #"


def test_a_binary_name_that_is_taken_gets_a_number() -> None:
    drafted = draft([project(used(f"{SHOP}/api.env"), used(f"{SHOP}/api.env.bin", Use.MOUNT))])
    binary = as_binary(drafted.files[0], "why", [entry.source for entry in drafted.files])
    assert (binary.format, binary.reason) == (Format.BINARY, "why")
    assert binary.source not in {entry.source for entry in drafted.files}


@each(
    ("name", "text"),
    [
        ("nginx.conf", (Path(__file__).parents[2] / "envs/production/nginx.conf").read_text()),
        ("nginx.conf", "ssl_certificate_key /etc/ssl/x.key;\nproxy_set_header Authorization $http_authorization;\n"),
        ("app.yaml", "cache_key_prefix: shop\ntoken_url: https://x.example.org\npassword: ${DB_PASSWORD}\n"),
        ("site.conf.template", "server_name ${NAME};\n"),
        ("my.cnf", "[mysqld]\nmax_connections = 100\n"),
        ("rules.yml", "# a pass takes four minutes, the hash of it less\n"),
        ("nginx.conf", 'proxy_pass http://api:8000;\nproxy_cache_key "$scheme$host$request_uri";\n'),
        ("app.yaml", "password: null\nsecret_file: /run/secrets/x\ntoken: /run/secrets/token\nssl_key: ./x.key\n"),
        ("app.yaml", "tokens:\n  - {name: DB_PASSWORD, value: '${DB_PASSWORD}'}\ncredentials:\n  file: x.json\n"),
        ("app.json", '{"passwordFile": "x", "requireToken": true, "publicKey": "abc", "tokenUrl": "https://a.org/t"}'),
        ("app.xml", "<user>me</user><password>${env.PASSWORD}</password><password/><bypass>x</bypass>"),
        ("app.toml", "url = 'postgres://me:${PASSWORD}@db/x'\npassword = '{{ password }}'\nsecret = '$SECRET'\n"),
    ],
)
def test_configuration_without_secrets_may_be_plain(name: str, text: str) -> None:
    assert reason_for_secrecy(name, text.encode()) == ""


@each(
    ("name", "text"),
    [
        ("id_rsa", "x"),
        ("x.conf", "\xff"),
        ("x.conf", "a b password=hunter2 c"),
        ("x.conf", "requirepass: 1\nsecret hunter2"),
        ("x.yaml", "- {api_key: hunter2}"),
        ("x.ini", "dsn = mysql://u:p@h/d"),
        ("redis.conf", "port 6379\nrequirepass Tr0ub4dor\n"),
        ("redis.conf", "masterauth hunter2\n"),
        ("redis.conf", "user api on >hunter2 ~* +@all\n"),
        ("ldap.conf", "bindpw hunter2\n"),
        ("mail.conf", "  pass hunter2\n"),
        ("mail.conf", "user me pass 'hunter2'\n"),
        ("haproxy.cfg", "stats auth admin:hunter2\n"),
        ("config.json", '{"clientSecret": "hunter2hunter2"}'),
        ("config.json", '{"dbPassword":"hunter2"}'),
        ("config.json", '[{"name":"DB_PASSWORD","value":"hunter2"}]'),
        ("config.json", '[{\n  "name": "DB_PASSWORD",\n  "value": "hunter2"\n}]'),
        ("config.yaml", "- name: DB_PASSWORD\n  value: hunter2\n"),
        ("app.yaml", "db_pass: hunter2\n"),
        ("app.yaml", "github_pat: hunter2\n"),
        ("app.yaml", 'password: "$ecr3t-Pa55"\n'),
        ("app.yaml", 'password: "/Tr0ub4dor"\n'),
        ("app.yaml", "password: 482913\n"),
        ("app.yaml", "password: ${PASSWORD:-hunter2}\n"),
        ("app.yaml", "password:\n  hunter2\n"),
        ("app.yaml", "password: |-  # why\n\n  hunter2\n"),
        ("app.yaml", "db:\n- password:\n    'hunter2'\n"),
        ("users.xml", "<user><password>hunter2</password></user>"),
        ("users.xml", "<password hash='no'>\n  <![CDATA[hunter2]]></password>"),
        ("users.xml", '<add key="DbPassword" value="hunter2"/>'),
        ("users.xml", '<property name="password">hunter2</property>'),
        ("run.conf", "exec app --db-password=hunter2 -Dadmin.password=x"),
        ("app.lua", "local t = {['password'] = 'hunter2'}"),
        ("app.conf", "'db_password' => 'hunter2'"),
        ("alert.yaml", "url: https://hooks.slack.com/services/T0/B0/hunter2"),
        ("alert.yaml", "url: https://chat.example.org/hooks/aB3dE5gH7jK9mN1pQ3sT"),
        ("app.yaml", "x: eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ4In0.hunter2\n"),
        ("x.conf", "p\0a\0s\0s\0"),
    ],
)
def test_a_possible_secret_is_not_plain_and_not_quoted(name: str, text: str) -> None:
    reason = reason_for_secrecy(name, text.encode("latin-1"))
    assert reason
    assert "hunter2" not in reason
