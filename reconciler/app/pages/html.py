"""Renders templates as HTML that loads nothing from elsewhere. Every value is escaped, and made harmless."""

from __future__ import annotations

import base64
import functools
import hashlib
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import resources
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

from reconciler.core.text import absolute, ago, author_name, duration, epoch_seconds, printable

if TYPE_CHECKING:
    import jinja2

_TEMPLATES = resources.files(__package__ or "") / "templates"
_LONGEST_NAME = 160  # characters of a name, a subject or an author
_LONGEST_TEXT = 4000  # characters of anything else
_COMMAND = re.compile(r"`([^`]+)`")
_KINDS = {
    **dict.fromkeys(("in_sync", "applied", "corrected", "ok", "done", "healthy", "same"), "good"),
    **dict.fromkeys(("held", "orphan", "warning", "drifted", "rolled_back", "rolling_back", "quarantined"), "mid"),
    **dict.fromkeys(("pending", "paused", "pinned", "unfinished", "reconciling", "expected"), "info"),
    **dict.fromkeys(("not_reconciled_yet", "unknown", "empty"), "off"),
}


def render_html(template: str, *, script: str = "", **facts: object) -> str:
    """The template (a file of templates/) with these facts. ``script`` is another file there, put inline at the end.

    A template also gets ``style`` (the stylesheet), ``script`` (its text) and ``policy``. Raises
    jinja2.UndefinedError for a fact that the template needs and did not get.
    """
    text = asset(script) if script else ""
    built_in = {"style": stylesheet(), "script": text, "policy": content_policy(text)}
    return _environment().get_template(template).render(**built_in, **facts)


@functools.cache
def stylesheet() -> str:
    """The one stylesheet of every page and report."""
    return asset("style.css")


@functools.cache
def asset(name: str) -> str:
    """The text of a file of templates/."""
    return (_TEMPLATES / name).read_text(encoding="utf-8")


def content_policy(script: str = "", *more: str) -> str:
    """The content security policy of a page with the stylesheet and this inline script, and ``more`` directives."""
    scripts = [f"script-src {csp_hash(script)}"] if script else []
    own = ["default-src 'none'", f"style-src {csp_hash(stylesheet())}", *scripts]
    return "; ".join([*own, "base-uri 'none'", "form-action 'none'", *more])


@functools.cache
def csp_hash(text: str) -> str:
    """What a content security policy calls an inline style or script of exactly this text."""
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"


@functools.cache
def _environment() -> jinja2.Environment:
    import jinja2  # here: the daemon of a server whose pages nobody opens does not pay for its memory

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(asset),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_harmless,
    )
    environment.filters.update(
        absolute=absolute,
        anchor=_anchor,
        ago=ago,
        author_name=author_name,
        clock=_clock,
        marked=_marked,
        name=_name,
        state_kind=_state_kind,
        took=_took,
        words=_words,
    )
    return environment


def _harmless(value: Any) -> Any:
    """Text without control and direction characters, and of bounded length; markup is ours already."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    if len(value) > _LONGEST_TEXT:
        value = f"{value[:_LONGEST_TEXT]}… ({len(value):,} characters)"
    return value if value.isprintable() else "\n".join(printable(line) for line in value.split("\n"))


def _name(text: str) -> str:
    """A name in one line of bounded length."""
    shortened = text if len(text) <= _LONGEST_NAME else f"{text[:_LONGEST_NAME]}… ({len(text):,} characters)"
    return printable(shortened)


def _marked(text: str) -> Markup:
    """A sentence, with what is in backticks as code that breaks between words only."""
    parts = _COMMAND.split(str(_harmless(text)))
    return Markup().join(_code(part) if number % 2 else escape(part) for number, part in enumerate(parts))


def _code(command: str) -> Markup:
    words = [Markup("<span>{}</span>").format(word) for word in command.split(" ")]
    return Markup("<code>{}</code>").format(Markup(" ").join(words))


def _words(state: str) -> str:
    return state.replace("_", " ")


def _state_kind(state: str) -> str:
    return _KINDS.get(state.replace(" ", "_"), "bad")


def _anchor(name: str) -> str:
    """What the section of an environment is called in an address."""
    return "at-" + re.sub(r"[^A-Za-z0-9_.@-]", "-", name)


def _clock(instant: str, now: float) -> str:
    """An instant (ISO 8601 in UTC) of today without its date."""
    today = datetime.fromtimestamp(now, UTC).date().isoformat()
    return absolute(instant).removeprefix(today).strip()


def _took(run: Mapping[str, Any]) -> str:
    return duration(epoch_seconds(run["finished_at"]) - epoch_seconds(run["started_at"]))
