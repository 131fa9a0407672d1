"""The machine's mailer."""

from __future__ import annotations

from reconciler.adapters.local.mail import send_mail

__all__ = ["send_mail"]
