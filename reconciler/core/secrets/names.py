"""Which variable names mean a secret, where no contract says so, and which values of theirs are none."""

from __future__ import annotations

import re

_SEPARATORS = re.compile(r"[^A-Za-z0-9]+")
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")  # dbPassword, apiKey2, olcRootPW, DBPassword
# The word ends the name: SMTP_PASSWORD, apiKey2 and TOKEN_OLD are secrets, TOKEN_URL and CACHE_KEY_PREFIX are not.
_SECRET = re.compile(
    r"(?:.*(?:PASSWORD|(?<!NO)PASSWD|PASSPHRASE|SECRET|TOKEN)|(?:.*(?:PASSWORD|SECRET)|CREDENTIAL)S|CREDENTIAL"
    r"|(?:.*(?<!BY)(?<!COM)(?<!TRES)(?<!SUR)(?<!ASK))?PASS|.*PWD|.*PW|.*PSK|PAT|DSN|SALT|MASTERAUTH|HASH"
    r"|(?:.*(?:API|SECRET|PRIVATE|ACCESS|AUTH|SIGNING|ENCRYPTION|MASTER))?KEY)"
)
_NUMBER = re.compile(r"[0-9]+$")
# What may follow the word: which of several it is, and its encoding.
_WHICH = frozenset(
    (
        *("OLD", "NEW", "PREVIOUS", "CURRENT", "NEXT", "PRIMARY", "SECONDARY", "FALLBACK", "BACKUP"),
        *("BASE", "BASE64", "B64", "HEX", "VALUE"),
    )
)
_PUBLIC = frozenset(("PUBLIC", "PUBLISHABLE"))
_HASH_OF_SOMETHING_PUBLIC = frozenset(
    ("GIT", "COMMIT", "BUILD", "REVISION", "CONTENT", "FILE", "IMAGE", "CONFIG", "SOURCE", "ASSET", "ASSETS")
)
_KEY_OF_SOMETHING = frozenset(
    ("SORT", "PARTITION", "CACHE", "FOREIGN", "GROUP", "TOPOLOGY", "LABEL", "INDEX", "LOOKUP")
)
_SWITCH = frozenset(("ALLOW", "INCLUDE", "ENABLE", "DISABLE", "CORS"))  # ALLOW_EMPTY_PASSWORD
_CHATS = frozenset(("SLACK", "DISCORD", "TEAMS", "MATTERMOST", "ROCKETCHAT"))  # who knows the address may write
_DIRECTORIES = frozenset(("PWD", "OLDPWD"))  # of the shell
_ADDRESSES = frozenset(("URL", "URI", "DSN"))
_STORES = frozenset(
    (
        *("DATABASE", "DB", "POSTGRES", "POSTGRESQL", "PG", "MYSQL", "MARIADB", "MONGO", "MONGODB", "REDIS", "VALKEY"),
        *("AMQP", "RABBITMQ", "BROKER", "CELERY", "SENTRY", "SMTP", "MAIL"),
    )
)

# What refers to a value elsewhere: ${VAR}, $VAR, {{ var }}, %(var)s, %VAR%, <what belongs here>, *alias.
_REFERENCE = re.compile(
    r"(?:\$\{[\w.]+(?:\}|:?\?[^}]*\}|:?-\})|\$(?:[A-Z_][A-Z0-9_]*|[a-z_][a-z0-9_]*|[0-9])(?![A-Za-z0-9]))+"
    r"|\{\{.*|\$\(.*|\{%.*|%\(\w+\)s|%env\(.*|%\w+%|<[^<>]*>?|[*&][\w-]+"
)
_ROOTS = "app|certs?|config|data|etc|home|keys?|mnt|opt|pki|root|run|secrets?|srv|ssl|tls|tmp|usr|var|vault"
_PATH = re.compile(
    rf"/(?:{_ROOTS})(?:/[\w.@+-]+)*/?|(?:\.\.?|~)/[\w./@+-]+"
    r"|[\w./@+-]*\.(?:key|pem|crt|cer|pub|txt|conf|cfg|ini|json|ya?ml|toml|env|p12|pfx|jks|sock)"
)
_NOTHING = re.compile(r"(?i)(?:true|false|yes|no|on|off|null|none|nil|undefined|~|#|)|[\[{|>][-+0-9]*")


def names_a_secret(name: str) -> bool:
    """Given a variable's name, return whether the name suggests a secret.

    Case does not matter, and words may be joined: DB_PASS, dbPassword, PGPASSWORD and requirepass all match.
    """
    if name in _DIRECTORIES:
        return False
    words = words_of(name)
    while len(words) > 1 and (words[-1] in _WHICH or words[-1].isdigit()):
        words.pop()
    if _PUBLIC & set(words) or _SWITCH & set(words[:-1]):
        return False
    before, last = ("", "", *words)[-2:]
    if (before.startswith("CONN") and last == "STRING") or ("WEBHOOK" in (before, last) and _CHATS & set(words)):
        return True  # contain a password, or are one
    last = _NUMBER.sub("", last)
    if last == "KEY" and before in _KEY_OF_SOMETHING:
        return False
    if _SECRET.fullmatch(last) is None:
        return False
    return last != "HASH" or not _HASH_OF_SOMETHING_PUBLIC & set(words)


def is_secret_name(key: str) -> bool:
    """Whether the name of a key says that it is a secret, or the address of a store, which often has a password."""
    words = words_of(key)
    return names_a_secret(key) or (words[-1:] != [] and words[-1] in _ADDRESSES and bool(_STORES & set(words)))


def words_of(name: str) -> list[str]:
    """The words of a name in capitals, split at underscores, dots, dashes and capitals."""
    return [part.upper() for chunk in _SEPARATORS.split(name) for part in _CAMEL.split(chunk) if part]


def is_no_secret_value(value: str) -> bool:
    """Whether the value under a secret's name is clearly none: a reference, a path to a file, a switch, nothing."""
    return any(pattern.fullmatch(value) is not None for pattern in (_NOTHING, _REFERENCE, _PATH))
