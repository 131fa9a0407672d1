"""The shape of the JSON answers about a server, for `reconciler schema` and /openapi.json. Nothing is built from these
models.

An instant is ISO 8601 in UTC. Names and reasons only: no answer has a field for a value.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from reconciler.core.compare.risk import Risk
from reconciler.core.model.compose import ActionKind
from reconciler.core.model.plans import Aspect, Effect, Kind, SyncStatus
from reconciler.core.model.revisions import RevertState
from reconciler.core.model.runs import Phase, Result

Instant = Annotated[str, Field(description="ISO 8601 in UTC", pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00$")]
_Result = Result | Literal["pending", "drifted"]


class JsonAnswer(BaseModel):
    """What a command prints with --json."""

    schema_: int = Field(alias="schema", description="Rises with an incompatible change; new fields do not raise it.")


class KeysData(BaseModel):
    """Names of keys."""

    added: list[str]
    removed: list[str]
    changed: list[str]


class RevisionData(BaseModel):
    commit: str
    author: str
    committed_at: Instant
    subject: str


# --- reconciliations ---


class AppliedToData(BaseModel):
    """What a target was last brought to."""

    commit: str
    at: Instant


class ChangeData(BaseModel):
    """A target: how its live file differs from git, and what the reconciliation does about it.

    ``keys`` are the differences from the live file to git, ``by_hand`` those made on the server since it was last
    written, ``from_git`` those made in git since then. ``edited_by`` says who edited the file, and how sure that is.
    Only `status` has ``applied``,
    ``since`` (when ``sync`` became what it is) and ``left_at`` (when an orphan left git). ``error_id``:
    as for an outcome.
    """

    target: str
    path: str
    stack: str | None
    sync: SyncStatus
    kind: Kind
    effect: Effect
    aspects: list[Aspect]
    keys: KeysData
    by_hand: KeysData
    from_git: KeysData
    edited_at: Instant | None
    edited_by: str
    restored_from: str | None
    renamed_from: str | None
    moved_to: str | None
    reason: str
    error_id: str
    applied: AppliedToData | None = None
    since: Instant | None = None
    left_at: Instant | None = None


class ActionData(BaseModel):
    """What one service needs, and why."""

    stack: str
    service: str
    action: ActionKind
    reason: str


class DriftData(BaseModel):
    """A service that the engine itself keeps, as somebody changed it there; or ``missing``: removed it.

    ``keys`` are the differences of its variables to the project, ``fields`` its other differences, and ``details`` the
    same in sentences. ``effect``: it is deployed again (write), stays (report), or waits (hold).
    """

    stack: str
    service: str
    effect: Effect
    missing: bool
    keys: KeysData
    fields: list[str]
    details: list[str]
    reason: str
    error_id: str


class PlanData(BaseModel):
    changes: list[ChangeData]
    actions: list[ActionData]
    drifts: list[DriftData] = []
    notes: list[str]


class PauseData(BaseModel):
    """``scope`` is ENVIRONMENT/TARGET or ENVIRONMENT/STACK; "" is the whole environment."""

    scope: str
    until: Instant
    reason: str
    since: Instant


class OutcomeData(BaseModel):
    """How the reconciliation of one environment (on one host: ENVIRONMENT@HOST) ended, or would end.

    ``plan`` is what it found and did, ``after`` how things are since; ``pending``: something would be done; ``retry``:
    something outside failed, and the daemon tries again. ``pauses`` only after `pause` and `resume`,
    ``forgotten`` (what that did) only after `forget`. ``error_id`` is the section of docs/errors.md about the reason,
    "" where there is none; each line of ``warning`` ends with its own, in brackets.
    """

    environment: str
    result: _Result
    reason: str
    error_id: str
    revision: RevisionData | None
    run: str | None
    backup: str | None
    retry: bool
    warning: str
    pending: bool
    plan: PlanData | None
    after: PlanData | None
    pauses: list[PauseData] = []
    forgotten: str = ""


class OutcomesAnswer(JsonAnswer):
    """`sync`, `plan` and the requests that end in a reconciliation: one outcome per environment and host."""

    outcomes: list[OutcomeData]


# --- status ---


class PinData(BaseModel):
    revision: RevisionData
    reason: str
    since: Instant


class RevertData(BaseModel):
    state: RevertState
    reason: str


class QuarantineData(BaseModel):
    revision: RevisionData
    reason: str
    since: Instant
    run: str
    revert: RevertData | None


class ActivityData(BaseModel):
    """A reconciliation that runs now."""

    since: Instant
    phase: Phase | None
    doing: str


class ServiceData(BaseModel):
    """``acknowledged``: an operator knows that it does not run. ``running`` of its ``containers`` run, those that it
    shall have included, on these ``nodes`` (of a Swarm); ``logs`` shows what it printed, "" for `docker compose
    logs`."""

    stack: str
    service: str
    state: str
    healthy: bool
    restarts: int
    reason: str
    acknowledged: bool
    containers: int
    running: int
    nodes: list[str]
    logs: str


class EnvironmentData(OutcomeData):
    """An environment: its last outcome, its revisions, what holds it back, and its services.

    ``result`` is null before the first reconciliation. ``suspended`` has the reason for each suspended stack. ``since``
    says when the result became what it is.
    """

    result: _Result | None  # type: ignore[assignment]
    head: RevisionData | None
    applied: RevisionData | None
    healthy: RevisionData | None
    pin: PinData | None
    quarantine: QuarantineData | None
    suspended: dict[str, str]
    checked_at: Instant | None
    since: Instant | None
    engine_away: str
    reconciling: ActivityData | None
    services: list[ServiceData]
    services_unknown: str = ""


class DaemonData(BaseModel):
    """``http``: where it serves HTTP, as http.listen is written, with the port that it got; "" without a daemon."""

    running: bool
    pid: int | None
    http: str


class HistoryHeadData(BaseModel):
    """The numbers of the first and the last entry of the history, and the last one's hash."""

    first: int
    last: int
    sha256: str


