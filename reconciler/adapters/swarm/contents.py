"""Which configs and secrets a service of a Swarm gets: files that it reads, under names that say their content.

A Swarm's configs and secrets never change, so new content is a new one, and its name has a keyed digest of it. A bind
of a live file that git manages would only be there on one node: it becomes a config, or where its source is encrypted a
secret, at the same path.
"""

from __future__ import annotations

import contextlib
import json
import posixpath
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from reconciler.core.errors import ChangedMeanwhileError, LiveFileError, ModelRefusedError
from reconciler.core.model.compose import Project, Service
from reconciler.core.model.targets import MountedTarget, Ownership, Stack
from reconciler.core.ports.host import Host
from reconciler.core.secret import Digester, Secret

Json = dict[str, Any]
Read = Callable[[str], Awaitable[bytes | None]]
"""The bytes of a file; None where there is none that we may read."""
OwnerOf = Callable[[str, MountedTarget], Awaitable[tuple[int, int]]]
"""The numbers of a managed file's owner and group, by its path."""

KINDS = ("configs", "secrets")
_DIGITS = 12
_LONGEST = 64  # characters of a name
_TOO_LARGE = {"configs": 1000 * 1024, "secrets": 500 * 1024}  # bytes from which on swarmkit refuses one
_SIZE_HINT = "Put what is larger into a volume or the image, and leave out what is empty"


@dataclass(frozen=True, slots=True)
class StackContent:
    """A config or secret (``kind``) that a service needs, by its name in the Swarm. ``template_driver`` fills it in for
    each task; "" for none."""

    kind: str
    name: str
    data: Secret
    template_driver: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)


async def owner_of(host: Host, path: str, target: MountedTarget) -> tuple[int, int]:
    """The uid and gid of a managed file: as the manifest names them, else the live file's own, else a new file's.

    Raises GuardError where the host has no such user or group.
    """
    named, live = await host.ownership(target.owner, target.group), None
    if named.uid is not None and named.gid is not None:
        return named.uid, named.gid
    with contextlib.suppress(LiveFileError):  # the plan reports it
        live = await host.read(path)
    usual = Ownership(live.uid, live.gid) if live else await host.new_owner(path)
    uid = usual.uid if named.uid is None else named.uid
    gid = usual.gid if named.gid is None else named.gid
    return uid or 0, gid or 0


async def with_contents(project: Project, stack: Stack, digest: Digester, read: Read, owner: OwnerOf) -> Project:
    """Given a resolved project, return it with the names of its configs and secrets, and with those that take the place
    of binds: these keep the file's mode and owner.

    Raises ModelRefusedError where the Swarm does not take one.
    """
    services = {}
    for name, service in project.services.items():
        whole = json.loads(service.definition.reveal())
        await _replace_binds(whole, stack.managed, owner)
        _hide_encrypted(whole, stack.managed)
        for kind in KINDS:
            for key, definition in (whole.get(kind) or {}).items():
                data = None if _is_external(definition or {}) else await _data(definition or {}, read)
                _require_size(service.name, kind, key, data)
                whole[kind][key] = _named(project.name, key, definition or {}, digest, data)
        definition = json.dumps(whole, sort_keys=True, separators=(",", ":")).encode()
        services[name] = replace(service, definition=Secret(definition))
    return replace(project, services=services)


async def contents_of(service: Service, digest: Digester, read: Read) -> list[StackContent]:
    """What the Swarm must have before the service is deployed.

    Raises ModelRefusedError where a file is missing, ChangedMeanwhileError where one is not what it was when the
    project was resolved.
    """
    whole = json.loads(service.definition.reveal())
    contents = []
    for kind in KINDS:
        for key, definition in (whole.get(kind) or {}).items():
            if _is_external(definition):
                continue
            path, data = definition.get("file", ""), await _data(definition, read)
            if data is None:
                problem = f"{service.name} needs it as {kind.removesuffix('s')} {key}, and it is not there"
                raise ModelRefusedError(problem, where=path or f"service {service.name}", id="mounted-file-missing")
            if definition["digest"] != _digits(definition, data, digest):
                raise ChangedMeanwhileError("somebody changed the file while it was being deployed", where=path)
            driver, labels = definition.get("template_driver") or "", definition.get("labels") or {}
            contents.append(StackContent(kind, definition["name"], Secret(data), driver, labels))
    return contents


