"""The API of a real daemon: every answer is as the OpenAPI description says, also to thousands of odd requests."""

from __future__ import annotations

import copy
import gzip
import json
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.support.server import Daemon, Server
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow

TOKEN = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def guarded(server: Server) -> Server:
    """A server whose daemon asks for TOKEN, and which has three runs."""
    file = server.root / "http-token"
    file.touch(0o600)
    file.write_text(TOKEN)
    server.settings["http"]["token_file"] = str(file)
    names = [f"{name}.env" for name in ("api", "worker", "cron", "mail")]
    for number in "123":
        server.commit({name: f"A={number}\n".encode() for name in names}, server.plain(names))
        server.sync()
    return server


class Api:
    """Asks a daemon with the token, and holds its answers to the description that it serves."""

    def __init__(self, daemon: Daemon) -> None:
        self._address = f"http://127.0.0.1:{daemon.port}"
        self.description: dict[str, Any] = json.loads(self.ask("/openapi.json")[2])
        jsonschema.Draft202012Validator.check_schema(self._schema("StatusAnswer"))

    def ask(self, path: str, **headers: str) -> tuple[int, Any, bytes]:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(
            f"{self._address}{path}", headers={"Authorization": f"Bearer {TOKEN}", **given}
        )
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return answer.status, answer.headers, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.headers, error.read()

    def get(self, path: str, operation: str = "", status: int = 200, **headers: str) -> Any:
        """The answer to ``path``, which ``operation`` describes (by default the path without its query)."""
        code, _, body = self.ask(path, **headers)
        assert code == status, body
        data = json.loads(body)
        known = self.description["paths"][operation or path.partition("?")[0]]["get"]["responses"][str(status)]
        name = known["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
        jsonschema.validate(data, self._schema(name))
        return data

    def _schema(self, name: str) -> dict[str, Any]:
        """A model of the description, which here allows no unknown field."""
        components = copy.deepcopy(self.description["components"])
        for model in components["schemas"].values():
            if "properties" in model:
                model["additionalProperties"] = False
        return {"$ref": f"#/components/schemas/{name}", "components": components}


def test_every_answer_is_as_the_description_says(guarded: Server) -> None:
    guarded.settings["comparisons"] = {"self": {"left": "git:production", "right": "git:staging"}}
    with guarded.daemon() as daemon:
        api = Api(daemon)
        assert api.description == json.loads(guarded.cli("schema", "openapi").stdout)
        status = api.get("/api/v1/status")
        assert [change["sync"] for change in status["environments"][0]["after"]["changes"]] == ["in_sync"] * 4
        assert status["daemon"]["http"] == f"127.0.0.1:{daemon.port}" == guarded.json("status")["daemon"]["http"]
        (pair,) = api.get("/api/v1/comparison")["comparisons"]
        assert (pair["name"], pair["left"], pair["right"]) == ("self", "git:production", "git:staging")

        known = guarded.json("history")
        assert len(known) == 3
        pages = [api.get("/api/v1/history?limit=2&environment=production")]
        pages.append(api.get(f"/api/v1/history?limit=2&before={pages[0]['next']}"))
        assert [run for page in pages for run in page["runs"]] == known
        assert (pages[0]["next"], pages[1]["next"]) == (known[1]["run"], None)
        newest = api.get(f"/api/v1/runs/{known[0]['run']}", "/api/v1/runs/{run}")
        assert {name: newest[name] for name in known[0]} == known[0]

        for path, operation, code in (
            ("/api/v1/runs/none", "/api/v1/runs/{run}", 404),
            ("/api/v1/history?environment=none", "", 404),
            ("/api/v1/history?before=none", "", 404),
            *((f"/api/v1/history?limit={limit}", "", 400) for limit in ("0", "-1", "1001", "1e2", "", "%D9%A4")),
            ("/api/v1/history?limit=1&limit=2", "", 400),
            ("/api/v1/status?verbose=1", "", 400),
            (f"/api/v1/status?token={TOKEN}", "", 400),
        ):
            error = api.get(path, operation, code)["error"]
            assert (error["id"], TOKEN in str(error)) == ("http-access" if "token" in path else "refused", False)
        assert api.get("/api/v1/status", status=401, Authorization="Bearer x")["error"]["id"] == "http-access"
        assert api.get("/api/v1/status", status=421, Host="evil.example")["error"]["id"] == "host-not-served"
        code, headers, body = api.ask("/api/v1/none")
        assert (code, json.loads(body)["error"]["id"], headers["Cache-Control"]) == (404, "refused", "no-store")

        _, headers, body = api.ask("/api/v1/history", Accept_Encoding="gzip")
        assert (headers["Content-Encoding"], json.loads(gzip.decompress(body))["runs"]) == ("gzip", known)
        assert headers["Cache-Control"] == "no-store"
        assert api.ask("/api/v1/history", If_None_Match=f'"x", {headers["ETag"]}')[::2] == (304, b"")
        _, of_scrape, scrape = api.ask("/metrics", Accept_Encoding="gzip")
        assert (of_scrape["Content-Encoding"], b"reconciler_build_info" in gzip.decompress(scrape)) == ("gzip", True)
        guarded.commit({"api.env": b"A=4\n"})
        guarded.sync()
        assert api.ask("/api/v1/history", If_None_Match=headers["ETag"])[0] == 200

        file = Path(guarded.settings["http"]["token_file"])
        file.write_text("another-token-of-the-same-daemon")
        assert api.ask("/api/v1/status")[0] == 401
        assert api.ask("/api/v1/status", Authorization="Bearer another-token-of-the-same-daemon")[0] == 200
        assert TOKEN not in daemon.log.read_text()


def test_no_request_that_can_be_thought_up_gets_an_answer_which_is_not_described(
    guarded: Server, tmp_path: Path
) -> None:
    with guarded.daemon() as daemon:
        description = {**Api(daemon).description, "security": [{"token": []}]}  # as it is with http.token_file
        file = tmp_path / "openapi.json"
        file.write_text(json.dumps(description))
        arguments = ["--url", f"http://127.0.0.1:{daemon.port}", "--header", f"Authorization: Bearer {TOKEN}"]
        arguments += ["--phases", "coverage,fuzzing", "--checks", "all", "--max-examples", "5", "--seed", "1"]
        arguments += ["--suppress-health-check", "all"]
        command = [sys.executable, "-m", "schemathesis.cli", "run", str(file), *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stdout
        assert "No issues found" in done.stdout
        assert "Traceback" not in daemon.log.read_text()
        assert eventually(lambda: daemon.get("/healthz")[0] == 200)
