"""A contract as it is written: YAML to a JSON Schema with the line of every field."""

from __future__ import annotations

from reconciler.app.config.strict_yaml import UnreadableError, dotted, read_document
from reconciler.core.contract import Contract, Mistake, mistakes
from reconciler.core.errors import ContractError


def read_contract(path: str, data: bytes) -> Contract:
    """Given a contract's file, return it. Raises ContractError with every mistake, one a line, that can be seen without
    a JSON Schema engine."""
    try:
        document = read_document(data, path)
    except UnreadableError as error:
        raise ContractError(str(error)) from None
    contract = Contract(path, document.data, document.lines)
    told = document.sentences(document.problems)
    told += [(contract.line(one.field), at_field(one)) for one in mistakes(contract.schema)]
    if told:
        raise ContractError("\n".join(f"{path}:{line}: {text}" for line, text in sorted(told)))
    return contract


def at_field(mistake: Mistake) -> str:
    """A mistake with its field before it."""
    return f"{dotted(mistake.field)}: {mistake.what}" if mistake.field else mistake.what
