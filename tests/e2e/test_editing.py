"""`reconciler set` and `edit` in a clone, with the real sops, git and editors."""

from __future__ import annotations

import os
import pty
import signal
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.commands import run
from tests.support.forks import COMMAND, reconciler
from tests.support.json_answers import read_answer
from tests.support.site import API, WORKER, Site
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow

API_ENV, WORKER_ENV = "production/api.env", "production/worker.env"
Edit = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def clone(site: Site) -> Site:
    """A committed clone; its key file is where sops looks for it."""
    site.home = site.root.parent / "home"
    keys = site.home / ".config" / "sops" / "age" / "keys.txt"
    keys.parent.mkdir(parents=True)
    keys.write_bytes(site.keys.read_bytes())
    site.commit()
    return site


def environment(site: Site, **more: str) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "HOME": str(site.home), **more}


def command(site: Site, *arguments: str, stdin: str | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    data = None if stdin is None else stdin.encode()
    return reconciler(*arguments, stdin=data, env=environment(site, **env), cwd=site.root)


@pytest.fixture
def memory(clone: Site) -> Iterator[Path]:
    """The user's directory in memory, which is empty in the end."""
    directory = Path(tempfile.mkdtemp(dir="/dev/shm"))
    yield directory
    directory.rmdir()


@pytest.fixture
def edit(clone: Site, memory: Path, tmp_path: Path) -> Edit:
    """``edit(script, target)`` runs `reconciler edit` with a shell script as the editor; "$1" is the file."""

    def call(script: str, target: str = API_ENV, **env: str) -> subprocess.CompletedProcess[str]:
        editor = tmp_path / "editor"
        editor.write_text(f"#!/bin/sh\nset -e\n{script}\n")
        editor.chmod(0o755)
        return command(clone, "edit", target, EDITOR=str(editor), XDG_RUNTIME_DIR=str(memory), **env)

    return call


def decrypted(site: Site, path: str, kind: str = "dotenv") -> str:
    return site.sops("decrypt", "--input-type", kind, "--output-type", kind, site.envs / path).decode()


def changed_lines(site: Site) -> set[str]:
    """What git's diff shows: the keys of the lines removed and added, without sops' own."""
    lines = site.git("diff", "--unified=0").splitlines()
    keys = {
        line[:1] + line[1:].partition("=")[0] for line in lines if line[:1] in "+-" and line[:3] not in ("+++", "---")
    }
    return {key for key in keys if key[1:] not in ("sops_mac", "sops_lastmodified")}


# --- set -------------------------------------------------------------------------------------------------------------


def test_set_changes_the_ciphertext_of_one_key_and_nothing_else(clone: Site) -> None:
    (clone.envs / API_ENV).chmod(0o640)
    before = API.format(environment="production")

    done = command(clone, "set", API_ENV, "LOG_LEVEL", stdin="debug\n")

    assert (done.returncode, done.stderr) == (0, "")
    summary, keys, _, check, rest = done.stdout.splitlines()
    assert (summary.split(), keys.split()) == (["production/api.env", "changed"], ["~", "LOG_LEVEL"])
    assert check == "nothing found in 8 files of production (values of 6)"
    assert rest == "Not committed yet: `git diff envs/production/api.env`, `git commit envs/production/api.env`"
    assert changed_lines(clone) == {"-LOG_LEVEL", "+LOG_LEVEL"}
    assert decrypted(clone, API_ENV) == before.replace("info", "debug")
    assert stat.S_IMODE((clone.envs / API_ENV).stat().st_mode) == 0o640


def test_a_value_with_everything_in_it_comes_out_as_it_went_in(clone: Site) -> None:
    value = "-----BEGIN\n'it' is \"$5\" \\n #no comment\n-----END\n"
    file = clone.root.parent / "value"
    file.write_text(f"{value}\n")
    done = command(clone, "set", "worker.env", "PEM", "--from-file", str(file), "--path", "envs/../envs/")
    assert "several targets" in done.stderr
    done = command(clone, "set", WORKER_ENV, "PEM", "--from-file", str(file), "--json")
    data = read_answer("set", done.stdout)
    assert (data["added"], data["written"], data["check"]["errors"]) == (["PEM"], True, 0)
    compared = command(clone, "set", WORKER_ENV, "PEM", stdin=f"{value}\n")  # it reads the value back
    assert compared.stdout == "production/worker.env: nothing to change; nothing was written\n"
    last = decrypted(clone, WORKER_ENV).splitlines()[-1]
    assert last == r'''PEM="-----BEGIN\n'it' is \"\$5\" \\n #no comment\n-----END\n"'''


def test_a_key_is_removed_and_a_random_value_made(clone: Site) -> None:
    assert command(clone, "set", WORKER_ENV, "API_TOKEN", "--generate", "40").returncode == 0
    token = decrypted(clone, WORKER_ENV).splitlines()[-1].partition("=")[2]
    assert (len(token), token.isalnum()) == (40, True)
    done = command(clone, "set", WORKER_ENV, "API_TOKEN", "--unset")
    assert done.stdout.startswith("  production/worker.env   changed\n    - API_TOKEN\n")
    assert decrypted(clone, WORKER_ENV) == "QUEUE=jobs\nWORKERS=4\n"


@pytest.mark.parametrize(
    ("target", "directory"),
    [
        ("production@web-1/worker.env", "."),
        ("/opt/app/config/alone.env", "."),
        ("envs/production/worker.env", "."),
        ("worker.env", "envs/production"),
        ("../production/worker.env", "envs/staging"),
    ],
)
def test_a_target_has_every_name_that_people_use(clone: Site, target: str, directory: str) -> None:
    clone.replace("production/environment.yaml", "config/worker.env", "config/alone.env")
    done = reconciler("set", target, "QUEUE", stdin=b"mail", env=environment(clone), cwd=clone.root / directory)
    assert done.stdout.startswith("  production/worker.env   changed\n    ~ QUEUE\n"), done.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["set", "/opt/app/api.env", "A"], "several targets are called so: production/api.env, staging/api.env"),
        (["set", "nowhere.env", "A"], "there is no such target. The targets are: production/api.env, "),
        (["set", "production/flags.env", "A"], "is not encrypted. Change envs/production/flags.env with any editor"),
        (["set", API_ENV, "LOG_LEVEL", "hidden-value"], "a value is never an argument"),
        (["set", API_ENV, "LOG_LEVEL=hidden-value"], "a value is never an argument"),
        (["set", API_ENV, "LOG_LEVEL", "--from-file", "/nowhere"], "--from-file /nowhere: cannot be read"),
        (["set", API_ENV, "LOG_LEVEL", "--from-file", "/dev/null"], "no value was given"),
        (["set", API_ENV, "LOG_LEVEL", "--unset", "--generate", "9"], "give only one of"),
        (["set", API_ENV, "LOG_LEVEL", "--age-key-file", "/nowhere"], "/nowhere: there is no age key. Name the"),
        (["set", API_ENV, "LOG_LEVEL", "--path", "/"], "is not a path inside the repository"),
    ],
)
def test_what_cannot_be_done_says_how(clone: Site, arguments: list[str], says: str) -> None:
    done = command(clone, *arguments, stdin="x")
    assert (done.returncode, done.stdout) == (1, "")
    assert says in done.stderr
    assert "hidden-value" not in done.stderr
    assert clone.git("status", "--porcelain") == ""


