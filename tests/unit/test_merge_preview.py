"""What is said of a pull request before it is merged: what the merge would do, and nothing that a guess could test."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

import pytest

from reconciler.core.errors import ModelRefusedError
from reconciler.core.forge.merge_plan import ContractsVerdict, PlannedMerge, PlannedUnit, merge_comment, merge_summary
from reconciler.core.model.records import Pin
from reconciler.core.model.runs import Result
from reconciler.core.model.targets import Check, Manifest, Parser
from reconciler.core.ports import Ports
from reconciler.core.ports.compose import Compose
from reconciler.core.ports.forge import CommitState
from reconciler.core.ports.git import MergedBranch
from reconciler.core.ports.host import Host
from reconciler.core.ports.store import Store
from reconciler.core.secret import Secret
from reconciler.core.secrets.unlike_values import with_unlike_values
from reconciler.core.sops.ciphertext import Ciphertext, EncryptedEntry
from reconciler.engine import reading_ports
from reconciler.engine.memory import Claims
from reconciler.engine.merge_preview import MergePreview
from tests.fakes import API, APP, WORKER, FakeDecryptor, World, iv, reconcile_once

SALT = re.compile(rb"~\w+")
CONTRACT = "envs/contracts/api.yaml"
CHANGING = ("write", "remove", "recreate", "restart", "signal", "begin", "finish", "amend", "check", "save", "push")


@dataclass(slots=True)
class Salted(FakeDecryptor):
    """``value~salt`` is another ciphertext of the same value for each salt. Nobody takes a new iv for a new value: who
    has the public key can do that."""

    def read(self, name: str, data: bytes, parser: Parser = Parser.OPAQUE) -> Ciphertext:
        cipher = FakeDecryptor.read(self, name, data, parser)
        return replace(cipher, entries=tuple(map(under_one_iv, cipher.entries)))

    async def decrypt(self, name: str, data: bytes, parser: Parser = Parser.OPAQUE) -> Secret:
        return Secret(SALT.sub(b"", (await FakeDecryptor.decrypt(self, name, data, parser)).reveal()))


def under_one_iv(entry: EncryptedEntry) -> EncryptedEntry:
    return replace(entry, encrypted=f"ENC[data:AAAA,tag:{entry.encrypted},type:str]", iv=iv(entry.key))


@pytest.fixture
async def world(new_world: Callable[[], World]) -> World:
    """api and worker run at revision a, everything in sync; only the key opens what git has."""
    world = new_world()
    world.decryptor = Salted(world.journal)
    world.settings = replace(world.settings, host="web-1")
    world.commit("a", api="TOKEN=sesame~1 B=1~1", worker="W=1~1")
    world.host.put(API, b"TOKEN=sesame\nB=1\n")
    world.host.put(WORKER, b"W=1\n")
    world.compose.start("api", "worker")
    assert (await reconcile_once(world)).result is Result.IN_SYNC
    world.steps.clear()
    return world


async def preview(
    world: World, name: str = "b", claims: Claims | None = None, ports: Ports | None = None
) -> PlannedUnit:
    target, commit = (label.ljust(40, "0") for label in ("a", name))
    merged = MergedBranch(commit, target, commit, (), world.git)
    preview = MergePreview(ports or world.ports(), "production", claims or Claims(), merged)
    await preview.load()
    return await preview.plan()


def said(unit: PlannedUnit) -> str:
    """All that anybody gets to read."""
    plan = PlannedMerge("web-1", "9" * 40, "a" * 40, (unit,))
    return f"{plan.state} {merge_summary(plan)}\n{merge_comment(plan)}"


def database(world: World) -> list[str]:
    return list(world.store._database.iterdump())


async def test_it_names_files_keys_and_services_and_leaves_no_trace(world: World) -> None:
    world.commit("b", api="TOKEN=other~2 B=1~1 NEW=2~1", worker="W=1~1")
    before, plan = database(world), world.metrics.plan
    planned = await preview(world)
    text = said(planned)
    assert "production@web-1: api recreated (NEW, TOKEN changed), worker untouched" in text
    assert "`api.env` written: added: `NEW`; changed: `TOKEN`" in text
    assert (planned.state, "sesame" in text) == (CommitState.SUCCESS, False)
    assert [step for step in world.steps if step.startswith(CHANGING)] == []
    assert (database(world), world.metrics.plan) == (before, plan)


@pytest.mark.parametrize(
    ("port", "reads", "others"),
    [
        (Host, reading_ports._HOST_READS, {"check", "write", "remove"}),
        (Compose, reading_ports._COMPOSE_READS, {"recreate", "restart", "signal"}),
        (
            Store,
            reading_ports._STORE_READS,
            {
                *("advance", "amend", "begin", "decide", "entries", "finish", "history", "history_head", "history_of"),
                *("note", "remember_digests", "remember_first_seen", "remember_ran_services", "remember_written"),
                *("reopen", "save_environment", "verify_history"),
            },
        ),
    ],
)
def test_every_call_of_a_port_is_one_that_reads_or_is_refused(port: type, reads: set[str], others: set[str]) -> None:
    """A new one must be put on one of the two sides: a preview ends where it meets one that it does not know."""
    calls = {name for name in vars(port) if not name.startswith("_")}
    assert (calls, others & set(reads)) == (others | set(reads), set())


async def test_nothing_is_said_of_an_environment_that_stays_as_it_is(world: World) -> None:
    world.git.commits["b".ljust(40, "0")] = {**world.git.commits["a".ljust(40, "0")], "envs/staging/a": b""}
    planned = await preview(world)
    assert (planned.files, merge_summary(PlannedMerge("web-1", "b", "a", (planned,)))) == (
        (),
        "nothing changes on this server",
    )
    assert not any("decrypt" in step for step in world.steps)


RIGHT_AND_WRONG = [
    pytest.param("TOKEN=sesame~2 B=1~1", "TOKEN=guess~2 B=1~1", id="a value"),
    pytest.param("TOKEN=sesame$UNSET~2 B=1~1", "TOKEN=guess$UNSET~2 B=1~1", id="a reference"),
    pytest.param("TOKEN=sesame~2 B=1~2", "TOKEN=guess~2 B=1~2", id="every value under a key of one's own"),
    pytest.param("TOKEN=sesame~2", "TOKEN=guess~2", id="without the other keys"),
]


@pytest.mark.parametrize(("right", "wrong"), RIGHT_AND_WRONG)
@pytest.mark.parametrize("live", ["TOKEN=sesame B=1", "TOKEN=byhand B=1"], ids=["in sync", "edited by hand"])
@pytest.mark.parametrize("parser", [Parser.COMPOSE, Parser.RAW, Parser.OPAQUE])
async def test_a_right_guess_looks_like_a_wrong_one(
    world: World, right: str, wrong: str, live: str, parser: Parser
) -> None:
    world.target_fields["parser"] = parser
    await reconcile_once(world)
    world.host.put(API, (live.replace(" ", "\n") + "\n").encode())
    world.commit("b", api=right, worker="W=1~1")
    world.commit("c", api=wrong, worker="W=1~1")
    hand = right.replace("sesame", "byhand")
    world.commit("d", api=hand, worker="W=1~1")
    answers = {said(await preview(world, name)) for name in "bcd"}
    assert len(answers) == 1, "\n=====\n".join(sorted(answers))
    assert "sesame" not in answers.pop()


@pytest.mark.parametrize(
    ("data", "rewritten", "expected"),
    [
        pytest.param(b"A=1\nB=2\n", None, b"A=2\nB=3\n", id="all"),
        pytest.param(b"A=1\nB=2\n", {"B"}, b"A=1\nB=3\n", id="the rewritten one"),
        pytest.param(b"A=${X-9}1\nB=3\n", None, b"A=92\nB=3\n", id="a reference that others resolve"),
        pytest.param(b'# note\nA="1"\nB="x\ny"\n', None, b'# note\nA=2\nB="x\ny"\n', id="quotes and several lines"),
        pytest.param(b"A=p w\n", None, b"A=p w\n", id="another value already"),
    ],
)
def test_only_values_that_are_current_are_replaced(data: bytes, rewritten: set[str] | None, expected: bytes) -> None:
    assert with_unlike_values(data, [b"A=1\nB=2\n"], rewritten, Parser.COMPOSE) == expected


async def test_a_plain_file_in_the_place_of_an_encrypted_one_tests_nothing(world: World) -> None:
    answers = []
    for name, text in (("b", "TOKEN=sesame B=1"), ("c", "TOKEN=guess B=1")):
        world.commit(name, api=text, worker="W=1~1")
        preview_of = replace_targets(world, encrypted=False)
        answers.append(said(await preview_of(name)))
    assert answers[0] == answers[1]


def replace_targets(world: World, **fields: object) -> Callable[[str], Awaitable[PlannedUnit]]:
    """Previews of merges that also change these fields of every target."""

    async def of(name: str) -> PlannedUnit:
        before = world.git.commits["a".ljust(40, "0")]["envs/production/environment.yaml"]
        read = world._manifest

        def manifest(text: bytes, environment: str, file: str) -> Manifest:
            world.target_fields.update(fields if text != before else dict.fromkeys(fields, None))
            known = {key: value for key, value in world.target_fields.items() if value is not None}
            world.target_fields = known
            return read(text, environment, file)

        files = world.git.commits[name.ljust(40, "0")]
        files["envs/production/environment.yaml"] += b" "
        ports = replace(world.ports(), read_manifest=manifest)
        return await preview(world, name, ports=ports)

    return of


async def test_of_a_file_that_is_encrypted_anew_only_the_values_could_tell(world: World) -> None:
    world.commit("b", api="TOKEN=sesame~2 B=1~2", worker="W=1~1")
    text = said(await preview(world))
    assert "`api.env` encrypted anew: written only if a value differs" in text
    assert "services of app decided after the merge" in text


async def test_a_new_target_does_not_say_whether_its_file_is_the_same(world: World) -> None:
    world.host.put(f"{APP}/other.env", b"SECRET=sesame\n")
    answers = []
    for name, text in (("b", "SECRET=sesame~1"), ("c", "SECRET=guess~1")):
        world.commit(name, api="TOKEN=sesame~1 B=1~1", worker="W=1~1", other=text)
        answers.append(said(await preview(world, name)))
    assert answers[0] == answers[1]
    assert "a file is there already: recorded if it is the same, else held" in answers[0]


def with_contract(world: World, name: str, text: bytes) -> None:
    world.git.commits[name.ljust(40, "0")][CONTRACT] = text


async def test_contracts_are_judged_unless_the_pull_request_edits_them(world: World) -> None:
    world.target_fields["contracts"] = ("contracts/api.yaml",)
    with_contract(world, "a", b"TOKEN")
    world.commit("b", api="B=1~1", worker="W=1~1")
    with_contract(world, "b", b"TOKEN")
    broken = await preview(world)
    assert (broken.contracts, broken.state) == (ContractsVerdict.BROKEN, CommitState.FAILURE)
    assert "would be refused: production/api.env: TOKEN" in said(broken)

    world.commit("c", api="TOKEN=other~2 B=1~1", worker="W=1~1")
    with_contract(world, "c", b"TOKEN")
    assert "contracts hold" in said(await preview(world, "c"))

    world.steps.clear()
    world.commit("d", api="TOKEN=other~2 B=1~1", worker="W=1~1")
    with_contract(world, "d", b"GUESS")
    edited = await preview(world, "d")
    assert (edited.contracts, edited.state) == (ContractsVerdict.EDITED, CommitState.SUCCESS)
    assert "contract" not in world.steps


async def test_no_command_of_a_check_runs(world: World) -> None:
    world.target_fields["check"] = Check("nginx", ("nginx", "-t", "{file}"))
    world.commit("b", api="TOKEN=other~2 B=1~1", worker="W=1~1")
    assert "nginx checked after the merge" in said(await preview(world))
    assert not any(step.startswith("check") for step in world.steps)


async def test_where_git_may_change_projects_compose_is_not_asked_about_a_new_one(world: World) -> None:
    world.settings = replace(world.settings, allow_compose_files=True)
    world.compose.included.add(API)
    world.commit("b", api="TOKEN=other~2 B=1~1", worker="W=1~1")
    assert "services of app decided after the merge" in said(await preview(world))
    assert "model-staged" not in world.steps


async def test_of_a_stack_that_the_pull_request_defines_anew_compose_is_not_asked(world: World) -> None:
    world.commit("b", api="TOKEN=other~2 B=1~1", worker="W=1~1")
    world.git.commits["b".ljust(40, "0")]["envs/production/environment.yaml"] += b" "

    def manifest(text: bytes, environment: str, file: str) -> Manifest:
        read = world._manifest(text, environment, file)
        stacks = tuple(replace(stack, directory="/opt/elsewhere") for stack in read.stacks)
        return replace(read, stacks=stacks) if text.endswith(b" ") else read

    planned = await preview(world, ports=replace(world.ports(), read_manifest=manifest))
    assert planned.later == ("services of app decided after the merge",)
    assert "model-staged" not in world.steps


@pytest.mark.parametrize(
    ("refused", "right", "wrong"),
    [
        pytest.param(b"PORT=bad", "TOKEN=sesame~2 B=1~1 PORT=bad~1", "TOKEN=guess~2 B=1~1 PORT=bad~1", id="beside it"),
        pytest.param(b"TOKEN=sesamb", "TOKEN=sesame~2 B=1~1", "TOKEN=sesama~2 B=1~1", id="for another value"),
        pytest.param(b"NEW=", "TOKEN=sesame~2 B=1~1 NEW=1~1", "TOKEN=guess~2 B=1~1 NEW=1~1", id="whatever it is"),
    ],
)
async def test_what_compose_refuses_tests_no_guess(world: World, refused: bytes, right: str, wrong: str) -> None:
    world.compose.refuses = lambda files: ModelRefusedError("sesame") if refused in files[API] else None
    world.compose.interpolated.add(API)
    answers = []
    for name, text in (("b", right), ("c", wrong)):
        world.commit(name, api=text, worker="W=1~1")
        answers.append(said(await preview(world, name)))
    assert answers[0] == answers[1]
    assert "services decided after the merge" in answers[0]
    assert "sesame" not in answers[0]


async def test_a_reference_of_the_branch_does_not_have_compose_judge_a_value(world: World) -> None:
    seen: list[bytes] = []
    world.compose.refuses = lambda files: seen.append(files[API])  # type: ignore[func-returns-value]
    world.commit("b", api="TOKEN=sesame~1 B=1~1 NEW=${OTHER:?no}~1", worker="W=1~1")
    assert "api recreated (NEW changed)" in said(await preview(world))
    assert seen
    assert not any(b"OTHER" in data for data in seen)


async def test_a_contract_judges_no_file_that_it_was_not_written_for(world: World) -> None:
    world.target_fields["contracts"] = ("contracts/api.yaml",)
    with_contract(world, "a", b"TOKEN")
    world.commit("b", api="TOKEN=other~2 B=1~1", worker="W=1~1")
    with_contract(world, "b", b"TOKEN")
    world.git.commits["b".ljust(40, "0")]["envs/production/environment.yaml"] += b" "

    def manifest(text: bytes, environment: str, file: str) -> Manifest:
        read = world._manifest(text, environment, file)
        if not text.endswith(b" "):
            return read
        sources = {"api.env": "worker.env", "worker.env": "api.env"}
        targets = tuple(replace(target, source=sources[target.source]) for target in read.targets)
        return replace(read, targets=targets)

    planned = await preview(world, ports=replace(world.ports(), read_manifest=manifest))
    assert planned.contracts is ContractsVerdict.EDITED


async def test_what_waits_for_an_operator_is_said(world: World) -> None:
    world.store.record = replace(world.store.record, pin=Pin(world.store.record.head, "incident", 1.0))  # type: ignore[arg-type]
    world.commit("b", api="TOKEN=other~2 B=1~1", worker="W=1~1")
    assert "pinned to a00000000000 until" in said(await preview(world))


async def test_a_path_of_another_environment_is_refused(world: World) -> None:
    claims = Claims()
    claims.claim(world._manifest(b"api.env", "staging", ""))
    world.commit("b", api="TOKEN=other~2 B=1~1", worker="W=1~1")
    assert "also has a target there" in said(await preview(world, claims=claims))


async def test_names_from_the_branch_are_text_and_never_markup(world: World) -> None:
    name = "x](https://evil.example)<img src=x>@everyone`#1|"
    world.commit("b", api=f"TOKEN=sesame~1 B=1~1 {name.replace(' ', '')}=1~1", worker="W=1~1")
    text = merge_comment(PlannedMerge("web-1", "b" * 40, "a" * 40, (await preview(world),), conflicts=(name,)))
    assert "<img" not in re.sub(r"`[^`]*`", "", text)
    assert not re.search(r"(?<!\\)\]\(|(?<![\w`])@everyone", re.sub(r"`[^`]*`", "", text))
