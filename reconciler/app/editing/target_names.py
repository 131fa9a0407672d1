"""Finds the source that a user names in a clone: by its target, by its live path, or by its own path."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator

from reconciler.app.checks.survey import MANIFEST, Source, Survey
from reconciler.core.errors import RefusedError
from reconciler.core.model.targets import environment_of
from reconciler.core.text import listed, printable

_LISTED = 20  # names


def find_source(survey: Survey, name: str, directory: str) -> Source:
    """Given the environments below ``directory``, return the source of the target that ``name`` means:
    production/api.env, /opt/app/api.env, a path from the working directory, or api.env where there is one only.

    Raises RefusedError where there is none, or several.
    """
    sources = [source for source in survey.sources if source.outline is not None]
    owner, slash, rest = name.partition("/")
    target = f"{environment_of(owner)}{slash}{rest}"
    path, file = posixpath.normpath(name), os.path.realpath(name)
    tests = (
        lambda source: target == target_id(source) or file == os.path.realpath(os.path.join(directory, source.path)),
        lambda source: source.outline.path == path,
        lambda source: name in (source.name, posixpath.basename(source.name), posixpath.basename(source.outline.path)),
    )
    for test in tests:
        matches = {source.path: source for source in sources if test(source)}
        if len(matches) > 1:
            ids = listed([target_id(source) for source in matches.values()], _LISTED)
            raise RefusedError(f"several targets are called so: {ids}", where=printable(name), hint="Name one of them")
        if matches:
            return next(iter(matches.values()))
    hint = f"The targets are: {listed([target_id(source) for source in sources], _LISTED) or 'none'}"
    raise RefusedError("there is no such target", where=printable(name), hint=". ".join([hint, *_invalid(survey)]))


def target_id(source: Source) -> str:
    return f"{source.environment}/{source.name}"


def _invalid(survey: Survey) -> Iterator[str]:
    """Environments whose targets are unknown."""
    for environment in survey.environments:
        if environment.manifest is None:
            yield f"{environment.name}/{MANIFEST} is invalid: `reconciler check` shows why"