def test_the_prompt_does_not_echo_the_value(clone: Site) -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(clone.root)
        os.execve(COMMAND, ["reconciler", "set", API_ENV, "SESSION_SECRET"], environment(clone, TERM="dumb"))
    output = b""
    while b"Value of SESSION_SECRET (hidden): " not in output:
        output += os.read(terminal, 1024)
    os.write(terminal, b"typed-by-hand-1234\n")
    with os.fdopen(terminal, "rb", buffering=0) as rest:
        while chunk := _read(rest.fileno()):
            output += chunk
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, output
    assert b"typed-by-hand" not in output
    assert "SESSION_SECRET=typed-by-hand-1234\n" in decrypted(clone, API_ENV)


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 1024)
    except OSError:  # Linux's end of a terminal
        return b""


def test_an_error_of_the_check_is_exit_1_and_says_how_to_undo(clone: Site) -> None:
    done = command(clone, "set", API_ENV, "LOG_LEVEL", stdin="loud")
    assert done.returncode == 1
    assert "envs/production/api.env:3: error [contract-value] LOG_LEVEL must be one of debug, info" in done.stdout
    assert done.stdout.endswith("undo all that is not committed with `git restore envs/production/api.env`\n")
    assert changed_lines(clone) == {"-LOG_LEVEL", "+LOG_LEVEL"}


def test_the_other_recipients_stay_and_one_key_is_enough(clone: Site) -> None:
    both = f"{clone.production.public},{clone.staging.public}"
    clone.encrypt(WORKER_ENV, WORKER.format(environment="production"), recipients=both)
    clone.commit()
    done = command(clone, "set", WORKER_ENV, "QUEUE", "--age-key-file", str(clone.staging.path), stdin="mail")
    assert done.stdout.startswith("  production/worker.env   changed\n    ~ QUEUE\n")
    assert changed_lines(clone) == {"-QUEUE", "+QUEUE"}
    for key in (clone.production, clone.staging):
        assert (
            "QUEUE=mail"
            in clone.sops(
                *("decrypt", "--input-type", "dotenv", "--output-type", "dotenv", clone.envs / WORKER_ENV),
                SOPS_AGE_KEY_FILE=str(key.path),
            ).decode()
        )


