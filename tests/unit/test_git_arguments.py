"""What git is asked for, what it is given, and what is made of its answers: pure, no process is started."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import sys

import pytest

from reconciler.adapters.git import command as git_command
from reconciler.adapters.git import errors, mirror, objects
from reconciler.adapters.imports import import_gitpython
from reconciler.core.errors import ConfigError, RefusedError, SourceError
from reconciler.core.model.revisions import Blob, RevertRequest
from tests.support.cases import each

SECRET = "glpat-0123456789"  # stands for a token


# --- addresses -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "ssh://git@git.example.org/acme/config.git",
        "ssh://git@git.example.org:2222/~git/config.git",
        "ssh://git@[2001:db8::1]:22/config.git",
        "https://git.example.org/acme/config.git",
        "https://git.example.org:8443/config",
        "/srv/git/config.git",
        "/srv/git/a:b@c.git",
    ],
)
def test_an_address_of_the_three_kinds_is_accepted(url: str) -> None:
    git_command.check_url(url)


@each(
    ("url", "said"),
    [
        ("", "empty"),
        ("ext::sh -c id", "space or a control character"),
        ("ext::sh%20-c%20id", "neither ssh://"),
        ("fd::17/foo", "neither ssh://"),
        ("--upload-pack=/bin/id", "neither ssh://"),
        ("-oProxyCommand=id", "neither ssh://"),
        ("config.git", "neither ssh://"),
        ("../config.git", "neither ssh://"),
        ("git://git.example.org/config.git", "neither ssh://"),
        ("http://git.example.org/config.git", "write https://"),
        ("file:///srv/git/config.git", "Write the path alone"),
        ("git@git.example.org:acme/config.git", "Write ssh://git@git.example.org/acme/config.git."),
        ("git.example.org:acme/config.git", "Write ssh://git.example.org/acme/config.git."),
        ("ssh://-oProxyCommand=id/config.git", "has no host"),
        ("ssh://-oProxyCommand=id@host/config.git", "has no host"),
        ("ssh:///config.git", "has no host"),
        ("ssh://git@host", "has no path to a repository"),
        ("https://host/", "has no path to a repository"),
        ("ssh://git@host:notaport/config.git", "host or port cannot be read"),
        ("ssh://git@host:99999/config.git", "host or port cannot be read"),
        ("https://[::1/config.git", "host or port cannot be read"),
        ("/srv/git/con\nfig.git", "control character"),
        ("/srv/git/con\0fig.git", "control character"),
        ("https://host/a\x7fb", "control character"),
    ],
)
def test_any_other_address_is_refused_with_what_to_write_instead(url: str, said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)) as caught:
        git_command.check_url(url)
    assert "repository.url" in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        f"https://{SECRET}@git.example.org/config.git",
        f"https://oauth2:{SECRET}@git.example.org/config.git",
        f"ssh://git:{SECRET}@git.example.org/config.git",
        f"https://git.example.org/config.git?private_token={SECRET}",
        f"https://git.example.org/config.git#{SECRET}",
        f"https://x:{SECRET}@[::1/config.git",
        f"http://x:{SECRET}@git.example.org/config.git",
        f"x:{SECRET}@git.example.org/config.git",
    ],
)
def test_a_secret_in_the_address_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        git_command.check_url(url)
    assert SECRET not in str(caught.value)
    assert SECRET not in repr(caught.value)
    assert caught.value.__cause__ is None


def test_ssh_needs_a_key_and_known_hosts() -> None:
    with pytest.raises(ConfigError, match="ssh_key_file and known_hosts_file"):
        mirror.GitMirror(url="ssh://git@host/config.git", branch="main", state_dir="/nowhere", ssh_key_file="/key")


# --- branches, commits, paths ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("branch", ["main", "release/1.2", "a.b", "ünïcode", "x@y", "-".join("ab"), "a{b}", "@x"])
def test_a_branch_name_is_accepted(branch: str) -> None:
    git_command.check_branch(branch)


@each(
    "branch",
    [
        "",
        "-f",
        "--upload-pack=/bin/id",
        "@",
        "HEAD",
        "a..b",
        "a b",
        "a~1",
        "a^",
        "a:b",
        "a?",
        "a*",
        "a[b",
        "a\\b",
        "a@{1}",
        "/a",
        "a/",
        "a//b",
        "a.",
        ".a",
        "a/.b",
        "a.lock",
        "a.lock/b",
        "a\nb",
        "a\x7f",
        "a\0",
    ],
)
def test_what_git_would_not_take_for_a_branch_is_refused(branch: str) -> None:
    with pytest.raises(ConfigError, match="not a valid branch name"):
        git_command.check_branch(branch)


@pytest.mark.parametrize("commit", ["", "main", "--all", "a" * 39, "a" * 41, "A" * 40, "a" * 64, "a" * 40 + "\n"])
def test_only_a_full_commit_id_is_accepted(commit: str) -> None:
    with pytest.raises(RefusedError, match="full commit id"):
        git_command.check_commit(commit)


def test_a_path_is_split_into_its_elements() -> None:
    assert git_command.check_path("envs/prod/Schlüssel 1.env") == ("envs", "prod", "Schlüssel 1.env")
    assert git_command.check_path("") == ()


@each(
    "path",
    [
        "../x",
        "a/../b",
        "/etc/passwd",
        "a//b",
        "a/",
        ".",
        "./a",
        "a/.",
        "a\0b",
        "a\nb",
        "a\x1b[2Jb",
        "\udcff",
        "a/" * 40,
    ],
)
def test_a_path_that_could_mean_something_else_is_refused(path: str) -> None:
    with pytest.raises(SourceError) as caught:
        git_command.check_path(path)
    assert str(caught.value).isprintable()


# --- what a git process gets -----------------------------------------------------------------------------------------


def surroundings(**overrides: str | None) -> dict[str, str]:
    inherited = {
        "PATH": "/usr/bin",
        "HOME": "/root",
        "LD_PRELOAD": "/evil.so",
        "SSH_AUTH_SOCK": "/agent",
        "GIT_DIR": "/elsewhere",
        "GIT_CONFIG_GLOBAL": "/evil",
        "GIT_CONFIG_PARAMETERS": "'core.hooksPath'='/evil'",
        "GIT_TRACE": "/tmp/trace",
        "https_proxy": "http://proxy:3128",
    }
    facts: dict[str, str | None] = {
        "url": "https://host:8443/config.git",
        "git_dir": "/state/mirror.git",
        "ssh_command": None,
        "token_file": None,
        **overrides,
    }
    return git_command.git_environment(inherited=inherited, **facts)  # type: ignore[arg-type]


def settings(variables: dict[str, str]) -> dict[str, str]:
    count = int(variables["GIT_CONFIG_COUNT"])
    return {variables[f"GIT_CONFIG_KEY_{number}"]: variables[f"GIT_CONFIG_VALUE_{number}"] for number in range(count)}


def test_the_environment_holds_what_the_contract_says_and_nothing_else() -> None:
    variables = surroundings()
    fixed = {name: value for name, value in variables.items() if not name.startswith("GIT_CONFIG_")}
    assert fixed == {
        "PATH": "/usr/bin",
        "HOME": "/nonexistent",
        "LC_ALL": "C",
        "https_proxy": "http://proxy:3128",
        "GIT_DIR": "/state/mirror.git",
        "GIT_ATTR_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ALLOW_PROTOCOL": "ssh:https:file",
        "GIT_NO_REPLACE_OBJECTS": "1",
        "GIT_NO_LAZY_FETCH": "1",
    }
    assert variables["GIT_CONFIG_NOSYSTEM"] == "1"
    assert variables["GIT_CONFIG_GLOBAL"] == os.devnull
    assert "GIT_CONFIG_PARAMETERS" not in variables


def test_hooks_are_off_and_objects_are_checked() -> None:
    active = settings(surroundings())
    assert active["core.hooksPath"] == os.devnull
    assert active["transfer.fsckObjects"] == "true"
    assert active["fetch.unpackLimit"] == "1"


def test_the_token_is_offered_to_the_configured_server_only() -> None:
    variables = surroundings(token_file="/etc/reconciler/token")
    active = settings(variables)
    assert active["credential.https://host:8443.helper"] == git_command.CREDENTIAL_HELPER
    assert active["credential.helper"] == ""
    assert variables["RECONCILER_TOKEN_FILE"] == "/etc/reconciler/token"
    assert "RECONCILER_TOKEN_FILE" not in surroundings()


@pytest.mark.parametrize(
    ("path", "quoted"),
    [
        ("/etc/key", '"/etc/key"'),
        ("/a b/k'ey$(id)", '"/a b/k\'ey$(id)"'),
        ("/a%h", '"/a%%h"'),
        ('/a"\\', '"/a\\"\\\\"'),
    ],
    ids=["plain", "space and quote", "percent", "double quote and backslash"],
)
def test_the_ssh_command_pins_key_and_known_hosts(path: str, quoted: str) -> None:
    words = shlex.split(git_command.ssh_command(path, path))
    assert words[:3] == ["ssh", "-F", os.devnull]
    assert f"IdentityFile={quoted}" in words
    assert f"UserKnownHostsFile={quoted}" in words
    for option in (
        "StrictHostKeyChecking=yes",
        f"GlobalKnownHostsFile={os.devnull}",
        "IdentitiesOnly=yes",
        "IdentityAgent=none",
        "BatchMode=yes",
        "KexAlgorithms=^curve25519-sha256",
    ):
        assert words[words.index(option) - 1] == "-o"


def test_addresses_and_refs_stand_behind_the_end_of_options() -> None:
    assert git_command.ls_remote_command("/r", "refs/heads/main") == [
        "git",
        "ls-remote",
        "--exit-code",
        "--",
        "/r",
        "refs/heads/main",
    ]
    command = git_command.fetch_command("/r", "main")
    assert command[command.index("--") :] == ["--", "/r", "+refs/heads/main:refs/reconciler/head"]
    assert {"--no-tags", "--no-recurse-submodules", "--no-auto-maintenance"} < set(command)


# --- what git says ---------------------------------------------------------------------------------------------------

NO_RIGHTS = (
    "fatal: Could not read from remote repository.\n\n"
    "Please make sure you have the correct access rights\nand the repository exists.\n"
)


@each(
    ("stderr", "said"),
    [
        ("ssh: connect to host h port 22: Connection refused\n" + NO_RIGHTS, "does not answer"),
        ("ssh: connect to host h port 22: Connection timed out\n" + NO_RIGHTS, "does not answer"),
        ("fatal: unable to access 'https://h/r/': Failed to connect to h port 443: x", "does not answer"),
        ("error: RPC failed; curl 18 transfer closed\nfatal: early EOF\n", "ended the connection"),
        ("fatal: unable to access 'https://h/r/': The requested URL returned error: 503", "does not answer"),
        ("ssh: Could not resolve hostname h: Name or service not known\n" + NO_RIGHTS, "cannot be resolved"),
        ("fatal: unable to access 'https://h/r/': Could not resolve host: h", "cannot be resolved"),
        ("git@h: Permission denied (publickey).\n" + NO_RIGHTS, "does not accept the SSH key"),
        ('Load key "/k": Permission denied\ngit@h: Permission denied (publickey).\n', "cannot be read"),
        (
            "@ WARNING: UNPROTECTED PRIVATE KEY FILE! @\ngit@h: Permission denied (publickey).\n" + NO_RIGHTS,
            "others may read it",
        ),
        (
            "@@@@\n@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\nHost key verification failed.\n" + NO_RIGHTS,
            "has changed",
        ),
        (
            "No ED25519 host key is known for h and you have requested strict checking.\n"
            "Host key verification failed.\n" + NO_RIGHTS,
            "is not in",
        ),
        ("fatal: Authentication failed for 'https://h/r/'", "refuses access"),
        ("fatal: could not read Username for 'https://h': terminal prompts disabled", "refuses access"),
        ("fatal: unable to access 'https://h/r/': SSL certificate problem: self-signed certificate", "TLS certificate"),
        ("fatal: '/srv/x' does not appear to be a git repository\n" + NO_RIGHTS, "repository does not exist"),
        ("remote: Not Found\nfatal: repository 'https://h/r/' not found", "repository does not exist"),
        ("ERROR: Repository not found.\n" + NO_RIGHTS, "repository does not exist"),
        ("fatal: detected dubious ownership in repository at '/srv/x'\n" + NO_RIGHTS, "another user"),
        ("error: file write error: No space left on device\nfatal: unable to write", "the mirror cannot be written"),
        ("fatal: transport 'http' not allowed", "another address"),
        ("sh: 1: ssh: not found\n" + NO_RIGHTS, "ssh program is not installed"),
        ("warning: redirecting to https://h/r.git/\nfatal: unable to access: Failed to connect", "does not answer"),
    ],
)
def test_what_git_says_is_reported_apart(stderr: str, said: str) -> None:
    warning = errors.known_failure(stderr)
    assert warning is not None
    assert said in warning.message


@pytest.mark.parametrize(
    "stderr",
    ["", "fatal: bad object refs/reconciler/head", "remote: fatal: Authentication failed for 'https://h/'"],
    ids=["nothing", "damage", "claimed by the remote"],
)
def test_what_is_not_known_stays_unexplained(stderr: str) -> None:
    assert errors.known_failure(stderr) is None


def test_the_line_shown_holds_no_credentials_and_no_control_characters() -> None:
    stderr = f"remote: hello\nfatal: cannot \x1b[31muse https://me:{SECRET}@host/x with {SECRET}\nmore"
    line = errors.failure_line(stderr, SECRET)
    assert line == "fatal: cannot �[31muse https://***@host/x with ***"
    assert SECRET not in errors.failure_line(f"fatal: {SECRET} is wrong", f"user:{SECRET}")


def test_a_message_names_the_files_and_the_command_that_helps() -> None:
    for warning in errors.KNOWN_FAILURES:
        facts = {"host": "h", "key": "/k", "known_hosts": "/n", "keyscan": "ssh-keyscan h", "state_dir": "/s"}
        facts["disk"] = "its disk is full"
        text = warning.message.format(**facts) + warning.hint.format(**facts)
        assert "{" not in text
        assert warning.hint.endswith(".")


# --- objects ---------------------------------------------------------------------------------------------------------


def record(kind: str, data: bytes) -> tuple[str, bytes]:
    object_id = hashlib.sha1(f"{kind} {len(data)}\0".encode() + data).hexdigest()
    return object_id, f"{object_id} {kind} {len(data)}\n".encode() + data + b"\n"


def entry(mode: bytes, name: bytes) -> bytes:
    return mode + b" " + name + b"\0" + b"\1" * 20


@pytest.fixture(autouse=True)
def gitpython() -> None:
    import_gitpython()


def test_objects_are_read_in_their_order_and_missing_ones_left_out() -> None:
    first, missing = record("blob", b"A=1\nmissing\n")
    second, two = record("blob", b"")
    parsed = objects.parse_batch(missing + b"main:a b missing\n" + two)
    assert parsed == {first: Blob(first, b"A=1\nmissing\n"), second: Blob(second, b"")}


def test_an_object_that_does_not_hash_to_its_id_is_damage() -> None:
    _, output = record("blob", b"A=1")
    with pytest.raises(objects.DamagedError, match="does not match its id"):
        objects.parse_batch(output.replace(b"A=1", b"A=2"))


def test_output_that_was_cut_short_gives_what_came_whole_and_the_size_of_what_did_not() -> None:
    first, blob = record("blob", b"A=1")
    large = b"f" * 40 + b" blob 1073741824\n" + b"x" * 1000
    parsed = objects.parse_batch(blob + large)
    assert parsed[first] == Blob(first, b"A=1")
    assert parsed["f" * 40] == objects.RefusedObject("it has 1024.0 MiB, the limit is 5 MiB")
    _, second = record("blob", b"B=2")
    assert objects.parse_batch(second[:-3]) == {}


def test_a_directory_gives_modes_and_ids() -> None:
    object_id, output = record(
        "tree", entry(b"100644", b"a b") + entry(b"40000", "ü".encode()) + entry(b"120000", b"l")
    )
    tree = objects.parse_batch(output)[object_id]
    assert isinstance(tree, objects.TreeListing)
    assert {name: oct(entry.mode) for name, entry in tree.entries.items()} == {
        "a b": "0o100644",
        "ü": "0o40000",
        "l": "0o120000",
    }


@pytest.mark.parametrize(
    "data",
    [entry(b"100644", b".."), entry(b"40000", b".git"), entry(b"100644", b"a/b"), b"100644 cut\0short"],
    ids=["..", ".git", "slash", "cut short"],
)
def test_a_hostile_directory_is_refused_as_a_whole(data: bytes) -> None:
    object_id, output = record("tree", data)
    assert isinstance(objects.parse_batch(output)[object_id], objects.RefusedObject)


def commit(author: bytes, message: bytes, extra: bytes = b"") -> objects.GitObject:
    lines = b"tree " + b"2" * 40 + b"\nauthor " + author + b" 1700000000 +0100\ncommitter C <c@x> 1700000001 +0100\n"
    object_id, output = record("commit", lines + extra + b"\n" + message)
    return objects.parse_batch(output)[object_id]


def test_a_commit_gives_author_time_and_subject() -> None:
    assert commit("Ada Läufer <ada@example.org>".encode(), b"\nRotate the key\n\nBecause.\n") == objects.CommitObject(
        tree="2" * 40, author="Ada Läufer <ada@example.org>", committed_at=1700000001.0, subject="Rotate the key"
    )


def test_a_commit_of_an_odd_kind_is_still_read() -> None:
    signed = b"gpgsig -----BEGIN SSH SIGNATURE-----\n abc\n -----END SSH SIGNATURE-----\n"
    assert getattr(commit(b"A <a@x>", b"s", signed), "subject", None) == "s"
    assert getattr(commit(b"A <a@x>", b"", b""), "subject", None) == ""
    assert getattr(commit(b"A <a@x>", b"s", b"encoding nonsense\n"), "subject", None) == "s"
    assert getattr(commit(b"A <a@x>", b"s" * 9000, b"encoding punycode\n"), "subject", "").startswith("sss")


def test_control_characters_of_a_commit_do_not_reach_a_terminal() -> None:
    parsed = commit(b"A\x1b[2J <a@x>", "s\x1b]0;t\x07 \N{RIGHT-TO-LEFT OVERRIDE}x".encode())
    assert isinstance(parsed, objects.CommitObject)
    assert parsed.author.isprintable()
    assert parsed.subject.isprintable()


def test_what_was_used_last_is_remembered_within_the_budget() -> None:
    kept = objects.KeptObjects(budget=10_000)
    blobs = [Blob(str(number), b"x" * 3000) for number in range(3)]
    for blob in blobs[:2]:
        kept.put(blob.id, blob)
    assert kept.get("0") is blobs[0]
    kept.put("2", blobs[2])
    assert kept.get("1") is None
    assert kept.get("0") is blobs[0]
    assert kept.get("2") is blobs[2]


def test_importing_gitpython_leaves_the_environment_alone() -> None:
    assert "git" in sys.modules
    assert "GIT_PYTHON_REFRESH" not in os.environ
    assert "GIT_PYTHON_GIT_EXECUTABLE" not in os.environ


# --- writing ---------------------------------------------------------------------------------------------------------


def order(**overrides: str) -> RevertRequest:
    fields = {
        "environment": "prod",
        "directory": "envs/prod",
        "failed": "f" * 40,
        "good": "0" * 40,
        "host": "web-1",
        "run": "1a2b3c4d",
        "reason": "unhealthy",
    }
    return RevertRequest(**{**fields, **overrides})


def test_a_push_names_one_ref_and_never_forces() -> None:
    command = git_command.push_command("/srv/config.git", "a" * 40, "refs/heads/main")
    assert command[-3:] == ["--", "/srv/config.git", f"{'a' * 40}:refs/heads/main"]
    assert "--no-follow-tags" in command
    assert not any("force" in word or word.startswith("+") for word in command)


def test_the_branch_for_review_is_a_branch() -> None:
    name = git_command.rollback_branch("prod", "f" * 40)
    assert name == f"reconciler/rollback-prod-{'f' * 12}"
    git_command.check_branch(name)


@pytest.mark.parametrize(
    "author", ["", "a", "a <>", "<a@b>", " <a@b>", "a <b@c> d", "a <b c>", "a\n <b@c>", "a <b\0@c>"]
)
def test_an_author_is_a_name_and_an_address(author: str) -> None:
    with pytest.raises(ConfigError, match="is not a valid author"):
        git_command.author_environment(author)


def test_author_and_committer_are_the_same() -> None:
    assert git_command.author_environment("Ada Example <ada@example.org>") == {
        "GIT_AUTHOR_NAME": "Ada Example",
        "GIT_AUTHOR_EMAIL": "ada@example.org",
        "GIT_COMMITTER_NAME": "Ada Example",
        "GIT_COMMITTER_EMAIL": "ada@example.org",
    }


@pytest.mark.parametrize(
    "text", ["a\nReconciler-Rollback-Of: x", "a\r\n\r\nb", "\n---\n", "a\u2028b\x85c", "x" * 10**6]
)
def test_no_word_from_outside_begins_a_line_of_the_message(text: str) -> None:
    message = git_command.revert_message(order(reason=text, host=text, run=text, environment=text), "c" * 40, text)
    lines = message.split("\n")
    ours = ("Revert ", "This reverts ", "Rolled back by reconciler: ", "Reconciler-Rollback-")
    assert [line for line in lines if line and not line.startswith(ours)] == []
    assert len(lines) == 11
    assert all(line.isprintable() for line in lines)
    assert len(message) < 2500


@pytest.mark.parametrize(
    ("stdout", "stderr", "line"),
    [
        (
            "To x\n!\ta:b\t[remote rejected] (protected branch hook declined)\nDone\n",
            "remote: error: GH006: Protected branch update failed for refs/heads/main.\nremote: error: Review needed\n",
            "[remote rejected] (protected branch hook declined): error: GH006: Protected branch update failed for "
            "refs/heads/main.",
        ),
        (
            "!\ta:b\t[remote rejected] (pre-receive hook declined)\n",
            "remote: \nremote: =====\nremote:\nremote: GitLab: You are not allowed to push\nerror: failed to push\n",
            "[remote rejected] (pre-receive hook declined): GitLab: You are not allowed to push",
        ),
        ("", "ERROR: Read only.\nfatal: Could not read from remote repository.\n", "ERROR: Read only."),
        (
            "",
            "remote: Permission to a denied to b.\nfatal: unable to access 'https://u:p@h/': 403",
            "Permission to a den",
        ),
        (
            "",
            "error: bad https://user:pw@host/\x1b[0m SECRET\n",
            "error: bad https://***@host/\N{REPLACEMENT CHARACTER}[0m ***",
        ),
        ("", "", "no reason given"),
    ],
    ids=["github", "gitlab", "bare", "http", "masked", "silent"],
)
def test_the_servers_own_reason_is_found(stdout: str, stderr: str, line: str) -> None:
    assert errors.refusal_line(stdout, stderr, "SECRET").startswith(line)


@pytest.mark.parametrize(
    ("stderr", "refused"),
    [
        ("ERROR: Read only.\nfatal: Could not read from remote repository.", True),
        ("git@host: Permission denied (publickey).\nfatal: Could not read from remote repository.", True),
        ("fatal: unable to access 'https://h/': The requested URL returned error: 403", True),
        ("ssh: connect to host h port 22: Connection refused\nfatal: Could not read from remote repository.", False),
        ("Host key verification failed.\nfatal: Could not read from remote repository.", False),
        ("fatal: the remote end hung up unexpectedly", False),
        ("fatal: something nobody has seen before", False),
        ("", False),
    ],
)
def test_a_server_that_says_no_is_reported_from_one_that_is_gone(stderr: str, refused: bool) -> None:
    assert errors.means_refused(stderr) is refused


def test_only_our_own_refs_are_published() -> None:
    refs = {"refs/reconciler/healthy/staging@web-1/0": "a" * 40, "refs/reconciler/healthy/staging@web-1/5": None}
    command = git_command.publish_command("/srv/config.git", refs)
    first, second = refs
    assert command[-4:] == ["--", "/srv/config.git", f"{'a' * 40}:{first}", f":{second}"]
    assert "--no-verify" in command
    for ref in ("refs/heads/main", "refs/tags/v1", "refs/reconcilers/x"):
        with pytest.raises(ValueError, match="only refs below"):
            git_command.publish_command("/srv/config.git", {ref: "a" * 40})
