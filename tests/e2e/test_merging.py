"""git merges encrypted files by key: with the real sops, the real git and the installed driver."""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from reconciler.app.merging.merge import Versions, merge_encrypted
from reconciler.app.wiring import clone
from reconciler.core.merging.lines import MergeSide
from reconciler.core.secret import Secret
from reconciler.core.sops.ciphertext import ivs
from tests.support.age_key import AgeKey, make_age_key
from tests.support.commands import CommandFailed
from tests.support.forks import COMMAND, reconciler
from tests.support.json_answers import read_answer
from tests.support.site import Site, sops_rules

pytestmark = pytest.mark.slow

PATH = "envs/production/app.env"
BASE = "# first\nA=1\nB=two\nSECRET=invented-one\n# last\nZ=26\n"


@pytest.fixture
def work(site: Site) -> Site:
    """A clone with the driver, whose main branch has one encrypted file."""
    site.write(".sops.yaml", sops_rules(site))
    site.write(".gitattributes", "* merge=reconciler\n")
    encrypt(site, BASE)
    site.commit("Base")
    site.git("config", "merge.reconciler.driver", f"{COMMAND} merge-driver %O %A %B %P")
    return site


def encrypt(site: Site, text: str, kind: str = "dotenv", path: str = PATH) -> None:
    site.encrypt(path.removeprefix("envs/"), text, kind=kind)


def sops_set(site: Site, key: str, value: str, path: str = PATH) -> None:
    """As somebody changes one value: the others keep their ciphertext."""
    site.in_place("set", path.removeprefix("envs/"), value=f'["{key}"] "{value}"')


