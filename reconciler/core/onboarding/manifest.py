"""The content of the manifest, the contracts and env.example that an import writes. Pure."""

from __future__ import annotations

import posixpath
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

from reconciler.core.decide.guards import is_below
from reconciler.core.dotenv.grammar import EnvFileError
from reconciler.core.dotenv.readings import known_variables
from reconciler.core.model.targets import DEFAULT_KIND, Format, Parser
from reconciler.core.onboarding.source_names import BINARY_SUFFIX
from reconciler.core.onboarding.types import DEFAULT_MODE, Draft, DraftFile, DraftStack, holds_variables
from reconciler.core.secrets.names import names_a_secret

_ENV_INSIDE = re.compile(r"(?i)\.env(?=[.~#]|$)")


def manifest_fields(
    draft: Draft, contracts: Mapping[str, Sequence[str]], given: Mapping[str, object] | None = None
) -> dict[str, object]:
    """environment.yaml as data, in its shortest form. ``contracts`` has the paths of contracts by source; ``given``
    are the defaults of the manifest that it is added to."""
    defaults = _defaults(draft.files) if given is None else given
    written: dict[str, object] = {"defaults": defaults} if defaults else {}
    if draft.stacks:
        written["stacks"] = {
            stack.name: _stack_fields(stack, draft.files, defaults, contracts) for stack in draft.stacks
        }
    if alone := {file.source: _target(file, None, defaults, contracts) for file in draft.files if file.stack is None}:
        written["targets"] = alone
    return written


def _stack_fields(
    stack: DraftStack,
    files: Iterable[DraftFile],
    defaults: Mapping[str, object],
    contracts: Mapping[str, Sequence[str]],
) -> dict[str, object]:
    fields: dict[str, object] = {"directory": stack.directory}
    if stack.kind is not DEFAULT_KIND:
        fields["kind"] = str(stack.kind)
    for name in ("files", "env_files", "project", "project_directory", "hosts"):
        if value := getattr(stack, name):
            fields[name] = value if isinstance(value, str) else list(value)
    targets = {
        file.source: _target(file, stack.directory, defaults, contracts) for file in files if file.stack == stack.name
    }
    return fields | {"targets": targets}


def _target(
    file: DraftFile, directory: str | None, defaults: Mapping[str, object], contracts: Mapping[str, Sequence[str]]
) -> dict[str, object] | str | None:
    path = file.file.path
    if directory is not None and is_below(path, directory):
        path = posixpath.relpath(path, directory)
    fields: dict[str, object] = {} if directory is not None and path == file.source else {"path": path}
    implied = {"mode": f"{DEFAULT_MODE:04o}", "owner": "root", "group": "root", "encrypted": True, **defaults}
    if (encrypted := file.format is not Format.PLAIN) != implied["encrypted"]:
        fields["encrypted"] = encrypted
    fields |= {name: value for name, value in _attributes(file).items() if implied[name] != value}
    if file.mounted:
        fields["on_change"] = "restart"
    if file.parser is not Parser.COMPOSE and holds_variables(file.file.path, file.uses):
        fields["parser"] = str(file.parser)
    if paths := contracts.get(file.source, ()):
        fields["schema"] = paths[0] if len(paths) == 1 else list(paths)
    if not fields:
        return None
    return str(fields["path"]) if fields.keys() == {"path"} else fields


def _attributes(file: DraftFile) -> dict[str, str]:
    return {"mode": f"{file.mode:04o}", "owner": file.owner, "group": file.group}


def _defaults(files: Sequence[DraftFile]) -> dict[str, str]:
    """The most common owner, unless it is root. There is no default mode, so that no later target becomes readable by
    accident."""
    if not files:
        return {}
    ((owner, group), _), *_ = Counter((file.owner, file.group) for file in files).most_common(1)
    return {"owner": owner, "group": group} if (owner, group) != ("root", "root") else {}


def contract_schema(file: DraftFile) -> dict[str, object]:
    """A first contract for a file's variables: their names, and which of them are secrets; no values.

    What the file leaves to the environment (a bare ``TZ``) is not required: git never has a value for it.
    """
    secret = {name: {"writeOnly": True} if names_a_secret(name) else {} for name in file.keys}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "required": [name for name in file.keys if name in _defined(file)],
        "properties": secret,
    }


def _defined(file: DraftFile) -> Collection[str]:
    """The variables that the file gives a value, as the checks of a contract see them."""
    try:
        return known_variables(file.content.reveal(), file.parser).keys()
    except EnvFileError:
        return ()


def contract_name(source: str) -> str:
    """The name of a source's contract in ``contracts/``, without suffix: api.env → api. It is never one that
    `reconciler check` takes for an env file."""
    name = source.removesuffix(BINARY_SUFFIX).removesuffix(".env").replace("/", "-")
    return _ENV_INSIDE.sub("-env", name)


_EXAMPLE_HEAD = "# Every name once, grouped by the files that contain exactly these names. Do not put values here.\n"
_GROUP = "# files: "


def example_env(files: Iterable[DraftFile]) -> str:
    """env.example: every name once, without a value, grouped by the files that contain it."""
    holders: dict[str, list[str]] = {}
    for file in files:
        for name in file.keys if file.parser is not Parser.OPAQUE else ():
            holders.setdefault(name, []).append(file.source)
    return _example_text(holders)


def updated_example(text: str, draft: Draft) -> str:
    """env.example after an update; unchanged if somebody has written more than names into it."""
    holders = _holders(text)
    if holders is None:
        return text
    for gone in draft.removed:
        _rename(holders, gone.source, None)
    for file in draft.files:
        if file.change is not None and file.change.source != file.source:
            _rename(holders, file.change.source, file.source)
        known = file.keys if file.parser is not Parser.OPAQUE else ()
        for name in known if file.change is None else [name for name in file.change.keys.added if name in known]:
            holders.setdefault(name, []).append(file.source)
        for name in file.change.keys.removed if file.change else ():
            holders[name] = [source for source in holders.get(name, ()) if source != file.source]
    return _example_text({name: sources for name, sources in holders.items() if sources})


def _rename(holders: Mapping[str, list[str]], old: str, new: str | None) -> None:
    for sources in holders.values():
        sources[:] = [new if source == old else source for source in sources if source != old or new]  # type: ignore[misc]


def _example_text(holders: Mapping[str, Sequence[str]]) -> str:
    groups: dict[tuple[str, ...], list[str]] = {}
    for name, sources in holders.items():
        groups.setdefault(tuple(sources), []).append(name)
    return _EXAMPLE_HEAD + "".join(
        f"\n{_GROUP}{' '.join(sources)}\n" + "".join(f"{name}=\n" for name in names)
        for sources, names in groups.items()
    )


def _holders(text: str) -> dict[str, list[str]] | None:
    """The files of each name, in a text as ``example_env`` writes it; None for another."""
    holders: dict[str, list[str]] = {}
    sources: list[str] = []
    for line in text.removeprefix(_EXAMPLE_HEAD).splitlines():
        if line.startswith(_GROUP):
            sources = line.removeprefix(_GROUP).split()
        elif line:
            holders[line.removesuffix("=")] = list(sources)
    return holders if _example_text(holders) == text else None
