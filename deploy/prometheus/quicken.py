"""Shortens every duration of alerting rules, to try the chain up to the pager without waiting for it.

    python3 quicken.py 60 < rules.yml > quick.yml     # minutes become seconds

``for: 10m`` and thresholds of the form ``15 * 60`` are divided by the factor. Fixed are numbers of seconds (``120``):
they follow the daemon's own rhythm; so is the time in texts. Needs Python only.
"""

from __future__ import annotations

import re
import sys

_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def quickened(rules: str, factor: float) -> str:
    """Given the text of a rule file, return it with every duration divided by ``factor``."""

    def shorter(match: re.Match[str]) -> str:
        seconds = int(match["number"]) * _SECONDS[match["unit"]]
        return f"for: {max(1, round(seconds * 1000 / factor))}ms"

    rules = re.sub(r"\bfor: (?P<number>\d+)(?P<unit>ms|[smhdw])$", shorter, rules, flags=re.MULTILINE)
    return re.sub(r"(\d+) \* (60|3600|86400)\b", rf"\1 * \2 / {factor:g}", rules)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.stdout.write(quickened(sys.stdin.read(), float(sys.argv[1])))
