"""Renders templates as HTML that loads nothing from elsewhere. Every value is escaped."""

from __future__ import annotations

import base64
import functools
import hashlib
from importlib import resources

import jinja2

_TEMPLATES = resources.files(__package__ or "") / "templates"


@functools.cache
def _environment() -> jinja2.Environment:
    loader = jinja2.FunctionLoader(lambda name: (_TEMPLATES / name).read_text(encoding="utf-8"))
    return jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)


@functools.cache
def stylesheet() -> str:
    """The one stylesheet of every page and report."""
    return (_TEMPLATES / "style.css").read_text(encoding="utf-8")


def csp_hash(text: str) -> str:
    """What a content security policy calls an inline style or script of exactly this text."""
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"


def render_html(template: str, **facts: object) -> str:
    """The template (a file of templates/) with these facts, and the stylesheet as ``style``. Raises
    jinja2.UndefinedError for a fact that the template needs and did not get."""
    return _environment().get_template(template).render(style=stylesheet(), **facts)
