"""Under which names secrets go, where no contract says so."""

from __future__ import annotations

import re

# The word ends the name: SMTP_PASSWORD, API_KEY_2 and TOKEN_OLD are secrets, TOKEN_URL and CACHE_KEY_PREFIX are not.
_SECRET = re.compile(
    r"(?:^|[_.-])(?:(?:SECRET|PASSWORD|PASSWD|PWD|PASSPHRASE|TOKEN|KEY|APIKEY|CREDENTIALS?|DSN|SALT)"
    r"(?:[_.-]?[0-9]+)?(?:[_.-](?:OLD|NEW|PREVIOUS|CURRENT|NEXT))?|SECRET_KEY_BASE)$",
    re.IGNORECASE,
)
_PUBLIC = re.compile(r"(?:^|[_.-])(?:PUBLIC|PUBLISHABLE)(?:[_.-]|$)", re.IGNORECASE)


def names_a_secret(name: str) -> bool:
    """Given a variable's name, return whether its value is a secret by all that a name tells."""
    return _SECRET.search(name) is not None and _PUBLIC.search(name) is None
