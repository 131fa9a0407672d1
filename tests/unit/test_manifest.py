"""environment.yaml: how it is read, how mistakes are refused, and that hostile manifests do no harm."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import time
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.app.config.manifest import StackFields, StackTarget, read_manifest
from reconciler.app.config.schema import json_schema
from reconciler.app.config.server import ServerConfig, load_server_config
from reconciler.core.errors import ManifestError
from reconciler.core.model.targets import (
    ChangeMode,
    Check,
    HealthPolicy,
    HttpCheck,
    Manifest,
    MountedTarget,
    OnChange,
    OnDrift,
    OnFailure,
    OnFirstContact,
    Parser,
    Stack,
    StackKind,
    Target,
    WriteMode,
)
from tests.support.cases import each

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data"
SERVER = load_server_config(str(DATA / "server-full.yaml"))
MINIMAL_SERVER = load_server_config(str(DATA / "server-minimal.yaml"))
APP = "stacks:\n  app:\n    directory: /opt/app\n    targets:\n"


def read(text: str | bytes, server: ServerConfig = SERVER) -> Manifest:
    content = text.encode() if isinstance(text, str) else text
    return read_manifest(content, environment="production", file="FILE", server=server)


def refusal(text: str | bytes, server: ServerConfig = SERVER) -> list[str]:
    with pytest.raises(ManifestError) as caught:
        read(text, server)
    return str(caught.value).splitlines()


def target(text: str, server: ServerConfig = SERVER) -> Target:
    """The only target of a manifest."""
    (only,) = read(text, server).targets
    return only


def app(targets: str, **fields: str) -> str:
    """A manifest with the stack `app`; its first target stands in line 5, its further fields above."""
    extra = "".join(f", {name}: {value}" for name, value in fields.items())
    return f"stacks:\n  app: {{directory: /opt/app{extra},\n    targets: {{\n\n{targets}\n}}}}"


# --- what is read ---


def test_every_field_is_read() -> None:
    manifest = read((DATA / "manifest-full.yaml").read_bytes())
    assert manifest.stacks == (
        Stack(
            environment="production",
            name="app",
            directory="/opt/app",
            files=("compose.yaml", "override/compose.yaml"),
            env_files=(".env.prod", "/srv/apps/extra.env"),
            project="shop",
            project_directory="deploy",
            profiles=("web",),
            hosts=("web-1", "web-2"),
            health=HealthPolicy(
                120.0,
                20.0,
                (
                    HttpCheck("http://127.0.0.1:8000/health", 204),
                    HttpCheck("https://health.example.org/app?deep=1", 200),
                ),
            ),
            on_failure=OnFailure.HOLD,
            on_drift=OnDrift.REPORT,
            one_shot=frozenset({"migrate"}),
        ),
    )
    api, worker, nginx, motd, issue = manifest.targets
    assert api == Target(
        environment="production",
        source="api.env",
        path="/opt/app/config/api.env",
        stack="app",
        encrypted=True,
        mode=0o600,
        owner="1000",
        group=None,
        on_drift=OnDrift.RESTORE,
        on_change=OnChange(ChangeMode.SIGNAL, "HUP"),
        on_first_contact=OnFirstContact.HOLD,
        parser=Parser.COMPOSE,
        check=None,
        contracts=("contracts/api.yaml", "contracts/api.production.yaml"),
        allow_shrink=False,
        prune=False,
        ignore_keys=("FEATURE_*", "LOG_LEVEL"),
    )
    assert worker == Target(
        environment="production",
        source="app/worker.env",
        path="/opt/app/app/worker.env",
        stack="app",
        encrypted=False,
        mode=0o640,
        owner="deploy",
        group="deploy",
        on_drift=OnDrift.REPORT,
        on_change=OnChange(ChangeMode.NONE),
        write=WriteMode.IN_PLACE,
        on_first_contact=OnFirstContact.TAKE_OVER,
        parser=Parser.RAW,
        check=Check("json", ("/usr/bin/jq", "--exit-status", ".", "--file={file}")),
        contracts=("contracts/all.yaml",),
        allow_shrink=True,
        prune=True,
        ignore_keys=("LOG_LEVEL",),
    )
    assert nginx == dataclasses.replace(worker, source="nginx.conf", path="/srv/apps/nginx.conf")
    assert motd == dataclasses.replace(worker, source="motd", path="/opt/app/motd", stack=None, mode=0o644)
    assert issue == dataclasses.replace(worker, source="issue", path="/opt/app/issue", stack=None)


def test_the_full_manifest_leaves_no_field_out() -> None:
    """Or the test above would say nothing about it."""
    written = yaml.safe_load((DATA / "manifest-full.yaml").read_text())
    assert set(written["stacks"]["app"]) == set(StackFields.model_fields)
    fields = {field.alias or name for name, field in StackTarget.model_fields.items()}
    assert set(written["stacks"]["app"]["targets"]["api.env"]) == fields
    assert set(written["defaults"]) == fields - {"path"}


def test_limits_are_inclusive() -> None:
    name, deep = "n" * 255, "/opt/app" + "/x" * 29
    assert target(app(f"a.env: {name}")).path == f"/opt/app/{name}"
    assert target(app(f"a.env: {deep}")).path == deep
    long = "/".join(["/opt/app", *["n" * 252] * 4, "xxx"])
    assert len(long) == 1024
    assert target(app(f"a.env: {long}")).path == long
    (stack,) = read(app("", health="{timeout: 15s}")).stacks
    assert stack.health.timeout == stack.health.stable_for == 15.0


def test_the_short_form() -> None:
    manifest = read(
        APP + "      api.env:\n"
        "      worker.env: config/worker.env\n"
        "      nginx.conf: {path: nginx/nginx.conf, encrypted: false, check: nginx, on_change: restart}\n",
        SERVER.model_copy(update={"drift": MINIMAL_SERVER.drift}),
    )
    assert manifest.stacks == (Stack("production", "app", "/opt/app"),)
    assert manifest.targets == (
        Target("production", "api.env", "/opt/app/api.env", "app"),
        Target("production", "worker.env", "/opt/app/config/worker.env", "app"),
        Target(
            "production",
            "nginx.conf",
            "/opt/app/nginx/nginx.conf",
            "app",
            encrypted=False,
            parser=Parser.OPAQUE,
            check=Check("nginx", ("nginx", "-t", "-c", "{file}")),
            on_change=OnChange(ChangeMode.RESTART),
        ),
    )


@pytest.mark.parametrize("environment", ["development", "staging", "production"])
def test_the_example_environments_are_read(environment: str) -> None:
    text = (ROOT / "envs" / environment / "environment.yaml").read_bytes()
    manifest = read_manifest(text, environment=environment, file="environment.yaml", server=MINIMAL_SERVER)
    assert [target.source for target in manifest.targets] == ["api.env", "worker.env", "scheduler.env", "nginx.conf"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(app("a.env: {on_drift: restore}"), OnDrift.RESTORE, id="the target above all"),
        pytest.param(
            "defaults: {on_drift: restore}\n" + app("a.env:"), OnDrift.RESTORE, id="defaults above the server"
        ),
        pytest.param(
            "defaults: {on_drift: restore}\n" + app("a.env: {on_drift: report}"),
            OnDrift.REPORT,
            id="the target above defaults",
        ),
        pytest.param(app("a.env:"), OnDrift.REPORT, id="the server above what is built in"),
        pytest.param("targets: {a.env: /opt/app/a}", OnDrift.REPORT, id="the server for targets outside of stacks"),
        pytest.param(
            "defaults: {on_drift: restore}\ntargets: {a.env: /opt/app/a}",
            OnDrift.RESTORE,
            id="defaults for targets outside of stacks",
        ),
    ],
)
def test_who_decides_a_field(text: str, expected: OnDrift) -> None:
    assert SERVER.drift.on_drift is OnDrift.REPORT
    assert target(text).on_drift is expected


def test_what_nobody_says_is_built_in() -> None:
    assert target(app("a.env:"), MINIMAL_SERVER) == Target("production", "a.env", "/opt/app/a.env", "app")


def test_an_empty_owner_group_or_check_undoes_the_default() -> None:
    text = "defaults: {owner: deploy, group: deploy, check: nginx}\n"
    plain = target(text + app("a.env: {owner: , group: null, check: ~}"))
    assert (plain.owner, plain.group, plain.check) == (None, None, None)


@pytest.mark.parametrize(
    ("source", "parser"),
    [
        ("api.env", Parser.COMPOSE),
        (".env", Parser.COMPOSE),
        (".env.production", Parser.COMPOSE),
        ("api.env.template", Parser.COMPOSE),
        ("app/api.env", Parser.COMPOSE),
        ("nginx.conf", Parser.OPAQUE),
        ("env", Parser.OPAQUE),
        ("x.env/nginx.conf", Parser.OPAQUE),
        ("API.ENV", Parser.OPAQUE),
    ],
)
def test_the_parser_follows_from_the_sources_name(source: str, parser: Parser) -> None:
    assert target(app(f"{source}:")).parser is parser


def test_a_parser_that_is_given_wins_over_the_name() -> None:
    assert target(app("a.env: {parser: opaque}")).parser is Parser.OPAQUE
    assert target("defaults: {parser: raw}\n" + app("nginx.conf:")).parser is Parser.RAW


@pytest.mark.parametrize("mode", ["0640", "640"])
def test_modes_are_octal(mode: str) -> None:
    assert target(app(f"a.env: {{mode: '{mode}'}}")).mode == 0o640


@pytest.mark.parametrize(
    ("path", "live"),
    [
        ("config/a.env", "/opt/app/config/a.env"),
        ("./config//a.env", "/opt/app/config/a.env"),
        ("/opt/app/a.env", "/opt/app/a.env"),
        ("//srv/apps/./a.env", "/srv/apps/a.env"),
        ("a b.env", "/opt/app/a b.env"),
        ("-x", "/opt/app/-x"),
        ("...", "/opt/app/..."),
        ("'$(reboot) `x`'", "/opt/app/$(reboot) `x`"),
    ],
)
def test_live_paths_are_absolute_and_tidy(path: str, live: str) -> None:
    assert target(app(f"a.env: {path}")).path == live


@pytest.mark.parametrize(
    ("hosts", "here"), [("[web-1]", True), ("[web-2, web-1]", True), ("[web-2]", False), (None, True), ("null", True)]
)
def test_stacks_of_other_hosts_are_left_out_with_their_targets(hosts: str | None, here: bool) -> None:
    manifest = read(app("a.env:", **({"hosts": hosts} if hosts else {})) + "\ntargets: {b: /opt/app/b}")
    assert [stack.name for stack in manifest.stacks] == (["app"] if here else [])
    assert [target.source for target in manifest.targets] == (["a.env", "b"] if here else ["b"])


@pytest.mark.parametrize("text", ["targets: {}", "stacks: {}", "stacks: {app: {directory: /opt/app}}"])
def test_an_environment_may_have_no_files(text: str) -> None:
    assert read(text).targets == ()


def test_the_paths_checks_and_health_of_another_hosts_stack_are_its_own() -> None:
    health = "{http: [{url: http://db.example.org/}]}"
    database = f"{{directory: /srv/db, hosts: [web-2], health: {health}, targets: {{db.conf: {{check: pg}}}}}}"
    assert read(f"stacks: {{db: {database}}}").stacks == ()
    here = database.replace("web-2", SERVER.host)
    assert len(refusal(f"stacks: {{db: {here}}}")) == 3


def test_an_error_in_another_hosts_stack_is_still_reported() -> None:
    (line,) = refusal("stacks: {db: {directory: /srv/db, hosts: [web-2], helth: {}}}")
    assert "stacks.db.helth" in line


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1",
        "http://127.3.2.1:8000/health",
        "https://localhost:65535/",
        "'http://[::1]:80/x?y=[1]#z'",
        "https://HEALTH.example.org/",
        "http://10.0.0.7:1",
    ],
)
def test_health_may_ask_loopback_and_the_hosts_of_the_server(url: str) -> None:
    (stack,) = read(app("", health=f"{{http: [{{url: {url}}}]}}")).stacks
    assert stack.health.http[0].url == url.strip("'")


# --- what is refused: shapes ---

IN_A_TARGET = [
    # id, the target, the field and what is wrong with it
    (
        "unknown field",
        "{pth: a}",
        "pth: is not a known field, did you mean path?; accepted: encrypted, mode, owner, gr",
    ),
    ("number", "5", "a.env: cannot be a number; accepted: a path, nothing, or a mapping of fields"),
    ("list", "[a]", "a.env: cannot be a list; accepted: a path, nothing, or a mapping of fields"),
    (
        "mode as number",
        "{mode: 0600}",
        "mode: must be text, not a number: put it in quotes; accepted: octal digits in ",
    ),
    (
        "setuid",
        "{mode: '4755'}",
        'mode: "4755" is not a file mode; accepted: octal digits in quotes, such as "0600", w',
    ),
    (
        "sticky",
        "{mode: '1777'}",
        'mode: "1777" is not a file mode; accepted: octal digits in quotes, such as "0600", w',
    ),
    (
        "not octal",
        "{mode: '0680'}",
        'mode: "0680" is not a file mode; accepted: octal digits in quotes, such as "0600"',
    ),
    (
        "symbolic",
        "{mode: u=rw}",
        'mode: "u=rw" is not a file mode; accepted: octal digits in quotes, such as "0600", w',
    ),
    (
        "owner number",
        "{owner: 1000}",
        "owner: must be text, not a number: put it in quotes; accepted: its name or, in ",
    ),
    ("owner", "{owner: 'a:b'}", 'owner: "a:b" is not a user or group; accepted: its name or, in quotes, its number'),
    ("drift", "{on_drift: ignore}", 'on_drift: "ignore" is not one of the choices; accepted: restore, report'),
    ("change", "{on_change: reload}", 'on_change: "reload" is not something a change can do; accepted: recreate, rest'),
    ("signal", "{on_change: signal:NO}", 'on_change: "signal:NO" is not something a change can do; accepted: recreate'),
    ("SIG", "{on_change: signal:SIGHUP}", 'on_change: "signal:SIGHUP" is not something a change can do; accepted: rec'),
    (
        "no signal",
        "{on_change: 'signal:'}",
        'on_change: "signal:" is not something a change can do; accepted: recreate',
    ),
    ("contact", "{on_first_contact: x}", 'on_first_contact: "x" is not one of the choices; accepted: hold, take_over'),
    ("parser", "{parser: env}", 'parser: "env" is not one of the choices; accepted: compose, raw, opaque'),
    ("check", "{check: ngix}", 'check: "ngix" is not a check of the server; accepted: nginx, json'),
    ("check that would run", "{check: [reboot]}", "check: must be text, not a list; accepted: up to 63 letters, digit"),
    ("shrink", "{allow_shrink: 'yes'}", "allow_shrink: must be true or false, not text; accepted: true, false"),
    ("null for boolean", "{prune: }", "prune: must be true or false, not nothing; accepted: true, false"),
    ("path as number", "{path: 5}", "path: must be text, not a number: put it in quotes; accepted: a path below the s"),
    (
        "path upwards",
        "../../etc/passwd",
        "path: \"../../etc/passwd\" is not a file's path without '..'; accepted: a pa",
    ),
    ("upwards within", "x/../a", "path: \"x/../a\" is not a file's path without '..'; accepted: a path below the stac"),
    ("upwards at the end", "x/..", "path: \"x/..\" is not a file's path without '..'; accepted: a path below the stac"),
    ("absolute upwards", "/opt/app/../x", "path: \"/opt/app/../x\" is not a file's path without '..'; accepted: a pat"),
    (
        "a directory",
        "config/",
        "path: \"config/\" is not a file's path without '..'; accepted: a path below the stack's",
    ),
    (
        "the directory",
        ".",
        "path: \".\" is not a file's path without '..'; accepted: a path below the stack's directory",
    ),
    (
        "the root",
        "/",
        "path: \"/\" is not a file's path without '..'; accepted: a path below the stack's directory, suc",
    ),
    (
        "empty path",
        "''",
        "path: \"\" is not a file's path without '..'; accepted: a path below the stack's directory, su",
    ),
    (
        "backslash",
        r"'..\x'",
        "path: \"..\\x\" is not a file's path without '..'; accepted: a path below the stack's di",
    ),
    ("NUL", r'"a\0b"', "path: holds a control or invisible character; accepted: a path below the stack's directory"),
    (
        "newline",
        r'"a\nb"',
        "path: holds a control or invisible character; accepted: a path below the stack's directory",
    ),
    (
        "right to left",
        '"a\\u202eb"',
        "path: holds a control or invisible character; accepted: a path below the stack's",
    ),
    ("long in all", "/".join(["n" * 255] * 4 + ["x"]), "path: is longer than 1024 bytes or 32 levels; accepted: a "),
    ("long path", "a/" * 32 + "b", "path: is longer than 1024 bytes or 32 levels; accepted: a path below the stack"),
    ("long name", "a" * 256, "path: has a name longer than 255 bytes; accepted: a path below the stack's directory, s"),
    ("outside", "/etc/passwd", 'path: "/etc/passwd" lies outside allowed_paths (/opt/app, /srv/apps); accepted: a pa'),
    ("an allowed path itself", "/srv/apps", 'path: "/srv/apps" lies outside allowed_paths (/opt/app, /srv/apps); acc'),
    ("beside", "/opt/app2/x", 'path: "/opt/app2/x" lies outside allowed_paths (/opt/app, /srv/apps); accepted: a path'),
]
BEYOND_SHAPE = {"check", "long in all", "long path", "long name", "outside", "an allowed path itself", "beside"}
# JSON Schema sees these only where its patterns name them; the reader refuses whatever is not printable.
BEYOND_SHAPE |= {"right to left"}


@each(("text", "expected"), [pytest.param(*case[1:], id=case[0]) for case in IN_A_TARGET])
def test_a_mistake_is_named_with_file_line_field_and_what_is_accepted(text: str, expected: str) -> None:
    (line,) = refusal(app(f"a.env: {text}"))
    assert line.startswith("FILE:5: stacks.app.targets.a.env")
    assert expected in line


def test_defaults_are_checked_like_targets() -> None:
    text = "defaults: {mode: '4755', check: ngix, path: /opt/app/a}\n" + app("a.env:")
    assert [line.partition("; ")[0] for line in refusal(text)] == [
        'FILE:1: defaults.check: "ngix" is not a check of the server',
        'FILE:1: defaults.mode: "4755" is not a file mode',
        "FILE:1: defaults.path: is not a known field",
    ]


def test_a_server_without_checks_says_so() -> None:
    (line,) = refusal(app("a.env: {check: nginx}"), MINIMAL_SERVER)
    assert line.endswith("is not a check of the server; accepted: none, the server configuration has no checks")


BAD_SOURCES = [
    ("upwards", "../a.env"),
    ("upwards within", "x/../a.env"),
    ("absolute", "/etc/passwd"),
    ("option", "--output"),
    ("dot", "./a.env"),
    ("dot within", "x/./a.env"),
    ("two slashes", "x//a.env"),
    ("directory", "x/"),
    ("backslash", r"'x\a.env'"),
    ("empty", "''"),
    ("NUL", r'"a\0"'),
    ("newline", r'"a\n.env"'),
    ("escape", r'"a\e[2J"'),
    ("long", f"? {'a' * 300}\n"),
]


@each("source", [pytest.param(case[1], id=case[0]) for case in BAD_SOURCES])
def test_sources_are_plain_paths_below_the_environment(source: str) -> None:
    for text in (app(f"{source}: x"), f"\n\n\n\ntargets: {{{source}: /opt/app/x}}"):
        (line,) = refusal(text)
        assert line.startswith("FILE:5: ")
        assert "targets." in line
        assert "; accepted: a path such as api.env or app/api.env, without '.', '..', '//'" in line
        assert line.isprintable()


@pytest.mark.parametrize("source", ["$(reboot).env", "`reboot`", "a b.env", "a;b", "*.env", "%s", "größe.env", "a:b"])
def test_names_that_only_a_shell_would_mind_are_names(source: str) -> None:
    target_read = target(app(f"'{source}':"))
    assert (target_read.source, target_read.path) == (source, f"/opt/app/{source}")


IN_A_STACK = [
    # id, stack, the line that says so
    (
        "nothing",
        "",
        "FILE:1: stacks.app: must be a mapping, not nothing; accepted: a mapping with directory, files, en",
    ),
    ("no directory", "{}", "FILE:1: stacks.app.directory: is missing; accepted: a path such as /opt/app"),
    ("relative", "{directory: app}", "FILE:1: stacks.app.directory: \"app\" is not an absolute path without '..'; ac"),
    ("upwards", "{directory: /opt/app/../../etc}", 'FILE:1: stacks.app.directory: "/opt/app/../../etc" is not an ab'),
    ("outside", "{directory: /etc}", 'FILE:1: stacks.app.directory: "/etc" lies outside allowed_paths (/opt/app, /sr'),
    ("root", "{directory: /}", 'FILE:1: stacks.app.directory: "/" lies outside allowed_paths (/opt/app, /srv/apps); '),
    ("file option", "{directory: /opt/app, files: ['-']}", 'FILE:1: stacks.app.files[0]: "-" is not a file\'s path w'),
    ("file upwards", "{directory: /opt/app, files: [../x]}", 'FILE:1: stacks.app.files[0]: "../x" is not a file\'s pa'),
    ("file outside", "{directory: /opt/app, files: [/x]}", 'FILE:1: stacks.app.files[0]: "/x" lies outside allowed_pa'),
    ("file as text", "{directory: /opt/app, files: x}", "FILE:1: stacks.app.files: must be a list, not text; accepted"),
    (
        "env file outside",
        "{directory: /opt/app, env_files: [/x]}",
        'stacks.app.env_files[0]: "/x" lies outside allowed_',
    ),
    (
        "project",
        "{directory: /opt/app, project: A b}",
        'FILE:1: stacks.app.project: "A b" is not the name of a Compose',
    ),
    ("elsewhere", "{directory: /opt/app, project_directory: /x}", 'project_directory: "/x" lies outside allowed_paths'),
    ("profile", "{directory: /opt/app, profiles: [--x]}", 'FILE:1: stacks.app.profiles[0]: "--x" is not a name; acc'),
    ("no host", "{directory: /opt/app, hosts: []}", "FILE:1: stacks.app.hosts: must not be empty; accepted: a list o"),
    ("host", "{directory: /opt/app, hosts: [a b]}", 'FILE:1: stacks.app.hosts[0]: "a b" is not a name; accepted: up'),
    ("failure", "{directory: /opt/app, on_failure: retry}", 'FILE:1: stacks.app.on_failure: "retry" is not one of t'),
    ("service", "{directory: /opt/app, one_shot: [-x]}", 'FILE:1: stacks.app.one_shot[0]: "-x" is not a name; acce'),
    ("services", "{directory: /opt/app, one_shot: x}", "FILE:1: stacks.app.one_shot: must be a list, not text; acce"),
    ("health", "{directory: /opt/app, health: 5s}", "FILE:1: stacks.app.health: must be a mapping, not text; accept"),
    ("timeout", "{directory: /opt/app, health: {timeout: 5}}", "FILE:1: stacks.app.health.timeout: must be text, not"),
    ("impossible", "{directory: /opt/app, health: {timeout: 5s}}", "FILE:1: stacks.app.health: can never succeed: t"),
    ("status", "{directory: /opt/app, health: {http: [{url: http://localhost/, status: 99}]}}", "http[0].status: is o"),
    ("no url", "{directory: /opt/app, health: {http: [{}]}}", "FILE:1: stacks.app.health.http[0].url: is missing; acc"),
    ("targets", "{directory: /opt/app, targets: [a]}", "FILE:1: stacks.app.targets: must be a mapping, not a list; "),
    ("no targets", "{directory: /opt/app, targets: }", "FILE:1: stacks.app.targets: must be a mapping, not nothing;"),
]


@each(("stack", "expected"), [pytest.param(*case[1:], id=case[0]) for case in IN_A_STACK])
def test_mistakes_in_a_stack(stack: str, expected: str) -> None:
    (line,) = refusal(f"stacks: {{app: {stack}}}")
    assert expected in line
    assert "; accepted: " in line


def test_more_hosts_than_can_be_compared_are_refused() -> None:
    hosts = ", ".join(f"h{number}" for number in range(65))
    (line,) = refusal(app("", hosts=f"[{hosts}]"))
    assert line == "FILE:2: stacks.app.hosts: has 65 items; accepted: a list of up to 64"


@pytest.mark.parametrize("name", ["..", "a/b", "-x", "a b", "a..b", "''", "x" * 64, r'"a\0"'])
def test_names_of_stacks(name: str) -> None:
    (line,) = refusal(f"stacks: {{{name}: {{directory: /opt/app}}}}")
    assert "; accepted: up to 63 letters, digits, dots, dashes and underscores" in line


@pytest.mark.parametrize("name", ["", "..", "a/b", "-x", "a\0", "../production"])
def test_names_of_environments(name: str) -> None:
    with pytest.raises(ManifestError, match="is not a valid environment name; accepted: up to 63 letters") as caught:
        read_manifest(b"targets: {}", environment=name, file="FILE", server=SERVER)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(
            "targets: {a: }", "FILE:1: targets.a: cannot be nothing; accepted: a path, or a mapping", id="none"
        ),
        pytest.param("targets: {a: {}}", "FILE:1: targets.a.path: is missing; accepted: a path such as", id="empty"),
        pytest.param(
            "targets: {a: x/y}", 'FILE:1: targets.a.path: "x/y" is not a file\'s absolute path', id="relative"
        ),
        pytest.param(
            "targets: {a: /opt/app/}", 'path: "/opt/app/" is not a file\'s absolute path with', id="directory"
        ),
        pytest.param("targets: {a: /opt/app/.}", 'path: "/opt/app/." is not a file\'s absolute path wit', id="dot"),
        pytest.param("targets: {a: {path: }}", "path: must be text, not nothing; accepted: a path such", id="null"),
        pytest.param("targets: {a: /etc/motd}", '"/etc/motd" lies outside allowed_paths (/opt/app, /s', id="outside"),
    ],
)
def test_targets_outside_of_stacks_need_an_absolute_path(text: str, expected: str) -> None:
    (line,) = refusal(text)
    assert expected in line


@each(
    "url",
    [
        pytest.param("http://example.org/", id="another host"),
        pytest.param("http://169.254.169.254/latest/meta-data", id="metadata service"),
        pytest.param("http://0.0.0.0/", id="any address"),
        pytest.param("http://2130706433/", id="loopback as a number"),
        pytest.param("http://0x7f.1/", id="loopback in hex"),
        pytest.param("http://localhost.example.org/", id="begins with localhost"),
        pytest.param("http://localhost./", id="trailing dot"),
        pytest.param("'http://[::2]/'", id="IPv6"),
        pytest.param("'http://[::1]example.org/'", id="behind brackets"),
        pytest.param("http://127.0.0.1@example.org/", id="user"),
        pytest.param("http://user:hunter2@localhost/", id="password"),
        pytest.param(r"'http://localhost\@example.org/'", id="backslash"),
        pytest.param("http://localhost:80:90/", id="two ports"),
        pytest.param("http://localhost:99999/", id="port"),
        pytest.param("'http://[1::2::3]/'", id="bad IPv6"),
        pytest.param("'http://local host/'", id="blank"),
        pytest.param("file:///etc/passwd", id="file"),
        pytest.param("ftp://localhost/", id="ftp"),
        pytest.param("localhost:8000", id="no scheme"),
        pytest.param("'http:///x'", id="no host"),
    ],
)
def test_health_asks_nobody_else(url: str) -> None:
    (line,) = refusal(app("", health=f"{{http: [{{url: {url}}}]}}"))
    assert line.startswith("FILE:2: stacks.app.health.http[0].url: ")
    assert "; accepted: " in line
    assert "hunter2" not in line


# --- what is refused: conflicts ---


@each(
    ("text", "expected"),
    [
        pytest.param(
            app("a.env: x,\nb.env: ./x"),
            "FILE:6: stacks.app.targets.b.env: has the live path of stacks.app.targets.a.env in line 5; "
            "accepted: a live path of its own for every target",
            id="one live path",
        ),
        pytest.param(
            app("a.env: X,\nb.env: /opt/app//x"),
            "FILE:6: stacks.app.targets.b.env: has the live path of stacks.app.targets.a.env in line 5; "
            "accepted: a live path of its own for every target",
            id="one live path but for case",
        ),
        pytest.param(
            app("a.env:") + "\ntargets: {b: /opt/app/a.env}",
            "FILE:7: targets.b: has the live path of stacks.app.targets.a.env in line 5; "
            "accepted: a live path of its own for every target",
            id="one live path in and outside of a stack",
        ),
        pytest.param(
            app('"caf\\u00e9.env": x,\n"cafe\\u0301.env": y'),
            "FILE:6: stacks.app.targets.cafe\u0301.env: is a source already "
            "of stacks.app.targets.caf\u00e9.env in line 5; "
            "accepted: each source once; two live files need two",
            id="two ways to write é",
        ),
        pytest.param(
            app("a.env: x,\nA.env: y"),
            "FILE:6: stacks.app.targets.A.env: is a source already of stacks.app.targets.a.env in line 5; "
            "accepted: each source once; two live files need two",
            id="one source but for case",
        ),
        pytest.param(
            app("straße: x,\nSTRASSE: y"),
            "FILE:6: stacks.app.targets.STRASSE: is a source already of stacks.app.targets.straße in line 5; "
            "accepted: each source once; two live files need two",
            id="one source in another case",
        ),
        pytest.param(
            app("a.env: x") + "\ntargets: {a.env: /opt/app/y}",
            "FILE:7: targets.a.env: is a source already of stacks.app.targets.a.env in line 5; "
            "accepted: each source once; two live files need two",
            id="one source for two live files",
        ),
        pytest.param(
            app("a.env: x,\nb.env: x/y/z"),
            "FILE:5: stacks.app.targets.a.env: has the live path /opt/app/x, which must be a directory for "
            "stacks.app.targets.b.env; accepted: a path that is not a directory",
            id="a file where a directory must be",
        ),
        pytest.param(
            "stacks:\n  a: {directory: /opt/app/x/y, targets: {}}\ntargets: {f: /opt/app/x/y}",
            "FILE:3: targets.f: has the live path /opt/app/x/y, which must be a directory for stacks.a.directory; "
            "accepted: a path that is not a directory",
            id="a file where a stack is",
        ),
        pytest.param(
            "stacks:\n  a: {directory: /opt/app/x/y, targets: {}}\ntargets: {f: /opt/app/x}",
            "FILE:3: targets.f: has the live path /opt/app/x, which must be a directory for stacks.a.directory; "
            "accepted: a path that is not a directory",
            id="a file above a stack",
        ),
        pytest.param(
            "stacks:\n  a: {directory: /opt/app}\n  b: {directory: /opt/app/}",
            "FILE:3: stacks.b.directory: is the same project of stacks.a.directory in line 2; "
            "accepted: a directory, or files, of its own",
            id="one project twice",
        ),
    ],
)
def test_what_two_parts_of_a_manifest_both_want(text: str, expected: str) -> None:
    assert refusal(text) == [expected]


TWO_STACKS = """
stacks:
  a: {{directory: /opt/app, {0} targets: {{a.env: }}}}
  b: {{directory: /opt/app, {1} targets: {{a.env: }}}}
