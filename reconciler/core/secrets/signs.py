"""What looks like a secret in the text of a configuration file, whatever its syntax. Pure.

Every pattern takes time linear in the text, which comes from git.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from reconciler.core.secrets.names import is_no_secret_value, names_a_secret

# Assignments: name = value, "name": value, 'name' => value, name value.
_NAME = r"(?<![\w.\-])[\w.\-]{2,200}"
_VALUE = r"[\"']?((?:\$\{[^${}\n]{0,200}\}|[^\s\"',;}]){1,200})"
_TEXT = r"\s*(?:<!\[CDATA\[)?([^<>\s]{1,200})"
_GAP = r"[ \t]{0,200}"
_SPACE = r"\s{0,200}"
SETTINGS = (
    # A lookahead for the value: it may be the next name.
    re.compile(rf"({_NAME})[\"']?\]?(?:{_GAP}(?:=>|:=|[:=]){_GAP}|[ \t]{{1,200}})(?={_VALUE})"),
    # YAML with the value in the next line, which is not a mapping.
    re.compile(
        rf"^[ \t-]*[\"']?({_NAME})[\"']?{_GAP}:{_GAP}(?:[|>][-+0-9]*)?{_GAP}(?:#.*)?\r?\n"
        rf"(?:[ \t]*\r?\n)*[ \t]+(?:-[ \t]+)?(?![\"']?[\w.\-]+[\"']?[ \t]*:(?:\s|$)){_VALUE}",
        re.MULTILINE,
    ),
    # Elements and properties of XML.
    re.compile(rf"<(?:[\w-]+:)?({_NAME})(?:\s[^<>]*)?>{_TEXT}"),
    re.compile(rf"<[\w:-]+\s[^<>]{{0,500}}?\b(?i:name|key|id)\s*=\s*[\"']({_NAME})[\"'][^<>]{{0,500}}>{_TEXT}"),
    # The name and the value as two fields, a common form of a container's environment.
    re.compile(
        rf"\b(?i:name|key|id)[\"']?{_SPACE}[:=]{_SPACE}[\"']?({_NAME})[\"']?{_SPACE}[,;]?{_SPACE}"
        rf"[\"']?(?i:value)[\"']?{_SPACE}[:=]{_SPACE}{_VALUE}"
    ),
    # Two words of a command line in a list: ["--requirepass", "…"].
    re.compile(rf"[\"'](-{{1,2}}[\w.\-]{{2,200}})[\"']{_SPACE},{_SPACE}(?=[\"']){_VALUE}"),
)
# Everyday words: before white space they are a name only at the beginning of a line, or where quotes follow.
_EVERYDAY = re.compile(r"(?:pass|hash|pat)[ \t]+", re.IGNORECASE)
# nginx forwards requests with these; they only set a password with a sign in between.
PASSED_ON = re.compile(r"(?:proxy|fastcgi|uwsgi|scgi|grpc|memcached|js)_pass[ \t]")
_SHAPES = (
    (re.compile(r"AGE-SECRET-KEY-1|-----BEGIN [A-Z0-9 ]*PRIVATE KEY"), "contains a private key"),
    (re.compile(r"://[^\s/:@]*:(?!\$\{?\w+\}?@)[^\s/@]+@"), "contains a URL with a password"),
    (
        re.compile(
            r"(?i:hooks\.slack\.com/|discord(?:app)?\.com/api/webhooks/|webhook\.office\.com/|api\.telegram\.org/bot)\w"
            r"|https?://[^\s\"'<>]{1,300}/(?=[^/\s]*[0-9][^/\s]*[0-9])(?=[^/\s]*[A-Z])(?=[^/\s]*[a-z])[\w-]{20,}(?![\w.-])"
        ),
        "contains a URL that is itself a secret, such as a webhook",
    ),
    (
        re.compile(
            r"\$(?:apr1|[156]|2[abxy]|y|argon2\w*)\$|\{(?:S?SHA[0-9]*|CRYPT|PBKDF2\S*)\}|SCRAM-SHA-[0-9]+\$|pbkdf2[_:]sha"
        ),
        "contains a password hash",
    ),
    (
        re.compile(
            r"\beyJ[\w-]{8,}\.[\w-]{8,}|\bA[KS]IA[0-9A-Z]{16}\b|\b(?:gh[opsru]_|github_pat_|glpat-|xox[a-z]-|[rs]k_live_)"
            r"[\w-]{8,}|\bsk-[\w-]{20,}"
        ),
        "contains a token of a known form",
    ),
    (
        re.compile(
            r"(?i)\b(?:bearer|basic)[ \t]+[A-Za-z0-9+/._~-]{8,}|\bauth[ \t]+[\w.-]+:\S"
            r"|^[ \t]*user[ \t]+\S+[ \t].*[ \t]>\S",
            re.MULTILINE,
        ),
        "contains login credentials",
    ),
    (
        re.compile(
            r"(?<![\w/.+-])(?=[A-Za-z+/_-]*[0-9][A-Za-z+/_-]*[0-9])(?=[0-9+/_-]*[A-Za-z])[A-Za-z0-9+/_-]{24,}={0,2}(?![\w/.-])"
        ),
        "contains a long run of letters and digits",
    ),
)


def possible_signs(text: str) -> Iterator[tuple[int, str]]:
    """Where something looks like a secret, and what it looks like: the first of each kind."""
    for pattern, reason in _SHAPES:
        if match := pattern.search(text):
            yield match.start(), reason
    for pattern in SETTINGS:
        if match := next(filter(_sets_a_secret, pattern.finditer(text)), None):
            yield match.start(1), "sets a value for what is named like a secret"


def _sets_a_secret(match: re.Match[str]) -> bool:
    if not names_a_secret(match[1]) or is_no_secret_value(match[2]) or PASSED_ON.match(match[0]):
        return False
    if _EVERYDAY.fullmatch(match[0]) is None:
        return True
    before = match.string[max(0, match.start() - 200) : match.start()].rpartition("\n")[2]
    return not before.strip() or match.string[match.end()] in "\"'"
