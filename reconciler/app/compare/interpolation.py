"""The values of references in the env files of a Compose project, as far as its files show.

Compose looks in its own environment, then in the project's .env, then in the service's earlier env files, then in the
file itself. The first is unknown here: a variable in the shell that starts the project overrides all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from reconciler.app.compare.contents import NO_VARIABLES, KnownVariables, Reader
from reconciler.core.dotenv.grammar import EnvFileError, read_entries
from reconciler.core.inventory import FoundProject, Use, UsedFile
from reconciler.core.model.targets import Parser


@dataclass(frozen=True, slots=True)
class Interpolation:
    """``variables`` are those of the project's .env, None if they cannot be read; ``files`` are the paths of the .env
    and of other files that fill in ${…}."""

    project: FoundProject
    variables: Mapping[str, str] | None = field(repr=False)
    files: frozenset[str]

    def variables_for(self, used: UsedFile) -> KnownVariables:
        """The known variables for one of the project's files.

        A name that another env file of the same service also defines is unsure: it is unknown which file comes first.
        """
        if used.file.path in self.files or self.variables is None:
            return NO_VARIABLES
        unsure = frozenset(self._other_names(used))
        return KnownVariables({name: value for name, value in self.variables.items() if name not in unsure}, unsure)

    def _other_names(self, used: UsedFile) -> Iterator[str]:
        for neighbour in self.project.files:
            shares = neighbour.use is Use.ENV_FILE and not set(neighbour.services).isdisjoint(used.services)
            if shares and neighbour.file.path not in self.files and neighbour.file.path != used.file.path:
                yield from _names(neighbour)


async def read_interpolation(project: FoundProject, reader: Reader) -> Interpolation:
    """Read the files that fill in the project's references; a name on which they disagree has no known value."""
    usual = f"{project.directory}/.env"
    sources = [used.file for used in project.files if used.use is Use.INTERPOLATION or used.file.path == usual]
    contents = [await reader.read(file.path, file.data.reveal(), Parser.COMPOSE) for file in sources]
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
    return Interpolation(project, agreed, frozenset(file.path for file in sources))


def _names(used: UsedFile) -> Iterator[str]:
    try:
        entries = read_entries(used.file.data.reveal(), Parser.RAW if used.raw else Parser.COMPOSE)
    except EnvFileError:
        return iter(())
    return (entry.key for entry in entries)
