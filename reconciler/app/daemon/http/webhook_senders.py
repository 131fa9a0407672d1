"""What forges send to the webhook: one table of their headers and signatures, and what an announcement is about."""

from __future__ import annotations

import base64
import binascii
import enum
import hashlib
import hmac
import json
import re
import urllib.parse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

_HEX = re.compile(r"(?:sha256=)?([0-9a-fA-F]{64})")
_STANDARD = re.compile(r"v1,([A-Za-z0-9+/]{43}=)")
_STANDARD_KEY = b"whsec_"
_FORM = "application/x-www-form-urlencoded"
_LONGEST_NAME = 100  # characters of a header that are logged

Headers = Mapping[str, str]


class EventKind(enum.Enum):
    """What an announcement is about; ``push`` is also what a sender without event names means."""

    PUSH = "push"
    PULL_REQUEST = "pull request"
    PING = "ping"
    ELSE = "something else"


class Proof(Protocol):
    """Takes the body as it arrives; ``good`` says at its end whether the sender knows the secret."""

    def update(self, chunk: bytes) -> None: ...

    @property
    def good(self) -> bool: ...


class _Signature:
    """HMAC-SHA256 of ``prefix`` and the body; any of the ``expected`` digests will do."""

    def __init__(self, key: bytes, expected: list[bytes], prefix: bytes = b"") -> None:
        self._digest = hmac.new(key, prefix, hashlib.sha256)
        self._expected = expected

    def update(self, chunk: bytes) -> None:
        self._digest.update(chunk)

    @property
    def good(self) -> bool:
        digest = self._digest.digest()
        return any(hmac.compare_digest(digest, expected) for expected in self._expected)


class _Token:
    """The secret itself: nothing of the body is needed for it."""

    good = True

    def update(self, chunk: bytes) -> None: ...


def _hex_signature(headers: Headers, header: str, secret: bytes) -> Proof | None:
    match = _HEX.fullmatch(headers.get(header, ""))
    return _Signature(secret, [bytes.fromhex(match[1])]) if match else None


def _token(headers: Headers, header: str, secret: bytes) -> Proof | None:
    # A header may hold any byte, which aiohttp decodes with surrogates.
    token = headers.get(header, "").encode(errors="surrogateescape")
    return _Token() if hmac.compare_digest(token, secret) else None


def _standard_signature(headers: Headers, header: str, secret: bytes) -> Proof | None:
    """The form of the Standard Webhooks: the key is in base64 after ``whsec_``, and id and time are signed too.

    The time is not judged: whoever sends a captured request again starts a poll, and a wrong clock here refuses none.
    """
    expected = [base64.b64decode(signature) for signature in _STANDARD.findall(headers.get(header, ""))]
    signed = [headers.get(name, "") for name in ("webhook-id", "webhook-timestamp")]
    if not (expected and all(signed) and secret.startswith(_STANDARD_KEY)):
        return None
    try:
        key = base64.b64decode(secret.removeprefix(_STANDARD_KEY), validate=True)
    except binascii.Error:
        return None
    return _Signature(key, expected, ".".join([*signed, ""]).encode(errors="surrogateescape"))


@dataclass(frozen=True, slots=True)
class Sender:
    """How one forge signs, and names its events. ``prove`` returns None for a header that cannot become good.

    Without an ``event`` header, every announcement is a push. ``unsigned_ping`` is an event it never signs.
    """

    name: str
    signature: str
    event: str = ""
    delivery: str = ""
    kinds: Mapping[str, EventKind] = field(default_factory=dict)
    prove: Callable[[Headers, str, bytes], Proof | None] = _hex_signature
    unsigned_ping: str = ""

    def kind(self, headers: Headers) -> EventKind:
        event = headers.get(self.event, "") if self.event else ""
        return self.kinds.get(event, EventKind.ELSE) if event else EventKind.PUSH


_LIKE_GITHUB = {"push": EventKind.PUSH, "pull_request": EventKind.PULL_REQUEST, "ping": EventKind.PING}
_LIKE_GITLAB = {"Push Hook": EventKind.PUSH, "Merge Request Hook": EventKind.PULL_REQUEST}
_PULL_REQUEST_KEYS = (
    *(f"pullrequest:{action}" for action in ("created", "updated", "fulfilled", "rejected")),
    *(f"pr:{action}" for action in ("opened", "from_ref_updated", "modified", "merged", "declined", "deleted")),
)
_LIKE_BITBUCKET = {
    "repo:push": EventKind.PUSH,
    "repo:refs_changed": EventKind.PUSH,
    "diagnostics:ping": EventKind.PING,
    **dict.fromkeys(_PULL_REQUEST_KEYS, EventKind.PULL_REQUEST),
}

