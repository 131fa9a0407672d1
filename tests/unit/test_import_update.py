"""What `import --update` takes from servers, and what git keeps: decided against sources that are not encrypted."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from reconciler.app.onboarding import import_update
from reconciler.app.onboarding.import_files import read_earlier_manifest
from reconciler.app.onboarding.import_sources import ImportSide
from reconciler.app.onboarding.import_update import GitState
from reconciler.app.onboarding.manifest_update import updated_contracts, updated_manifest
from reconciler.core.errors import RefusedError
from reconciler.core.inventory import FoundFile, FoundProject, Inventory, Use, UsedFile
from reconciler.core.model.targets import Format, Parser
from reconciler.core.onboarding.draft import draft_environment
from reconciler.core.onboarding.manifest import example_env, updated_example
from reconciler.core.onboarding.types import Draft, DraftFile, ImportSource, PlainFiles, SourceEdit
from reconciler.core.secret import Secret
from reconciler.core.tree import Tree

SHOP = "/opt/shop"
MANIFEST = """\
stacks:
  shop:
    directory: /opt/shop
    targets:
      renamed.env: {path: api.env, schema: contracts/api.yaml}  # ours
      extra.env:
      nginx.conf: {encrypted: false, on_change: restart}
      whole.env.bin: whole.env
  other:
    directory: /opt/other
    hosts: [web-2]
    targets:
      other.env:
targets:
  motd: /etc/motd
