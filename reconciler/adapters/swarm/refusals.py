"""What of a project `docker stack deploy` cannot run, said before anything is written."""

from __future__ import annotations

import json
from collections.abc import Callable

from reconciler.adapters.swarm.contents import KINDS
from reconciler.adapters.swarm.stack_file import keys_without_text, unknown_fields
from reconciler.core.errors import ModelRefusedError
from reconciler.core.fidelity.swarm_spec import own_definition, widening_fields
from reconciler.core.model.compose import Project, Service
from reconciler.core.model.targets import Stack
from reconciler.core.text import listed


def require_deployable(project: Project, stack: Stack) -> None:
    """Raises ModelRefusedError where a service has fields or values that the command refuses or would change."""
    _refuse(
        *(project, stack, unknown_fields, "`docker stack deploy` does not know fields of it"),
        "Use what is below `deploy` instead, or take them out of the compose file",
    )
    _refuse(
        *(project, stack, widening_fields, "a Swarm drops fields of it that say what is reachable or allowed"),
        "Take them out of the compose file, or let Compose run the stack",
    )
    _refuse(
        *(project, stack, keys_without_text, "the Swarm keeps text only, and values are not UTF-8"),
        "Encode such a value (base64), or give it to the service as a file",
    )
    _refuse(
        *(project, stack, _of_drivers, "only a Swarm's own driver knows the content of configs or secrets"),
        "Create it with `docker secret create --driver` and name it as external",
    )
    _refuse(
        *(project, stack, _updates_of_jobs, "a Swarm takes no update_config for a job"),
        "Take it out of the compose file",
    )


def _updates_of_jobs(service: Service) -> list[str]:
    deploy = own_definition(service).get("deploy") or {}
    is_job = str(deploy.get("mode", "")).endswith("-job")
    return ["deploy.update_config"] if is_job and deploy.get("update_config") is not None else []


def _of_drivers(service: Service) -> list[str]:
    whole = json.loads(service.definition.reveal())
    contents = [(key, definition or {}) for kind in KINDS for key, definition in (whole.get(kind) or {}).items()]
    return sorted(key for key, definition in contents if definition.get("driver") and not definition.get("external"))


def _refuse(project: Project, stack: Stack, names: Callable[[Service], list[str]], problem: str, hint: str) -> None:
    by_service = {name: names(service) for name, service in sorted(project.services.items())}
    details = "; ".join(f"{name} has {listed(fields)}" for name, fields in by_service.items() if fields)
    if details:
        raise ModelRefusedError(f"{problem}: {details}", where=f"stack {stack.name}", hint=hint, id="swarm-refused")