# --- what is left alone ----------------------------------------------------------------------------------------------


def _foreign_key(site: Site) -> str:
    site.encrypt(API_ENV, "A=1\n", recipients=site.staging.public)
    (site.home / ".config/sops/age/keys.txt").write_bytes(site.production.path.read_bytes())
    return f"do not open it; it is for {site.staging.public}"


def _conflict(site: Site) -> str:
    site.write(API_ENV, f"<<<<<<< ours\n{site.read(API_ENV)}=======\n{site.read(API_ENV)}>>>>>>> theirs\n")
    return "has an unresolved merge conflict"


def _unfinished_merge(site: Site) -> str:
    site.write(".gitattributes", "*.env -merge\n")
    site.commit()
    for branch, level in (("theirs", "debug"), ("main", "error")):
        site.git("checkout", "--quiet", *(["-b"] if branch == "theirs" else []), branch)
        assert command(site, "set", API_ENV, "LOG_LEVEL", stdin=level).returncode == 0
        site.commit()
    assert run("git", "merge", "theirs", cwd=site.root).returncode == 1
    return "is in an unfinished merge. `reconciler merge"


def _tampered(site: Site) -> str:
    lines = site.read(API_ENV).splitlines(keepends=True)
    site.write(API_ENV, "".join(line for line in lines if not line.startswith("DATABASE_URL=")))
    return "its MAC does not match"


@pytest.mark.parametrize("damage", [_foreign_key, _conflict, _unfinished_merge, _tampered])
def test_a_source_that_is_not_whole_or_not_ours_is_left_alone(
    clone: Site, edit: Edit, damage: Callable[[Site], str]
) -> None:
    says = damage(clone)
    before = clone.read(API_ENV)
    for done in (command(clone, "set", API_ENV, "LOG_LEVEL", stdin="debug"), edit("echo started; exit 0")):
        assert (done.returncode, done.stdout) == (1, "")
        assert says in done.stderr
    assert clone.read(API_ENV) == before


@pytest.mark.parametrize(
    ("script", "code", "says"),
    [
        pytest.param(":", 0, "nothing to change; nothing was written", id="nothing changed"),
        pytest.param("echo >> $1", 0, "nothing to change; nothing was written", id="a blank line at the end"),
        pytest.param("sed -i s/info/debug/ $1; exit 3", 1, "the editor failed (exit code 3)", id="editor failed"),
        pytest.param("kill -9 $$", 1, "the editor failed (signal 9)", id="editor killed"),
        pytest.param("rm $1", 1, "the editor left no file", id="file removed"),
        pytest.param("ln -sf /etc/passwd $1", 1, "the editor left no file", id="a link instead"),
        pytest.param("> $1", 1, "nothing would be left of it", id="emptied"),
        pytest.param("echo secret-word >> $1", 1, "line 8: it is not one KEY=value", id="not a line of dotenv"),
    ],
)
def test_an_edit_that_fails_or_changes_nothing_writes_nothing(
    clone: Site, edit: Edit, script: str, code: int, says: str
) -> None:
    done = edit(script)
    assert (done.returncode, says in done.stdout + done.stderr) == (code, True), done.stderr
    assert "secret-word" not in done.stdout + done.stderr
    assert clone.git("status", "--porcelain") == ""


def test_a_file_that_somebody_changes_meanwhile_is_not_overwritten(clone: Site, edit: Edit) -> None:
    file = clone.envs / API_ENV
    done = edit(f"sed -i s/info/debug/ $1; echo '#' >> {file}")
    assert (done.returncode, "somebody has changed the file meanwhile" in done.stderr) == (1, True)
    assert clone.git("diff", "--unified=0").splitlines()[-1] == "+#"


# --- edit ------------------------------------------------------------------------------------------------------------


def test_comments_order_and_new_groups_are_kept_and_only_new_lines_are_encrypted_again(clone: Site, edit: Edit) -> None:
    done = edit("sed -i -e 's/^LOG_LEVEL=.*/LOG_LEVEL=debug/' -e '1i # a new head' -e '/^OPTIONAL/i\\\\n# hashes' $1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(
        "  production/api.env   changed\n    ~ LOG_LEVEL\n\nblank lines became comment lines (1)"
    )
    changed = {line if "=" not in line else line.partition("=")[0] for line in changed_lines(clone)}
    assert {line[:2] if line[1:2] == "#" else line for line in changed} == {"-LOG_LEVEL", "+LOG_LEVEL", "+#"}
    text = API.format(environment="production").replace("info", "debug").replace("OPTIONAL", "#\n# hashes\nOPTIONAL")
    assert decrypted(clone, API_ENV) == f"# a new head\n{text}"


