"""How the HTTP server refuses: JSON below /api, a sentence elsewhere, always with the id of docs/errors.md."""

from __future__ import annotations

from collections.abc import Mapping

from aiohttp import web

from reconciler.app.daemon.answers.serialize import serialize_error
from reconciler.core.errors import ReconcilerError, with_id
from reconciler.core.model.answers import versioned

OPENAPI_PATH = "/openapi.json"
API = "/api/v1"


def refuse(
    request: web.BaseRequest, status: int, error: ReconcilerError, headers: Mapping[str, str] | None = None
) -> web.Response:
    """The answer to a request that is refused with this ``status``."""
    known = {"Cache-Control": "no-store", **(headers or {})}
    if is_api(request.path):
        return web.json_response(versioned({"error": serialize_error(error)}), status=status, headers=known)
    return web.Response(status=status, text=f"{with_id(str(error), error.id)}\n", headers=known)


def is_api(path: str) -> bool:
    """Whether the path is answered in JSON."""
    return path == OPENAPI_PATH or path == "/api" or path.startswith("/api/")
