"""What the references in the env files of a Compose project stand for, as far as its files tell.

Compose looks in its own environment first, then in the project's .env, then in the service's earlier env files, then in
the file itself. The first is not known here: a variable of whoever starts the project may win over all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from reconciler.app.compare.contents import ALONE, Around, Reader
from reconciler.core.dotenv.grammar import EnvFileError, read_entries
from reconciler.core.inventory import FoundProject, Use, UsedFile
from reconciler.core.model.targets import Parser


@dataclass(frozen=True, slots=True)
class Interpolation:
    """``variables`` are those of the project's .env, None where they cannot be read; ``files`` the .env itself, and
    what else fills in ${…}."""

    project: FoundProject
    variables: Mapping[str, str] | None = field(repr=False)
    files: frozenset[str]

    def around(self, used: UsedFile) -> Around:
        """What is known around one of the project's files.

        A name that another env file of the same service defines may stand for that one's value: which of them comes
        first is not known.
        """
        if used.file.path in self.files or self.variables is None:
            return ALONE
        unsure = frozenset(self._beside(used))
        return Around({name: value for name, value in self.variables.items() if name not in unsure}, unsure)

    def _beside(self, used: UsedFile) -> Iterator[str]:
        for other in self.project.files:
            beside = other.use is Use.ENV_FILE and not set(other.services).isdisjoint(used.services)
            if beside and other.file.path not in self.files and other.file.path != used.file.path:
                yield from _names(other)


async def interpolation_of(project: FoundProject, reader: Reader) -> Interpolation:
    """Read what fills in the project's references. Of several such files, those that disagree tell nothing."""
    usual = f"{project.directory}/.env"
    sources = [one.file for one in project.files if one.use is Use.INTERPOLATION or one.file.path == usual]
    contents = [await reader.read(one.path, one.data.reveal(), Parser.COMPOSE) for one in sources]
    if any(content.sealed or content.problem for content in contents):
        return Interpolation(project, None, frozenset())
    variables: dict[str, str] = {}
    for content in contents:
        variables |= content.variables
    agreed = {
        name: value
        for name, value in variables.items()
        if all(content.variables.get(name, value) == value for content in contents)
    }
    return Interpolation(project, agreed, frozenset(one.path for one in sources))


def _names(used: UsedFile) -> Iterator[str]:
    try:
        entries = read_entries(used.file.data.reveal(), Parser.RAW if used.raw else Parser.COMPOSE)
    except EnvFileError:
        return iter(())
    return (entry.key for entry in entries)
