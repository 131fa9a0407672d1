"""Asks whether variables keep their contracts, in a process of its own: contract_evaluator.py, which can be ended."""

from __future__ import annotations

import json
import os
import resource
import sys
from collections.abc import Sequence
from typing import Any

from reconciler.adapters import process
from reconciler.adapters.process import MIB, Limits
from reconciler.core.contract import MAX_VALUE, Breach, Contract, Mistake, Question, without_values
from reconciler.core.errors import ContractError

_NAMED = 5  # contracts in a message
LIMITS = Limits(
    timeout=10.0,
    stdout=16 * MIB,
    resources={resource.RLIMIT_AS: 1024 * MIB, resource.RLIMIT_CPU: 5, resource.RLIMIT_CORE: 0},
)


class JsonSchemaContracts:
    """The Contracts port."""

    def __init__(self, limits: Limits = LIMITS) -> None:
        self._limits = limits

    async def breaches(self, questions: Sequence[Question]) -> list[list[Breach]]:
        """Per question every rule that does not hold, each once. All questions are asked in one process.

        Raises ContractError for what is no JSON Schema, and where an answer takes too long or too much memory.
        """
        ordered = _numbered(questions)
        contracts = [contract for contract, _ in ordered.values()]
        schemas = [schema for _, schema in ordered.values()]
        answer = await self._ask(contracts, schemas, [_question(one, ordered) for one in questions])
        for contract, fault in zip(contracts, answer["faults"], strict=True):
            if fault:
                mistake = _mistake(fault)
                raise ContractError(mistake.what, where=f"{contract.path}:{contract.line(mistake.field)}")
        return [
            list(dict.fromkeys(_breach(contracts[found["schema"]], found) for found in answers))
            for answers in answer["answers"]
        ]

    async def faults(self, contracts: Sequence[Contract]) -> list[Mistake | None]:
        """Per contract where it is no JSON Schema, or None. Raises ContractError."""
        answer = await self._ask(contracts, [one.schema for one in contracts], [])
        return [_mistake(fault) if fault else None for fault in answer["faults"]]

    async def _ask(
        self, contracts: Sequence[Contract], schemas: Sequence[Any], questions: Sequence[Any]
    ) -> dict[str, Any]:
        if not schemas:
            return {"faults": [], "answers": [[] for _ in questions]}
        argv = [sys.executable, "-I", "-m", "reconciler.adapters.contract_evaluator"]
        env = {"PATH": os.defpath, "HOME": "/nonexistent", "LC_ALL": "C.UTF-8"}
        asked = json.dumps({"schemas": schemas, "questions": questions}).encode()
        done = await process.run(argv, env=env, limits=self._limits, stdin=asked)
        if not done.ok:
            slow = done.timed_out or done.exit_code < 0
            why = "takes too long (a regular expression with nested repetitions?)" if slow else "cannot be evaluated"
            where = ", ".join(sorted({one.path for one in contracts})[:_NAMED])
            raise ContractError(f"a contract {why}", where=where, hint="Make its patterns simpler")
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer


def _mistake(fault: dict[str, Any]) -> Mistake:
    return Mistake(tuple(fault["field"]), f"is no JSON Schema: breaks `{fault['keyword']}` of the metaschema")


def _numbered(questions: Sequence[Question]) -> dict[tuple[str, bool], tuple[Contract, Any]]:
    """Each contract once as it is and once without values, as far as asked for: (path, valued) → what to ask."""
    found: dict[tuple[str, bool], tuple[Contract, Any]] = {}
    for question in questions:
        valued = question.values is not None
        for one in question.contracts:
            if (one.path, valued) not in found:
                found[one.path, valued] = (one, one.schema if valued else without_values(one.schema))
    return found


def _question(question: Question, ordered: dict[tuple[str, bool], tuple[Contract, Any]]) -> dict[str, Any]:
    numbers = {key: number for number, key in enumerate(ordered)}
    valued = question.values is not None
    variables = dict.fromkeys(question.names, "") if question.values is None else dict(question.values)
    return {
        "schemas": [numbers[one.path, valued] for one in question.contracts],
        "valued": valued,
        "variables": {key: value[:MAX_VALUE] for key, value in variables.items()},
    }


def _breach(contract: Contract, found: dict[str, Any]) -> Breach:
    return Breach(found["key"], found["keyword"], contract.path, contract.line(tuple(found["field"])))