def test_the_plaintext_is_in_memory_and_for_its_owner_only(clone: Site, edit: Edit, tmp_path: Path) -> None:
    done = edit(
        f'stat -c "%a %n" "$(dirname $1)" "$1" > {tmp_path}/modes; stat -f -c %T "$1" >> {tmp_path}/modes\n'
        f'echo "$@" $TMPDIR >> {tmp_path}/modes; touch $(dirname $1)/.api.env.swp; sed -i s/info/debug/ $1'
    )
    assert done.returncode == 0, done.stderr
    directory, file, system, arguments = (tmp_path / "modes").read_text().splitlines()
    place = directory.removeprefix("700 ")
    assert file == f"600 {place}/api.env"
    assert system == "tmpfs"
    assert arguments == f"{place}/api.env {place}"


def test_vim_leaves_nothing_behind(clone: Site, memory: Path) -> None:
    (clone.home / ".vimrc").write_text("set undofile backup backupdir=~ undodir=~ directory=~ viminfo='100\n")
    done = command(clone, "edit", API_ENV, EDITOR="vim -es -c '%s/info/debug/|5,6d|x'", XDG_RUNTIME_DIR=str(memory))
    assert done.stdout.startswith("  production/api.env   changed\n    ~ LOG_LEVEL   - ADMIN_HASH   - DATABASE_URL\n")
    assert {path.name for path in clone.home.iterdir()} == {".config", ".vimrc"}


@pytest.mark.parametrize(("number", "group"), [("TERM", False), ("HUP", False), ("INT", True)])
def test_a_signal_removes_the_plaintext_and_changes_nothing(
    clone: Site, memory: Path, tmp_path: Path, number: str, group: bool
) -> None:
    editor = tmp_path / "editor"
    script = f"sed -i s/info/debug/ $1\necho $1 > {tmp_path}/new\nmv {tmp_path}/new {tmp_path}/file"
    editor.write_text(f"#!/bin/sh\n{script}\nexec tail -f /dev/null\n")
    editor.chmod(0o755)
    env = environment(clone, EDITOR=str(editor), XDG_RUNTIME_DIR=str(memory))
    with subprocess.Popen(
        [COMMAND, "edit", API_ENV], cwd=clone.root, env=env, start_new_session=True, stderr=subprocess.DEVNULL
    ) as process:
        eventually(lambda: (tmp_path / "file").exists())
        file = Path((tmp_path / "file").read_text().strip())
        assert "LOG_LEVEL=debug" in file.read_text()
        (os.killpg if group else os.kill)(process.pid, signal.Signals[f"SIG{number}"])
        assert process.wait(60) == (1 if group else 128 + signal.Signals[f"SIG{number}"])
    assert not file.parent.exists()
    assert clone.git("status", "--porcelain") == ""


@pytest.fixture
def other_stores(clone: Site) -> Site:
    clone.encrypt("production/blob", b"\xff\x00binary\n", kind="binary")
    clone.encrypt("production/app.yaml", "# how\nlist:\n    - one\n    - two\nkey: 1\n", kind="yaml")
    clone.replace(
        "production/environment.yaml", "      flags.env", "      blob: {}\n      app.yaml: {}\n      flags.env"
    )
    clone.commit()
    return clone


def test_a_binary_source_is_edited_byte_for_byte(other_stores: Site, edit: Edit) -> None:
    done = edit("printf '\\n\\377\\000' >> $1", "production/blob")
    assert done.stdout.startswith("  production/blob   changed\n"), done.stderr
    content = other_stores.sops("decrypt", "--input-type", "binary", "--output-type", "binary", "envs/production/blob")
    assert content == b"\xff\x00binary\n\n\xff\x00"
    refused = command(other_stores, "set", "production/blob", "A", stdin="1")
    assert "does not know its keys. Change the file as a whole: `reconciler edit production/blob`" in refused.stderr


def test_a_yaml_source_keeps_its_comments_and_what_did_not_change(other_stores: Site, edit: Edit) -> None:
    done = edit("sed -i s/two/2nd/ $1", "production/app.yaml")
    assert done.returncode == 0, done.stderr
    assert decrypted(other_stores, "production/app.yaml", "yaml") == "# how\nlist:\n    - one\n    - 2nd\nkey: 1\n"
    diff = other_stores.git("diff", "--unified=0", "--", "envs/production/app.yaml")
    assert [line[:1] for line in diff.splitlines() if "type:str" in line and "mac" not in line] == ["-", "+"]
    refused = edit("echo '}:{' >> $1", "production/app.yaml")
    assert (refused.returncode, "sops cannot read it as yaml" in refused.stderr) == (1, True)
