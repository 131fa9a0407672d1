"""A secret does not show itself, and a digest cannot be guessed."""

from __future__ import annotations

import copy
import json
import logging
import pickle
from dataclasses import asdict, dataclass
from io import StringIO

import pytest

from reconciler.core.model.targets import LiveFile
from reconciler.core.secret import DIGEST_KEY_BYTES, Digester, Secret
from tests.support.cases import each

CANARY = b"canary-c0de"
KEY = bytes(range(DIGEST_KEY_BYTES))


@dataclass(frozen=True)
class Holder:
    name: str
    data: Secret


SHOWN = {
    "str": str(Secret(CANARY)),
    "repr": repr(Secret(CANARY)),
    "format": f"{Secret(CANARY)}",
    "format with a width": f"{Secret(CANARY):>20}",
    "percent": "%s %r" % (Secret(CANARY), Secret(CANARY)),  # noqa: UP031
    "in a list": str([Secret(CANARY)]),
    "in a dataclass": repr(Holder("api.env", Secret(CANARY))),
    "in a live file": repr(LiveFile(Secret(CANARY), 0o600, 0, 0)),
    "in an error": str(ValueError(Secret(CANARY))),
    "names of attributes": str(dir(Secret(CANARY))),
}


@each("text", SHOWN.values(), ids=SHOWN.keys())
def test_no_text_holds_it(text: str) -> None:
    assert CANARY.decode() not in text


def test_its_text_says_that_something_is_there() -> None:
    assert (str(Secret(b"x")), repr(Secret(b"x")), f"{Secret(b'x'):^5}") == ("***", "Secret(***)", " *** ")


def test_a_log_does_not_hold_it() -> None:
    stream = StringIO()
    logger = logging.Logger("test")
    logger.addHandler(logging.StreamHandler(stream))
    logger.error("failed with %s", Secret(CANARY), exc_info=ValueError(Secret(CANARY)))
    assert "***" in stream.getvalue()
    assert CANARY.decode() not in stream.getvalue()


@pytest.mark.parametrize("copier", [pickle.dumps, copy.copy, copy.deepcopy, json.dumps, bytes, vars, iter])
def test_it_cannot_be_taken_along_by_accident(copier: object) -> None:
    with pytest.raises(TypeError) as error:
        copier(Secret(CANARY))  # type: ignore[operator]
    assert CANARY.decode() not in str(error.value)


def test_whatever_holds_it_cannot_be_turned_into_plain_data() -> None:
    with pytest.raises(TypeError):
        asdict(Holder("api.env", Secret(CANARY)))


def test_it_is_given_to_who_asks() -> None:
    assert Secret(CANARY).reveal() == CANARY


def test_equal_bytes_are_equal_secrets() -> None:
    assert Secret(b"a") == Secret(b"a")
    assert Secret(b"a") != Secret(b"b")
    assert Secret(b"a") != Secret(b"ab")
    assert Secret(b"") == Secret(b"")
    assert Secret(b"a") != b"a"
    assert Secret(b"a") != None  # noqa: E711
    assert len({Secret(b"a"), Secret(b"a"), Secret(b"b")}) == 2


def test_an_empty_secret_is_not_nothing() -> None:
    """``data or default`` and ``if data`` must not mistake an empty file for a missing one."""
    assert bool(Secret(b"")) is True


# --- digests ---------------------------------------------------------------------------------------------------------


def test_a_digest_depends_on_the_bytes_and_on_the_key() -> None:
    digest = Digester(KEY)
    assert digest(b"A=1\n") == Digester(KEY)(b"A=1\n")
    assert digest(b"A=1\n") != digest(b"A=2\n")
    assert digest(b"A=1\n") != Digester(bytes(DIGEST_KEY_BYTES))(b"A=1\n")
    assert digest(b"") != digest(b"\0")


def test_a_digest_stays_the_same_from_version_to_version() -> None:
    """Else every file would look changed by hand after an update."""
    assert Digester(KEY)(b"A=1\n") == "52880921846114e5a2c445d4535543bf"


def test_a_digest_is_32_hex_digits() -> None:
    digest = Digester(KEY)(b"x" * 100_000)
    assert len(digest) == 32
    assert set(digest) <= set("0123456789abcdef")


@pytest.mark.parametrize("length", [0, DIGEST_KEY_BYTES - 1, DIGEST_KEY_BYTES + 1])
def test_a_key_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        Digester(b"k" * length)


def test_the_key_does_not_show() -> None:
    assert KEY.hex() not in repr(Digester(KEY))
    assert str(KEY) not in repr(Digester(KEY))
