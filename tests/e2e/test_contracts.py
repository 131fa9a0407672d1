"""Contracts evaluated by the real JSON Schema library in its own process, and on a server before it writes."""

from __future__ import annotations

import resource
import socket
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import yaml

from reconciler.adapters.json_schema.client import JsonSchemaContracts
from reconciler.adapters.process import Limits
from reconciler.app.checks.run import check_tree
from reconciler.app.config.contract import read_contract
from reconciler.app.wiring import clone
from reconciler.core.contract import Answer, Breach, Contract, Question
from reconciler.core.errors import ContractError, OutsideError
from tests.support.json_answers import read_answer
from tests.support.server import Server
from tests.support.site import ENVIRONMENTS, Site

pytestmark = pytest.mark.slow

CANARY = "cAn4ry"


def contract(text: str, path: str = "contracts/api.yaml") -> Contract:
    return read_contract(path, text.encode())


async def ask(text: str, values: dict[str, str] | None = None, names: tuple[str, ...] = ()) -> tuple[Breach, ...]:
    """The breaches of one contract; with ``names`` alone, what holds without values."""
    tested = contract(text)
    question = Question((tested,), tuple(values) if values is not None else names, values)
    answer = await JsonSchemaContracts().ask([tested], [question])
    assert answer.faults == {}
    (breaches,) = answer.breaches
    assert CANARY not in repr(answer)
    return breaches


def broken(breaches: tuple[Breach, ...]) -> list[tuple[str, str, int]]:
    return [(breach.key, breach.keyword, breach.line) for breach in breaches]


# --- values ---


@pytest.mark.parametrize(
    ("rule", "value", "keyword"),
    [
        ('{const: "false"}', "true", "const"),
        ("{enum: [a, b]}", "c", "enum"),
        ('{pattern: "^https://"}', "http://x", "pattern"),
        ("{format: uri}", "not an address", "format"),
        ("{format: uri}", "/relative", "format"),
        ("{format: email}", "nobody", "format"),
        ("{format: hostname}", "a_b..c", "format"),
        ("{format: ipv4}", "300.1.1.1", "format"),
        ("{format: ipv6}", "::g", "format"),
        ("{format: uuid}", "123", "format"),
        ("{format: date}", "2026-13-01", "format"),
        ("{format: regex}", "(", "format"),
        ("{not: {const: gradient}}", "gradient", "not"),
        ("{minLength: 8}", "short", "minLength"),
        ("{maxLength: 3}", "longer", "maxLength"),
        ("{anyOf: [{const: a}, {const: b}]}", "c", "anyOf"),
        ('{$ref: "#/$defs/one"}', "two", "const"),
    ],
)
async def test_a_value_that_breaks_a_rule_is_reported_by_key_keyword_and_line(
    rule: str, value: str, keyword: str
) -> None:
    text = f'$defs: {{one: {{const: "one"}}}}\nproperties:\n  KEY: {rule}\n'
    ((key, word, _),) = broken(await ask(text, {"KEY": value}))
    assert (key, word) == ("KEY", keyword)


@pytest.mark.parametrize(
    ("rule", "value"),
    [
        ("{format: uri}", "postgresql://app:secret@db.example.org:5432/app?sslmode=require"),
        ("{format: uri}", "https://example.org/a%20b?c=d#e"),
        ("{format: email}", "ada@example.org"),
        ("{format: hostname}", "db-1.example.org"),
        ("{not: {const: gradient}}", "gradients"),
        ('{pattern: "^(?!test)"}', "production"),
    ],
)
async def test_a_value_that_keeps_a_rule_is_not_reported(rule: str, value: str) -> None:
    assert await ask(f"properties:\n  KEY: {rule}\n", {"KEY": value}) == ()


async def test_the_line_is_that_of_the_rule() -> None:
    text = "type: object\nrequired:\n  - A\nproperties:\n  B:\n    minLength: 3\n    pattern: x\n"
    assert broken(await ask(text, {"B": "y"})) == [("A", "required", 2), ("B", "minLength", 6), ("B", "pattern", 7)]


