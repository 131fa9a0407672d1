"""Where a commit can be looked at: the web address, derived from the repository's own. Pure."""

from __future__ import annotations

import re
from urllib.parse import quote, urlsplit

_HOST = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?", re.IGNORECASE)
_COMMIT = re.compile(r"[0-9a-f]{7,64}")
# Names that their SSH servers have on port 443.
_WEB_HOSTS = {
    "ssh.github.com": "github.com",
    "altssh.gitlab.com": "gitlab.com",
    "altssh.bitbucket.org": "bitbucket.org",
}
_KINDS = {
    "github": "/commit/",
    "gitlab": "/-/commit/",
    "gitea": "/commit/",
    "forgejo": "/commit/",
    "codeberg": "/commit/",
    "gogs": "/commit/",
    "bitbucket": "/commits/",
}
_BITBUCKET_CLOUD = "bitbucket.org"


def commit_address(repository_url: str, commit: str) -> str:
    """The https address of a commit; "" where the repository's address does not say which forge it is on.

    The forge is known by its host's name (github, gitlab, gitea, forgejo, codeberg, gogs or bitbucket as a part of it).
    Never with a user, a password or anything but https.
    """
    base = _web_base(repository_url)
    return f"{base}{commit}" if base and _COMMIT.fullmatch(commit) else ""


def _web_base(url: str) -> str:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return ""
    if parts.scheme not in ("https", "ssh") or not _HOST.fullmatch(host):
        return ""
    host = _WEB_HOSTS.get(host, host)
    kind = next((kind for kind in _KINDS if any(kind in label for label in host.split("."))), "")
    names = [quote(name) for name in parts.path.removesuffix("/").removesuffix(".git").split("/") if name]
    if not kind or len(names) < 2:
        return ""
    at = f"{host}:{port}" if port and parts.scheme == "https" and port != 443 else host
    if kind == "bitbucket" and host != _BITBUCKET_CLOUD:
        project, name = names[-2:]
        own = f"users/{project[1:]}" if project.startswith("~") else f"projects/{project}"
        return f"https://{at}/{own}/repos/{name}{_KINDS[kind]}"
    return f"https://{at}/{'/'.join(names)}{_KINDS[kind]}"
