"""Reads a contract: YAML to a JSON Schema with the line of every field."""

from __future__ import annotations

from reconciler.app.config.strict_yaml import UnreadableError, dotted, read_document
from reconciler.core.contract import Contract, Mistake, mistakes
from reconciler.core.errors import ContractError


def read_contract(path: str, data: bytes) -> Contract:
    """Given the bytes of a contract, return it. Raises ContractError with every mistake, one a line, that shows without
    a JSON Schema engine."""
    try:
        document = read_document(data, path)
    except UnreadableError as error:
        raise ContractError(str(error)) from None
    contract = Contract(path, document.data, document.lines)
    messages = document.sentences(document.problems)
    messages += [(contract.line(mistake.field), at_field(mistake)) for mistake in mistakes(contract.schema)]
    if messages:
        raise ContractError("\n".join(f"{path}:{line}: {text}" for line, text in sorted(messages)))
    return contract


def at_field(mistake: Mistake) -> str:
    """A mistake, after its field."""
    return f"{dotted(mistake.field)}: {mistake.message}" if mistake.field else mistake.message
