"""Live files over a real sshd, where something goes wrong between two requests."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import asyncssh
import pytest

from reconciler.adapters import process
from reconciler.adapters.local import http_probe
from reconciler.adapters.local.backups import BackupDirectory
from reconciler.adapters.local.http_probe import TunnelledHealth
from reconciler.adapters.ssh import connection as ssh
from reconciler.adapters.ssh import files
from reconciler.adapters.ssh.backups import SshBackups
from reconciler.adapters.ssh.connection import SshConnection
from reconciler.adapters.ssh.files import SshHost
from reconciler.core.errors import ChangedMeanwhileError, HostUnreachableError, LiveFileError
from reconciler.core.model.hosts import SshAddress
from reconciler.core.model.revisions import Revision
from reconciler.core.model.runs import BackupEntry, Run
from reconciler.core.model.targets import HttpCheck, LiveFile, Ownership
from reconciler.core.secret import Digester, Secret
from tests.support.sshd import Sshd
from tests.support.waiting import eventually

pytestmark = pytest.mark.sshd

NEW = Secret(b"A=new\n")


@pytest.fixture
async def connection(sshd: Sshd) -> AsyncIterator[SshConnection]:
    made = SshConnection(
        SshAddress("127.0.0.1", sshd.port, sshd.user, str(sshd.key_path), str(sshd.known_hosts)), "web-1"
    )
    yield made
    await made.close()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    directory = tmp_path / "app"
    directory.mkdir()
    path = directory / "api.env"
    path.write_bytes(b"A=old\n")
    return path


@pytest.fixture
def host(connection: SshConnection, file: Path) -> SshHost:
    return SshHost(connection, [str(file.parent)], "/dev/shm/reconciler-test")


async def seen(host: SshHost, file: Path) -> LiveFile:
    live = await host.read(str(file))
    assert live
    return live


async def write(host: SshHost, file: Path, replaces: LiveFile | None) -> None:
    await host.write(str(file), NEW, mode=0o640, ownership=Ownership(), replaces=replaces)


def names(file: Path) -> list[str]:
    return sorted(path.name for path in file.parent.iterdir())


@pytest.mark.parametrize("inherited", [False, pytest.param(True, marks=pytest.mark.root)])
async def test_a_new_file_has_the_owner_that_was_said_before(host: SshHost, file: Path, *, inherited: bool) -> None:
    if inherited:
        file.parent.chmod(file.parent.stat().st_mode | stat.S_ISGID)
        os.chown(file.parent, -1, 65534)
    new = file.with_name("new.env")
    said = await host.new_owner(str(new))
    await write(host, new, None)
    made = new.stat()
    assert said == Ownership(made.st_uid, made.st_gid)
    assert (made.st_gid == 65534) == inherited


async def test_a_file_is_replaced_by_one_with_its_mode_and_owner(host: SshHost, file: Path) -> None:
    before = file.stat()
    await write(host, file, await seen(host, file))
    after = file.stat()
    assert (file.read_bytes(), after.st_mode & 0o7777) == (b"A=new\n", 0o640)
    assert (after.st_uid, after.st_gid) == (before.st_uid, before.st_gid)
    assert after.st_ino != before.st_ino
    assert names(file) == ["api.env"]


async def test_an_edit_since_the_look_is_never_overwritten(host: SshHost, file: Path) -> None:
    look = await seen(host, file)
    file.write_bytes(b"A=hand\n")
    with pytest.raises(ChangedMeanwhileError):
        await write(host, file, look)
    assert (file.read_bytes(), names(file)) == (b"A=hand\n", ["api.env"])


async def test_an_edit_in_the_middle_of_the_exchange_is_restored(
    host: SshHost, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    look, original = await seen(host, file), files._edit
    answers = []

    async def edited_after_the_first_question(*arguments: object) -> str:
        answer = await original(*arguments)  # type: ignore[arg-type]
        if not answers:
            file.write_bytes(b"A=hand\n")  # in place, as `sed` without -i or an editor does
        answers.append(answer)
        return answer

    monkeypatch.setattr(files, "_edit", edited_after_the_first_question)
    with pytest.raises(ChangedMeanwhileError):
        await write(host, file, look)
    assert answers[0] == ""
    assert (file.read_bytes(), names(file)) == (b"A=hand\n", ["api.env"])


async def test_an_edit_in_the_middle_of_an_exchange_that_is_cut_off_is_kept_beside_it(
    host: SshHost, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    look, original = await seen(host, file), files._edit
    calls = []

    async def cut_off_at_the_second_question(*arguments: object) -> str:
        calls.append(None)
        if len(calls) == 2:
            raise asyncssh.SFTPFailure("cut off")
        answer = await original(*arguments)  # type: ignore[arg-type]
        file.write_bytes(b"A=hand\n")
        return answer

    monkeypatch.setattr(files, "_edit", cut_off_at_the_second_question)
    with pytest.raises(LiveFileError):
        await write(host, file, look)
    (left,) = (await host.leftovers([str(file)]))[str(file)]
    assert (file.read_bytes(), Path(left).read_bytes()) == (b"A=new\n", b"A=hand\n")


async def test_a_file_that_was_removed_since_the_look_stays_so(host: SshHost, file: Path) -> None:
    look = await seen(host, file)
    file.unlink()
    with pytest.raises(ChangedMeanwhileError, match="removed"):
        await write(host, file, look)
    assert names(file) == []


async def test_a_file_that_has_appeared_since_the_look_stays(host: SshHost, file: Path) -> None:
    with pytest.raises(ChangedMeanwhileError, match="created the file"):
        await write(host, file, None)
    assert (file.read_bytes(), names(file)) == (b"A=old\n", ["api.env"])


async def test_an_edited_file_is_not_removed(host: SshHost, file: Path) -> None:
    look = await seen(host, file)
    file.write_bytes(b"A=hand\n")
    with pytest.raises(ChangedMeanwhileError):
        await host.remove(str(file), replaces=look)
    assert (file.read_bytes(), names(file)) == (b"A=hand\n", ["api.env"])


async def test_anything_but_a_regular_file_is_refused_and_not_opened(host: SshHost, file: Path) -> None:
    file.unlink()
    os.mkfifo(file)  # opening it would wait for a writer for ever
    with pytest.raises(LiveFileError, match="not a regular file"):
        await host.read(str(file))


async def test_a_path_outside_the_allowed_ones_is_never_asked_for(host: SshHost, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"A=1\n")
    with pytest.raises(LiveFileError, match="outside allowed_paths"):
        await host.read(str(tmp_path / "secret"))
    with pytest.raises(LiveFileError, match="outside allowed_paths"):
        await write(host, tmp_path / "secret", None)


async def test_a_machine_that_hangs_is_given_up_and_found_again(
    host: SshHost, file: Path, sshd: Sshd, monkeypatch: pytest.MonkeyPatch
) -> None:
    await seen(host, file)
    monkeypatch.setattr(ssh, "ANSWER", 0.3)
    monkeypatch.setattr(ssh, "_GIVEN_UP", 0.0)
    served = sshd.served()
    for pid in served:
        os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(HostUnreachableError, match="timed out"):
            await host.read(str(file))
    finally:
        for pid in served:
            os.kill(pid, signal.SIGCONT)
    monkeypatch.setattr(ssh, "ANSWER", 20.0)
    assert (await seen(host, file)).data == Secret(b"A=old\n")


async def test_a_failed_login_is_not_tried_again_immediately(connection: SshConnection, sshd: Sshd) -> None:
    (sshd.directory / "authorized_keys").write_text("")
    errors = []
    for _ in range(3):
        with pytest.raises(HostUnreachableError, match="refuses our login") as raised:
            await connection.connected()
        errors.append(raised.value)
    assert errors[1] is errors[2] is errors[0]


async def test_commands_are_quoted_bounded_and_reported_apart(connection: SshConnection, tmp_path: Path) -> None:
    limits = process.Limits(timeout=10.0, stdout=1000)
    odd = "a b'c\"d$HOME`id`;\n*"
    done = await connection.run(["printf", "%s", odd], limits=limits)
    assert (done.exit_code, done.stdout.decode()) == (0, odd)
    done = await connection.run(["sh", "-c", "cat; pwd; exit 3"], directory=str(tmp_path), stdin=b"in ", limits=limits)
    assert (done.exit_code, done.stdout.decode()) == (3, f"in {tmp_path}\n")
    assert (await connection.run(["yes"], limits=limits)).overflowed
    assert (await connection.run(["sleep", "60"], limits=process.Limits(timeout=0.2))).timed_out
    with pytest.raises(process.MissingProgramError):
        await connection.run(["no-such-program"], limits=limits)


async def test_concurrent_users_share_one_connection(connection: SshConnection, sshd: Sshd) -> None:
    await asyncio.gather(*(connection.sftp() for _ in range(5)), *(connection.connected() for _ in range(5)))
    assert sshd.log.count("Accepted publickey") == 1


async def test_more_concurrent_commands_than_a_server_accepts_wait_for_each_other(connection: SshConnection) -> None:
    await connection.sftp()
    commands = [connection.run(["sh", "-c", f"sleep 0.05; echo {n}"], limits=process.Limits(30.0)) for n in range(30)]
    done = await asyncio.gather(*commands)
    assert [int(result.stdout) for result in done] == list(range(30))


async def test_an_operation_that_hangs_does_not_end_the_command_beside_it(
    connection: SshConnection, sshd: Sshd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssh, "ANSWER", 0.3)
    running = asyncio.create_task(connection.run(["sh", "-c", "read line; echo $line"], limits=process.Limits(30.0)))
    beside = await connection.connected()
    with pytest.raises(HostUnreachableError, match="timed out"):
        async with connection.answering():
            await asyncio.Event().wait()
    assert await connection.connected() is beside
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_late_error_of_a_lost_connection_does_not_end_the_new_one(
    connection: SshConnection, sshd: Sshd
) -> None:
    lost = await connection.connected()
    made = []

    async def cut_off() -> None:
        async with connection.answering():
            lost.abort()
            await lost.wait_closed()
            made.append(await connection.connected())
            raise asyncssh.SFTPConnectionLost("it comes late")

    with pytest.raises(HostUnreachableError):
        await cut_off()
    (new,) = made
    assert await connection.connected() is new
    assert not new.is_closed()
    assert sshd.log.count("Accepted publickey") == 2


@pytest.mark.parametrize("damage", ["key", "known hosts"])
async def test_a_damaged_key_or_known_hosts_file_is_reported(sshd: Sshd, tmp_path: Path, damage: str) -> None:
    damaged = tmp_path / "damaged"
    damaged.write_text(
        "-----BEGIN OPENSSH PRIVATE KEY-----\nx\n" if damage == "key" else "[127.0.0.1]:1 ssh-ed25519 x\n"
    )
    key, known = (damaged, sshd.known_hosts) if damage == "key" else (sshd.key_path, damaged)
    made = SshConnection(SshAddress("127.0.0.1", sshd.port, sshd.user, str(key), str(known)), "web-1")
    with pytest.raises(
        HostUnreachableError, match="not a usable key" if damage == "key" else "host key|cannot be read"
    ):
        await made.connected()
    await made.close()


async def test_directories_are_not_made_behind_a_link(host: SshHost, file: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (file.parent / "link").symlink_to(outside)
    with pytest.raises(LiveFileError, match="a link is in the place"):
        await write(host, file.parent / "link" / "new" / "x.env", None)
    assert list(outside.iterdir()) == []


async def test_what_a_killed_pass_has_staged_is_taken_away_by_the_next(host: SshHost, file: Path) -> None:
    left = Path("/dev/shm/reconciler-test")
    left.mkdir()
    (left / "0").write_bytes(b"A=secret\n")
    await host.leftovers([str(file)])
    assert not left.exists()


# --- health URLs -----------------------------------------------------------------------------------------------------


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


async def test_a_service_that_never_answers_is_not_healthy_and_leaves_nothing_open(
    connection: SshConnection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_probe, "_TIMEOUT", 0.3)
    ended = asyncio.Semaphore(0)

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1000):
            pass
        writer.close()
        await writer.wait_closed()
        ended.release()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/health"
    directory = tmp_path / "s"
    directory.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(directory))
    health = TunnelledHealth(connection)
    assert not await health.ok(HttpCheck(url))
    await asyncio.wait_for(ended.acquire(), 120)
    before = open_files()
    for _ in range(3):
        assert not await health.ok(HttpCheck(url))
        await asyncio.wait_for(ended.acquire(), 120)
    await asyncio.to_thread(eventually, lambda: open_files() <= before + 1)
    assert list(directory.iterdir()) == []
    server.close()


@pytest.mark.parametrize(("status", "healthy"), [(200, True), (503, False)])
async def test_a_health_url_is_asked_through_the_connection(
    connection: SshConnection, tmp_path: Path, status: int, healthy: bool
) -> None:
    ended = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        ended.set()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    health = TunnelledHealth(connection)
    assert await health.ok(HttpCheck(f"http://127.0.0.1:{port}/health")) is healthy
    await asyncio.wait_for(ended.wait(), 120)
    server.close()
    assert not await health.ok(HttpCheck("http://127.0.0.1:9/health"))


# --- copies of backups -----------------------------------------------------------------------------------------------


async def test_copies_of_other_servers_stay_and_what_was_half_made_goes(
    connection: SshConnection, tmp_path: Path
) -> None:
    there = tmp_path / "there"
    for name in ("20200101T000000Z-another1", ".other-20200101T000000Z-1", ".mine-20200101T000000Z-2"):
        (there / "production" / name).mkdir(parents=True)
    (there / "production").chmod(0o700)
    digest = Digester(b"k" * 32)
    backups = SshBackups(BackupDirectory(str(tmp_path / "here"), digest), connection, str(there), "mine")
    taken = []
    for number in range(3):
        run = Run(f"{number:08x}", "production@web-1", "poll", 1_700_000_000.0 + number, Revision("c", "s"))
        entry = BackupEntry("api.env", "/opt/api.env", "0000-api.env", 0o600, 0, 0, digest(b"A=1\n"))
        taken.append((await backups.take(run, [(entry, Secret(b"A=1\n"))], "from", "to")).id)
    await backups.expire("production@web-1", keep=1, max_age=1e12, now=1_700_000_100.0)
    left = {path.name for path in (there / "production").iterdir()}
    assert left == {"20200101T000000Z-another1", ".other-20200101T000000Z-1", taken[-1]}
    assert (there / "production" / taken[-1] / "0000-api.env").read_bytes() == b"A=1\n"