def _require_size(service: str, kind: str, key: str, data: bytes | None) -> None:
    if data is None or 0 < len(data) < _TOO_LARGE[kind]:
        return
    size = f"has {len(data)} bytes" if data else "is empty"
    problem = f"the {kind.removesuffix('s')} {key} {size}, and a Swarm takes 1 to {_TOO_LARGE[kind] - 1}"
    raise ModelRefusedError(problem, where=f"service {service}", hint=_SIZE_HINT, id="swarm-refused")


def _named(project: str, key: str, definition: Json, digest: Digester, data: bytes | None) -> Json:
    if _is_external(definition):
        return definition
    base, digits = definition.get("name") or f"{project}_{key}", _digits(definition, data or b"", digest)
    return {**definition, "name": f"{base[: _LONGEST - _DIGITS - 1]}_{digits}", "digest": digits}


def _is_external(definition: Json) -> bool:
    return bool(definition.get("external"))


def _digits(definition: Json, data: bytes, digest: Digester) -> str:
    """Of all that cannot be changed about one that exists."""
    driver = definition.get("template_driver")
    return digest(f"{driver}\0".encode() + data if driver else data)[:_DIGITS]


async def _data(definition: Json, read: Read) -> bytes | None:
    if path := definition.get("file"):
        return await read(path)
    text = definition.get("content", definition.get("value"))
    return None if text is None else str(text).encode("utf-8", "surrogatepass")


async def _replace_binds(whole: Json, managed: Mapping[str, MountedTarget], owner: OwnerOf) -> None:
    own, kept = whole["service"], []
    for mount in own.get("volumes") or ():
        target = managed.get(posixpath.normpath(mount.get("source") or "/")) if mount.get("type") == "bind" else None
        if target is None:
            kept.append(mount)
            continue
        kind, path = "secrets" if target.encrypted else "configs", posixpath.normpath(mount["source"])
        key = _free(whole.get(kind) or {}, posixpath.basename(path))
        whole.setdefault(kind, {})[key] = {"file": path}
        uid, gid = await owner(path, target)
        entry = {"source": key, "target": mount["target"], "mode": target.mode, "uid": str(uid), "gid": str(gid)}
        own[kind] = [*(own.get(kind) or ()), entry]
    if "volumes" in own:
        own["volumes"] = kept


def _hide_encrypted(whole: Json, managed: Mapping[str, MountedTarget]) -> None:
    """Make secrets of configs whose file is encrypted in git."""
    own, defined = whole["service"], whole.get("configs") or {}
    for key in list(defined):
        target = managed.get(posixpath.normpath((defined[key] or {}).get("file") or "/"))
        if target is None or not target.encrypted:
            continue
        definition = defined.pop(key)
        name = _free(whole.get("secrets") or {}, key)
        whole.setdefault("secrets", {})[name] = definition
        mine = [entry for entry in own.get("configs") or () if entry["source"] == key]
        own["configs"] = [entry for entry in own.get("configs") or () if entry["source"] != key]
        moved = [{**entry, "source": name, "target": entry.get("target") or f"/{key}"} for entry in mine]
        own["secrets"] = [*(own.get("secrets") or ()), *moved]


def _free(taken: Mapping[str, Any], name: str) -> str:
    """A name like this one, of characters that a config's may have, that is not taken."""
    plain = "".join(character if character.isalnum() or character in "._-" else "_" for character in name).strip("._-")
    name = plain or "file"
    while name in taken:
        name = f"{name}_"
    return name
