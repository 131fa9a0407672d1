"""What an operator does next for a stack, in sentences: one set for each kind of thing that runs stacks. Pure.

This table is the only place that distinguishes the kinds: all else that differs between them is a fact of the model,
which an adapter fills.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from reconciler.core.model.compose import Invocation, Project
from reconciler.core.model.targets import OnDrift, Stack, StackKind


@dataclass(frozen=True, slots=True)
class NextSteps(ABC):
    """The steps for one stack; ``project`` is None where it cannot be resolved. Services are named as the project names
    them, and no sentence has a full stop."""

    stack: Stack
    project: Project | None

    @property
    def invocation(self) -> Invocation:
        """How Compose reads the project."""
        return self.project.invocation if self.project else Invocation(self.stack.directory)

    @property
    def accept(self) -> str:
        """The command line that has a change deploy the project as it stands."""
        return f"reconciler sync --accept-project {self.stack.id}"

    @property
    @abstractmethod
    def up(self) -> str:
        """The command line that gives the whole project the values that reconciler gives it; "" where none does."""

    @property
    @abstractmethod
    def look(self) -> str:
        """The command line that shows how the services fare."""

    @abstractmethod
    def logs(self, service: str) -> str:
        """The command line that shows what the service printed; "" for `docker compose logs`."""

    @abstractmethod
    def first_start(self) -> str:
        """Where none of the stack's services has ever run."""

    @abstractmethod
    def start(self, service: str) -> str:
        """Where the service ran and runs no more."""

    @abstractmethod
    def scale_up(self, service: str) -> str:
        """Where somebody scaled the service to 0."""

    @abstractmethod
    def create(self, service: str) -> str:
        """Where somebody removed the service."""

    @abstractmethod
    def remove(self, services: Sequence[str]) -> str:
        """Where services have left the project and still run."""

    @abstractmethod
    def replace(self, services: Sequence[str], *, others: bool) -> str:
        """Where the engine keeps services in a mode (global, a job …) that no update changes. ``others``: more services
        of the stack are there."""

    @abstractmethod
    def give_values(self, service: str) -> str:
        """Where the service runs with other values than the project says."""

    @abstractmethod
    def settle_edit(self) -> str:
        """Where somebody has edited the project since it was deployed."""


class ComposeSteps(NextSteps):
    """By hand everything is `docker compose up`, which reads the project as reconciler does."""

    __slots__ = ()

    @property
    def up(self) -> str:
        return self._up()

    @property
    def look(self) -> str:
        return self.invocation.command("logs")

    def logs(self, service: str) -> str:
        return ""

    def first_start(self) -> str:
        return f"`{self.up}` in {self.stack.directory}: services are only ever recreated"

    def start(self, service: str) -> str:
        return f"`{self._up(service)}` in {self.stack.directory} starts it"

    scale_up = create = start

    def remove(self, services: Sequence[str]) -> str:
        return f"`{self._up('--remove-orphans')}` in {self.stack.directory} removes it"

    def replace(self, services: Sequence[str], *, others: bool) -> str:
        return f"`{self._up(' '.join(services))}` in {self.stack.directory} recreates it"

    def give_values(self, service: str) -> str:
        return f"`{self._up(service)}` in {self.stack.directory} gives it those of the project"

    def settle_edit(self) -> str:
        return (
            f"Read `{self.invocation.command('config')}`, then run `{self.up}` in {self.stack.directory} yourself, "
            f"or accept the project as it stands with `{self.accept}`"
        )

    def _up(self, rest: str = "") -> str:
        return self.invocation.command(f"up -d {rest}".rstrip())


class SwarmSteps(NextSteps):
    """No command deploys the same values: Docker's own loader may read others of the same files."""

    __slots__ = ()

    @property
    def up(self) -> str:
        return ""

    @property
    def look(self) -> str:
        return f"docker stack ps --no-trunc {self._name}"

    def logs(self, service: str) -> str:
        return f"docker service logs --tail 50 {self._service(service)}"

    def first_start(self) -> str:
        return f"deploy it once by hand, then `{self.accept}` gives it its values"

    def start(self, service: str) -> str:
        return f"`docker service ps --no-trunc {self._service(service)}` shows why"

    def scale_up(self, service: str) -> str:
        services = self.project.services if self.project else {}
        count = services[service].replicas if service in services else 1
        return f"`docker service scale {self._service(service)}={count}` starts it"

    def create(self, service: str) -> str:
        needed = "With on_drift: restore, `" if self.stack.on_drift is OnDrift.REPORT else "`"
        return f"{needed}reconciler sync` creates it again"

    def remove(self, services: Sequence[str]) -> str:
        names = " ".join(map(self._service, services))
        return f"`docker service rm {names}` removes {'it' if ' ' not in names else 'them'}"

    def replace(self, services: Sequence[str], *, others: bool) -> str:
        creates = others and self.stack.on_drift is not OnDrift.REPORT  # a stack of which nothing is left stays down
        then = "`reconciler sync` creates it again" if creates else self.first_start()
        return f"remove it with `docker service rm {' '.join(map(self._service, services))}`, then {then}"

    def give_values(self, service: str) -> str:
        return f"A change of it will wait for `{self.accept}`"

    def settle_edit(self) -> str:
        return (
            f"Read `{self.invocation.command('config')}` in {self.stack.directory}: that is how the project is "
            "deployed. A deploy by hand may read other values (quotes in env files stay, .env is left out). "
            f"Accept it as it stands with `{self.accept}`"
        )

    @property
    def _name(self) -> str:
        return self.project.name if self.project else self.stack.project or self.stack.name

    def _service(self, service: str) -> str:
        return f"{self._name}_{service}"


_STEPS: Mapping[StackKind, type[NextSteps]] = MappingProxyType(
    {StackKind.COMPOSE: ComposeSteps, StackKind.SWARM: SwarmSteps}
)


def next_steps(stack: Stack, project: Project | None) -> NextSteps:
    """Given a stack, and its project where it can be resolved, return the steps of what runs it."""
    return _STEPS[stack.kind](stack, project)
