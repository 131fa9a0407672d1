"""Answers of the commands as data, the ugly ones too: many keys, long names and reasons, several hosts, every state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reconciler.app.checks.run import CheckReport
from reconciler.app.compare.run import ComparisonReport
from reconciler.app.diff.diff import CommitDiff, FileChange, TargetChange
from reconciler.app.editing.command import EditResult
from reconciler.app.review.review import Review
from reconciler.core.checks import rules
from reconciler.core.checks.rules import Finding
from reconciler.core.compare.risk import Risk
from reconciler.core.compare.types import (
    Comparison,
    Fact,
    FileResult,
    KeyResult,
    PairedBy,
    ProbeResult,
    Remark,
    ServiceResult,
    Side,
    Status,
)
from reconciler.core.model.plans import KeyChange
from reconciler.core.sops.cipher_diff import CipherChange

NOW = 1_795_939_200.0  # 2026-11-29 08:00:00Z
LONG = "A_NAME_OF_A_KEY_THAT_SOMEBODY_MADE_SIXTY_CHARACTERS_LONG_HERE"
LONG_SOURCE = "services/customer-notifications/production-eu-central-1.env"
MANY = tuple(f"FEATURE_FLAG_NUMBER_{number:03}" for number in range(112))
HOW = "the engine started it again and again; the last lines of its log are in `docker compose logs --tail 50 api`"


def at(text: str) -> str:
    return f"2026-11-{text}+00:00"


def revision(commit: str = "02fdac92abcd", subject: str = "Move the mail server", when: str = "29T07:58:00") -> Any:
    author = "Ada Example <ada@example.org>"
    return {"commit": commit.ljust(40, "0"), "author": author, "committed_at": at(when), "subject": subject}


OLDER = revision("9a1b2c3d4e5f", "Let the worker take 12 jobs at a time", "27T16:30:00")


def keys(added: Any = (), removed: Any = (), changed: Any = ()) -> dict[str, Any]:
    return {"added": added, "removed": removed, "changed": changed}


def change(target: str, sync: str = "in_sync", kind: str = "in_sync", effect: str = "none", **more: Any) -> Any:
    source = target.partition("/")[2]
    return {
        "target": target,
        "path": f"/opt/app/{source}",
        "stack": "app",
        "sync": sync,
        "kind": kind,
        "effect": effect,
        "aspects": ["content"] if kind != "in_sync" else [],
        "keys": keys(),
        "by_hand": keys(),
        "from_git": keys(),
        "edited_at": None,
        "edited_by": "",
        "restored_from": None,
        "renamed_from": None,
        "moved_to": None,
        "reason": "in sync",
        "error_id": "",
        **more,
    }


def drift(target: str, **more: Any) -> Any:
    fields = {
        "sync": "drifted",
        "kind": "drift",
        "effect": "write",
        "keys": keys(removed=("MADE_BY_HAND",), changed=("LOG_LEVEL",)),
        "edited_at": at("29T07:41:00"),
        "edited_by": "ada (login uid of the process that wrote it)",
        "reason": "LOG_LEVEL, MADE_BY_HAND were changed by hand at 2026-11-29 07:41:00Z",
        **more,
    }
    return change(target, **fields)


def update(target: str, changed: Any = ("DB_HOST",), **more: Any) -> Any:
    fields = {"sync": "pending", "kind": "update", "effect": "write", "keys": keys(changed=changed), **more}
    return change(target, **{"reason": f"{changed[0]} has a pending change from git", **fields})


def action(service: str, reason: str, kind: str = "recreate", stack: str = "app") -> Any:
    return {"stack": stack, "service": service, "action": kind, "reason": reason}


def plan(*changes: Any, actions: Any = (), notes: Any = ()) -> Any:
    return {"changes": list(changes), "actions": list(actions), "notes": list(notes)}


def outcome(result: str, plan: Any = None, environment: str = "production", **more: Any) -> Any:
    return {
        "environment": environment,
        "result": result,
        "reason": "in sync at 02fdac92abcd",
        "error_id": "",
        "revision": revision(),
        "run": None,
        "backup": None,
        "retry": False,
        "warning": "",
        "pending": False,
        "plan": plan,
        "after": plan,
        **more,
    }


def state(result: str, after: Any = None, environment: str = "production", **more: Any) -> Any:
    return {
        **outcome(result, after, environment),
        "head": revision(),
        "applied": revision(),
        "healthy": revision(),
        "pin": None,
        "pauses": [],
        "quarantine": None,
        "suspended": {},
        "checked_at": at("29T07:59:48"),
        "since": at("29T05:00:00"),
        "services": [],
        **more,
    }


def service(name: str, state: str = "running (healthy)", healthy: bool = True, **more: Any) -> Any:
    stack, _, service = name.partition("/")
    usual = {"restarts": 0, "containers": 1, "running": 1, "nodes": [], "logs": ""}
    return {"stack": stack, "service": service, "state": state, "healthy": healthy, **usual, **more}


def status(*environments: Any, running: bool = True, **daemon: Any) -> Any:
    history = {"first": 1, "last": 41, "sha256": "3f" * 32}
    return {
        "daemon": {"running": running, "pid": 12, "http": "127.0.0.1:9464", **daemon},
        "history": history,
        "environments": list(environments),
    }


UNHEALTHY = "api: unhealthy for 30 s after the change (was healthy before): " + HOW
STALL = (
    "envs/production/api.env: 40 of 45 keys would go. Allow it with allow_shrink: true. [file-would-shrink]\n"
    "envs/production/worker.env: PORT must be a number between 1 and 65535 (contracts/worker.yaml). "
    "Nothing was written [broken-contract]"
)
PAUSE = {
    "scope": "production/worker.env",
    "until": at("29T08:25:00"),
    "reason": "an incident",
    "since": at("29T07:25:00"),
}
PAUSED = drift(
    "production/worker.env",
    sync="held",
    effect="hold",
    reason="LOG_LEVEL, MADE_BY_HAND were changed by hand at 2026-11-29 07:41:00Z; "
    "paused until 2026-11-29 08:25:00Z: an incident",
    error_id="paused",
)
CONTACT = change(
    f"production/{LONG_SOURCE}",
    "held",
    "first_contact",
    "hold",
    keys=keys(changed=(LONG,)),
    reason="a different file is already there and was never ours; compare the keys, then run `reconciler sync "
    f"--take-over production/{LONG_SOURCE}` or set on_first_contact: take_over",
    error_id="different-file",
)
CONFLICT = change(
    "production/api.env",
    "drifted",
    "conflict",
    "write",
    keys=keys(changed=("A", "B")),
    edited_at=at("29T07:41:00"),
    reason="A was changed by hand at 2026-11-29 07:41:00Z, B has a pending change from git; git wins; "
    "the hand edit is in the backup",
)
ORPHAN = change(
    "production/old.env",
    "orphan",
    "orphan",
    "report",
    reason="the target left git; /opt/app/old.env stays. `reconciler forget production/old.env` ends this; with "
    "--delete the file goes, after a backup",
    error_id="orphan",
)
RENAMED = (
    change(
        "production/mail.env",
        "pending",
        "create",
        "write",
        aspects=["missing"],
        keys=keys(changed=("LOG_LEVEL",)),
        renamed_from="old.env",
        reason="new target",
    ),
    {**ORPHAN, "moved_to": "production/mail.env"},
    change("production/api.env", renamed_from="main.env"),
)
RESTORED = drift(
    "production/worker.env",
    aspects=["content", "restored"],
    restored_from="20261129T075912Z-8bc1d2e3",
    reason="LOG_LEVEL was restored from backup 20261129T075912Z-8bc1d2e3 at 2026-11-29 07:41:00Z",
)
NOTES = ("api.env: no service reads this env file",)
RECREATE = action(
    "api", "DB_HOST in api.env changed; nothing else of its definition differs from the running container"
)
WAITING = "2 waiting for an operator: worker.env: paused; x.env: a different file is already there and was never ours"

PLANS: Mapping[str, Any] = {
    "example": [outcome("drifted", plan(drift("production/worker.env"), change("production/api.env")), pending=True)],
    "in_sync": [outcome("in_sync", plan(change("production/api.env")))],
    "many_keys": [
        outcome(
            "pending",
            plan(
                update("production/api.env", ("DB_HOST", LONG, *(f"KEY_{number}" for number in range(9)))),
                change("production/flags.env", "pending", "create", "write", keys=keys(MANY), reason="new target"),
                ORPHAN,
                CONFLICT,
                actions=[RECREATE, action("worker", "api.env is mounted", "restart")],
                notes=NOTES,
            ),
            pending=True,
        )
    ],
    "renamed": [outcome("pending", plan(*RENAMED), pending=True)],
    "restored": [outcome("drifted", plan(RESTORED), pending=True)],
    "held": [outcome("held", plan(PAUSED, CONTACT), reason=WAITING)],
    "stalled": [outcome("stalled", plan(update("production/api.env")), reason=STALL, error_id="several-problems")],
    "failed": [
        outcome(
            "failed",
            revision=None,
            retry=True,
            reason="ssh://git@git.example.org/acme/config.git (branch main): git.example.org does not answer. "
            "Check the network.",
            error_id="git-unreachable",
        )
    ],
    "hosts": [
        outcome("in_sync", plan(change("production@web-1/api.env")), "production@web-1"),
        outcome(
            "drifted",
            plan(
                drift("production@web-2/api.env"),
                actions=[
                    action("api", "its container runs older values of LOG_LEVEL"),
                    action("job", "its container runs older values of LOG_LEVEL", stack="batch"),
                ],
            ),
            "production@web-2",
            pending=True,
        ),
    ],
}

DONE = plan(update("production/api.env"), drift("production/worker.env"), actions=[RECREATE])
RUN = {"run": "8bc1d2e3", "backup": "20261129T075912.123Z-8bc1d2e3"}
SYNCS: Mapping[str, Any] = {
    "applied": [outcome("applied", DONE, reason="wrote api.env, worker.env; api healthy on the new values", **RUN)],
    "in_sync": [outcome("in_sync", plan(change("production/api.env")))],
    "orphan": [
        outcome(
            "in_sync",
            plan(change("production/api.env"), ORPHAN),
            reason="in sync at 02fdac92abcd; production/old.env left git, and the live file stays: `reconciler forget` "
            "ends that",
        )
    ],
    "forgotten": [
        outcome(
            "in_sync",
            plan(change("production/api.env")),
            forgotten="ada (uid 1000) forgot production/old.env: read by cron; /opt/app/old.env stays on the server",
        )
    ],
    "rolled_back": [
        outcome(
            "rolled_back",
            DONE,
            **RUN,
            reason=f"{UNHEALTHY}. Rolled back; revision 02fdac92abcd is quarantined. Fix it with a new commit",
            error_id="unhealthy",
            warning=f"revision 02fdac92abcd is quarantined: {UNHEALTHY}. Fix it with a new commit, or lift "
            "the quarantine with `reconciler retry`. Until then the target revision is 9a1b2c3d4e5f [quarantined]",
        )
    ],
    "unfinished": [
        outcome(
            "failed",
            DONE,
            **RUN,
            retry=True,
            reason="stack app: the Docker engine does not answer. Is it "
            "running? The files are in place; pending restarts: api. The next reconciliation continues",
            error_id="engine-unavailable",
        )
    ],
    "held": [
        outcome("held", plan(update("production/api.env"), PAUSED, CONTACT), **RUN, reason=f"wrote api.env; {WAITING}")
    ],
    "stalled": [outcome("stalled", reason=STALL, error_id="several-problems")],
    "paused": [outcome("held", plan(PAUSED), reason=WAITING, pauses=[PAUSE])],
    "paused_quiet": [
        outcome("in_sync", plan(change("production/api.env")), pauses=[{**PAUSE, "scope": "", "reason": ""}])
    ],
    "resumed": [
        outcome("corrected", plan(drift("production/worker.env")), **RUN, pauses=[], reason="wrote worker.env")
    ],
}

STATUSES: Mapping[str, Any] = {
    "unplaced": status(
        state(
            "in_sync",
            plan(change("production/api.env")),
            services=[
                service(
                    "shop/search",
                    "pending",
                    False,
                    running=0,
                    reason="no suitable node (insufficient resources on 3 nodes)",
                ),
            ],
        )
    ),
    "in_sync": status(
        state(
            "in_sync",
            plan(
                change("production/api.env", since=at("29T05:00:00")),
                change("production/worker.env", since=at("22T05:00:00")),
                notes=NOTES,
            ),
            services=[
                service("app/api"),
                service("app/worker", restarts=3),
                service("shop/web", "healthy", containers=3, running=3, nodes=["web-1", "web-2"]),
            ],
        )
    ),
    "drifted": status(
        state(
            "drifted",
            plan(
                drift(
                    "production/worker.env",
                    since=at("29T07:41:05"),
                    applied={"commit": OLDER["commit"], "at": at("27T16:31:00")},
                ),
                update("production/api.env"),
                change("production/flags.env", "pending", "create", "write", keys=keys(MANY), reason="new target"),
                change("production/x.env"),
                {**ORPHAN, "left_at": at("29T07:41:05")},
                RESTORED,
            ),
            pending=True,
            services=[
                service(
                    "app/api",
                    "exited (137)",
                    False,
                    reason="stopped by hand 5 min ago; it stays stopped until somebody starts it",
                    acknowledged=True,
                ),
            ],
        ),
        running=False,
    ),
    "held_back": status(
        state(
            "held",
            plan(PAUSED, CONTACT),
            reason=WAITING,
            pauses=[PAUSE],
            applied=OLDER,
            healthy=OLDER,
            revision=OLDER,
            pin={"revision": OLDER, "reason": "the incident of Friday", "since": at("29T07:00:00")},
        )
    ),
    "quarantined": status(
        state(
            "in_sync",
            plan(change("production/api.env")),
            revision=OLDER,
            applied=OLDER,
            healthy=OLDER,
            quarantine={
                "revision": revision(),
                "reason": UNHEALTHY,
                "since": at("29T07:59:00"),
                "run": "8bc1d2e3",
                "revert": {"state": "pushed", "reason": "reverted as 0011aabbccdd on main"},
            },
            warning=f"revision 02fdac92abcd is quarantined: {UNHEALTHY}. Fix it with a new commit, or lift the "
            "quarantine with `reconciler retry`. Until then the target revision is 9a1b2c3d4e5f",
        )
    ),
    "stalled": status(state("stalled", reason=STALL, error_id="several-problems")),
    "suspended": status(
        state(
            "rollback_failed",
            plan(
                update(
                    "production/api.env",
                    effect="hold",
                    sync="held",
                    reason="DB_HOST has a pending change from git; the stack is suspended until "
                    f"`reconciler retry`: rollback failed: {UNHEALTHY}",
                )
            ),
            reason=f"rollback failed: {UNHEALTHY}",
            error_id="rollback-failed",
            suspended={"app": f"rollback failed: {UNHEALTHY}"},
        )
    ),
    "engine_away": status(
        state(
            "in_sync",
            plan(change("production/api.env")),
            retry=True,
            services_unknown="no answer from the Docker engine within 5 s",
            engine_away="the Docker engine has not answered for 3 min; 2 restarts are pending [engine-unavailable]",
            reconciling={"since": at("29T07:59:30"), "phase": "recreate", "doing": "recreating api"},
        ),
    ),
    "hosts": status(
        state("in_sync", plan(change("production@web-1/api.env")), "production@web-1"),
        state(
            "failed",
            None,
            "production@web-2",
            reason="web-2: does not answer on port 22. Check its sshd and the network",
            error_id="host-unreachable",
            retry=True,
            checked_at=None,
            since=None,
            applied=None,
            healthy=None,
        ),
        {
            **state("in_sync", None, "staging"),
            "result": None,
            "reason": "not reconciled yet",
            "error_id": "",
            "revision": None,
            "head": None,
            "applied": None,
            "healthy": None,
            "checked_at": None,
            "since": None,
            "pending": True,
        },
    ),
}


def run(result: str, *changes: Any, actions: Any = (), reason: str = "", **more: Any) -> Any:
    return {
        "entry": 41,
        "run": "8bc1d2e3",
        "environment": "production",
        "trigger": "poll",
        "requested_by": "",
        "request_reason": "",
        "started_at": at("29T07:59:12"),
        "finished_at": at("29T07:59:40"),
        "revision": revision(),
        "from_commit": "",
        "changes": list(changes),
        "actions": list(actions),
        "backup": None,
        "result": result,
        "reason": reason,
        "error_id": "",
        "accepted": [],
        **more,
    }


ORIGINS = {"restored_from": None, "renamed_from": None, "edited_by": ""}
EDITOR = "probably ada: the only login session then"
HISTORY = [
    run(
        "applied",
        {"source": "api.env", "kind": "update", **ORIGINS, **keys(("NEW",), (), ("DB_HOST",))},
        actions=[RECREATE],
        reason="wrote api.env; api healthy on the new values",
    ),
    run(
        "rolled_back",
        {"source": LONG_SOURCE, "kind": "first_contact", **ORIGINS, **keys(MANY, ("OLD",))},
        reason=UNHEALTHY,
        error_id="unhealthy",
        environment="production@web-1",
        trigger="manual",
    ),
    run("unfinished", {"source": "worker.env", "kind": "drift", **ORIGINS, **keys((), (LONG,))}, entry=None),
    run(
        "corrected",
        {"source": "worker.env", "kind": "drift", **ORIGINS, **keys((), (), ("A",)), "edited_by": EDITOR},
        reason="wrote worker.env",
    ),
    run(
        "applied",
        {"source": "old.env", "kind": "first_contact", **ORIGINS, **keys((), (), ("A",))},
        reason="wrote old.env; ada (uid 1000) took over production/old.env",
        trigger="manual",
        requested_by="ada (uid 1000)",
        request_reason="ticket 12",
        accepted=["ada (uid 1000) took over production/old.env"],
    ),
    run(
        "done",
        reason="root (uid 0), logged in as ada (uid 1000) paused production until 2026-11-29 09:00:00Z: a migration",
        trigger="pause",
        requested_by="root (uid 0), logged in as ada (uid 1000)",
        request_reason="a migration",
    ),
    run("refused", reason="the branch was rewritten", error_id="history-rewritten"),
    run(
        "corrected",
        {"source": "api.env", "kind": "drift", **ORIGINS, "restored_from": "20261129T075912Z-8bc1d2e3", **keys()},
        {"source": "mail.env", "kind": "create", **ORIGINS, "renamed_from": "old.env", **keys()},
        reason="wrote api.env, mail.env",
    ),
    run(
        "applied",
        {"source": "old.env", "kind": "orphan", **ORIGINS, **keys()},
        reason="deleted old.env; ada (uid 1000) forgot production/old.env and deleted its live file: unused",
        trigger="forget",
    ),
    run(
        "done",
        {"source": "api.env", "kind": "restored", **ORIGINS, "restored_from": "20261129T075912Z-8bc1d2e3", **keys()},
        reason="ada (uid 1000) restored api.env from backup 20261129T075912Z-8bc1d2e3",
        trigger="restore",
    ),
]
BACKUPS = [
    {
        "backup": RUN["backup"],
        "environment": "production",
        "run": "8bc1d2e3",
        "at": at("29T07:59:12"),
        "from_commit": OLDER["commit"],
        "to_commit": revision()["commit"],
        "problems": [],
        "files": [
            {"source": "api.env", "path": "/opt/app/api.env", "existed": True},
            {"source": LONG_SOURCE, "path": f"/opt/app/{LONG_SOURCE}", "existed": False},
        ],
    },
    {
        "backup": "20261128T101112.001Z-ffee0011",
        "environment": "production@web-1",
        "run": "ffee0011",
        "at": at("28T10:11:12"),
        "from_commit": "",
        "to_commit": OLDER["commit"],
        "problems": ["api.env: its digest is not the recorded one: the backup was changed after it was made"],
        "files": [
            {"source": f"part-{number:02}.env", "path": f"/opt/app/part-{number:02}.env", "existed": True}
            for number in range(14)
        ],
    },
]
AGES = {
    "environments": [
        {
            "environment": "production",
            "revision": revision(),
            "targets": [
                {
                    "target": f"production/{LONG_SOURCE}",
                    "last_rotated": at("01T00:00:00"),
                    "keys": [
                        {"key": LONG, "empty": False, "last_rotated": "2025-01-01T00:00:00+00:00", "too_old": True},
                        {"key": "NEW", "empty": False, "last_rotated": at("29T07:00:00"), "too_old": False},
                        {"key": "NONE", "empty": True, "last_rotated": None, "too_old": False},
                    ],
                },
                {
                    "target": "production/blob",
                    "last_rotated": at("01T00:00:00"),
                    "keys": [{"key": "", "empty": False, "last_rotated": "2025-01-01T00:00:00+00:00", "too_old": True}],
                },
            ],
        },
        {"environment": "staging", "revision": revision(), "targets": []},
    ]
}
DELIVERIES = [
    {"line": 3, "receiver": "mailtos://mail.example.org", "accepted": True, "problem": ""},
    {"line": 5, "receiver": "slack", "accepted": False, "problem": "answered with status 403"},
    {"line": 12, "receiver": "jsons://hooks.example.org", "accepted": False, "problem": "gave no answer within 20 s"},
]
FINDINGS = [
    {"component": "server configuration", "level": "ok", "result": "/etc/reconciler/reconciler.yaml", "advice": ""},
    {
        "component": "age key",
        "level": "error",
        "result": "/etc/reconciler/age.key has mode 0644: others may read it",
        "advice": "`chmod 0600 /etc/reconciler/age.key`",
    },
    {
        "component": "environment production@web-1: live files",
        "level": "ok",
        "result": "3 of 4 exist; no symlink in their paths",
        "advice": "",
    },
    {
        "component": "stack production/app",
        "level": "warning",
        "result": "project app: 4 service(s), 0 container(s)",
        "advice": "`docker compose --project-name app --file compose.yaml --env-file .env.prod up -d` in /opt/app: "
        "services are only ever recreated",
    },
]
RESTORATION = {
    "restored": ["/opt/app/api.env", f"/opt/app/{LONG_SOURCE}"],
    "from": RUN["backup"],
    "backup": "20261129T080000.000Z-00112233",
}
ADOPTED = {
    "target": "production/worker.env",
    "branch": "reconciler/adopt-production-worker.env-20261129",
    "commit": "c" * 40,
    "base": "b" * 40,
    "base_branch": "main",
    "keys": keys(("A",), ("B",), ("C",)),
    "whole": False,
}
WHOLE = {**ADOPTED, "target": "production/cert.pem", "keys": keys(), "whole": True}


REWRITINGS = [
    {"line": 2, "reason": "the blank line becomes a comment"},
    {"line": 5, "reason": "a value of several lines becomes one, in double quotes"},
    {"line": 9, "reason": "the blank line becomes a comment"},
    {"line": 10, "reason": "the blank line becomes a comment"},
]


def imported_file(path: str, stack: str | None = "app", names: Any = ("A", "B"), **more: Any) -> Any:
    return {
        "path": path,
        "source": path.rpartition("/")[2],
        "stack": stack,
        "hosts": [],
        "uses": ["env_file"],
        "services": ["api", "worker"],
        "keys": list(names),
        "keys_not_shown": 0,
        "rewritings": [],
        "mode": "0600",
        "owner": "deploy",
        "group": "deploy",
        "format": "dotenv",
        "reason": "",
        "change": "added",
        "changed_keys": None,
        **more,
    }


DRAFT = {
    "update": False,
    "removed": [],
    "stacks": [{"name": "app", "directory": "/opt/app", "hosts": ["web-1", "web-2"]}],
    "files": [
        imported_file(
            "/opt/app/api.env", names=("DATABASE_URL", "SECRET_KEY", "LOG_LEVEL", "PORT", "SENTRY_DSN", *MANY)
        ),
        imported_file(
            f"/opt/app/{LONG_SOURCE}", names=(LONG,), group="www-data", keys_not_shown=2, rewritings=REWRITINGS
        ),
        imported_file("/etc/motd", None, (), uses=["mounted"], format="binary", reason="line 3: a value without a key"),
    ],
    "left_out": [{"path": "/opt/app/huge.bin", "reason": "larger than 1 MiB; give it to git by hand, or exclude it"}],
    "notes": ["docker/.env.prod: COMPOSE_PROJECT_NAME stays under the control of the server"],
}
UPDATE_DRAFT = {
    "update": True,
    "stacks": [{"name": "app", "directory": "/opt/app", "hosts": []}],
    "removed": [{"source": "token.txt", "path": "/opt/app/token.txt"}],
    "files": [
        imported_file(
            "/opt/app/.env",
            source="app.env",
            change="changed",
            changed_keys={"added": ["SMTP_HOST"], "removed": ["OLD_KEY"], "changed": ["LOG_LEVEL", *MANY]},
        ),
        imported_file(
            "/opt/app/nginx.conf", change="changed", changed_keys={"added": [], "removed": [], "changed": []}
        ),
        imported_file("/opt/app/new.env"),
        imported_file("/opt/app/worker.env", change="unchanged"),
    ],
    "left_out": [],
    "notes": ["/opt/app/.env has mode 0644 (git: 0600): the manifest stays, and the next reconciliation follows it"],
}
IMPORTED = {
    **DRAFT,
    "environment": "production",
    "branch": "reconciler/import-production",
    "commit": "c" * 40,
    "written": [],
    "verification": {
        "compared": 3,
        "rewritten": 4,
        "problems": [],
        "notes": [],
        "empty": ["web-1"],
        "planned": ["web-1", "web-2"],
    },
}
NOT_VERIFIED = {
    **IMPORTED,
    "verification": {
        "compared": 3,
        "rewritten": 0,
        "problems": ["/opt/app/api.env: the live file changed while it was imported. Import it again"],
        "notes": [],
        "empty": [],
        "planned": [],
    },
}
INIT = {
    "environment": "production",
    "recipients": ["age1" + "q" * 58],
    "key_file": "/root/.config/sops/age/keys.txt",
    "steps": [
        {"action": "created", "path": "/root/.config/sops/age/keys.txt", "note": "private: not in the repository"},
        {"action": "exists", "path": ".sops.yaml", "note": "its first rule that matches is used"},
        {"action": "created", "path": "envs/production/environment.yaml", "note": ""},
    ],
    "uncommitted": [".sops.yaml", "envs/.gitattributes", "envs/production/environment.yaml", "reconciler.yaml"],
    "notes": [
        "no rule of .sops.yaml matches; add this one before all others:\n  - path_regex: ^envs/production/\n"
        "    age: age1" + "q" * 58
    ],
}


_PROMOTED = {"from": "staging/worker.env", "to": "production/worker.env", "new": True, "secret": False}
PROMOTION = {
    "left": "staging",
    "right": "production",
    "keys": [
        {**_PROMOTED, "key": "MAIL_HOST", "value": "copied", "names_left": True},
        {**_PROMOTED, "key": "MAIL_PASSWORD", "value": "generated", "names_left": False},
        {**_PROMOTED, "key": LONG, "value": "asked", "names_left": False, "to": f"production/{LONG_SOURCE}"},
        {**_PROMOTED, "key": "WORKERS", "value": "copied", "names_left": False, "new": False},
    ],
    "left_out": [
        {
            "key": "RETRIES",
            "from": "staging/worker.env",
            "to": "production/worker.env",
            "reason": "expected to differ: staging retries less often on purpose until the provider's queue is fixed",
        }
    ],
    "branch": "promote/production-from-staging",
    "commit": "02fdac92abcd".ljust(40, "0"),
    "findings": [
        {
            "rule": "shared-secret",
            "severity": "error",
            "path": "envs/production/worker.env",
            "line": 7,
            "message": "SMTP_PASSWORD is the same secret as SMTP_PASSWORD in staging/worker.env",
        }
    ],
}
NOT_PROMOTED = {"branch": None, "commit": None, "findings": []}
FOUND = (
    Finding(
        rules.ALL[0],
        f"envs/production/{LONG_SOURCE}",
        12,
        f"{LONG} must be one of openrouter, openai; see "
        "contracts/api.yaml, and `reconciler check envs --age-key-file ~/.config/sops/age/keys.txt`",
    ),
    Finding(rules.ALL[-1], "envs/production/environment.yaml", 3, "no stack uses it"),
)
CHECK = CheckReport(FOUND, ("production", "staging"), 8, 2)
CHECK_CLEAN = CheckReport((), ("production",), 8, 0)
DIFF = CommitDiff(
    "9a1b2c3d4e5f" + "0" * 28,
    "02fdac92abcd" + "0" * 28,
    "envs",
    (
        FileChange(
            "production",
            "api.env",
            "envs/production/api.env",
            "modified",
            CipherChange(KeyChange(("NEW",), ("OLD",), ("DB_HOST", LONG))),
            "app",
            "/opt/app/api.env",
            equal={"DB_HOST": {"new": ("staging",)}},
        ),
        FileChange(
            "production",
            LONG_SOURCE,
            f"envs/production/{LONG_SOURCE}",
            "added",
            CipherChange(KeyChange(MANY)),
            None,
            f"/opt/app/{LONG_SOURCE}",
        ),
    ),
    (TargetChange("production", "api.env", "changed", "app", ("path /opt/app/api.env → /opt/app/config/api.env",)),),
    (("README.md", "modified"),),
    False,
    (),
    FOUND,
)
STAYS = (
    "the live file /opt/app/old.env stays on the server (prune is not set): `reconciler forget production/old.env "
    "--delete` deletes it there after the merge"
)
RENAMING = CommitDiff(
    "9a1b2c3d4e5f" + "0" * 28,
    "02fdac92abcd" + "0" * 28,
    "envs",
    (
        FileChange(
            "production",
            "mail.env",
            "envs/production/mail.env",
            "renamed",
            CipherChange(KeyChange(changed=("LOG_LEVEL",))),
            "app",
            "/opt/app/mail.env",
            STAYS,
            renamed_from="old.env",
        ),
        FileChange(
            "production",
            "site.conf",
            "envs/production/site.conf",
            "removed",
            CipherChange(KeyChange()),
            "app",
            "/opt/app/site.conf",
            "the live file /opt/app/site.conf is deleted, after a backup (prune is set)",
        ),
    ),
    (TargetChange("production", "mail.env", "renamed", "app", ("mode 0600 → 0640",), "old.env"),),
    (),
    False,
    (),
    (),
)
_EDITED = "envs/production/api.env"
SET = EditResult("production/api.env", _EDITED, KeyChange(changed=(LONG,)), report=CHECK_CLEAN)
EDITED = EditResult("production/api.env", _EDITED, KeyChange(("NEW",), ("OLD",), MANY), blank_lines=2, report=CHECK)
UNCHANGED = EditResult("production/api.env", _EDITED)
_KEYS = (
    KeyResult(LONG, Status.MISSING_RIGHT, Risk.HIGH),
    KeyResult("PORT", Status.DIFFERS, Risk.LOW),
    KeyResult("SAME", Status.SAME, Risk.LOW),
    KeyResult("HOST", Status.EXPECTED, Risk.LOW, reason="per host"),
)
_IMAGES = ("registry.example.org/team/api:1.42.0", "registry.example.org/team/api:1.41.0")
COMPARISON = ComparisonReport(
    (
        Comparison(
            Side("git:production", (), sealed=2),
            Side(
                "ssh://deploy@web-1.example.org:2222/opt/app",
                (),
                left_out=("x.bin: binary",),
                problems=("compose.yaml: cannot be read",),
            ),
            different=False,
            files=(
                FileResult("api.env", "api.env", _KEYS, ()),
                FileResult("", LONG_SOURCE, (), (Fact("file", "", LONG_SOURCE, Status.MISSING_LEFT),)),
            ),
            services=(ServiceResult("api", (Fact("image", *_IMAGES, Status.DIFFERS),)),),
            probes=(ProbeResult("version", Status.DIFFERS, "exit 0: 1.42.0", "exit 0: 1.41.0", line=1),),
        ),
    ),
    (("ssh://ada@web-2/", "does not answer on port 22"),),
)


def _state(service: str, *facts: Any) -> ServiceResult:
    """A service by name, left, right, status and whether it is informational, of each fact."""
    return ServiceResult(service, tuple(Fact(*fact[:4], Risk.HIGH, informational=len(fact) > 4) for fact in facts))


_SINCE = ("since", at("29T05:00:00"), at("27T06:00:00"), Status.SAME, True)
_RESTARTS = ("restarts", "0", "7", Status.SAME, True)
ENVIRONMENTS = ComparisonReport(
    (
        Comparison(
            Side("git:development", (), "development"),
            Side("live:production", (), "production"),
            different=True,
            files=(
                FileResult(
                    "development.env",
                    "production.env",
                    (
                        *(KeyResult(f"MAIL_{number:02}", Status.MISSING_RIGHT, Risk.MEDIUM) for number in range(13)),
                        KeyResult(
                            "DB_PASSWORD", Status.SAME_SECRET, Risk.HIGH, reason="two environments share a secret"
                        ),
                        KeyResult("OLD", Status.SAME, Risk.LOW, (Remark.UNUSED,), unused_on=("right",)),
                        KeyResult("TODO", Status.SAME, Risk.LOW, (Remark.PLACEHOLDER,)),
                    ),
                    (Fact("mode", "0600", "0644", Status.DIFFERS),),
                    paired_by=PairedBy.ENVIRONMENT,
                ),
                FileResult("worker.env", "worker.env", (KeyResult("LIMIT", Status.MISSING_LEFT, Risk.LOW),), ()),
            ),
            services=(
                _state(
                    "api",
                    ("state", "running", "running", Status.SAME),
                    ("health", "healthy", "unhealthy", Status.DIFFERS),
                    _SINCE,
                ),
                _state("worker", ("state", "restarting", "restarting", Status.FAILED), _RESTARTS, _SINCE),
                _state(
                    "web",
                    ("container", "yes", "missing", Status.MISSING_RIGHT),
                    ("state", "running", "", Status.MISSING_RIGHT, True),
                    ("image", "web:1", "", Status.MISSING_RIGHT, True),
                    ("since", at("29T05:00:00"), "", Status.SAME, True),
                ),
            ),
            probes=(ProbeResult("schema", Status.FAILED, "exit 1: 0 lines", "docker is not installed"),),
        ),
    )
)
ALIKE = ComparisonReport(
    (
        Comparison(
            Side("file:/srv/a/app", ()),
            Side("file:/srv/b/app", ()),
            different=False,
            files=(FileResult("a.env", "a.env", (KeyResult("A", Status.SAME, Risk.LOW),), ()),),
        ),
    )
)


def compared(verdict: str, *differences: Any, **more: Any) -> Any:
    """A pair of sides as the daemon compares them."""
    known = {"name": "releases", "left": "git:staging", "right": "git:production", "interval": 900.0, "limits": []}
    result = {"at": at("29T07:50:00"), "commit": "1f0c2b7d9a3e", "error": "", "error_id": "", "failing_since": None}
    counts = {"verdict": verdict, "unexplained": len(differences), "counts": {}}
    return {**known, **result, **counts, "differences": list(differences), **more}


def difference(kind: str, name: str, where: str, **more: Any) -> Any:
    """What is not the same on two sides: by default a key that the right one lacks."""
    sides = {"class": "missing-right", "left": "present", "right": "missing", "note": "", "risk": "high"}
    return {"kind": kind, "name": name, "where": where, "unexplained": True, **sides, **more}


PAIRS = (
    compared(
        "4 unexplained findings",
        difference("key", "PAYMENT_TOKEN", "api.env"),
        difference("key", "LOG_LEVEL", "api.env ↔ config/api.env", **{"class": "differs", "left": "", "right": ""}),
        difference("file", "mode", "worker.env", **{"class": "differs", "left": "0600", "right": "0644"}),
        difference(
            "problem",
            "",
            "not compared",
            **{"class": "problem", "left": "", "right": "", "note": "b.env: is not UTF-8"},
        ),
        difference(
            "key",
            "URL",
            "api.env",
            unexplained=False,
            note="as expected",
            **{"class": "expected", "left": "", "right": ""},
        ),
        limits=["git:staging: compared by key names only, as our key does not decrypt 1 file"],
    ),
    compared("nothing unexplained", name="hosts", left="live:production", right="live:production@web-2"),
    compared("not compared yet", name="new", at=None, left="git:production", right="ssh://deploy@web-3/opt/app"),
    compared(
        "1 unexplained finding",
        difference("service", "image", "service api", **{"class": "differs", "left": "api:2", "right": "api:1"}),
        name="machines",
        error="ssh://web-3: does not answer on port 22. Check its sshd and the network",
        error_id="comparison-failed",
        failing_since=at("29T07:55:00"),
    ),
)

WHOLE_HISTORY = {
    "whole": True,
    "entries": 41,
    "head": {"first": 1, "last": 41, "sha256": "3f" * 32},
    "problem": "",
    "bad_entry": None,
    "error_id": "",
}
BROKEN_HISTORY = {
    **WHOLE_HISTORY,
    "whole": False,
    "entries": 16,
    "problem": "entry 17 was changed",
    "bad_entry": 17,
    "error_id": "history-broken",
}


def reported(result: str, reason: str, **more: Any) -> Any:
    return {
        "run": "8bc1d2e3",
        "environment": "production",
        "at": at("29T07:59:40"),
        "result": result,
        "commit": "02fdac92abcd".ljust(40, "0"),
        "author": "Ada Example <ada@example.org>",
        "subject": "Move the mail server",
        "targets": ["api.env"],
        "services": ["api"],
        "requested_by": "",
        "edited_by": [],
        "reason": reason,
        "error_id": "",
        **more,
    }


REPORT = {
    "host": "web-1",
    "since": at("22T08:20:00"),
    "until": at("29T08:20:00"),
    "environments": ["production"],
    "changed": [
        reported("applied", "wrote api.env; api healthy on the new values"),
        reported("corrected", "wrote api.env", edited_by=["probably bob: the only login session then"]),
    ],
    "failed": [reported("rolled_back", UNHEALTHY, error_id="unhealthy")],
    "decided": [
        reported("done", "ada (uid 1000) paused production until 2026-11-29 09:00:00Z", targets=[], services=[])
    ],
    "success_rate": 2 / 3,
    "recoveries": [
        {"environment": "production", "at": at("29T07:59:40"), "seconds": 42.0},
        {"environment": "production", "at": at("29T07:50:40"), "seconds": 600.0},
    ],
    "mean_recovery_seconds": 321.0,
    "worst_recovery_seconds": 600.0,
    "overdue": [
        {"kind": "held", "where": "production", "since": at("28T08:20:00"), "reason": "1 waiting for an operator"},
        {"kind": "old secrets", "where": "production/api.env", "since": at("01T08:20:00"), "reason": "API_KEY, TOKEN"},
    ],
    "warnings": [],
}
QUIET_REPORT = {
    **REPORT,
    "changed": [],
    "failed": [],
    "decided": [],
    "success_rate": None,
    "recoveries": [],
    "mean_recovery_seconds": None,
    "worst_recovery_seconds": None,
    "overdue": [],
    "warnings": ["The age of the secrets is not known: git does not answer. [git-unreachable]"],
}


# --- review ---

REVIEW = Review(
    "web-1.example.org",
    at("29T08:00:00"),
    status(
        *(environment for name in ("held_back", "drifted", "hosts") for environment in STATUSES[name]["environments"])
    ),
    PAIRS,
    CHECK,
    AGES["environments"],
    "90d",
    notes=("Names only, without values: /etc/reconciler/age.key: the age key is not usable [age-key-unusable]",),
)
REVIEW_CLEAN = Review("web-1", at("29T08:00:00"), STATUSES["in_sync"], [], CHECK_CLEAN, [], "365d")
REVIEW_FAILED = Review(
    "web-1",
    at("29T08:00:00"),
    failures=dict.fromkeys(("status", "age", "check"), "the daemon does not answer within 3 s"),
    comparisons=[],
)