"""
SOURCES = {
    "renamed.env": b"# ours\nA=1\nB=2\n",
    "extra.env": b"E=1\n",
    "nginx.conf": b"listen 80;\n",
    "whole.env.bin": b"W=1\n\nTZ\n",
    "other.env": b"O=1\n",
    "motd": b"hello\n",
}
LIVE = {
    f"{SHOP}/api.env": b"B=2\n\nA=1\n",
    f"{SHOP}/extra.env": b"E=1\n",
    f"{SHOP}/nginx.conf": b"listen 80;\n",
    f"{SHOP}/whole.env": b"W=1\n\nTZ\n",
    "/etc/motd": b"hello\n",
}


@dataclass
class PlainKeys:
    """Stands for a key: every source says what it holds."""

    lost: bool = False

    def read(self, name: str, data: bytes, parser: Parser) -> Any:
        kind = Format.DOTENV if name.endswith(".env") else Format.BINARY
        return SimpleNamespace(format=kind, output=kind, metadata=SimpleNamespace(age=()))

    def opens(self, recipients: object) -> bool:
        return not self.lost

    async def decrypt(self, name: str, data: bytes, parser: Parser = Parser.OPAQUE) -> Secret:
        return Secret(data)


@dataclass
class Server:
    """A machine with live files; a project in /opt/shop uses those in ``used`` as env files and mounts nginx.conf."""

    files: Mapping[str, bytes] = field(default_factory=lambda: dict(LIVE))
    used: tuple[str, ...] = ("api.env", "whole.env")
    directory: str = SHOP

    async def read(self, path: str) -> FoundFile | None:
        data = self.files.get(path)
        return None if data is None else FoundFile(path, Secret(data), 0o600, 0, 0, "root", "root")

    def inventory(self) -> Inventory:
        def used(name: str, use: Use) -> UsedFile:
            path = f"{self.directory}/{name}"
            return UsedFile(FoundFile(path, Secret(self.files[path]), 0o600, 0, 0, "root", "root"), use, ("api",))

        names = [name for name in self.used if f"{self.directory}/{name}" in self.files]
        files = [used(name, Use.ENV_FILE) for name in names]
        if f"{self.directory}/nginx.conf" in self.files:
            files.append(used("nginx.conf", Use.MOUNT))
        main = (f"{self.directory}/compose.yaml",)
        return Inventory("/", (FoundProject("shop", self.directory, main, tuple(files), main_files=main),))


def update(
    *servers: Server,
    side: str | None = SHOP,
    manifest: str = MANIFEST,
    exclude: tuple[str, ...] = (),
    base: tuple[str, dict[str, bytes]] | None = None,
    lost: bool = False,
) -> tuple[Draft, dict[str, Any]]:
    """The draft of an update from machines web-1, web-2 …, and the manifest that it makes. ``base`` are the manifest
    and the sources after the last import."""
    keys: Any = PlainKeys(lost)
    git = read_earlier_manifest(manifest.encode(), "environment.yaml")
    then = None
    if base:
        then = GitState("production", read_earlier_manifest(base[0].encode(), "base"), base[1], keys)
    state = GitState("production", git, SOURCES, keys, then)
    hosts = [f"web-{number}" for number in range(1, len(servers) + 1)]
    sides = [ImportSide(f"ssh://{host}", None, side) for host in hosts]
    sources = [ImportSource(host, server.inventory()) for host, server in zip(hosts, servers, strict=True)]
    machines: Any = servers
    sources, gone = asyncio.run(import_update.add_managed_files(state, machines, sides, sources))
    uses = import_update.managed_uses(git)
    draft = draft_environment("production", sources, exclude, PlainFiles(kept=git.plain), uses)
    draft = import_update.follow_manifest(draft, git, hosts, gone)
    draft = asyncio.run(import_update.compare_with_git(draft, state))
    return draft, yaml.safe_load(updated_manifest(draft, git, {}, "environment.yaml"))


def changed(draft: Draft) -> dict[str, DraftFile]:
    """By source what is not as in git."""
    return {file.source: file for file in draft.files if file.change is None or file.change.edit is not SourceEdit.KEEP}


def targets(manifest: dict[str, Any], stack: str = "shop") -> dict[str, Any]:
    entries: dict[str, Any] = manifest["stacks"][stack]["targets"]
    return entries


def test_what_means_the_same_is_as_git_has_it() -> None:
    draft, manifest = update(Server({**LIVE, f"{SHOP}/whole.env": b"W='1'\nTZ\n"}))
    assert (changed(draft), draft.removed, draft.changes) == ({}, (), False)
    assert manifest == yaml.safe_load(MANIFEST)


def test_a_key_of_a_renamed_source_changes_alone() -> None:
    draft, manifest = update(Server({**LIVE, f"{SHOP}/api.env": b"A=1\nB=3\n"}))
    (file,) = changed(draft).values()
    assert file.source == "renamed.env"
    assert file.change is not None
    assert (file.change.edit, list(file.change.values)) == (SourceEdit.KEYS, ["B"])
    assert file.content == Secret(b"# ours\nA=1\nB=3\n")
    assert manifest == yaml.safe_load(MANIFEST)


def test_a_target_that_no_project_names_is_updated_as_well() -> None:
    draft, manifest = update(Server({**LIVE, f"{SHOP}/extra.env": b"E=2\n"}))
    assert list(changed(draft)) == ["extra.env"]
    assert manifest == yaml.safe_load(MANIFEST)


@pytest.mark.parametrize(
    ("side", "sources"),
    [
        pytest.param(SHOP, ["extra.env"], id="of-a-directory"),
        pytest.param(None, ["extra.env", "motd"], id="of-the-whole-machine"),
    ],
)
def test_only_a_target_whose_file_is_gone_where_the_import_looks_is_removed(
    side: str | None, sources: list[str]
) -> None:
    live = {path: data for path, data in LIVE.items() if path not in ("/etc/motd", f"{SHOP}/extra.env")}
    draft, manifest = update(Server(live), side=side)
    assert [target.source for target in draft.removed] == sources
    assert "extra.env" not in targets(manifest)
    assert "other.env" in targets(manifest, "other")  # of another machine
    assert ("targets" in manifest) is ("motd" not in sources)


def test_an_excluded_file_stays_as_git_has_it() -> None:
    draft, manifest = update(Server({**LIVE, f"{SHOP}/api.env": b"A=9\n"}), exclude=("*/api.env",))
    assert (changed(draft), draft.removed) == ({}, ())
    assert manifest == yaml.safe_load(MANIFEST)


def test_a_new_file_joins_the_stack_and_a_new_stack_runs_where_it_was_found() -> None:
    server = Server({**LIVE, f"{SHOP}/new.env": b"N=1\n"}, used=("api.env", "whole.env", "new.env"))
    draft, manifest = update(server)
    assert list(changed(draft)) == ["new.env"]
    assert list(targets(manifest))[-1] == "new.env"
    blog = Server({"/opt/blog/b.env": b"B=1\n"}, used=("b.env",), directory="/opt/blog")
    draft, manifest = update(blog, side="/opt/blog")
    assert manifest["stacks"]["shop-2"] == {
        "directory": "/opt/blog",
        "hosts": ["web-1"],
        "targets": {"shop-2/b.env": "b.env"},
    }
    assert manifest["stacks"]["shop"] == yaml.safe_load(MANIFEST)["stacks"]["shop"]


@pytest.mark.parametrize(
    ("name", "data", "source", "fields"),
    [
        pytest.param("extra.env", b"E=1\nTZ\n", "extra.env.bin", {"path": "extra.env"}, id="a-bare-key"),
        pytest.param(
            "nginx.conf",
            b"auth_token hunter2;\n",
            "nginx.conf",
            {"encrypted": True, "on_change": "restart"},
            id="a-plain-file-with-a-secret",
        ),
        pytest.param("whole.env", b"W=2\n", "whole.env.bin", "whole.env", id="a-binary-source-stays-binary"),
    ],
)
def test_a_source_changes_as_a_whole_where_it_must(name: str, data: bytes, source: str, fields: Any) -> None:
    draft, manifest = update(Server({**LIVE, f"{SHOP}/{name}": data}))
    assert [(file.source, file.format, file.content) for file in changed(draft).values()] == [
        (source, Format.BINARY, Secret(data))
    ]
    assert targets(manifest)[source] == fields


def test_a_live_file_that_cannot_be_read_any_more_is_refused() -> None:
    with pytest.raises(RefusedError, match=r"/opt/shop/api\.env: it cannot be read any more: line 1"):
        update(Server({**LIVE, f"{SHOP}/api.env": b"A B=1\n"}))


def test_a_stack_that_moved_is_not_made_twice() -> None:
    moved = {path.replace(SHOP, "/srv/shop"): data for path, data in LIVE.items()}
    with pytest.raises(RefusedError, match="is in /srv/shop now, but git has it in /opt/shop"):
        update(Server(moved, directory="/srv/shop"), side=None)


def test_machines_that_differ_now_do_not_split_a_stack() -> None:
    with pytest.raises(RefusedError, match="is one stack in git, but differs between the machines"):
        update(Server(), Server({**LIVE, f"{SHOP}/api.env": b"A=9\n"}))


def test_a_mode_that_git_decided_stays_and_is_reported() -> None:
    tuned = MANIFEST.replace("path: api.env,", 'path: api.env, mode: "0640", owner: shop,')
    draft, manifest = update(Server(), manifest=tuned)
    assert not draft.changes
    assert [note for note in draft.notes if "mode 0600 (git: 0640), owner root (git: shop)" in note]
    assert manifest == yaml.safe_load(tuned)


def test_what_only_git_has_changed_since_the_last_import_is_not_undone() -> None:
    """A rotated value, a removed key and a new target that the server does not have yet; and an edit beside them."""
    before = {
        **SOURCES,
        "renamed.env": b"# ours\nA=old\nB=2\nGONE=1\n",
        "whole.env.bin": b"W=0\n",
        "nginx.conf": b"x\n",
    }
    manifest = MANIFEST.replace("      extra.env:\n", "").replace("renamed.env: {path: api.env,", "api.env: {")
    before["api.env"] = before.pop("renamed.env")
    live = {
        f"{SHOP}/api.env": b"A=old\nB=3\nGONE=1\n",
        f"{SHOP}/whole.env": b"W=0\n",
        f"{SHOP}/nginx.conf": b"x\n",
        "/etc/motd": b"hello\n",
    }
    draft, written = update(Server(live), base=(manifest, before))
    (file,) = changed(draft).values()
    assert file.content == Secret(b"# ours\nA=1\nB=3\n")
    assert file.change is not None
    assert list(file.change.values) == ["B"]
    notes = [note for note in draft.notes if "since the last import" in note]
    assert [note.partition(" since")[0] for note in notes] == [
        "production/renamed.env: git has changed A, GONE",
        "production/nginx.conf: git has changed it",
        "production/whole.env.bin: git has changed it",
    ]
    assert (draft.removed, written) == ((), yaml.safe_load(MANIFEST))


def test_a_value_that_both_have_changed_is_the_servers() -> None:
    base = (MANIFEST, {**SOURCES, "renamed.env": b"A=0\nB=2\n"})
    draft, _ = update(Server({**LIVE, f"{SHOP}/api.env": b"A=9\nB=2\n"}), base=base)
    assert changed(draft)["renamed.env"].content == Secret(b"# ours\nA=9\nB=2\n")


def test_with_a_new_key_every_encrypted_source_is_written_again() -> None:
    draft, manifest = update(Server(), lost=True)
    assert {source: file.content for source, file in changed(draft).items()} == {
        "renamed.env": Secret(b"B=2\n#\nA=1\n"),
        "extra.env": Secret(b"E=1\n"),
        "whole.env.bin": Secret(b"W=1\n\nTZ\n"),
    }
    assert manifest == yaml.safe_load(MANIFEST)


CONTRACT = b"required:\n  - A\n  - B\nproperties:\n  A: {}\n  B: {minLength: 1}\n"


def test_a_contract_no_longer_requires_a_key_that_is_gone_unless_others_need_it() -> None:
    draft, _ = update(Server({**LIVE, f"{SHOP}/api.env": b"B=2\n"}))
    git = read_earlier_manifest(MANIFEST.encode(), "environment.yaml")
    files = {"production/environment.yaml": MANIFEST.encode(), "contracts/api.yaml": CONTRACT}
    expected = b"required:\n  - B\nproperties:\n  B: {minLength: 1}\n"
    assert updated_contracts(draft, git, Tree(files)) == {"contracts/api.yaml": expected}
    shared = {**files, "staging/environment.yaml": MANIFEST.encode()}
    assert updated_contracts(draft, git, Tree(shared)) == {}


def test_the_example_follows_unless_somebody_has_written_into_it() -> None:
    git = [DraftFile("api.env", None, (), _file(), (), (), Format.DOTENV, parser=Parser.COMPOSE, keys=("A", "B"))]
    text = example_env(git).replace("api.env", "renamed.env")
    draft, _ = update(Server({**LIVE, f"{SHOP}/api.env": b"B=2\nC=1\nMixed=1\n"}))
    assert updated_example(text, draft) == text.replace("A=\n", "").replace("B=\n", "B=\nC=\n")
    assert updated_example(f"{text}# mine\n", draft) == f"{text}# mine\n"


def _file() -> FoundFile:
    return FoundFile("/x", Secret(b""), 0o600, 0, 0)
