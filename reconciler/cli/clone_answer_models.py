"""The shape of the JSON answers about a clone, for `reconciler schema`; see answer_models.py."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from reconciler.app.daemon.answers.age_models import KnownSecretsData
from reconciler.app.daemon.answers.models import JsonAnswer, KeysData
from reconciler.core.checks.rules import Severity
from reconciler.core.compare.risk import Risk
from reconciler.core.compare.types import Remark, Status
from reconciler.core.inventory import Use
from reconciler.core.model.targets import Format
from reconciler.core.promotion.key_plan import ValueFrom


class KeyFindingData(BaseModel):
    """``rule`` is explained in docs/checks.md."""

    rule: str
    severity: Severity
    message: str


class FindingData(KeyFindingData):
    path: str
    line: int


class CheckReportData(BaseModel):
    environments: list[str]
    files: int
    files_with_values: int
    errors: int
    warnings: int
    findings: list[FindingData]


class CheckAnswer(JsonAnswer, CheckReportData):
    """`check`."""


class RecipientsData(BaseModel):
    added: list[str]
    removed: list[str]


class ChangedFileData(BaseModel):
    """``equal`` (with a key): per key, the environments that had the "old" or have the "new" value."""

    environment: str
    source: str
    status: Literal["added", "removed", "modified", "renamed"]
    stack: str | None
    live: str
    keys: KeysData
    recipients: RecipientsData
    only_reencrypted: bool
    rotated: bool
    note: str
    equal: dict[str, dict[str, list[str]]]
    findings: list[KeyFindingData]
    renamed_from: str | None


class ChangedTargetData(BaseModel):
    environment: str
    source: str
    change: Literal["added", "removed", "changed", "renamed"]
    stack: str | None
    details: list[str]
    renamed_from: str


class OtherFileData(BaseModel):
    path: str
    status: str


class DiffAnswer(JsonAnswer):
    """`diff`."""

    base: str
    head: str
    directory: str
    summary: str
    with_values: bool
    files: list[ChangedFileData]
    targets: list[ChangedTargetData]
    rechecked: list[str]
    findings: list[FindingData]
    others: list[OtherFileData]


class ComparedKeyData(BaseModel):
    key: str
    class_: Status = Field(alias="class")
    remarks: list[Remark]
    risk: Risk
    unexplained: bool
    unused_on: list[str]
    reason: str


class ComparedFactData(BaseModel):
    name: str
    left: str
    right: str
    class_: Status = Field(alias="class")
    risk: Risk
    unexplained: bool
    informational: bool
    reason: str


class ComparedFileData(BaseModel):
    left: str | None
    right: str | None
    paired_by: str | None
    services: list[str]
    problem: str
    keys: list[ComparedKeyData]
    facts: list[ComparedFactData]


class ComparedServiceData(BaseModel):
    service: str
    facts: list[ComparedFactData]


class ComparedProbeData(BaseModel):
    probe: str
    class_: Status = Field(alias="class")
    left: str
    right: str
    first_different_line: int | None
    reason: str


class ComparisonData(BaseModel):
    left: str
    right: str
    left_label: str
    right_label: str
    different_environments: bool
    summary: str
    sentences: list[str]
    unexplained: int
    remarks: list[str]
    problems: list[str]
    files: list[ComparedFileData]
    services: list[ComparedServiceData]
    definitions: list[ComparedServiceData]
    probes: list[ComparedProbeData]


class UnreadSideData(BaseModel):
    side: str
    error: str


class CompareAnswer(JsonAnswer):
    """`compare`."""

    unexplained: int
    comparisons: list[ComparisonData]
    failures: list[UnreadSideData]


# --- in a clone ---


class EditAnswer(JsonAnswer):
    """`set` and `edit`; ``check`` is null where nothing was written."""

    target: str
    path: str
    written: bool
    added: list[str]
    removed: list[str]
    changed: list[str]
    check: CheckReportData | None


class StepData(BaseModel):
    action: Literal["created", "extended", "exists"]
    path: str
    note: str


class InitAnswer(JsonAnswer):
    """`init`."""

    environment: str
    recipients: list[str]
    key_file: str
    steps: list[StepData]
    uncommitted: list[str]
    notes: list[str]


class ImportedStackData(BaseModel):
    name: str
    directory: str
    hosts: list[str]
    files: list[str]
    env_files: list[str]
    project: str
    project_directory: str
    kind: str


class RewritingData(BaseModel):
    line: int
    reason: str


class ChangedKeysData(KeysData):
    """``cosmetic``: other bytes, the same variables."""

    cosmetic: bool


class ImportedFileData(BaseModel):
    """``keys_not_shown`` counts names that may be parts of a secret."""

    path: str
    source: str
    stack: str | None
    hosts: list[str]
    uses: list[Use]
    services: list[str]
    keys: list[str]
    keys_not_shown: int
    mode: str
    owner: str
    group: str
    format: Format
    reason: str
    rewritings: list[RewritingData]
    change: Literal["added", "changed", "unchanged"]
    changed_keys: ChangedKeysData | None


class RemovedTargetData(BaseModel):
    """A target whose live file is gone."""

    source: str
    path: str


class LeftOutData(BaseModel):
    host: str
    path: str
    reason: str


class VerificationData(BaseModel):
    compared: int
    rewritten: int
    planned: list[str]
    empty: list[str]
    problems: list[str]
    notes: list[str]


class ImportAnswer(JsonAnswer):
    """`import`; ``verification`` is null with --dry-run."""

    environment: str
    stacks: list[ImportedStackData]
    files: list[ImportedFileData]
    left_out: list[LeftOutData]
    removed: list[RemovedTargetData]
    update: bool
    notes: list[str]
    branch: str
    commit: str
    written: list[str]
    verification: VerificationData | None


class MergedFileData(BaseModel):
    """``problem`` is why a file without conflicts is not merged; ``taken`` counts what came from the other side."""

    path: str
    merged: bool
    conflicts: list[str]
    problem: str
    taken: int


class MergeAnswer(JsonAnswer):
    """`merge`."""

    files: list[MergedFileData]


class RecipientData(BaseModel):
    """``rules`` are the path_regex of the rules that name the key; ``unlisted`` files are for it against their rule,
    ``lacking`` are not although their rule says so."""

    name: str
    key: str
    rules: list[str]
    files: int
    unlisted: list[str]
    lacking: list[str]


class RecipientsAnswer(JsonAnswer):
    """`recipients`: who can read, or (with ``action``) the commit that changes it. ``known`` is what somebody who was
    removed knows."""

    recipients: list[RecipientData] | None = None
    action: Literal["add", "remove"] | None = None
    name: str | None = None
    key: str | None = None
    rules: list[str] | None = None
    files: list[str] | None = None
    continued: int | None = None
    branch: str | None = None
    commit: str | None = None
    known: KnownSecretsData | None = None


class PromotedKeyData(BaseModel):
    """``new``: the file it goes to lacked it. ``names_left``: the copied value still names the left environment or one
    of its hosts."""

    key: str
    from_: str = Field(alias="from")
    to: str
    new: bool
    secret: bool
    value: ValueFrom
    names_left: bool


class LeftOutKeyData(BaseModel):
    key: str
    from_: str = Field(alias="from")
    to: str
    reason: str


class PromoteAnswer(JsonAnswer):
    """`promote`. ``branch`` and ``commit`` are null where nothing was committed; ``findings`` are new ones of the
    check."""

    left: str
    right: str
    keys: list[PromotedKeyData]
    left_out: list[LeftOutKeyData]
    branch: str | None
    commit: str | None
    findings: list[FindingData]


CLONE_ANSWERS: dict[str, type[JsonAnswer]] = {
    "check": CheckAnswer,
    "diff": DiffAnswer,
    "compare": CompareAnswer,
    **dict.fromkeys(("set", "edit"), EditAnswer),
    "merge": MergeAnswer,
    "recipients": RecipientsAnswer,
    "promote": PromoteAnswer,
    "init": InitAnswer,
    "import": ImportAnswer,
}
"""By command."""