def merge_branch(site: Site, *, key: Path | None) -> subprocess.CompletedProcess[str]:
    """`git merge theirs`, by a user who has this key."""
    env = {"PATH": os.environ.get("PATH", os.defpath), "HOME": "/nonexistent", "GIT_CONFIG_GLOBAL": os.devnull}
    env |= {f"GIT_{who}_{what}": "ada@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    env |= {"SOPS_AGE_KEY_FILE": str(key)} if key else {}
    return subprocess.run(
        ["git", "merge", "--quiet", "--no-edit", "theirs"],
        cwd=site.root, env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip


def merge(site: Site, *arguments: str, key: Path) -> subprocess.CompletedProcess[str]:
    env = {"PATH": os.environ.get("PATH", os.defpath), "HOME": "/nonexistent", "SOPS_AGE_KEY_FILE": str(key)}
    return reconciler("merge", *arguments, env=env, cwd=site.root)


def decrypted(site: Site, path: str = PATH, kind: str = "dotenv") -> str:
    types = ("--input-type", kind, "--output-type", kind)
    return site.sops("decrypt", *types, stdin=(site.root / path).read_bytes()).decode()


def branch_off(site: Site) -> None:
    site.git("checkout", "--quiet", "-b", "theirs")


def back(site: Site) -> None:
    site.commit("Theirs")
    site.git("checkout", "--quiet", "main")


def test_disjoint_changes_merge_without_anybody(work: Site) -> None:
    """Comments and order stay, the MAC is right, and a value has the ciphertext of the side that changed it."""
    branch_off(work)
    sops_set(work, "B", "theirs")
    their_line = next(line for line in work.read("production/app.env").splitlines() if line.startswith("B="))
    sops_set(work, "NEW", "added")
    back(work)
    sops_set(work, "A", "ours")
    work.in_place("unset", "production/app.env", value='["Z"]')
    work.commit("Ours")
    done = merge_branch(work, key=work.production.path)
    assert (done.returncode, done.stderr) == (0, "")
    assert decrypted(work) == "# first\nA=ours\nB=theirs\nSECRET=invented-one\n# last\nNEW=added\n"
    assert their_line in work.read("production/app.env").splitlines()


def test_a_key_that_both_changed_is_named_marked_and_resolved(work: Site) -> None:
    branch_off(work)
    sops_set(work, "A", "theirs")
    sops_set(work, "B", "also theirs")
    back(work)
    sops_set(work, "A", "ours")
    work.commit("Ours")
    done = merge_branch(work, key=work.production.path)
    assert done.returncode == 1
    assert f"{PATH}: both sides changed A." in done.stderr
    assert [line[:9] for line in work.read("production/app.env").splitlines()[1:6]] == [
        "<<<<<<< o", "A=ENC[AES", "=======", "A=ENC[AES", ">>>>>>> t",
    ]  # fmt: skip

    (file,) = read_answer("merge", merge(work, "--json", key=work.production.path).stdout)["files"]
    assert (file["conflicts"], file["merged"]) == (["A"], False)
    wrong = merge(work, "--resolve", "B=ours", key=work.production.path)
    assert (wrong.returncode, "In conflict are: A" in wrong.stderr) == (1, True)

    done = merge(work, "--resolve", "A=theirs", key=work.production.path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "`git add envs/production/app.env`" in done.stdout
    assert decrypted(work) == BASE.replace("A=1", "A=theirs").replace("two", "also theirs")
    work.git("add", PATH)
    assert merge(work, key=work.production.path).stdout == "Nothing is unmerged.\n"


def test_without_a_key_the_values_merge_and_the_mac_waits_for_one(work: Site) -> None:
    branch_off(work)
    sops_set(work, "B", "theirs")
    back(work)
    sops_set(work, "A", "ours")
    work.commit("Ours")
    done = merge_branch(work, key=None)
    assert done.returncode == 1
    assert "its values are merged, but only a key can write the MAC over them" in done.stderr
    text = work.read("production/app.env")
    assert text.count("<<<<<<<") == 1
    assert "<<<<<<< ours\nsops_mac=" in text
    with pytest.raises(CommandFailed):
        decrypted(work)

    assert merge(work, key=work.staging.path).returncode == 2  # not its key
    assert merge(work, key=work.production.path).returncode == 0
    assert decrypted(work) == BASE.replace("A=1", "A=ours").replace("two", "theirs")


def test_what_somebody_has_resolved_is_left_alone(work: Site) -> None:
    branch_off(work)
    sops_set(work, "A", "theirs")
    back(work)
    sops_set(work, "A", "ours")
    work.commit("Ours")
    merge_branch(work, key=work.production.path)
    work.git("checkout", "--theirs", PATH)
    done = merge(work, "--resolve", "A=ours", key=work.production.path)
    assert "somebody has resolved it" in done.stdout
    assert decrypted(work) == BASE.replace("A=1", "A=theirs")


def test_a_rotated_file_stays_rotated_and_who_left_stays_out(work: Site, tmp_path: Path) -> None:
    """One side removes a recipient, with a new data key, while the other changes a value."""
    both = f"{work.production.public},{work.staging.public}"
    work.encrypt("production/app.env", BASE, recipients=both)
    work.commit("Both")
    branch_off(work)
    work.in_place("rotate", "production/app.env", "--in-place", "--rm-age", work.staging.public)
    back(work)
    sops_set(work, "A", "ours")
    work.commit("Ours")
    done = merge_branch(work, key=work.production.path)
    assert (done.returncode, done.stderr) == (0, "")
    assert decrypted(work) == BASE.replace("A=1", "A=ours")
    assert work.staging.public not in work.read("production/app.env")
    left = next(line for line in work.git("show", f"HEAD~1:{PATH}").splitlines() if line.startswith("B="))
    assert left not in work.read("production/app.env").splitlines()  # by the former data key


def test_a_name_that_somebody_wrote_into_a_file_does_not_get_them_in(tmp_path: Path) -> None:
    """A public key in the metadata is no proof that its owner has access: a merge copies the data key for nobody."""
    key, keys = make_keys(tmp_path)
    (tmp_path / "mallory").mkdir()
    mallory = make_age_key(tmp_path / "mallory")
    base = key.encrypt("x.env", b"A=1\n")
    ours = asyncio.run(keys.amend_places("x.env", base, {("TOKEN",): as_json("invented")}))
    copy = base.partition(b"map_enc=")[2].partition(b"\n")[0]
    copy_of = b"sops_age__list_1__map_enc=%s\nsops_age__list_1__map_recipient=%s\n"
    named = base + copy_of % (copy, mallory.public.encode())
    own = replace(key, public=f"{key.public},{mallory.public}").encrypt("x.env", b"B=2\n")  # with a data key they know
    mixed = own + copy_of.replace(b"list_1", b"list_2") % (copy, key.public.encode())
    for versions, clean in (
        (Versions("x.env", base, mixed, ours), False),
        (Versions("x.env", base, ours, named), True),
        (Versions("x.env", base, named, ours), True),
        (Versions("x.env", b"", ours, own), False),
        (Versions("x.env", b"", own, ours), False),
        (Versions("x.env", base, own, ours), False),
    ):
        merged = asyncio.run(merge_encrypted(versions, keys, {}))
        assert (merged.clean, merged.problem) == (clean, "")
        assert clean or merged.conflicts == (mallory.public,)
        with pytest.raises(CommandFailed):
            mallory.decrypt("x.env", merged.data)
    left_out = asyncio.run(merge_encrypted(Versions("x.env", b"", ours, own), keys, {mallory.public: MergeSide.OURS}))
    assert (left_out.clean, mallory.public.encode() in left_out.data) == (True, False)
    let_in = asyncio.run(merge_encrypted(Versions("x.env", b"", ours, own), keys, {mallory.public: MergeSide.THEIRS}))
    assert mallory.decrypt("x.env", let_in.data) == key.decrypt("x.env", let_in.data) != b""


def test_somebody_who_was_added_on_one_side_reads_the_result(tmp_path: Path) -> None:
    """Their copy of the data key comes along, whoever has written all copies again."""
    key, keys = make_keys(tmp_path)
    (tmp_path / "cleo").mkdir()
    cleo = make_age_key(tmp_path / "cleo")
    base = key.encrypt("x.env", b"A=1\nB=2\n")
    ours = asyncio.run(keys.amend_places("x.env", base, {("B",): as_json("ours")}))
    theirs = asyncio.run(keys.rekey("x.env", base, [key.public, cleo.public], rotate=False))
    theirs = asyncio.run(keys.amend_places("x.env", theirs, {("NEW",): as_json("theirs")}))
    for versions in (Versions("x.env", base, ours, theirs), Versions("x.env", base, theirs, ours)):
        merged = asyncio.run(merge_encrypted(versions, keys, {}))
        assert (merged.conflicts, merged.problem) == ((), "")
        assert cleo.decrypt("x.env", merged.data) == b"A=1\nB=ours\nNEW=theirs\n"


def test_a_new_data_key_is_not_lost_nor_what_the_former_one_has_shown(tmp_path: Path) -> None:
    """Whoever has left knows the values of the other side, so these keep their iv."""
    key, keys = make_keys(tmp_path)
    base = key.encrypt("x.env", b"A=1\nB=2\n")
    rotated = asyncio.run(keys.rekey("x.env", base, [key.public], rotate=True))
    changed = asyncio.run(keys.amend_places("x.env", base, {("B",): as_json("changed")}))
    unchanged = next(line for line in base.splitlines() if line.startswith(b"A="))
    for versions in (Versions("x.env", base, rotated, changed), Versions("x.env", base, changed, rotated)):
        merged = asyncio.run(merge_encrypted(versions, keys, {}))
        assert (merged.clean, unchanged in merged.data) == (True, False)
        assert key.decrypt("x.env", merged.data) == b"A=1\nB=changed\n"
        assert set(ivs(merged.data.partition(b"sops_")[0])) == set(ivs(changed.partition(b"sops_")[0]))


def test_a_key_of_another_kind_is_not_lost(tmp_path: Path) -> None:
    key, keys = make_keys(tmp_path)
    base = key.encrypt("x.env", b"A=1\nB=2\n")
    ours = asyncio.run(keys.amend_places("x.env", base, {("B",): as_json("ours")}))
    pgp = {"created_at": "2026-11-01T00:00:00Z", "enc": "invented", "fp": "A" * 40}
    theirs = base + "".join(f"sops_pgp__list_0__map_{name}={value}\n" for name, value in pgp.items()).encode()
    merged = asyncio.run(merge_encrypted(Versions("x.env", base, ours, theirs), keys, {}))
    assert "the sides differ in keys of other kinds than age" in merged.problem


def test_yaml_and_json_merge_by_path(work: Site) -> None:
    documents = {
        "yaml": "# kept\ndb:\n    host: a\n    password: x\n",
        "json": '{"db": {"host": "a", "password": "x"}}',
    }
    for kind, text in documents.items():
        encrypt(work, text, kind, f"envs/production/app.{kind}")
    work.commit("Base")
    branch_off(work)
    for kind in documents:
        work.in_place("set", f"production/app.{kind}", value='["db"]["password"] "theirs"')
        work.in_place("set", f"production/app.{kind}", value='["more"] {"deep": {"list": [1, 2]}, "other": null}')
    back(work)
    for kind in documents:
        work.in_place("set", f"production/app.{kind}", value='["db"]["host"] "ours"')
    work.commit("Ours")
    done = merge_branch(work, key=work.production.path)
    assert (done.returncode, done.stderr) == (0, "")
    text = decrypted(work, "envs/production/app.yaml", "yaml")
    assert text.startswith("# kept\ndb:\n    host: ours\n    password: theirs\nmore:\n")
    assert '"list": [' in decrypted(work, "envs/production/app.json", "json")


def test_a_binary_file_and_a_plain_one(work: Site) -> None:
    encrypt(work, "one\n", "binary", "envs/production/nginx.conf")
    work.write("production/plain.txt", "1\n2\n3\n4\n5\n")
    work.write("production/logo.png", b"\0")
    work.commit("Base")
    branch_off(work)
    encrypt(work, "theirs\n", "binary", "envs/production/nginx.conf")
    work.write("production/plain.txt", "one\n2\n3\n4\n5\n")
    work.write("production/logo.png", b"\0theirs")
    back(work)
    encrypt(work, "ours\n", "binary", "envs/production/nginx.conf")
    work.write("production/plain.txt", "1\n2\n3\n4\nfive\n")
    work.write("production/logo.png", b"\0ours")
    work.commit("Ours")
    done = merge_branch(work, key=work.production.path)
    assert done.returncode == 1
    assert "envs/production/nginx.conf: both sides changed the whole file. " in done.stderr
    assert "envs/production/logo.png: is binary: take a side" in done.stderr
    assert (work.envs / "production/logo.png").read_bytes() == b"\0ours"
    assert work.read("production/plain.txt") == "one\n2\n3\n4\nfive\n"
    assert merge(work, "envs/production/nginx.conf", "--resolve", ".=theirs", key=work.production.path).returncode == 0
    assert decrypted(work, "envs/production/nginx.conf", "binary") == "theirs\n"


def test_a_missing_file_is_no_traceback(tmp_path: Path) -> None:
    done = reconciler("merge-driver", "base", "ours", "theirs", "x.env", env={"HOME": "/nonexistent"}, cwd=tmp_path)
    assert done.returncode == 1
    assert "cannot be read: No such file or directory. git runs this command" in done.stderr


def test_a_date_does_not_become_a_text(tmp_path: Path) -> None:
    key, keys = make_keys(tmp_path)
    base = key.encrypt("x.yaml", b"a: 1\n", "yaml")
    ours = asyncio.run(keys.amend_places("x.yaml", base, {("a",): as_json("2")}))
    theirs = key.encrypt("x.yaml", b"a: 1\nd: 2026-02-01\n", "yaml")
    merged = asyncio.run(merge_encrypted(Versions("x.yaml", base, ours, theirs), keys, {}))
    assert merged.problem == "sops cannot set a date (d): make the change with `sops edit`"


PAIRS = 6
"""Random pairs here; `python -m tests.e2e.test_merging 1000` merges as many as one wants."""


def test_random_pairs_decrypt_to_what_was_meant(tmp_path: Path) -> None:
    assert asyncio.run(merge_pairs(make_age_key(tmp_path), PAIRS, seed=1)) == PAIRS


def make_keys(directory: Path) -> tuple[AgeKey, clone.Keys]:
    key = make_age_key(directory)
    return key, clone.Keys(clone.KeySources(files=(str(key.path),)))


async def merge_pairs(key: AgeKey, number: int, seed: int) -> int:
    """How many of the random pairs with disjoint changes merge to what an oracle says."""
    chance, keys, good = random.Random(seed), clone.Keys(clone.KeySources(files=(str(key.path),))), 0
    for _ in range(number):
        base = {f"K{index}": random_value(chance) for index in range(chance.randrange(2, 9))}
        names = [*base, "N1", "N2", "N3"]
        chance.shuffle(names)
        data, oracle = key.encrypt("x.env", written(base)), dict(base)
        sides = []
        for own in (names[: len(names) // 2], names[len(names) // 2 :]):
            changes = {name: random_value(chance) if chance.random() < 0.7 else None for name in own}
            changes = {name: value for name, value in changes.items() if value is not None or name in base}
            oracle = {name: value for name, value in {**oracle, **changes}.items() if value is not None}
            values = {(name,): None if value is None else as_json(value) for name, value in changes.items()}
            sides.append(await keys.amend_places("x.env", data, values))
        merged = await merge_encrypted(Versions("x.env", data, *sides), keys, {})
        text = key.decrypt("x.env", merged.data).decode() if merged.clean else ""
        good += dict(line.split("=", 1) for line in text.splitlines()) == oracle
    return good


def random_value(chance: random.Random) -> str:
    return "".join(chance.choice("abc$'\"# =ü") for _ in range(chance.randrange(0, 12)))


def written(values: dict[str, str]) -> bytes:
    return "".join(f"{name}={value}\n" for name, value in values.items()).encode()


def as_json(value: str) -> Secret:
    return Secret(json.dumps(value).encode())


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        count = int(sys.argv[1])
        print(asyncio.run(merge_pairs(make_age_key(Path(directory)), count, seed=2)), "of", count)
