"""Which files contain variables by their names, and what in them must not be in plain text."""

from __future__ import annotations

import re

from reconciler.core.secrets.signs import possible_signs

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

# Configuration whose syntax shows what is a secret in it. Any other file may be one as a whole.
_CONFIGURATION = re.compile(
    r"(?i)(.*\.(conf|cfg|cnf|ini|toml|ya?ml|json|xml|properties|html?|css|js|vcl|rules|lua)|caddyfile|corefile|haproxy.*)"
    r"(\.(template|tmpl|tpl|j2))?"
)
# Settings are found in these by name; in code and prose, the same words mean anything.
_SETTINGS = re.compile(
    r"(?i)(.*\.(conf|cfg|cnf|ini|toml|ya?ml|json|xml|properties|hcl|tfvars)|caddyfile|corefile|haproxy.*"
    r"|[._]?(npmrc|yarnrc|pypirc|netrc|pgpass|my\.cnf|s3cfg|boto|pip\.conf|dockercfg))"
    r"(\.(template|tmpl|tpl|j2|dist|example|sample|bak|old|orig|default))?"
)
_CODE = re.compile(r"(?i).*\.(html?|css|[cm]?js|tsx?|py|rb|php|go|rs|java|sh|bash|lua|vcl|rules|sql)")
_PROSE = re.compile(r"(?i)(readme|licen[cs]e|changelog|contributing|authors|notice)(\..*)?|.*\.(md|rst|adoc)")


def is_env_file(name: str) -> bool:
    """Whether a file of this name, without its directory, contains variables in use."""
    return _ENV_FILE.fullmatch(name) is not None and not is_example(name)


def is_example(name: str) -> bool:
    """Whether a file of this name is a template, in which only the names matter."""
    return _EXAMPLE.fullmatch(name) is not None


def has_settings(name: str) -> bool:
    """Whether a file of this name is configuration, in which names of keys say what a value is."""
    return _SETTINGS.fullmatch(name) is not None


def is_code(name: str) -> bool:
    """Whether a file of this name is a program or a page."""
    return _CODE.fullmatch(name) is not None


def is_prose(name: str) -> bool:
    """Whether a file of this name is documentation, which shows secrets that are none."""
    return _PROSE.fullmatch(name) is not None


def first_plain_line(data: bytes) -> int | None:
    """Given an env file that is not encrypted, return the first line with a value; 1 for an editor's own
    format; None where there are only names and comments."""
    if b"\0" in data:
        return 1
    for number, line in enumerate(data.split(b"\n"), start=1):
        name, equals, value = line.strip().partition(b"=")
        if name and not name.startswith(_COMMENT) and (value.strip() if equals else len(name) >= _SHORTEST_REAL):
            return number
    return None


def looks_real(value: str) -> bool:
    """Whether a value in an example looks like a secret, not like a placeholder."""
    long = len(value) >= _SHORTEST_REAL and " " not in value
    mixed = re.search("[0-9]", value) and re.search("[A-Za-z]", value)
    return bool(long and mixed) and _STANDS_FOR_ONE.search(value) is None


def reason_for_secrecy(name: str, data: bytes) -> str:
    """Given a configuration file, return why it may contain a secret, without quoting it; "" where nothing looks like
    one.

    When in doubt it does: a plain file in git is readable forever.
    """
    if _CONFIGURATION.fullmatch(name) is None:
        return "its name does not rule out a secret"
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return "it is not text"
    if "\0" in text:
        return "it is not text"
    sign = min(possible_signs(text), default=None)
    return f"line {text.count(chr(10), 0, sign[0]) + 1} {sign[1]}" if sign else ""
