"""Which files hold variables by the look of their names, and what in them must not be plain."""

from __future__ import annotations

import re

# .env, .env.production, api.env, api.env.bak, and what editors leave behind: .api.env.swp, api.env~
_ENV_FILE = re.compile(r".*\.env(?:\..*)?[~#]?", re.IGNORECASE | re.DOTALL)
_EXAMPLE = re.compile(r"(?:.*[._-])?(?:example|template|sample|dist)(?:\..*)?", re.IGNORECASE | re.DOTALL)
_COMMENT = (b"#", b";")
_STANDS_FOR_ONE = re.compile(
    r"example|change|replace|your|placeholder|dummy|fake|sample|invented|insert|secret|password|test|todo|xxx|123456"
    r"|<|\.\.\.|\$",
    re.IGNORECASE,
)
_SHORTEST_REAL = 16  # characters


def is_env_file(name: str) -> bool:
    """Whether a file of this name, without its directory, holds variables that somebody uses."""
    return _ENV_FILE.fullmatch(name) is not None and not is_example(name)


def is_example(name: str) -> bool:
    """Whether a file of this name is a template, of which only the names matter."""
    return _EXAMPLE.fullmatch(name) is not None


def first_plain_line(data: bytes) -> int | None:
    """Given an env file that is not encrypted, return the first line with a value in it; of an editor's own format, 1;
    None where there are but names and comments."""
    if b"\0" in data:
        return 1
    for number, line in enumerate(data.split(b"\n"), start=1):
        name, equals, value = line.strip().partition(b"=")
        if name and not name.startswith(_COMMENT) and (value.strip() if equals else len(name) >= _SHORTEST_REAL):
            return number
    return None


def looks_real(value: str) -> bool:
    """Whether a value in an example looks like a secret, and not like words that stand for one."""
    long = len(value) >= _SHORTEST_REAL and " " not in value
    mixed = re.search("[0-9]", value) and re.search("[A-Za-z]", value)
    return bool(long and mixed) and _STANDS_FOR_ONE.search(value) is None
