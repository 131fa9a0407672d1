"""Which files hold variables by the look of their names, and what in them must not be plain."""

from __future__ import annotations

import re

from reconciler.core.secret_names import names_a_secret

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

# Configuration whose form tells what is a secret in it. Anything else may be one as a whole.
_CONFIGURATION = re.compile(
    r"(?i)(.*\.(conf|cfg|cnf|ini|toml|ya?ml|json|xml|properties|html?|css|js|vcl|rules|lua)|caddyfile|corefile|haproxy.*)"
    r"(\.(template|tmpl|tpl|j2))?"
)
# What is set to what: name = value, "name": value, name value. The value is looked ahead at: it may be the next name.
_SETTING = re.compile(r"([A-Za-z][\w.\-]{1,80})[\"']?(?:\s*[:=]\s*|\s+)(?=[\"']?([^\s\"',;}]+))")
_NOT_A_VALUE = re.compile(r"[/.$~{%<]|(?i:true|false|yes|no|on|off|null|none|[0-9]{1,6})$")
_SHAPES = (
    (re.compile(r"AGE-SECRET-KEY-1|-----BEGIN [A-Z0-9 ]*PRIVATE KEY"), "holds a private key"),
    (re.compile(r"://[^\s/:@]*:[^\s/@]+@"), "holds an address with a password"),
    (re.compile(r"\$(?:apr1|[156]|2[abxy]|y|argon2\w*)\$"), "holds a password's hash"),
    (re.compile(r"(?i)\b(?:bearer|basic)\s+[A-Za-z0-9+/._~-]{8,}"), "holds what signs somebody in"),
    (
        re.compile(
            r"(?=[A-Za-z+/_-]*[0-9][A-Za-z+/_-]*[0-9])(?<![\w/.-])(?=[^\s]*[A-Za-z])[A-Za-z0-9+/_-]{24,}={0,2}(?![\w/.-])"
        ),
        "holds a long run of letters and digits",
    ),
)


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


def why_secret(name: str, data: bytes) -> str:
    """Given a configuration file, return why it may hold a secret, without quoting it; "" where nothing looks like one.

    In doubt it does: a plain file in git is readable for ever.
    """
    if _CONFIGURATION.fullmatch(name) is None:
        return "its name does not tell that it is no secret"
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return "it is not text"
    for number, line in enumerate(text.split("\n"), start=1):
        if shape := next((what for pattern, what in _SHAPES if pattern.search(line)), ""):
            return f"line {number} {shape}"
        for match in _SETTING.finditer(line):
            if names_a_secret(match[1]) and not _NOT_A_VALUE.match(match[2]):
                return f"line {number} gives a value to what is named like a secret"
    return ""
