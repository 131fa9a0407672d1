"""Adopting hand edits, through the installed command, with the real sops and real git."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.age_key import make_age_key
from tests.support.commands import output
from tests.support.git_remote import GitRemote, make_ssh_key
from tests.support.server import Server
from tests.support.sshd import Sshd

pytestmark = pytest.mark.slow

API = "envs/production/api.env"
TARGET = "production/api.env"
GIT = b'# the service\nLOG_LEVEL=info\nexport TOKEN=one two\nEMPTY=\n# last\nPASSWORD="a#b"\n'
METADATA = (b"sops_mac=", b"sops_lastmodified=")
REPORT = {"on_drift": "report"}


@pytest.fixture
def site(server: Server) -> Server:
    """A server whose one target, api.env, is in sync; hand edits are left."""
    server.commit({"api.env": GIT}, server.plain({"api.env": REPORT}))
    assert server.sync()["result"] == "applied"
    return server


def adopt(server: Server, *arguments: str) -> dict[str, Any]:
    """Adopt successfully, and return what it reports. The branch itself and the server stay as they are."""
    head, live = server.remote.head(), server.live("api.env") if (server.app / "api.env").exists() else b""
    adopted: dict[str, Any] = server.json("adopt", *arguments)
    assert server.remote.head() == head
    assert server.remote.git("rev-parse", f"{adopted['branch']}^") == head == adopted["base"]
    assert server.remote.head(adopted["branch"]) == adopted["commit"]
    assert (server.live("api.env") if live else b"") == live
    assert [path.name for path in server.state.iterdir() if path.name.startswith("revert-")] == []
    return adopted


def refused(server: Server, *arguments: str) -> str:
    """The refusal; nothing was pushed."""
    before = server.remote.git("for-each-ref")
    done = server.cli("adopt", *arguments)
    assert done.returncode == 1, done.stdout
    assert done.stdout == ""
    assert server.remote.git("for-each-ref") == before
    return done.stderr


def proposed(server: Server, adopted: dict[str, Any], path: str = API) -> bytes:
    return server.remote.read(path, adopted["branch"])


def lines(data: bytes) -> dict[bytes, bytes]:
    """Lines by the text before the ``=``; comments by themselves."""
    return {line.partition(b"=")[0] if not line.startswith(b"#") else line: line for line in data.splitlines()}


# --- dotenv ----------------------------------------------------------------------------------------------------------


def test_a_hand_edit_becomes_a_commit_that_changes_its_ciphertexts_only(site: Server) -> None:
    live = b"# the service\nLOG_LEVEL=debug\nEMPTY=no # more $X\n# last\nPASSWORD=\"a#b\"\nNEW=a\\nb 'c' \xc3\xbc\n"
    (site.app / "api.env").write_bytes(live)
    adopted = adopt(site, TARGET)
    old, new = lines(site.remote.read(API)), lines(proposed(site, adopted))
    assert site.key.decrypt("api.env", proposed(site, adopted)) == live
    assert old.keys() ^ new.keys() == {b"NEW", b"export TOKEN"}
    changed = {key for key in old.keys() & new.keys() if old[key] != new[key]}
    assert changed - {b"sops_lastmodified"} == {b"LOG_LEVEL", b"EMPTY", b"sops_mac"}
    kept = [key for key in old if key in new]
    assert kept == [key for key in new if key in old]
    assert site.remote.git("diff", "--name-only", "main", adopted["branch"]) == API
    assert adopted["keys"] == {"added": ["NEW"], "removed": ["TOKEN"], "changed": ["EMPTY", "LOG_LEVEL"]}
    assert re.fullmatch(r"reconciler/adopt-production-\d{8}T\d{6}\.\d{3}Z", adopted["branch"])


def test_the_commit_says_which_keys_of_what_from_where_and_by_whom(site: Server) -> None:
    (site.app / "api.env").write_bytes(GIT.replace(b"info", b"debug"))
    adopted = adopt(site, TARGET)
    assert site.remote.git("log", "-1", "--format=%B%an <%ae>", adopted["branch"]) == (
        "Adopt LOG_LEVEL of production/api.env from test\n\nEdited manually on the server, now proposed for git.\n\n"
        "Changed: LOG_LEVEL\n\nReconciler-Adopt-Target: production/api.env\nReconciler-Adopt-Host: test\n"
        "reconciler <reconciler@test>"
    )


def test_blank_lines_and_values_of_several_lines_are_adopted_and_then_rewritten_here(site: Server) -> None:
    (site.app / "api.env").write_bytes(b'# the service\n\nLOG_LEVEL=debug\nKEY="two\nlines"\n# last\nPASSWORD="a#b"')
    adopted = adopt(site, TARGET)
    plain = site.key.decrypt("api.env", proposed(site, adopted))
    assert plain == b'# the service\nLOG_LEVEL=debug\n# last\nPASSWORD="a#b"\nKEY="two\\nlines"\n'
    site.remote.merge(adopted["branch"])
    outcome = site.sync()
    (change,) = outcome["plan"]["changes"]
    assert (outcome["result"], change["aspects"], change["effect"]) == ("applied", ["cosmetic"], "write")
    assert site.live("api.env") == plain


def test_of_a_file_that_sops_cannot_hold_single_keys_are_adopted(site: Server) -> None:
    live = b"TOKEN=mine\n\nLOG_LEVEL=debug\nTZ\nNEW=1\n"
    (site.app / "api.env").write_bytes(live)
    said = refused(site, TARGET)
    assert f"{site.app}/api.env, line 4: sops' dotenv cannot hold the live file: a KEY without a value" in said
    assert "--key LOG_LEVEL" in said
    adopted = adopt(site, TARGET, "--key", "LOG_LEVEL", "--key", "NEW", "--key", "EMPTY", "-k", "TOKEN")
    plain = site.key.decrypt("api.env", proposed(site, adopted))
    assert plain == b'# the service\nLOG_LEVEL=debug\n# last\nPASSWORD="a#b"\nTOKEN=mine\nNEW=1\n'


def test_odd_names_and_values_survive(site: Server) -> None:
    live = b"myKey=x\n\xc3\x84.b-c=y\nexport  E=$(z) \\\\n \xf0\x9f\x94\x91\r\n" + b"LONG=" + b"x" * 200_000 + b"\n"
    (site.app / "api.env").write_bytes(live)
    keys = ("myKey", "\u00c4.b-c", "E", "LONG")
    adopted = adopt(site, TARGET, *(argument for key in keys for argument in ("--key", key)))
    assert site.key.decrypt("api.env", proposed(site, adopted)) == GIT + live.replace(b"\r", b"")


def test_what_was_adopted_and_merged_is_in_sync_and_touches_nothing(site: Server) -> None:
    live = GIT.replace(b"info", b"debug")
    (site.app / "api.env").write_bytes(live)
    before = (site.app / "api.env").stat()
    adopted = adopt(site, TARGET)
    site.remote.merge(adopted["branch"])
    assert site.sync()["result"] == "in_sync"
    after = (site.app / "api.env").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert "nothing to adopt" in refused(site, TARGET)


def test_the_daemon_adopts_between_two_reconciliations(site: Server) -> None:
    (site.app / "api.env").write_bytes(GIT.replace(b"info", b"debug"))
    with site.daemon() as daemon:
        adopted = adopt(site, TARGET)
        assert site.key.decrypt("api.env", proposed(site, adopted)) == GIT.replace(b"info", b"debug")
        assert "neither git nor the live file has NOWHERE" in refused(site, TARGET, "--key", "NOWHERE")
        done: list[Any] = []
        threads = [threading.Thread(target=lambda: done.append(site.cli("sync").returncode)) for _ in range(2)]
        for thread in threads:
            thread.start()
        assert "LOG_LEVEL is the same in git" not in refused(site, TARGET, "--key", "EMPTY")
        for thread in threads:
            thread.join()
        assert done == [2, 2]
    assert [event["event"] for event in daemon.events() if event.get("level") == "error"] == []


def test_without_the_daemon_the_lock_is_held(site: Server) -> None:
    (site.app / "api.env").write_bytes(GIT.replace(b"info", b"debug"))
    site.remote.hook("pre-receive", f"cat {site.state}/lock > {site.root}/holder")
    adopt(site, TARGET)
    assert "(reconciler adopt)" in (site.root / "holder").read_text()


def test_a_pending_newer_revision_is_kept(site: Server) -> None:
    """The branch has moved since the last reconciliation: the proposal is on top of it, and reverts nothing."""
    (site.app / "api.env").write_bytes(GIT.replace(b"one two", b"by hand"))
    site.commit({"api.env": GIT.replace(b"info", b"warning")})
    assert "LOG_LEVEL: only git has changed it since it was last applied here" in refused(site, TARGET)
    adopted = adopt(site, TARGET, "--key", "TOKEN")
    expected = GIT.replace(b"info", b"warning").replace(b"one two", b"by hand")
    assert site.key.decrypt("api.env", proposed(site, adopted)) == expected


def test_every_recipient_of_the_file_can_read_what_was_adopted(server: Server) -> None:
    """Only the recipients in the file count: there is no .sops.yaml on a server."""
    (server.root / "other").mkdir()
    colleague = make_age_key(server.root / "other")
    both = server.key._sops(
        *("encrypt", "--age", f"{server.key.public},{colleague.public}", "--filename-override", "x"),
        kind="dotenv",
        stdin=b"A=1\n",
    )
    blob = server.key._sops(
        *("encrypt", "--age", f"{server.key.public},{colleague.public}", "--filename-override", "x"),
        kind="binary",
        stdin=b"old",
    )
    manifest = server.plain({"secret.env": REPORT, "blob": REPORT})
    server.remote.commit(
        {
            "envs/production/secret.env": both,
            "envs/production/blob": blob,
            "envs/production/environment.yaml": yaml.safe_dump(manifest).encode(),
            ".sops.yaml": b"creation_rules: [{age: age1nobody}]",
        }
    )
    server.sync()
    (server.app / "secret.env").write_bytes(b"A=2\n")
    (server.app / "blob").write_bytes(b"new")
    adopted = server.json("adopt", "production/secret.env")
    assert colleague.decrypt("x", proposed(server, adopted, "envs/production/secret.env")) == b"A=2\n"
    adopted = server.json("adopt", "production/blob")
    assert colleague.decrypt("x", proposed(server, adopted, "envs/production/blob"), "binary") == b"new"


# --- other sources ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "live", [b"", b"no final line feed", b"\x00\xff\xfe\r\n", b'{"data": "x", "sops": 1}'], ids=repr
)
def test_a_binary_source_is_adopted_whole(server: Server, live: bytes) -> None:
    server.commit({"blob": server.key.encrypt("blob", b"old\n", "binary")}, server.plain({"blob": REPORT}))
    server.sync()
    (server.app / "blob").write_bytes(live)
    if not live:
        assert "nothing would be left" in refused(server, "production/blob")
        return
    adopted = server.json("adopt", "production/blob")
    assert server.key.decrypt("blob", proposed(server, adopted, "envs/production/blob"), "binary") == live
    assert "The file as a whole." in server.remote.git("log", "-1", "--format=%B", adopted["branch"])
    assert "Leave --key out" in refused(server, "production/blob", "--key", "A")


def test_a_plain_source_is_adopted_whole_and_keeps_its_mode(server: Server) -> None:
    manifest = server.plain({"nginx.conf": {"encrypted": False, **REPORT}})
    path = "envs/production/nginx.conf"
    server.remote.commit(
        {path: b"old\n", "envs/production/environment.yaml": yaml.safe_dump(manifest).encode()}, modes={path: "100755"}
    )
    server.sync()
    (server.app / "nginx.conf").write_bytes(b"new\n\n")
    adopted = server.json("adopt", "production/nginx.conf")
    assert proposed(server, adopted, path) == b"new\n\n"
    assert server.remote.git("ls-tree", adopted["branch"], path).startswith("100755 blob")


def test_a_yaml_source_is_refused(server: Server) -> None:
    server.commit({"app.yaml": server.key.encrypt("app.yaml", b"a: 1\n", "yaml")}, server.plain({"app.yaml": REPORT}))
    server.sync()
    (server.app / "app.yaml").write_bytes(b"a: 2\n")
    assert "`reconciler edit envs/production/app.yaml`" in refused(server, "production/app.yaml")


# --- what is refused -------------------------------------------------------------------------------------------------


def test_a_missing_or_unsuitable_target_is_refused(site: Server) -> None:
    assert "there is no target production/other.env. The targets are: production/api.env" in " ".join(
        refused(site, "production/other.env").split()
    )
    for name in ("api.env", "staging/api.env", "production/"):
        assert "A target is ENVIRONMENT/SOURCE" in refused(site, name)
    assert "nothing to adopt" in refused(site, TARGET)
    (site.app / "api.env").write_bytes(b'A="open\n')
    assert "unterminated-quote" in refused(site, TARGET)
    (site.app / "api.env").unlink()
    assert "there is no live file" in refused(site, TARGET)


def test_a_name_whose_value_sops_would_leave_in_plain_text_is_refused(site: Server) -> None:
    (site.app / "api.env").write_bytes(GIT + b"TOKEN_unencrypted=secret\n")
    assert "in plain text" in refused(site, TARGET)
    assert "cannot hold the live TOKEN_unencrypted" in refused(site, TARGET, "--key", "TOKEN_unencrypted")


def test_a_remote_that_is_down_or_does_not_let_us_push(site: Server) -> None:
    (site.app / "api.env").write_bytes(GIT.replace(b"info", b"debug"))
    site.remote.hook("pre-receive", "echo branches are protected >&2; exit 1")
    said = refused(site, TARGET)
    assert "the remote refuses the push to reconciler/adopt-production-" in said
    assert "revert" not in said
    site.remote.path.rename(site.root / "gone")
    done = site.cli("adopt", TARGET)
    assert done.returncode == 1
    assert "retr" not in done.stderr
    (site.root / "gone").rename(site.remote.path)


def test_nothing_is_built_on_a_history_that_was_rewritten(site: Server) -> None:
    (site.app / "api.env").write_bytes(GIT.replace(b"info", b"debug"))
    manifest = site.remote.read("envs/production/environment.yaml")
    files = {API: site.remote.read(API), "envs/production/environment.yaml": manifest}
    site.remote.commit(files, "Begin again", branch="again")
    site.remote.make_branch("main", "again")
    assert "the branch was rewritten" in refused(site, TARGET)


def test_a_damaged_mirror_is_recreated(site: Server) -> None:
    (site.app / "api.env").write_bytes(GIT.replace(b"info", b"debug"))
    for pack in (site.state / "mirror.git" / "objects" / "pack").iterdir():
        pack.chmod(0o600)
        pack.write_bytes(b"")
    adopt(site, TARGET)


# --- the push --------------------------------------------------------------------------------------------------------


@pytest.mark.sshd
def test_it_is_pushed_over_ssh_with_the_push_key(
    server: Server, sshd: Sshd, git_remote: Callable[..., GitRemote], tmp_path: Path
) -> None:
    read_key, push_key = (make_ssh_key(tmp_path / name) for name in ("read", "push"))
    sshd.let_in(read_key, read_only=True)
    sshd.let_in(push_key)
    server.settings["repository"] |= {
        "url": sshd.url(server.remote.path),
        "ssh_key_file": str(read_key),
        "known_hosts_file": str(sshd.known_hosts),
    }
    server.commit({"api.env": GIT}, server.plain({"api.env": REPORT}))
    server.sync()
    (server.app / "api.env").write_bytes(GIT.replace(b"info", b"debug"))
    assert f"Allow the key {read_key} to push branches named reconciler/*" in refused(server, TARGET)
    server.settings["rollback"]["ssh_key_file"] = str(push_key)
    adopted = adopt(server, TARGET)
    assert server.key.decrypt("api.env", proposed(server, adopted)) == GIT.replace(b"info", b"debug")


def test_it_is_signed_where_a_signing_key_is_given(site: Server, tmp_path: Path) -> None:
    key = make_ssh_key(tmp_path / "signing")
    site.settings["rollback"]["signing_key_file"] = str(key)
    (site.app / "api.env").write_bytes(GIT.replace(b"info", b"debug"))
    adopted = adopt(site, TARGET)
    allowed = tmp_path / "allowed"
    allowed.write_text(f"reconciler@test {output('ssh-keygen', '-y', '-f', key).decode()}")
    site.remote.git("-c", f"gpg.ssh.allowedSignersFile={allowed}", "verify-commit", adopted["commit"])
