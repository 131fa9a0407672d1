"""Finds the secrets in a configuration file that is not encrypted: only what is certainly one. Pure.

`import --plain` refuses what might be a secret (signs.py); a check that did so would be switched off.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, islice

from reconciler.core.secrets.names import is_no_secret_value, names_a_secret, words_of
from reconciler.core.secrets.signs import PASSED_ON, SETTINGS


@dataclass(frozen=True, slots=True)
class PlainSecret:
    """``name`` is the key, "" where only the form of a value shows the secret; ``form`` then says which."""

    line: int
    name: str = ""
    form: str = ""


# --- by the form of the value ---

_FORMS = (
    (
        "a token of a known form",
        re.compile(
            r"\beyJ[\w-]{8,1000}\.eyJ[\w-]{8,}|\bA[KS]IA[0-9A-Z]{16}\b|\bgh[opsru]_\w{20,}|\bgithub_pat_\w{20,}"
            r"|\bglpat-[\w-]{16,}|\bxox[abeoprs]-[\w-]{10,}|\b[rs]k_live_\w{10,}|\bsk-[\w-]{20,}|\bAIza[\w-]{35}"
            r"|\bnpm_[A-Za-z0-9]{30,}|\bhf_[A-Za-z0-9]{30,}|\bSG\.[\w-]{16,64}\.[\w-]{16,}|\bdop_v1_[0-9a-f]{32,}"
        ),
    ),
    (
        "a webhook",
        re.compile(
            r"hooks\.slack\.com/services/\w+/\w+/\w+|discord(?:app)?\.com/api/webhooks/[0-9]+/[\w-]+"
            r"|webhook\.office\.com/\S{20,}|api\.telegram\.org/bot[0-9]+:[\w-]+"
        ),
    ),
    (
        "a password hash",
        re.compile(
            r"\$2[abxy]\$[0-9]{2}\$[./A-Za-z0-9]{20,}|\$(?:apr1|[156]|y|argon2\w{1,3})\$[^\s\"':$]{1,100}\$[^\s\"':]{16,}"
            r"|\{(?:S?SHA[0-9]{0,3}|PBKDF2[\w-]{0,10})\}[A-Za-z0-9+/=$.]{20,}|SCRAM-SHA-256\$[0-9]+:\S{20,}"
        ),
    ),
)
_ALSO_IN_COMMENTS = frozenset(form for form, _ in _FORMS[:2])  # nobody writes an example in these forms
_URL = re.compile(r"://(?P<user>[^\s/:@\"'<>]{0,100}):(?P<password>[^\s/@\"'<>]{1,200})@")
_URL_WITH_KEY = re.compile(r"://(?=(?:[A-Za-z_-]{0,60}[0-9]){3})(?=[0-9_-]{0,60}[A-Za-z])([\w-]{20,100})@")
_LOGIN = re.compile(
    r"^[ \t]*stats[ \t]+auth[ \t]+[\w.-]+:(?P<stats>\S+)|^[ \t]*user[ \t]+\S{1,100}[ \t][^\n]{0,300}?[ \t]>(?P<acl>\S+)"
    r"|(?i:authorization)[\"']?[ \t]*[:=]?[ \t]*[\"']?(?i:bearer|basic)[ \t]+(?P<header>[A-Za-z0-9+/._~=-]{8,})",
    re.MULTILINE,
)

# --- by the name of the key ---

_PASSWORD = re.compile(r"(?:.*(?:PASSWORD|PASSWD|PASSPHRASE|PASS)|.*(?:PASSWORD)S|.*PWD|.*PW|.*PSK|MASTERAUTH)[0-9]*")
_OF_A_CLIENT = frozenset(
    (
        *("API", "AUTH", "ACCESS", "CLIENT", "CONSUMER", "APP", "APPLICATION", "BOT", "BEARER", "REFRESH", "SESSION"),
        *(
            "COOKIE",
            "JWT",
            "WEBHOOK",
            "SECRET",
            "PRIVATE",
            "SIGNING",
            "ENCRYPTION",
            "MASTER",
            "AWS",
            "DEPLOY",
            "SHARED",
        ),
    )
)
_JOINED = re.compile(
    r"(?:.*(?:API|AUTH|ACCESS|CLIENT|SECRET|PRIVATE|SIGNING|ENCRYPTION|MASTER))(?:KEY|TOKEN|SECRET)[0-9]*"
)
_SPACED = re.compile(r"[\w.\-]+[\"']?[ \t]+")
_EVERYDAY = frozenset(
    {"PASSWORD", "PASSWD", "PASSPHRASE", "PASS", "PWD", "PW", "PAT", "TOKEN", "SECRET", "KEY", "HASH", "SALT"}
)
_SHORTEST_PASSWORD, _SHORTEST_TOKEN = 3, 6  # characters
_MIXED = re.compile(r"(?=[^0-9]*[0-9])(?=[^A-Za-z]*[A-Za-z]).{6,}")
_RANDOM = re.compile(r"(?=(?:[^0-9]*[0-9]){3})(?=[^A-Za-z]*[A-Za-z])[A-Za-z0-9+/_-]{20,}={0,2}")

# --- values that are none ---

_ELSEWHERE = re.compile(
    r"\$\{|\$\(|\{\$|^\{.*\}$|\{\{|\}\}|\{%|%\(|%[sd]|<[^<>]*>|@[A-Z_]+@|^[!*&]\w|^\$\w+$|^\$[A-Z][A-Z0-9_]+(?![a-z])|^\.\w|^\$\w+/|^--\w"
    r"|^(?:env|file|vault|ref)[:(+]"
)
_DEFAULT = re.compile(r"\$\{\w+:?-([^{}$]+)\}")
_PLACEHOLDER = re.compile(
    r"(?i)(?:.*[^a-z])?(?:change|replace|insert|fill|put|enter|add)[-_ ]?(?:me|this|it|in|here|your|with)(?:[^a-z].*)?"
    r"|.*(?:example|placeholder|redacted|dummy|changeme|changeit).*"
    r"|(?:.*[^a-z])?(?:fake|todo|fixme)(?:[^a-z].*)?|(?:.*[^a-z])?your[-_ .].*"
    r"|.*(?:x{4,}|\*{3,}|\.{3}|…).*|(.)\1*|tbd|foo|bar|baz|foobar|abc|secret|test"
)
_WORD = re.compile(
    r"(?i)strings?|str|text|integer|int|number|float|bool(?:ean)?|object|array|list|map|any|bytes?|uuid|(?:read|write|admin)"
    r"(?:[-_]?(?:only|write))?|required?|optional|sufficient|disabled?|enabled?|default|auto|always|never|prompt|ask|files?"
    r"|compat|env(?:ironment)?|plain(?:text)?|hash(?:ed)?|base64|hex|login|oauth2?|bearer|basic|digest|cookie|header|query"
    r"|(?:hmac[-_]?)?(?:sha-?[0-9]+|md5|bcrypt|argon2\w*|scram-sha-[0-9]+|crypt)"
)
_VERSION = re.compile(r"[~^<>=v ]*[0-9]+(?:\.[0-9x*]+)+(?:[-+][\w.]+)?|[~^<>=v]+ ?[0-9]+")
_MEMBER = re.compile(r"[A-Za-z_]+(?:\.[A-Za-z_]+)+")  # config.password
_NAME_OF_A_THING = re.compile(  # db_password, app-tls-2
    r"[a-z]+(?:[-_](?:[a-z]+[0-9]{0,3}|[0-9]{1,3}))+|[A-Z]+(?:_[A-Z]+[0-9]{0,3})+"
)
_LABEL = re.compile(r"[A-Z][a-z]+(?:-[a-z]+)*")  # of a form
_IN_A_URL = re.compile(r"(?i)(?:my)?(?:pass|passwd|password|pwd|pw|secret|token|user|username)|[\[\]{}%].*|.*[\[\]{}]")

# --- the value after a name ---

_LITERAL = re.compile(
    r"\"(?P<double>[^\"\n]{0,200})\"|'(?P<single>[^'\n]{0,200})'"
    r"|[\"']?(?P<bare>(?:\$\{[^${}\n]{0,200}\}|[^\s\"',;}\]<]){1,1000})(?P<more>[ \t]+[^\s#;,}\]/\\])?"
)
_HINT = re.compile(r"(?i)pass|pw|secret|token|key|cred|auth|salt|hash|dsn|pat|psk|connection|webhook")
_MOST, _MOST_EXAMINED = 100, 10_000  # a file; no configuration has more, and git may hold anything
_EXAMPLES_ONLY = re.compile(r"^[ \t{]*[\"']?(?:swagger|openapi)[\"']?[ \t]*:", re.MULTILINE)  # describes an API
_COMMENT = re.compile(r"(?:^[ \t]*(?:[#;]|//[ \t])|[ \t](?:#|//)[ \t]).*$", re.MULTILINE)
_END_OF_LINE = re.compile(r"[\"']?[ \t]*;?[ \t]*\r?$", re.MULTILINE)


def plain_secrets(text: str, *, names: bool = True, real: Callable[[str], bool] = bool) -> list[PlainSecret]:
    """Given the text of a file that is not encrypted, return the secrets in it, without their values: at most one a
    line and 100 a file, sorted. ``names``: also by the names of keys, which only configuration has; ``real`` rules out
    further placeholders."""
    code = _COMMENT.sub("", _without_xml_comments(text))
    named = _by_name(_near_secrets(code), real) if names and not _EXAMPLES_ONLY.search(text, 0, 2000) else ()
    secrets = {secret.line: secret for secret in islice(chain(_by_form(text, code, real), named), _MOST)}
    return [secrets[line] for line in sorted(secrets)]


def _near_secrets(text: str) -> str:
    """The text with the lines emptied that have no word of a secret nearby: what remains is small."""
    lines = text.split("\n")
    near: set[int] = set()
    for number, line in enumerate(lines):
        if _HINT.search(line):
            near.update(range(number - 2, number + 5))
    return "\n".join(line if number in near else "" for number, line in enumerate(lines))


def _without_xml_comments(text: str) -> str:
    """The text with nothing but their line ends left of its comments."""
    first, *rest = text.split("<!--")
    parts = [first]
    for part in rest:
        comment, end, after = part.partition("-->")
        parts += ["\n" * comment.count("\n"), after] if end else [part]
    return "".join(parts)


def _by_form(text: str, code: str, real: Callable[[str], bool]) -> Iterator[PlainSecret]:
    for form, pattern in _FORMS:
        for line, match in _numbered(pattern, text if form in _ALSO_IN_COMMENTS else code):
            if not _stands_for_one(match[0]) and real(match[0]):
                yield PlainSecret(line, form=form)
    for line, match in _numbered(_URL, code):
        value = match["password"]
        if _is_literal("password", value) and not _IN_A_URL.fullmatch(value) and real(value):
            yield PlainSecret(line, form="a URL with a password")
    for line, match in _numbered(_URL_WITH_KEY, code):
        if real(match[1]):
            yield PlainSecret(line, form="a URL with a key")
    for line, match in _numbered(_LOGIN, code):
        value = match[match.lastgroup or 0]
        if _is_literal("login", value) and real(value):
            yield PlainSecret(line, form="login credentials")


def _by_name(code: str, real: Callable[[str], bool]) -> Iterator[PlainSecret]:
    for pattern in SETTINGS:
        named = ((line, match) for line, match in _numbered(pattern, code) if _names_a_secret(match[1]))
        for line, match in islice(named, _MOST_EXAMINED):
            if _sets_a_literal(match, real):
                yield PlainSecret(line, name=match[1].lstrip("-"))


def _numbered(pattern: re.Pattern[str], text: str) -> Iterator[tuple[int, re.Match[str]]]:
    line, position = 1, 0
    for match in pattern.finditer(text):
        start = match.start(1) if pattern.groups and match[1] is not None else match.start()
        line += text.count("\n", position, start)
        position = start
        yield line, match


def _sets_a_literal(match: re.Match[str], real: Callable[[str], bool]) -> bool:
    text, name, start = match.string, match[1], match.start(2)
    quoted = text[start - 1] in "\"'"
    literal = _LITERAL.match(text, start - quoted)
    if literal is None or PASSED_ON.match(match[0]) or text[max(0, match.start(1) - 2) : match.start(1)] == "${":
        return False
    value = next(group for group in (literal["double"], literal["single"], literal["bare"]) if group is not None)
    bare = literal["bare"] is not None
    if inner := _DEFAULT.fullmatch(value):  # ${PASSWORD:-value}
        return _MIXED.fullmatch(inner[1]) is not None and _is_secret(name, inner[1]) and real(inner[1])
    mixed = _MIXED.fullmatch(value) is not None
    if literal["more"] and not name.startswith("-") and not (mixed and text[match.end(1)] == "="):
        return False  # a sentence
    if bare and re.search(r"[(\[]|^!\w", value):
        return False  # an expression, or a tag of YAML
    if _SPACED.fullmatch(match[0]) and not name.startswith("-"):
        at_start = not text[max(0, match.start() - 200) : match.start()].rpartition("\n")[2].strip()
        if not _END_OF_LINE.match(text, literal.end()) or not (mixed or (at_start and name.upper() not in _EVERYDAY)):
            return False
    return _is_secret(name, value) and real(value)


def _is_secret(name: str, value: str) -> bool:
    """Whether a value under a secret's name certainly is one: a password may be any word, a token or a key is long, and
    what may also be the name of something must look random."""
    if not _is_literal(name, value):
        return False
    words = words_of(name)
    last = words[-1] if words[-1:] and not words[-1].isdigit() else "".join(words[-2:])
    if _PASSWORD.fullmatch(last):
        return len(value) >= _SHORTEST_PASSWORD and ("PASS" in last or not value.isdigit())
    if _NAME_OF_A_THING.fullmatch(value):
        return False
    if last.startswith("HASH") and not any(map(_PASSWORD.fullmatch, words[:-1])):
        return False  # of a file or a commit
    if _JOINED.fullmatch(last) or _OF_A_CLIENT & set(words[:-1]):
        return len(value) >= _SHORTEST_TOKEN and not value.isdigit()
    return (_MIXED if last.startswith(("TOKEN", "SECRET", "CREDENTIAL", "PAT")) else _RANDOM).fullmatch(
        value
    ) is not None


def _is_literal(name: str, value: str) -> bool:
    """Whether a value is meant as it stands: no reference, placeholder, type, version, label or name of a thing."""
    if is_no_secret_value(value) or _ELSEWHERE.search(value) or _stands_for_one(value):
        return False
    if not value.isascii() or " " in value or "://" in value:
        return False
    if any(pattern.fullmatch(value) for pattern in (_WORD, _VERSION, _MEMBER, _LABEL)):
        return False
    if _letters(value) == _letters(name) or _letters(value) in ("password", "secret", "token"):
        return False
    return not (_NAME_OF_A_THING.fullmatch(value) and names_a_secret(value))


def _stands_for_one(value: str) -> bool:
    return _PLACEHOLDER.fullmatch(value) is not None


@lru_cache(maxsize=4096)  # a file repeats its keys
def _names_a_secret(name: str) -> bool:
    return names_a_secret(name)


def _letters(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())
