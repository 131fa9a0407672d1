"""expected-differences.yaml: what may differ, and why; and risks that the user sets otherwise."""

from __future__ import annotations

import os
from typing import Annotated

from pydantic import ConfigDict, Field, model_validator

from reconciler.app.config.models import Items, OneOrMany, Section, read_sections
from reconciler.app.config.scalars import Choice, Form, mistake
from reconciler.app.config.strict_yaml import read_config_file
from reconciler.core.compare.risk import Risk, RiskOverride
from reconciler.core.compare.types import Allows, Attribute, Expectation, Expectations, ServiceExpectation
from reconciler.core.errors import ConfigError

FILE_NAME = "expected-differences.yaml"

_GLOB = Form("a name or pattern", "a name; * and ? stand for parts of it", r"^[^\x00-\x1f\x7f\\]{1,200}$")
_REASON = Form("a reason", "a sentence of at least 10 characters", r"^.{10,500}$", quote=False)
_ENVIRONMENT = Form("an environment", "an environment's name", r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")

Globs = Annotated[tuple[Annotated[str, _GLOB], ...], Items(1), OneOrMany(_GLOB)]
Reason = Annotated[str, _REASON]
Between = Annotated[tuple[Annotated[str, _ENVIRONMENT], ...], Items()]


class ExpectedDifference(Section):
    """Keys, or attributes of files, that may differ."""

    file: Annotated[str, _GLOB] = Field(default="*", description="The file on either side, or a pattern.")
    keys: Globs | None = Field(default=None, description="The keys, or patterns of them.")
    attributes: Annotated[tuple[Annotated[Attribute, Choice()], ...], Items(1)] | None = Field(
        default=None, description="What of the file may differ; file: that one side may lack it, with all its keys."
    )
    allows: Annotated[tuple[Annotated[Allows, Choice()], ...], Items(1)] = Field(
        default=(Allows.DIFFERS, Allows.MISSING), description="What of the keys is expected."
    )
    between: Between = Field(default=(), description="Only between these environments. Default: any two sides.")
    reason: Reason = Field(description="Why, for later readers.")

    @model_validator(mode="after")
    def _says_what(self) -> ExpectedDifference:
        if (self.keys is None) == (self.attributes is None):
            raise mistake("must name either keys or attributes", "keys: [NAME] or attributes: [mode]")
        return self


class ServiceDifference(Section):
    """Facts of services that may differ."""

    service: Annotated[str, _GLOB] = Field(description="The service, PROJECT/SERVICE, or a pattern.")
    facts: Globs = Field(
        description="Names as `compare` shows them, or patterns: state, health, image, digest, ports, memory, cpus, "
        "containers (how many), container (whether there is one), environment.NAME."
    )
    between: Between = Field(default=(), description="Only between these environments. Default: any two sides.")
    reason: Reason = Field(description="Why, for later readers.")


class OwnRisk(Section):
    """The risk of some keys, asked before the table of docs/compare.md."""

    keys: Globs = Field(description="The keys, or patterns of them.")
    risk: Annotated[Risk, Choice()] = Field(description="high, medium or low.")


class ExpectedFile(Section):
    """What `reconciler compare` takes for explained."""

    model_config = ConfigDict(title=FILE_NAME)

    differences: Annotated[tuple[ExpectedDifference, ...], Items()] = Field(
        default=(), description="What may differ in files, each with a reason."
    )
    services: Annotated[tuple[ServiceDifference, ...], Items()] = Field(
        default=(), description="What may differ between containers, each with a reason."
    )
    risks: Annotated[tuple[OwnRisk, ...], Items()] = Field(
        default=(), description="Risks of keys, where the table is wrong; the first that matches counts."
    )


def load_expected(path: str) -> Expectations:
    """Read the file. Raises ConfigError with every problem in it, one a line."""
    return read_expected(read_config_file(path, hint="Name the file with --expected"), os.path.relpath(path))


def read_expected(content: bytes, file_name: str) -> Expectations:
    """Given the content of the file, return what it says. Raises ConfigError."""
    if not content.strip():
        return Expectations()
    file = read_sections(ExpectedFile, content, file=file_name, error=ConfigError, rules=lambda _: ())
    return Expectations(
        differences=tuple(
            Expectation(
                difference.file,
                difference.reason,
                difference.keys or (),
                frozenset(difference.attributes or ()),
                frozenset(difference.allows),
                difference.between,
            )
            for difference in file.differences
        ),
        services=tuple(
            ServiceExpectation(service.service, service.facts, service.reason, service.between)
            for service in file.services
        ),
        risks=tuple(RiskOverride(override.keys, override.risk) for override in file.risks),
    )