async def test_no_answer_repeats_a_value_whatever_breaks() -> None:
    text = (
        "properties:\n  A: {enum: [x], pattern: '^x', minLength: 99, format: uri, not: {pattern: c}}\n"
        "additionalProperties: {const: x}\nmaxProperties: 1\npropertyNames: {maxLength: 1}\n"
    )
    breaches = await ask(text, {"A": CANARY, "BB": CANARY})
    assert {breach.keyword for breach in breaches} >= {"enum", "pattern", "minLength", "format", "not", "const"}


# --- names alone ---


@pytest.mark.parametrize(
    ("text", "names", "expected"),
    [
        pytest.param("required: [A, B]", ("A",), [("B", "required")], id="required"),
        pytest.param("additionalProperties: false\nproperties: {A: {const: x}}", ("A", "B"),
                     [("B", "additionalProperties")], id="additional"),
        pytest.param("properties: {A: false}", ("A",), [("A", "false")], id="forbidden"),
        pytest.param("not: {required: [A]}", ("A",), [("A", "not/required")], id="not required"),
        pytest.param("dependentRequired: {A: [B]}", ("A",), [("B", "dependentRequired")], id="dependent"),
        pytest.param("propertyNames: {pattern: ^X_}", ("A", "X_B"), [("A", "propertyNames")], id="names"),
        pytest.param("maxProperties: 1", ("A", "B"), [("", "maxProperties")], id="most"),
        pytest.param("anyOf: [{required: [A]}, {required: [B]}]", ("C",), [("", "anyOf")], id="any of"),
        pytest.param("$ref: '#/$defs/a'\n$defs: {a: {required: [A]}}", (), [("A", "required")], id="reference"),
        pytest.param("properties: {A: {const: x}}", ("A",), [], id="a value is unknown"),
        pytest.param("if: {properties: {A: {const: x}}}\nthen: {required: [B]}", ("A",), [], id="a condition"),
        pytest.param("not: {properties: {A: {const: x}}}", ("A",), [], id="a negation"),
        pytest.param("anyOf: [{required: [B]}, {properties: {A: {const: x}}}]", ("A",), [], id="a choice"),
        pytest.param("additionalProperties: {const: x}", ("A",), [], id="additional values"),
    ],
)  # fmt: skip
async def test_without_values_only_names_are_checked(
    text: str, names: tuple[str, ...], expected: list[tuple[str, str]]
) -> None:
    assert [(breach.key, breach.keyword) for breach in await ask(text, None, names)] == expected


# --- hostile contracts ---


async def test_a_pattern_that_never_ends_is_ended() -> None:
    endless = contract('properties: {A: {pattern: "^(a+)+$"}}')
    limits = Limits(timeout=600.0, resources={resource.RLIMIT_CPU: 1})
    with pytest.raises(ContractError, match=r"contracts/api.yaml: a contract takes too long"):
        await JsonSchemaContracts(limits).ask([endless], [Question((endless,), ("A",), {"A": "a" * 60 + "!"})])


async def test_a_machine_too_busy_to_answer_is_not_the_contracts_fault() -> None:
    simple = contract("required: [A]")
    with pytest.raises(OutsideError, match="could not be evaluated in time") as raised:
        await JsonSchemaContracts(Limits(timeout=0.001)).ask([simple], [Question((simple,), ("A",), {"A": "x"})])
    assert raised.value.retryable
    assert not isinstance(raised.value, ContractError)


