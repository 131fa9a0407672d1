"""What `compare` found, as markdown on a page of a forge."""

from __future__ import annotations

import re

from reconciler.app.compare.run import ComparisonReport
from reconciler.cli.compare_reports import as_markdown
from reconciler.core.compare.types import Comparison, Fact, FileResult, ProbeResult, ServiceResult, Side, Status

# What GitHub makes a link or a mention of without any markup.
_ACTS = re.compile(r"(?i)[a-z]://|www\.|\w@\w|@\w|#\d|GH-\d")
HOSTILE = "HTTPS://evil.example/y www.evil.example/x ftp://z @team a@evil.example mailto:b@evil.example #12 GH-12"


def test_foreign_text_does_not_become_a_link_or_a_mention() -> None:
    file = FileResult(HOSTILE, "", (), (Fact("file", HOSTILE, "", Status.MISSING_RIGHT),), problem=HOSTILE)
    service = ServiceResult("api", (Fact("image", HOSTILE, "api:1", Status.DIFFERS),))
    probe = ProbeResult("version", Status.EXPECTED, HOSTILE, "exit 0: 1", reason=HOSTILE)
    left = Side("ssh://deploy@web-1/opt/app", (), left_out=(HOSTILE,), problems=(HOSTILE,))
    comparison = Comparison(left, Side("file:/opt", ()), False, (file,), (service,), (probe,))
    text = as_markdown(ComparisonReport((comparison,), (("ssh://ada@web-2/", HOSTILE),)))
    outside = re.sub(r"`[^`\n]*`", "", text)
    assert outside.count("evil.example") >= 6
    assert _ACTS.findall(outside) == []
    assert "deploy@\N{ZERO WIDTH SPACE}web-1/opt/app" in text
    assert "exit 0: 1" in text
