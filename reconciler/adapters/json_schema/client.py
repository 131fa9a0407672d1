"""Checks variables against their contracts in a separate process, worker.py, which can be killed."""

from __future__ import annotations

import json
import os
import resource
import sys
from collections.abc import Sequence
from typing import Any

from reconciler.adapters import process
from reconciler.adapters.process import MIB, Limits
from reconciler.core.contract import MAX_VALUE, Answer, Breach, Contract, Mistake, Question, without_values
from reconciler.core.contract_expectations import expectation
from reconciler.core.errors import ContractError, OutsideError
from reconciler.core.exhaustion import MEMORY

_NAMED = 5  # contracts in a message
LIMITS = Limits(
    timeout=60.0,
    stdout=16 * MIB,
    resources={resource.RLIMIT_AS: 1024 * MIB, resource.RLIMIT_CPU: 5, resource.RLIMIT_CORE: 0},
)


class JsonSchemaContracts:
    """The Contracts port."""

    def __init__(self, limits: Limits = LIMITS) -> None:
        self._limits = limits

    async def ask(self, contracts: Sequence[Contract], questions: Sequence[Question]) -> Answer:
        ordered = _numbered(contracts, questions)
        if not ordered:
            return Answer({}, tuple(() for _ in questions))
        request = {
            "schemas": [schema for _, schema in ordered.values()],
            "questions": [_question(question, ordered) for question in questions],
        }
        every = [contract for contract, _ in ordered.values()]
        answer = await self._run(every, json.dumps(request).encode())
        faults: dict[str, Mistake] = {}
        for contract, fault in zip(every, answer["faults"], strict=True):
            if fault:  # of the whole contract, which comes first, rather than of what is left of it without values
                faults.setdefault(contract.path, _mistake(fault))
        return Answer(
            faults,
            tuple(
                tuple(dict.fromkeys(_breach(every[breach["schema"]], breach) for breach in answers))
                for answers in answer["answers"]
            ),
        )

    async def _run(self, contracts: Sequence[Contract], request: bytes) -> dict[str, Any]:
        argv = [sys.executable, "-I", "-m", "reconciler.adapters.json_schema.worker"]
        env = {"PATH": os.defpath, "HOME": "/nonexistent", "LC_ALL": "C.UTF-8"}
        done = await process.run(argv, env=env, limits=self._limits, stdin=request)
        if done.timed_out:  # within its CPU time limit: the machine is to blame
            hint = "The machine is busy"
            raise OutsideError("contracts could not be evaluated in time", hint=hint)
        if done.out_of_memory:
            raise OutsideError(f"contracts could not be evaluated: {MEMORY[0]}", hint=MEMORY[1])
        if not done.ok:
            slow = done.exit_code < 0
            id = "slow-contract" if slow else ""
            reason = "takes too long (a regular expression with nested repetitions?)" if slow else "cannot be evaluated"
            where = ", ".join(sorted({contract.path for contract in contracts})[:_NAMED])
            raise ContractError(f"a contract {reason}", where=where, hint="Make its patterns simpler", id=id)
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer


def _mistake(fault: dict[str, Any]) -> Mistake:
    return Mistake(tuple(fault["field"]), f"is not a valid JSON Schema: breaks `{fault['keyword']}` of the metaschema")


def _numbered(
    contracts: Sequence[Contract], questions: Sequence[Question]
) -> dict[tuple[str, bool], tuple[Contract, Any]]:
    """The schemas to send, each once: (path, with values) → the contract and its schema, with or without a question."""
    schemas: dict[tuple[str, bool], tuple[Contract, Any]] = {}
    for question in questions:
        valued = question.values is not None
        for contract in question.contracts:
            if (contract.path, valued) not in schemas:
                schemas[contract.path, valued] = (
                    contract,
                    contract.schema if valued else without_values(contract.schema),
                )
    # Without values a contract would lose the parts that may be at fault.
    return {(contract.path, True): (contract, contract.schema) for contract in contracts} | schemas


def _question(question: Question, ordered: dict[tuple[str, bool], tuple[Contract, Any]]) -> dict[str, Any]:
    numbers = {key: number for number, key in enumerate(ordered)}
    valued = question.values is not None
    variables = dict.fromkeys(question.names, "") if question.values is None else dict(question.values)
    return {
        "schemas": [numbers[contract.path, valued] for contract in question.contracts],
        "valued": valued,
        "variables": {key: value[:MAX_VALUE] for key, value in variables.items()},
    }


def _breach(contract: Contract, breach: dict[str, Any]) -> Breach:
    field = tuple(breach["field"])
    words = expectation(contract.schema, field)
    return Breach(breach["key"], breach["keyword"], contract.path, contract.line(field), words)