async def test_a_contract_that_leads_to_itself_for_ever_is_not_a_crash() -> None:
    """It is refused when it is read; the evaluation does not rely on that."""
    looping = Contract("x.yaml", {"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}, {})
    answer = await JsonSchemaContracts().ask([looping], [Question((looping,), ("A",), {"A": "x"})])
    ((breach,),) = answer.breaches
    assert breach.keyword.startswith("unusable")


@pytest.mark.parametrize(
    "reference", ["http://127.0.0.1:{port}/x", "file:///etc/hostname", "other.yaml", "//127.0.0.1/x"]
)
async def test_a_reference_out_of_the_contract_is_refused_and_never_fetched(reference: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0.2)
        address = reference.format(port=listening.getsockname()[1])
        with pytest.raises(ContractError, match="points out of the file"):
            contract(f"$ref: {address}")
        # Even where it gets past that, nothing is fetched.
        smuggled = Contract("c.yaml", {"$ref": address}, {})
        answer = await JsonSchemaContracts().ask([smuggled], [Question((smuggled,), ("A",), {"A": "x"})])
        assert [breach.keyword[:8] for breach in answer.breaches[0]] == ["unusable"]
        with pytest.raises(TimeoutError):
            listening.accept()


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("properties: {A: {const: false}}", 1, "put it in quotes"),
        ("properties:\n  A: {enum: [a, 1]}", 2, "put it in quotes"),
        ("properties:\n  A: {type: integer}", 2, "every value is a string"),
        ("properties:\n  A: {format: url}", 2, "is not checked here; accepted: date, email"),
        ("properties:\n  A: {x-differs: often}", 2, "must, may, never"),
        ("properties:\n  A: {x-max-age: 90}", 2, "a duration such as 90d"),
        ("properties:\n  A: {writeOnly: yes please}", 2, "true or false"),
        ("$schema: http://json-schema.org/draft-07/schema#", 1, "is another dialect"),
        ("- a list", 1, "must be a mapping"),
        ("a: &x 1\nb: *x", 2, "aliases"),
    ],
)
def test_what_a_contract_could_never_mean_is_refused(text: str, line: int, says: str) -> None:
    with pytest.raises(ContractError) as raised:
        contract(text)
    assert f"contracts/api.yaml:{line}: " in str(raised.value)
    assert says in str(raised.value)


async def test_anything_but_a_json_schema_is_a_fault_and_breaks_nothing() -> None:
    invalid = contract("required: A\nproperties:\n  B: {pattern: '('}\n")
    answer = await JsonSchemaContracts().ask([invalid], [Question((invalid,), ("B",), {"B": CANARY})])
    assert isinstance(answer, Answer)
    assert answer.faults["contracts/api.yaml"].field in (("required",), ("properties", "B", "pattern"))
    assert answer.breaches == ((),)


# --- on a server ---


def with_contract(server: Server, schema: Any, sources: dict[str, bytes]) -> None:
    manifest = server.plain({"api.env": {"schema": ["contracts/api.yaml", "contracts/production.yaml"]}})
    overlay = {"properties": {"DEBUG": {"const": "false"}}}
    for name, content in (("api", schema), ("production", overlay)):
        server.remote.commit({f"envs/contracts/{name}.yaml": yaml.safe_dump(content).encode()})
    server.commit(sources, manifest)


def test_a_revision_that_breaks_its_contract_is_stalled_and_nothing_is_written(server: Server) -> None:
    schema = {"required": ["URL"], "properties": {"URL": {"format": "uri"}, "MODEL": {"not": {"const": CANARY}}}}
    with_contract(server, schema, {"api.env": b"URL=https://example.org\nDEBUG=false\nMODEL=good\n"})
    assert server.sync()["result"] == "applied"
    before = server.live("api.env")

    server.commit({"api.env": f"URL=not an address\nDEBUG=true\nMODEL={CANARY}\n".encode()})
    done = server.cli("sync")

    assert done.returncode == 1
    for line in (
        "URL must be a URI such as https://example.org (`format` of contracts/api.yaml:",
        "MODEL breaks `not` of contracts/api.yaml:",
        "DEBUG must be false (`const` of contracts/production.yaml:",
    ):
        assert f"production/api.env: {line}" in " ".join(done.stdout.split())
    assert CANARY not in done.stdout + done.stderr
    assert server.live("api.env") == before

    server.commit({"api.env": b"URL=https://example.org/2\nDEBUG=false\nMODEL=better\n"})
    assert server.sync()["result"] == "applied"


