"""Hands a mail to the machine's own mailer (sendmail, which postfix, exim, msmtp and others have)."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from email.message import EmailMessage

from reconciler.adapters import process
from reconciler.core.errors import OutsideError

_SECONDS = 60.0
_PATH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/lib"))
_HINT = "Install a mailer that has sendmail (postfix, msmtp-mta, nullmailer …), or pipe the output elsewhere"


async def send_mail(recipients: Sequence[str], subject: str, text: str, html: str) -> None:
    """Send a mail with the same content as text and as HTML. Raises OutsideError where it is not taken over."""
    message = EmailMessage()
    message["Subject"] = " ".join(subject.split())
    message["To"] = ", ".join(recipients)
    message.set_content(text)
    message.add_alternative(html, subtype="html")
    program = shutil.which("sendmail", path=_PATH) or "sendmail"
    argv = [program, "-i", "--", *recipients]
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG")}
    try:
        done = await process.run(argv, env=kept, limits=process.Limits(_SECONDS), stdin=message.as_bytes())
    except process.MissingProgramError:
        raise OutsideError("sendmail is not installed", where="--mail", hint=_HINT, id="mail-failed") from None
    if done.timed_out or done.exit_code != 0:
        reason = f"did not end within {_SECONDS:g} s" if done.timed_out else f"ended with {done.exit_code}"
        hint = "Its own log says why (`journalctl -t postfix/sendmail`, or the mailer's)"
        raise OutsideError(f"sendmail {reason}", where="--mail", hint=hint, id="mail-failed")