# Whoever also sends the headers of another one comes before it: Forgejo sends those of Gitea, Gogs and GitHub.
SENDERS = (
    Sender("Forgejo", "X-Forgejo-Signature", "X-Forgejo-Event", "X-Forgejo-Delivery", _LIKE_GITHUB),
    Sender("Gitea", "X-Gitea-Signature", "X-Gitea-Event", "X-Gitea-Delivery", _LIKE_GITHUB),
    Sender("Gogs", "X-Gogs-Signature", "X-Gogs-Event", "X-Gogs-Delivery", _LIKE_GITHUB),
    Sender("GitLab", "webhook-signature", "X-Gitlab-Event", "X-Gitlab-Event-UUID", _LIKE_GITLAB, _standard_signature),
    Sender("GitLab", "X-Gitlab-Token", "X-Gitlab-Event", "X-Gitlab-Event-UUID", _LIKE_GITLAB, _token),
    Sender("GitHub", "X-Hub-Signature-256", "X-GitHub-Event", "X-GitHub-Delivery", _LIKE_GITHUB),
    # GitHub's X-Hub-Signature holds SHA-1, which is not taken.
    Sender("Bitbucket", "X-Hub-Signature", "X-Event-Key", "X-Request-UUID", _LIKE_BITBUCKET),
    Sender(
        "Bitbucket Server",
        "X-Hub-Signature",
        "X-Event-Key",
        "X-Request-Id",
        _LIKE_BITBUCKET,
        unsigned_ping="diagnostics:ping",
    ),
    Sender("another sender", "X-Signature-256", delivery="X-Request-Id"),
)


def proofs_of(headers: Headers, secret: bytes) -> list[tuple[Sender, Proof]]:
    """The senders that this request may be of, each with what the body must satisfy; nothing where no header can be
    good."""
    proofs = [(sender, sender.prove(headers, sender.signature, secret)) for sender in SENDERS]
    return [(sender, proof) for sender, proof in proofs if proof is not None]


def is_unsigned_ping(headers: Headers) -> bool:
    """Whether it is the connection test of a forge that does not sign its own."""
    return any(
        sender.unsigned_ping and headers.get(sender.event) == sender.unsigned_ping and sender.signature not in headers
        for sender in SENDERS
    )


@dataclass(frozen=True, slots=True)
class Announcement:
    """What a sender has announced. ``refs`` are the full names of what was pushed; None: it does not say.

    ``event`` and ``delivery`` are the sender's words, for the log.
    """

    sender: str
    kind: EventKind
    event: str
    delivery: str
    refs: frozenset[str] | None


def announcement_of(senders: list[Sender], headers: Headers, payload: bytes | None) -> Announcement:
    """Given the ``senders`` that have proved themselves and the JSON text, return what it announces."""
    sender = next((sender for sender in senders if sender.delivery and sender.delivery in headers), senders[0])
    kind = sender.kind(headers)
    refs = _refs_in(payload) if kind is EventKind.PUSH and payload is not None else None
    event, delivery = headers.get(sender.event or " ", ""), headers.get(sender.delivery or " ", "")
    return Announcement(sender.name, kind, printable(event), printable(delivery), refs)


def delivery_in(headers: Headers) -> str:
    """The id of a delivery that is not proved to be anybody's."""
    names = [sender.delivery for sender in SENDERS if sender.delivery in headers]
    return printable(headers[names[0]]) if names else ""


def printable(text: str) -> str:
    return ascii(text[:_LONGEST_NAME])[1:-1]


def payload_in(headers: Headers, body: bytes) -> bytes:
    """The JSON text of a body, which may be the field ``payload`` of a form. curl and others call JSON a form too."""
    if headers.get("Content-Type", "").partition(";")[0].strip().lower() != _FORM:
        return body
    in_form = next((text for text in body.split(b"&") if text.startswith(b"payload=")), None)
    return body if in_form is None else urllib.parse.unquote_to_bytes(in_form[len(b"payload=") :].replace(b"+", b" "))


def _refs_in(payload: bytes) -> frozenset[str] | None:
    try:
        data = json.loads(payload)
    except (ValueError, RecursionError):  # no JSON, a number without end, or nested too deeply
        return None
    if not isinstance(data, dict):
        return None
    if isinstance(ref := data.get("ref"), str):
        return frozenset({ref})
    push = data.get("push")
    changes = push.get("changes") if isinstance(push, dict) else data.get("changes")
    refs = [_changed_ref(change) for change in changes] if isinstance(changes, list) else []
    return frozenset(ref for ref in refs if ref) if refs and all(refs) else None


def _changed_ref(change: Any) -> str:
    """The full name of the ref in one change of Bitbucket's; "" where it has another form."""
    if not isinstance(change, dict):
        return ""
    if isinstance(change.get("refId"), str):  # Server
        return str(change["refId"])
    side = change.get("new") or change.get("old")  # Cloud; without ``new``, it was deleted
    if not isinstance(side, dict) or not isinstance(side.get("name"), str):
        return ""
    return f"refs/tags/{side['name']}" if side.get("type") == "tag" else f"refs/heads/{side['name']}"
