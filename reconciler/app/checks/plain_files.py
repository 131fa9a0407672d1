"""Finds secrets in the files that are not encrypted, whatever they are for."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator

from reconciler.app.checks.survey import CHECK_SETTINGS, MANIFEST, Source, Survey
from reconciler.core.checks import rules
from reconciler.core.checks.rules import Finding
from reconciler.core.model.targets import Parser
from reconciler.core.secrets.plain_secrets import PlainSecret, plain_secrets
from reconciler.core.secrets.plaintext import has_settings, is_code, is_env_file, is_example, is_prose, looks_real
from reconciler.core.sops.creation_rules import NAME as SOPS_CONFIG
from reconciler.core.text import key_name
from reconciler.core.tree import IGNORED

_OUR_OWN = frozenset({MANIFEST, CHECK_SETTINGS, SOPS_CONFIG})


def check_plain_files(survey: Survey) -> Iterator[Finding]:
    """Find secrets in every file of the tree that is not encrypted, except where the survey has already found one.

    Left out are env files without a target, each a finding as a whole, what git ignores, and manifests, contracts and
    documentation.
    """
    sources = {source.path: source for source in survey.sources}
    contracts = {path for source in sources.values() if source.outline for path in source.outline.contracts}
    reported = {(finding.path, finding.line) for finding in survey.findings if finding.rule is rules.PLAIN_SECRET}
    for path, data in survey.tree.files.items():
        name = posixpath.basename(path)
        if name in _OUR_OWN or path in contracts or is_prose(name) or b"ENC[AES256_GCM," in data or b"\0" in data:
            continue
        if (is_env_file(name) and path not in sources) or survey.tree.unheld.get(path, "").startswith(IGNORED):
            continue
        for secret in plain_secrets(
            data.decode("utf-8", "replace"),
            names=_has_settings(name, sources.get(path)),
            real=looks_real if is_example(name) else bool,
        ):
            if (path, secret.line) not in reported:
                yield Finding(rules.PLAIN_SECRET, path, secret.line, _message(secret))


def _has_settings(name: str, source: Source | None) -> bool:
    """Whether names of keys are to be looked at; the survey does that for env files."""
    if source is not None and source.outline is not None:
        return source.parser is Parser.OPAQUE and not is_code(name)
    return has_settings(name)


def _message(secret: PlainSecret) -> str:
    subject = f"{key_name(secret.name)} looks like a secret" if secret.name else f"contains {secret.form}"
    return f"{subject}, and everyone with access to git can read it"
