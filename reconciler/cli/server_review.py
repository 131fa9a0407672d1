"""The command for Monday morning: everything about a server on one page."""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

from click.exceptions import Exit

from reconciler.cli.declarations import Commands, option
from reconciler.cli.options import DEFAULT_CONFIG, ConfigFile, Json, Verbose

if TYPE_CHECKING:
    from reconciler.app.review.review import Review

commands = Commands()


class ReviewForm(StrEnum):
    TEXT = "text"
    JSON = "json"
    MARKDOWN = "markdown"
    HTML = "html"


@commands.command(short_help="all about this server on one page, what needs you first")
def review(
    config: ConfigFile = DEFAULT_CONFIG,
    form: Annotated[ReviewForm, option("--format", help="Output format.")] = ReviewForm.TEXT,
    max_age: Annotated[
        str, option("--max-age", metavar="90d", help="Secrets older than this need you: 90d, 365d.")
    ] = "365d",
    mail: Annotated[
        list[str] | None,
        option("--mail", metavar="ADDRESS", help="Send it with sendmail instead of printing it (may be repeated)."),
    ] = None,
    notify: Annotated[
        bool, option("--notify", help="Send what needs you to the receivers of notifications, print nothing.")
    ] = False,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Show on one page what needs an operator, each with its next step; then every environment and host, the
    comparisons of the server configuration, the findings of check, and the oldest secrets.

    The daemon answers if it runs, else everything is looked at here. A part that fails is reported and hides nothing.
    Exits 0 if nothing needs you, 2 if something waits or differs, 3 if a change was rolled back, 1 if something is
    broken or could not be looked at.
    """
    from reconciler.app.config.durations import parse_duration
    from reconciler.app.review.command import mail_review, notify_review, review_server
    from reconciler.cli import render, server_review_reports
    from reconciler.cli.exit_codes import review_exit_code

    seconds = parse_duration(max_age, where="--max-age")
    with render.progress() as progress:
        reviewed = review_server(config, max_age, seconds, progress)
    try:
        if mail:
            mail_review(mail, *server_review_reports.as_mail(reviewed))
    finally:  # the other way still works
        if notify:
            notify_review(config, *server_review_reports.as_message(reviewed))
    if not mail and not notify:
        _print(reviewed, ReviewForm.JSON if as_json else form, verbose=verbose)
    raise Exit(review_exit_code(reviewed.attention()))


def _print(reviewed: Review, form: ReviewForm, *, verbose: bool) -> None:
    from reconciler.cli import render, server_review_reports
    from reconciler.cli.layout import page_on

    match form:
        case ReviewForm.JSON:
            render.write_json(server_review_reports.as_data(reviewed))
        case ReviewForm.MARKDOWN:
            sys.stdout.write(server_review_reports.as_markdown(reviewed))
        case ReviewForm.HTML:
            sys.stdout.write(server_review_reports.as_html(reviewed))
        case ReviewForm.TEXT:
            render.write_lines(server_review_reports.review_report(reviewed, page_on(sys.stdout, verbose=verbose)))
