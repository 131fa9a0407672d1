"""Checks the content about to be written against its target's contracts, as git has them at its revision."""

from __future__ import annotations

from reconciler.core.contract import Contract, Question
from reconciler.core.dotenv.grammar import EnvFileError
from reconciler.core.dotenv.ignored_keys import is_left_to_server
from reconciler.core.dotenv.readings import known_variables
from reconciler.core.errors import ContractError, GuardError, ReconcilerError, SourceError
from reconciler.core.model.revisions import Revision
from reconciler.core.model.targets import Parser, Target
from reconciler.core.ports import Ports
from reconciler.core.secret import Secret


async def broken_contracts(ports: Ports, revision: Revision, target: Target, data: Secret) -> list[ReconcilerError]:
    """The problems with the content, as errors that name keys and rules, never a value.

    Raises GitUnreachableError.
    """
    if not target.contracts:
        return []
    if target.parser is Parser.OPAQUE:
        return [ContractError("it has a schema, but no keys to check against it (parser: opaque)")]
    try:
        contracts = tuple([await _read(ports, revision, path) for path in target.contracts])
        variables = known_variables(data.reveal(), target.parser)
        answer = await ports.contracts.ask(contracts, [Question(contracts, tuple(variables), variables)])
    except (ContractError, SourceError) as error:
        return [error]
    except EnvFileError:
        return []  # the content guards say why
    faults = [ContractError(f"{path}: {mistake.message}") for path, mistake in answer.faults.items()]
    broken = [
        str(breach)
        for breaches in answer.breaches
        for breach in breaches
        if not is_left_to_server(breach.key, target.ignore_keys)  # git is not to blame for their values
    ]
    fix = "; fix the value with `reconciler set`, or the contract"
    return [*faults, *(GuardError(f"{sentence}{fix}", id="broken-contract") for sentence in broken)]


def contract_path(ports: Ports, contract: str) -> str:
    """The path of a contract in the repository."""
    return "/".join(part for part in (ports.settings.repository_path, contract) if part)


async def _read(ports: Ports, revision: Revision, path: str) -> Contract:
    where = contract_path(ports, path)
    blob = await ports.git.read(revision.commit, where)
    if blob is None:
        hint = "Commit the file, or remove it from the target's schema"
        problem = f"the contract does not exist at revision {revision.short}"
        raise ContractError(problem, where=where, hint=hint, id="missing-contract")
    return ports.read_contract(path, blob.data)