class StatusAnswer(JsonAnswer):
    """`status`, and /api/v1/status of the daemon."""

    daemon: DaemonData
    history: HistoryHeadData
    environments: list[EnvironmentData]


# --- records ---


class RunChangeData(KeysData):
    source: str
    kind: str
    restored_from: str | None
    renamed_from: str | None
    edited_by: str = ""


class RunData(BaseModel):
    """A run, or a decision. ``requested_by`` is who asked for it, by the kernel's word, and ``request_reason`` why, in
    their words. ``accepted`` says who has accepted which project as it stood; ``error_id`` is as for an outcome;
    ``entry`` is the number of its newest entry in the history, null while it is unfinished."""

    entry: int | None
    run: str
    environment: str
    trigger: str
    requested_by: str
    request_reason: str
    started_at: Instant
    finished_at: Instant | None
    revision: RevisionData
    from_commit: str
    changes: list[RunChangeData]
    actions: list[ActionData]
    backup: str | None
    result: Result | Literal["unfinished"]
    reason: str
    error_id: str
    accepted: list[str]


class HistoryAnswer(JsonAnswer):
    """`history`: runs, newest first; with --follow one run a line, oldest first."""

    runs: list[RunData]


class HistoryPageAnswer(HistoryAnswer):
    """/api/v1/history. ``next`` is the ``before`` of the next page, null on the last one."""

    next: str | None


class RunAnswer(RunData, JsonAnswer):
    """/api/v1/runs/RUN."""


class DifferenceData(BaseModel):
    """What is not the same on two sides. ``where`` is the file or service that it is in; ``left`` and ``right`` say
    what is on each side (missing, a mode, an image), never a value; ``note`` is the reason, or what else is notable."""

    class_: str = Field(alias="class", description="As in docs/compare.md, or placeholder, or problem.")
    kind: Literal["key", "file", "service", "definition", "probe", "problem"]
    name: str
    where: str
    risk: Risk
    left: str
    right: str
    note: str
    unexplained: bool


class ComparedPairData(BaseModel):
    """Two sides that the daemon compares: ``at`` the last time, at the branch's ``commit``; ``counts`` are its
    differences by class, ``limits`` say what was not compared. While it fails, ``error`` says why, and the rest is the
    result from before ``failing_since``."""

    name: str
    left: str
    right: str
    interval: float = Field(description="seconds")
    at: Instant | None
    commit: str | None
    error: str
    error_id: str
    failing_since: Instant | None
    verdict: str
    unexplained: int
    counts: dict[str, int]
    limits: list[str]
    differences: list[DifferenceData]


class ComparisonsAnswer(JsonAnswer):
    """/api/v1/comparison."""

    comparisons: list[ComparedPairData]


class ErrorData(BaseModel):
    """``id`` is a section of docs/errors.md."""

    what: str
    where: str
    hint: str
    id: str


class ErrorAnswer(JsonAnswer):
    """Why a request below /api was refused."""

    error: ErrorData


class BackedUpFileData(BaseModel):
    source: str
    path: str
    existed: bool


class BackupData(BaseModel):
    """``problems`` only with --verify. A backup whose manifest cannot be read has no more than its name."""

    backup: str
    environment: str
    run: str = ""
    at: Instant | None = None
    from_commit: str = ""
    to_commit: str = ""
    files: list[BackedUpFileData]
    problems: list[str] = []


class BackupsAnswer(JsonAnswer):
    """`backups`, newest first."""

    backups: list[BackupData]


class RestoreAnswer(JsonAnswer):
    """`restore`: live paths; ``from`` and ``backup`` are ids of backups."""

    restored: list[str]
    from_: str = Field(alias="from")
    backup: str


class AdoptAnswer(JsonAnswer):
    """`adopt`: the pushed commit. ``whole``: the whole file was taken."""

    target: str
    branch: str
    commit: str
    base: str
    base_branch: str
    keys: KeysData
    whole: bool


class ComponentFindingData(BaseModel):
    component: str
    level: Literal["ok", "warning", "error"]
    result: str
    advice: str


class DoctorAnswer(JsonAnswer):
    """`doctor`."""

    findings: list[ComponentFindingData]


class ReceiverAnswerData(BaseModel):
    line: int
    receiver: str
    accepted: bool
    problem: str


class NotifyAnswer(JsonAnswer):
    """`notify --test`."""

    receivers: list[ReceiverAnswerData]


SERVER_ANSWERS: dict[str, type[JsonAnswer]] = {
    **dict.fromkeys(
        ("sync", "plan", "rollback", "unpin", "pause", "resume", "retry", "accept-rewrite", "forget"), OutcomesAnswer
    ),
    "status": StatusAnswer,
    "history": HistoryAnswer,
    "backups": BackupsAnswer,
    "restore": RestoreAnswer,
    "adopt": AdoptAnswer,
    "doctor": DoctorAnswer,
    "notify": NotifyAnswer,
}
"""By command."""
