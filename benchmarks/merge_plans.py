"""Plans before the merge: how soon one is at the forge, and whether the merge then does what was planned."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import time
import urllib.request
from pathlib import Path

from benchmarks.figures import Figure
from benchmarks.scratch import SOURCES, content
from tests.support.age_key import make_age_key
from tests.support.forge import TOKEN, FakeForge, Pull, fake_forge
from tests.support.git_remote import make_git_remote
from tests.support.merge_replay import replay
from tests.support.server import ENVIRONMENT, Server

MERGES = 200
SEED = 7
MOST_UNEQUAL = 2.0  # of them
PUSHES = 20
STATUS_TARGET = 5000.0  # ms
PATIENCE = 60.0  # seconds
_SECRET = b"the webhook's own secret"
_BRANCH = "change/one-key"


def replayed(root: Path) -> list[Figure]:
    """Random merges, planned and then made."""
    app = root / "app"
    app.mkdir(parents=True)
    server = Server(root, app, make_git_remote(root / "remote.git"), make_age_key(root))
    merges = asyncio.run(replay(server, MERGES, SEED))
    unequal = [merge for merge in merges if not merge.equal]
    for merge in unequal:
        print(f"not as planned: {merge}")
    return [
        Figure(f"of {MERGES} merges, not as planned", "", (float(len(unequal)),), MOST_UNEQUAL),
        Figure("planning a merge, engine on paper: wall", "ms", tuple(merge.seconds * 1000 for merge in merges)),
    ]


def announced(server: Server) -> list[Figure]:
    """`reconciler run` with its services; a branch is pushed again and again, and each push announced."""
    secret, token = server.root / "webhook", server.root / "forge-token"
    for path, text in ((secret, _SECRET), (token, TOKEN.encode())):
        path.write_bytes(text)
        path.chmod(0o600)
    server.settings["webhook"] = {"secret_file": str(secret)}
    with fake_forge("github") as forge:
        server.settings["forge"] = {
            "kind": "github",
            "api_url": forge.url,
            "repository": forge.repository,
            "token_file": str(token),
            "plan_pull_requests": ["change/*"],
        }
        forge.pulls.append(Pull(1, _BRANCH))
        server.remote.make_branch(_BRANCH)
        try:
            with server.daemon() as daemon:
                took = tuple(_until_status(server, daemon.port, forge, number) for number in range(PUSHES))
        finally:
            del server.settings["forge"], server.settings["webhook"]
    return [Figure("push announced, until its plan is at the forge", "ms", took, STATUS_TARGET)]


def _until_status(server: Server, port: int, forge: FakeForge, number: int) -> float:
    encrypted = server.key.encrypt(SOURCES[0], content(SOURCES[0], f"push {number}"))
    head = server.remote.commit({f"envs/{ENVIRONMENT}/{SOURCES[0]}": encrypted}, branch=_BRANCH)
    forge.pulls[-1].head = head
    began = time.perf_counter()
    _announce(port)
    while not any(status["commit"] == head for status in list(forge.statuses)):
        if time.perf_counter() - began > PATIENCE:
            raise RuntimeError(f"no status within {PATIENCE:g} s")
        time.sleep(0.005)
    return (time.perf_counter() - began) * 1000


def _announce(port: int) -> None:
    body = json.dumps({"ref": f"refs/heads/{_BRANCH}"}).encode()
    headers = {"X-Hub-Signature-256": f"sha256={hmac.new(_SECRET, body, hashlib.sha256).hexdigest()}"}
    with urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{port}/webhook", body, headers)) as answer:
        assert answer.status == 202