def test_a_plan_for_a_revision_of_the_branch_shows_its_changes(server: Server) -> None:
    first = server.commit({"api.env": b"A=1\n"}, server.plain(["api.env"]))
    server.commit({"api.env": b"A=2\nB=2\n"})
    assert server.sync()["result"] == "applied"

    done = server.cli("plan", "--revision", first[:10], "--json")

    assert done.returncode == 2, done.stderr
    (outcome,) = read_answer("plan", done.stdout)
    assert outcome["revision"]["commit"] == first
    (change,) = outcome["plan"]["changes"]
    assert (change["keys"]["changed"], change["keys"]["removed"]) == (["A"], ["B"])
    assert server.live("api.env") == b"A=2\nB=2\n"
    assert server.cli("plan").returncode == 0


def test_a_plan_for_another_revision_through_the_daemon_leaves_its_own_alone(server: Server) -> None:
    first = server.commit({"api.env": b"A=1\n"}, server.plain(["api.env"]))
    server.commit({"api.env": b"A=2\n"})
    with server.daemon() as daemon:
        done = server.cli("plan", "--revision", first)
        assert done.returncode == 2, done.stderr
        assert not [name for name in daemon.metrics() if name.startswith("reconciler_pending_changes")]
        assert server.cli("status").returncode == 0


def test_a_plan_for_a_commit_that_the_branch_does_not_have_is_an_error(server: Server) -> None:
    server.commit({"api.env": b"A=1\n"}, server.plain(["api.env"]))
    done = server.cli("plan", "--revision", "f" * 40)
    assert done.returncode == 1


# --- in a check ---


class Watched:
    """The process that evaluates contracts, counted; it ends early on a question about the contract ``slow``."""

    def __init__(self, slow: str = "") -> None:
        self.asked, self._slow = 0, slow

    async def ask(self, contracts: Sequence[Contract], questions: Sequence[Question]) -> Answer:
        self.asked += 1
        if self._slow in {contract.path for question in questions for contract in question.contracts}:
            raise ContractError("a contract takes too long", where=self._slow)
        return await JsonSchemaContracts().ask(contracts, questions)


async def contract_findings(site: Site, contracts: Watched) -> list[str]:
    tools = replace(clone.tools(None, lambda done, of: None), contracts=contracts)
    report = await check_tree(await clone.read_tree_of_clone("envs"), "envs", tools)
    return [f"{finding.path}:{finding.line} {finding.rule.id}" for finding in report.findings]


@pytest.mark.usefixtures("in_clone")
async def test_one_process_is_asked_about_all_files_and_examples(site: Site) -> None:
    """Of both environments, whose examples two more would be asked about."""
    site.replace("env.example", "LOG_LEVEL=info", "LOG_LEVEL=chatty")
    site.replace("contracts/api.yaml", "required: [", "required: [NEW_KEY, ")
    contracts = Watched()
    assert await contract_findings(site, contracts) == [
        "envs/env.example:1 example-contract",
        "envs/env.example:4 example-contract",
        "envs/production/api.env:1 contract-required",
        "envs/staging/api.env:1 contract-required",
    ]
    assert contracts.asked == 1


@pytest.mark.usefixtures("in_clone")
async def test_beside_a_contract_that_takes_too_long_the_others_are_answered(site: Site) -> None:
    site.write("contracts/worker.yaml", "required: [WORKERS, LATE]\n")
    for environment in ENVIRONMENTS:
        site.replace(
            f"{environment}/environment.yaml",
            "worker.env: config/worker.env",
            "worker.env: {path: config/worker.env, schema: contracts/worker.yaml}",
        )
    site.replace("env.example", "LOG_LEVEL=info", "LOG_LEVEL=chatty")
    site.replace("contracts/api.yaml", "required: [", "required: [NEW_KEY, ")
    assert await contract_findings(site, Watched("contracts/worker.yaml")) == [
        "envs/contracts/worker.yaml:1 contract-invalid",
        "envs/env.example:1 example-contract",
        "envs/env.example:4 example-contract",
        "envs/production/api.env:1 contract-required",
        "envs/staging/api.env:1 contract-required",
    ]