"""


@pytest.mark.parametrize(
    ("first", "second", "fine"),
    [
        pytest.param("hosts: [web-1],", "hosts: [web-2],", True, id="never together"),
        pytest.param("hosts: [web-1],", "hosts: [web-2, web-1],", False, id="together on one"),
        pytest.param("hosts: [web-2],", "hosts: [web-2],", False, id="together on another"),
        pytest.param("hosts: [web-1],", "", False, id="second everywhere"),
        pytest.param("", "hosts: [web-2],", False, id="first everywhere"),
    ],
)
def test_stacks_that_never_share_a_host_may_share_paths(first: str, second: str, fine: bool) -> None:
    text = TWO_STACKS.format(first, second)
    if fine:
        assert [target.stack for target in read(text).targets] == ["a"]
    else:
        assert len(refusal(text)) == 3


def test_as_many_hosts_as_are_accepted_are_compared() -> None:
    hosts = ", ".join(["web-1", *(f"h{number}" for number in range(63))])
    lines = refusal(app("a: x,\nb: x", hosts=f"[{hosts}]"))
    assert [line.partition(": ")[2].partition(" of")[0] for line in lines] == [
        "stacks.app.targets.b: has the live path"
    ]


def test_two_projects_may_share_a_directory() -> None:
    text = "stacks: {a: {directory: /opt/app, files: [a.yaml]}, b: {directory: /opt/app, files: [b.yaml]}}"
    assert len(read(text).stacks) == 2


def test_all_errors_are_reported_together_in_the_order_of_the_file() -> None:
    lines = refusal(
        "defaults: {mode: 0600}\n"
        "stacks:\n"
        "  app:\n"
        "    directroy: /opt/app\n"
        "    health: {http: [{url: http://example.org}, 5]}\n"
        "    targets:\n"
        "      a.env: ../x\n"
        "      b.env: {path: /opt/app/b, check: none}\n"
        "      b.env: y\n"
        "      B.env:\n"
        "  two: {directory: /tmp}\n"
        "targets:\n"
        "  motd: /opt/app/b\n"
        "  5: x\n"
    )
    assert [line.partition("; ")[0] for line in lines] == [
        "FILE:1: defaults.mode: must be text, not a number: put it in quotes",
        "FILE:3: stacks.app.directory: is missing",
        "FILE:4: stacks.app.directroy: is not a known field, did you mean directory?",
        "FILE:5: stacks.app.health.http[0].url: asks a host that is not in the server's health_hosts",
        "FILE:5: stacks.app.health.http[1]: must be a mapping, not a number",
        "FILE:7: stacks.app.targets.a.env.path: \"../x\" is not a file's path without '..'",
        'FILE:8: stacks.app.targets.b.env.check: "none" is not a check of the server',
        "FILE:9: stacks.app.targets.b.env: appears twice, first in line 8",
        "FILE:10: stacks.app.targets.B.env: is a source already of stacks.app.targets.b.env in line 8",
        'FILE:11: stacks.two.directory: "/tmp" lies outside allowed_paths (/opt/app, /srv/apps)',
        "FILE:13: targets.motd: has the live path of stacks.app.targets.b.env in line 8",
        "FILE:14: targets: a key that is not text",
    ]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        pytest.param("", "FILE:1: is empty", id="empty"),
        pytest.param("- a", "FILE:1: must be a mapping of fields", id="list"),
        pytest.param(
            "defaults: {}",
            "FILE:1: has neither stacks nor targets; accepted: at least one of them; `targets: {}` for none at all",
            id="neither stacks nor targets",
        ),
        pytest.param(
            "stacks:", "FILE:1: stacks: must be a mapping, not nothing; accepted: a mapping of names", id="null"
        ),
        pytest.param(
            "a: [b", "FILE:2:1: cannot be read as YAML: did not find expected ',' or ']' (begun in line 1)", id="syntax"
        ),
    ],
)
def test_what_is_no_manifest_at_all(text: str, line: str) -> None:
    assert refusal(text) == [line]


# --- hostile manifests ---

LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{number}: &a{number} [{', '.join([f'*a{number - 1}'] * 9)}]\n" for number in range(1, 10)
)
BOMBS = [
    pytest.param(LAUGHS, "aliases (*name) are not read", id="billion laughs"),
    pytest.param("targets: &a {x: *a}", "aliases (*name) are not read", id="a mapping in itself"),
    pytest.param("[" * 500_000, "is nested deeper than 20 levels", id="brackets"),
    pytest.param("- " * 500_000, "is nested deeper than 20 levels", id="dashes"),
    pytest.param("? " * 500_000, "is nested deeper than 20 levels", id="keys of keys"),
    pytest.param("a: [" + "1," * 400_000 + "]", "holds more than 100,000 values", id="values"),
    pytest.param("a: " + "9" * 100_000, "a: is not a known field", id="a huge number"),
    pytest.param(
        "defaults: {" + ", ".join(f"k{number}: 1" for number in range(80_000)) + "}", "79901 more", id="unknown fields"
    ),
    pytest.param("x" * 2_000_000, "is larger than 1024 KiB", id="size"),
    pytest.param(
        "targets:\n" + "".join(f"  t{number}: /opt/app/{number}\n" for number in range(10_001)),
        "has 10,001 targets; accepted: up to 10,000; split the environment",
        id="targets",
    ),
    pytest.param(
        "stacks: {a: {directory: /opt/app, targets: {" + ", ".join(f"t{number}: x" for number in range(10_000)) + "}}}",
        "has the live path of stacks.a.targets.t0 in line 1",
        id="one live path for all",
    ),
    pytest.param("targets: {a: /opt/app" + "/x" * 400_000 + "}", "is longer than 1024 bytes or 32 levels", id="levels"),
    pytest.param("targets: {a: " + "../" * 300_000 + "}", "is not a file's absolute path", id="upwards"),
]


@pytest.mark.parametrize(("text", "expected"), BOMBS)
def test_bombs_are_refused_quickly(text: str, expected: str) -> None:
    started = time.process_time()
    lines = refusal(text)
    assert time.process_time() - started < 10.0
    assert any(expected in line for line in lines)
    assert sum(len(line) for line in lines) < 40_000


def test_a_megabyte_is_read() -> None:
    assert read(b"targets: {} #".ljust(1024 * 1024, b"x")).targets == ()


def test_ten_thousand_targets_are_read_quickly() -> None:
    text = APP + "".join(f"      t{number}.env: {{mode: '0640', prune: true}}\n" for number in range(10_000))
    started = time.process_time()
    assert len(read(text).targets) == 10_000
    assert time.process_time() - started < 5.0


def test_the_dearest_manifest_is_still_read_in_seconds() -> None:
    """As many targets, hosts and levels as are accepted, which multiply where live paths are compared."""
    hosts = ", ".join(f"h{number}" for number in range(64))
    head = f"stacks:\n  a:\n    directory: /opt/app{'/x' * 20}\n    hosts: [{hosts}]\n    targets:\n"
    started = time.process_time()
    read(head + "".join(f"      t{number}: {number}/a/b/c/d/e/f/g/h\n" for number in range(10_000)))
    assert time.process_time() - started < 15.0


SCALARS = st.sampled_from(
    [
        None,
        True,
        5,
        0.5,
        "",
        "x",
        "../x",
        "/opt/app/x",
        "/etc",
        "10s",
        "0600",
        "signal:HUP",
        "nginx",
        "$(x)",
        "a\0",
        ".",
    ]
)
OTHER_NAMES = ["stacks", "targets", "defaults", "app", "a.env", "A.env", "../x", "$(x)", "url", "timeout", "http"]
FIELDS = st.text(max_size=4) | st.sampled_from([*OTHER_NAMES, *StackFields.model_fields, *StackTarget.model_fields])
VALUES = st.recursive(
    SCALARS | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(FIELDS, inner, max_size=5),
    max_leaves=12,
)
FULL = yaml.safe_load((DATA / "manifest-full.yaml").read_text())


def places(data: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [path, *(place for key, value in inner for place in places(value, (*path, key)))]


def replaced(data: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    copy = data.copy()
    copy[path[0]] = replaced(copy[path[0]], path[1:], value)
    return copy


def at(path: tuple[Any, ...]) -> Any:
    return functools.reduce(lambda data, part: data[part], path, FULL)


PATHS = [path for path in places(FULL) if isinstance(at(path), str) and ("/" in at(path) or path[-1] == "path")]
# Of what is put in at random only one manifest in twenty is read.
PLAUSIBLE = st.sampled_from([at(path) for path in PATHS]) | st.builds(
    "".join,
    st.lists(
        st.sampled_from(["/opt/app", "/srv/apps", "/etc", "/", "/", ".", "..", "a", "B", "x.env", " ", "~"]),
        min_size=1,
        max_size=5,
    ),
)
MUTATED = st.builds(replaced, st.just(FULL), st.sampled_from(places(FULL)), VALUES) | st.builds(
    replaced, st.just(FULL), st.sampled_from(PATHS), PLAUSIBLE
)


def dumped(data: Any) -> bytes:
    return yaml.dump(data, Dumper=yaml.CSafeDumper).encode()


@settings(deadline=None, max_examples=200)
@given(
    content=st.binary(max_size=200)
    | st.text(alphabet="abc:-[]{}&*!|>%@'\"#,? \n\t0", max_size=80).map(str.encode)
    | st.dictionaries(FIELDS, VALUES, max_size=5).map(dumped)
)
def test_any_content_is_read_or_refused(content: bytes) -> None:
    with contextlib.suppress(ManifestError):
        read(content)


@settings(deadline=None, max_examples=300)
@given(content=MUTATED.map(dumped))
def test_whatever_is_read_stays_where_the_server_allows_and_fits_the_schema(content: bytes) -> None:
    try:
        manifest = read(content)
    except ManifestError:
        return
    assert all(target.path.startswith(("/opt/app/", "/srv/apps/")) for target in manifest.targets)
    assert all(f"{stack.directory}/".startswith(("/opt/app/", "/srv/apps/")) for stack in manifest.stacks)
    assert all(os.path.normpath(target.path) == target.path for target in manifest.targets)
    assert all(target.mode & ~0o777 == 0 for target in manifest.targets)
    assert (
        len({target.path for target in manifest.targets})
        == len({target.id for target in manifest.targets})
        == len(manifest.targets)
    )
    assert schema_accepts(content)


# --- the JSON Schema ---


VALIDATOR = jsonschema.Draft202012Validator(json_schema("manifest"))


def schema_accepts(text: str | bytes) -> bool:
    return VALIDATOR.is_valid(yaml.load(text, Loader=yaml.CSafeLoader))


@pytest.mark.parametrize(
    "text",
    [
        pytest.param((DATA / "manifest-full.yaml").read_text(), id="full"),
        pytest.param(APP + "      a.env:\n      b.env: config/b.env\n      c: {path: c/c, check: nginx}\n", id="short"),
        pytest.param("targets: {}", id="no files"),
        *(
            pytest.param((ROOT / "envs" / name / "environment.yaml").read_text(), id=name)
            for name in ("development", "staging", "production")
        ),
    ],
)
def test_the_schema_accepts_what_is_read(text: str) -> None:
    assert read(text)
    assert schema_accepts(text)


@each("text", [pytest.param(case[1], id=case[0]) for case in IN_A_TARGET if case[0] not in BEYOND_SHAPE])
def test_the_schema_refuses_what_the_reader_refuses_of_a_target(text: str) -> None:
    assert not schema_accepts(app(f"a.env: {text}"))


@each(
    "stack",
    [
        pytest.param(case[1], id=case[0])
        for case in IN_A_STACK
        if case[0] not in ("outside", "root", "impossible", "file outside", "env file outside", "elsewhere")
    ],
)
def test_the_schema_refuses_what_the_reader_refuses_of_a_stack(stack: str) -> None:
    assert not schema_accepts(f"stacks: {{app: {stack}}}")


@each("source", [pytest.param(case[1], id=case[0]) for case in BAD_SOURCES if case[0] != "long"])
def test_the_schema_refuses_the_sources_that_the_reader_refuses(source: str) -> None:
    assert not schema_accepts(app(f"{source}: x"))


def test_the_schema_requires_stacks_or_targets() -> None:
    assert not schema_accepts("defaults: {}")


def test_a_stack_of_kind_swarm_needs_a_manager_and_sends_no_signals() -> None:
    text = app("api.env: {encrypted: false}", kind="swarm")
    (stack,) = read(text).stacks
    assert (stack.kind, stack.managed) == (StackKind.SWARM, {"/opt/app/api.env": MountedTarget(encrypted=False)})
    (mistake,) = refusal(text, MINIMAL_SERVER)
    assert "has kind: swarm, and the server configuration does not say that" in mistake
    assert "swarm_manager: true there" in mistake
    (mistake,) = refusal(app("api.env: {on_change: 'signal:HUP'}", kind="swarm"))
    assert "asks for a signal, which Swarm cannot send to tasks" in mistake