async def test_the_mistake_of_a_contract_is_the_same_with_and_without_values() -> None:
    """Without values, its first mistake is not there, and the other one has another place."""
    wrong = contract("allOf: [{minLength: []}, {required: A}]")
    questions = [Question((wrong,), ("A",)), Question((wrong,), ("A",), {"A": "x"})]
    mistakes = [(await JsonSchemaContracts().ask([wrong], asked)).faults for asked in (questions[1:], questions)]
    assert mistakes[0] == mistakes[1] != {}


# --- what may stand in a contract ---


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("requird: [A]", "1: requird: is not a keyword of a contract; did you mean required?"),
        ("properties:\n  A: {minLenght: 3}", "2: properties.A.minLenght: is not a keyword"),
        ("properties:\n  A: {minLenght: 3}", "did you mean minLength?"),
        ("properties:\n  A: {writeonly: true}", "did you mean writeOnly?"),
        ("properties:\n  A: {x-difers: must}", "did you mean x-differs?"),
        ("$defs:\n  a: {pattren: x}", "did you mean pattern?"),
        ("definitions:\n  a: {pattren: x}", "did you mean pattern?"),
        ("properties:\n  A: {$ref: '#/$defs/nowhere'}", "2: properties.A.$ref: points to nothing in this file"),
        ("properties:\n  A: {$ref: '#nowhere'}", "2: properties.A.$ref: points to nothing in this file"),
        ("$ref: '#'", "1: $ref: points to itself"),
        ("$defs:\n  a: {$ref: '#/$defs/b'}\n  b: {allOf: [{$ref: '#/$defs/a'}]}", "2: $defs.a.$ref: points to itself"),
    ],
)  # fmt: skip
def test_what_a_contract_cannot_mean_is_reported_at_its_line(text: str, says: str) -> None:
    with pytest.raises(ContractError) as refused:
        contract(text)
    assert says in str(refused.value)


def test_keywords_of_the_authors_own_and_of_json_schema_are_taken() -> None:
    contract("title: API\nx-owner: team\nproperties:\n  A: {description: x, examples: [a], default: b, x-note: c}\n")


REFERENCES = [
    pytest.param("$ref: '#it'\n$defs: {a: {$anchor: it, %s}}", id="anchor"),
    pytest.param("$dynamicRef: '#it'\n$defs: {a: {$dynamicAnchor: it, %s}}", id="dynamic anchor"),
    pytest.param("$ref: '#/definitions/a'\ndefinitions: {a: {%s}}", id="definitions"),
    pytest.param("$ref: '#/definitions/a'\ndefinitions: {a: {$ref: '#/$defs/b~1c'}}\n$defs: {b/c: {%s}}", id="chain"),
]


@pytest.mark.parametrize("text", REFERENCES)
async def test_references_are_followed_without_values(text: str) -> None:
    assert [(breach.key, breach.keyword) for breach in await ask(text % "required: [A]", names=())] == [
        ("A", "required")
    ]


@pytest.mark.parametrize("text", REFERENCES)
async def test_references_are_followed_for_what_is_said_beside_the_rules(text: str) -> None:
    from reconciler.core.contract import notes

    reference, _, rest = (text % "writeOnly: true").partition("\n")
    said = notes([contract(f"properties:\n  A: {{{reference}}}\n{rest}\n")])
    assert said["A"].secret


async def test_a_reference_into_what_only_values_tell_holds_without_them() -> None:
    text = (
        "properties: {A: {$ref: '#/if/properties/B'}}\nif: {properties: {B: {minLength: 3}}}\n"
        "allOf: [{$ref: '#/then'}]\nthen: {required: [C]}"
    )
    assert await ask(text, names=("A", "B")) == ()
