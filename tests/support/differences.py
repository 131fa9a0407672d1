"""Known differences between two sides that have the project of tests/data/shop, and what compare must say of each.

A finding is written as compare's JSON has it: ``PLACE NAME CLASS``, where the place is a file, or ``compose SERVICE``.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).parents[1] / "data" / "shop"
Edit = Callable[[Path], None]
_COMPOSE = "compose.yaml"


@dataclass(frozen=True, slots=True)
class Difference:
    """What is done to the right side, and the findings; none for what makes no difference."""

    name: str
    edits: tuple[Edit, ...]
    findings: frozenset[str] = frozenset()

    def apply(self, side: Path) -> None:
        for edit in self.edits:
            edit(side)


def project(directory: Path) -> Path:
    """Copy the project there."""
    shutil.copytree(PROJECT, directory)
    for file in directory.rglob("*"):
        if file.is_file():
            file.chmod(0o600 if file.suffix in (".env", ".key") or file.name == ".env" else 0o644)
    return directory


def replaced(file: str, old: str, new: str) -> Edit:
    """Replace the text, which the file has once."""

    def edit(side: Path) -> None:
        text = (side / file).read_bytes()
        assert text.count(old.encode()) == 1, (file, old)
        (side / file).write_bytes(text.replace(old.encode(), new.encode()))

    return edit


def appended(file: str, text: str) -> Edit:
    """Append to the file, or make it."""

    def edit(side: Path) -> None:
        (side / file).parent.mkdir(parents=True, exist_ok=True)
        with (side / file).open("a") as opened:
            opened.write(text)

    return edit


def removed(file: str) -> Edit:
    return lambda side: (side / file).unlink()


def mode(file: str, bits: int) -> Edit:
    return lambda side: (side / file).chmod(bits)


def in_windows_lines(file: str) -> Edit:
    return lambda side: _write(side / file, (side / file).read_bytes().replace(b"\n", b"\r\n"))


def reversed_lines(file: str) -> Edit:
    return lambda side: _write(side / file, b"".join(reversed((side / file).read_bytes().splitlines(keepends=True))))


def _write(file: Path, data: bytes) -> None:
    file.write_bytes(data)


# --- what makes a difference -----------------------------------------------------------------------------------------


def _key(name: str, file: str, old: str, new: str, *findings: str) -> Difference:
    file = f"env/{file}" if not file.startswith(".") else file
    return Difference(
        name,
        (replaced(file, old, new),),
        frozenset(finding if finding.startswith("env/") else f"{file} {finding}" for finding in findings),
    )


def _field(name: str, old: str, new: str, *findings: str) -> Difference:
    return Difference(name, (replaced(_COMPOSE, old, new),), frozenset(f"compose {finding}" for finding in findings))


def _equal(name: str, *edits: Edit) -> Difference:
    return Difference(name, edits)


_KEYS = (
    _key("a value", "worker.env", "QUEUES=default,mail", "QUEUES=default", "QUEUES differs"),
    _key("a secret", "api.env", "=invented-session-secret", "=invented-other", "SESSION_SECRET differs"),
    _key("an address with a password", "common.env", "invented-database", "invented-2", "DATABASE_URL differs"),
    _key("an added key", "api.env", "WORKERS=4\n", "WORKERS=4\nTIMEOUT=60\n", "TIMEOUT missing-left"),
    _key("a removed key", "api.env", "CACHE_TTL=300\n", "", "CACHE_TTL missing-right"),
    _key(
        *("a renamed key", "worker.env", "RETRY_DELAY=", "RETRY_DELAY_SECONDS="),
        *("RETRY_DELAY missing-right", "RETRY_DELAY_SECONDS missing-left"),
    ),
    _key("a key in lower case", "web.env", "THEME=", "theme=", "THEME missing-right", "theme missing-left"),
    _key("a key in a comment", "common.env", "CURRENCY=", "# CURRENCY=", "CURRENCY missing-right"),
    _key("an emptied value", "common.env", "FEATURE_GIFTS=false", "FEATURE_GIFTS=", "FEATURE_GIFTS differs"),
    _key("a placeholder", "worker.env", "invented-smtp", "changeme", "SMTP_PASSWORD differs placeholder"),
    _key("a space in quotes", "common.env", "Hello, invented", "Hello,  invented", "GREETING differs"),
    _key("a value in upper case", "common.env", "CHECKOUT_V2=true", "CHECKOUT_V2=TRUE", "FEATURE_CHECKOUT_V2 differs"),
    _key(
        "a key that is there twice",
        "db.env",
        "CONNECTIONS=200",
        "CONNECTIONS=200\nMAX_CONNECTIONS=300",
        "MAX_CONNECTIONS differs",
    ),
    _key(
        "a comment that quotes held",
        "api.env",
        "'Free shipping # this week'",
        "Free shipping # this week",
        "BANNER differs",
    ),
    _key(
        "an escape in single quotes",
        "api.env",
        r'"-----BEGIN INVENTED-KEY-----\nMIIEinvented\n-----END INVENTED-KEY-----"',
        r"'-----BEGIN INVENTED-KEY-----\nMIIEinvented\n-----END INVENTED-KEY-----'",
        "JWT_PRIVATE_KEY differs",
    ),
    _key("a default for a reference", "common.env", "${DOMAIN}", "${DOMAIN:-x}.eu", "ASSET_HOST differs"),
    _key(
        "an order in a list",
        "api.env",
        "https://shop.example.org,https://www.shop.example.org",
        "https://www.shop.example.org,https://shop.example.org",
        "CORS_ORIGINS differs",
    ),
    Difference(
        "a key of the project", (appended(".env", "REGION=eu\n"),), frozenset({".env REGION missing-left unused"})
    ),
    _key("a setting that nothing uses", ".env", "COMPOSE_PROFILES=\n", "", "COMPOSE_PROFILES missing-right"),
)
_KEYS_WITH_CONSEQUENCES = (
    _key("a tag in .env", ".env", "APP_TAG=2.4.1", "APP_TAG=2.5.0", "APP_TAG differs"),
    _key(
        "a domain in .env",
        ".env",
        "DOMAIN=shop.example.org",
        "DOMAIN=shop.example.com",
        "DOMAIN differs",
        "env/common.env ASSET_HOST differs",
    ),
    _key("an interval in .env", ".env", "HEALTH_INTERVAL=10m", "HEALTH_INTERVAL=15m", "HEALTH_INTERVAL differs"),
    _key("a level in .env", ".env", "LOG_LEVEL=info", "LOG_LEVEL=debug", "LOG_LEVEL differs"),
    _key("a token in .env", ".env", "invented-token-of-the-project", "invented-2", "INTERNAL_TOKEN differs"),
)
_FILES = (
    Difference(
        "a mounted file",
        (replaced("proxy/nginx.conf", "web:3000", "web:3001"),),
        frozenset({"proxy/nginx.conf content differs"}),
    ),
    Difference(
        "a config", (replaced("search/config.xml", "256m", "512m"),), frozenset({"search/config.xml content differs"})
    ),
    Difference(
        "a secret file",
        (replaced("app/licence.key", "licence", "other"),),
        frozenset({"app/licence.key content differs"}),
    ),
    Difference("the mode of an env file", (mode("env/db.env", 0o644),), frozenset({"env/db.env mode differs"})),
    Difference("the mode of a mounted file", (mode("db/init.sql", 0o600),), frozenset({"db/init.sql mode differs"})),
    Difference(
        "an optional env file",
        (removed("env/queue.local.env"),),
        frozenset({"env/queue.local.env file missing-right", "env/queue.local.env HEARTBEAT missing-right"}),
    ),
    Difference(
        "an env file that nobody names",
        (appended("env/old.env", "A=invented-1\n"),),
        frozenset({"env/old.env file missing-left", "env/old.env A missing-left unused"}),
    ),
    Difference(
        "the base of an image",
        (replaced("app/web.Dockerfile", "FROM nginx:1.27", "FROM nginx:1.28"),),
        frozenset({"compose web base_images differs"}),
    ),
    Difference(
        "the default of a base",
        (replaced("app/web.Dockerfile", "NODE=20", "NODE=22"),),
        frozenset({"compose web base_images differs"}),
    ),
)
_FIELDS = (
    _field("the tag of an image", "shop-test/db:16.2", "shop-test/db:16.3", "db image differs"),
    _field("a registry", "shop-test/search:", "mirror.example.org/shop-test/search:", "search image differs"),
    _field("a port less", '      - "8443"\n', "", "proxy ports.8443/tcp missing-right"),
    _field("the address of a port", '"127.0.0.1::8080"', '"8080"', "proxy ports.8080/tcp differs"),
    _field(
        "the port of a service of no active profile", '"8025:8025", ', '"8026:8025", ', "mailer ports.8025/tcp differs"
    ),
    _field("a health check", 'CMD-SHELL, "true || exit 1"', 'CMD-SHELL, "true"', "api healthcheck.test differs"),
    _field("the interval of a health check", "interval: 20m", "interval: 40m", "db healthcheck.interval differs"),
    _field(
        "no health check",
        'healthcheck: {<<: *health, test: [CMD, "true"]}',
        "healthcheck: {disable: true}",
        "proxy healthcheck missing-right",
    ),
    _field(
        "a restart policy",
        "    env_file: [env/db.env]",
        "    restart: always\n    env_file: [env/db.env]",
        "db restart differs",
    ),
    _field("a word of a command", '[gunicorn, --workers, "4"', '[gunicorn, --workers, "8"', "api command differs"),
    _field("a command's queue", "--queues default,mail", "--queues default", "worker command differs"),
    _field("an entrypoint", 'entrypoint: ["true"]', 'entrypoint: ["true", "x"]', "migrate entrypoint differs"),
    _field("a user", '"1000:1000"', '"1001:1000"', "api user differs"),
    _field("a working directory", "working_dir: /srv", "working_dir: /app", "api working_dir differs"),
    _field(
        "a read-only mount",
        "./proxy/static:/srv/static:ro",
        "./proxy/static:/srv/static",
        "proxy volumes./srv/static differs",
    ),
    _field("another source", "./app/plugins:", "./app/addons:", "worker volumes./srv/plugins differs"),
    _field("another volume", "- database:/var", "- ./data:/var", "db volumes./var/lib/postgresql/data differs"),
    _field(
        "a mount more",
        "- certificates:/etc/certificates",
        "- certificates:/etc/certificates\n      - ./extra:/extra",
        "proxy volumes./extra missing-left",
    ),
    _field("a label", "team: payments", "team: checkout", "api labels.team differs"),
    _field(
        "a label more", 'backup.enable: "false"', 'backup.enable: "false", keep: "1"', "api labels.keep missing-left"
    ),
    _field(
        "a log driver",
        "hostname: queue",
        "hostname: queue\n    logging: {driver: local}",
        "queue logging.driver differs",
        "queue logging.options.max-size missing-right",
        "queue logging.options.max-file missing-right",
    ),
    _field("a limit of memory", "mem_limit: 512m", "mem_limit: 768m", "api mem_limit differs"),
    _field("a limit of processors", "cpus: 1.5", "cpus: 2", "api cpus differs"),
    _field("a limit of a deployment", "memory: 256M", "memory: 384M", "queue deploy.resources.limits.memory differs"),
    _field(
        "a network more",
        "networks: [front, back]",
        "networks: [front, back, default]",
        "web networks.default missing-left",
    ),
    _field("an alias", "aliases: [gateway]", "aliases: [gateway, edge]", "proxy networks.back differs"),
    _field(
        "a network's option",
        'mtu: "1450"',
        'mtu: "1400"',
        "(project) networks.back.driver_opts.com.docker.network.driver.mtu differs",
    ),
    _field(
        "a volume's label",
        "index: {}",
        "index: {labels: {keep: a}}",
        "(project) volumes.index.labels.keep missing-left",
    ),
    _field(
        "a container name",
        "    user:",
        "    container_name: shop-test-the-api\n    user:",
        "api container_name missing-left",
    ),
    _field(
        "a variable of a service", "RENDER_MODE: static", "RENDER_MODE: dynamic", "web environment.RENDER_MODE differs"
    ),
    _field("a variable more", "HEAP: 256m", 'HEAP: 256m, DEBUG: "1"', "search environment.DEBUG missing-left"),
    _field("a build argument", "NODE_ENV: production", "NODE_ENV: staging", "web build.args.NODE_ENV differs"),
    _field(
        "a dependency that is not required",
        "cache: {condition: service_started}",
        "cache: {condition: service_started, required: false}",
        "api depends_on.cache.required differs",
    ),
    _field("a profile", "    init: true", "    init: true\n    profiles: [jobs]", "scheduler profiles missing-left"),
    _field("a limit of files", "soft: 4096", "soft: 2048", "proxy ulimits.nofile differs"),
    _field("a capability", "cap_drop: [ALL]", "cap_drop: [NET_RAW]", "worker cap_drop differs"),
    _field("a writable container", "    read_only: true\n    tmpfs", "    tmpfs", "web read_only missing-right"),
    _field("a host", "10.1.0.7", "10.1.0.8", "web extra_hosts differs"),
    _field("shared memory", "shm_size: 128m", "shm_size: 256m", "db shm_size differs"),
    _field("a signal", "stop_signal: SIGINT", "stop_signal: SIGTERM", "scheduler stop_signal differs"),
    _field(
        "a kernel parameter",
        "net.core.somaxconn: 1024",
        "net.core.somaxconn: 2048",
        "cache sysctls.net.core.somaxconn differs",
    ),
    _field(
        "a target of a config",
        "target: /etc/search.xml",
        "target: /etc/other.xml",
        "search configs./etc/search.xml missing-right",
        "search configs./etc/other.xml missing-left",
    ),
    _field(
        "a variable over an env file",
        "    cap_drop:",
        "    environment: {CONCURRENCY: 1}\n    cap_drop:",
        "worker environment.CONCURRENCY differs",
    ),
    _field(
        "an env file less",
        "env_file: [env/common.env, env/worker.env]",
        "env_file: [env/worker.env]",
        "worker env_file env/common.env missing-right",
    ),
    _field(
        "a service more",
        "  search:\n    <<: *usual",
        "  indexer: {<<: *app}\n  search:\n    <<: *usual",
        "indexer definition missing-left",
    ),
)

# --- what makes none -------------------------------------------------------------------------------------------------

_EQUAL = (
    _equal("double quotes", replaced("env/worker.env", "S3_BUCKET=shop-uploads", 'S3_BUCKET="shop-uploads"')),
    _equal("single quotes", replaced("env/api.env", "RATE_LIMIT=100", "RATE_LIMIT='100'")),
    _equal(
        "an env file in another place",
        lambda side: (side / "env/mailer.env").rename(side / "mailer.env"),
        replaced(_COMPOSE, "env/mailer.env", "mailer.env"),
    ),
    _equal(
        "env files in another order",
        replaced(_COMPOSE, "[env/common.env, env/api.env]", "[env/api.env, env/common.env]"),
    ),
    _equal("export", replaced("env/common.env", "TZ=", "export TZ=")),
    _equal("a comment after a value", replaced("env/api.env", "UPLOAD_LIMIT=25m", "UPLOAD_LIMIT=25m  # megabytes")),
    _equal("white space around a value", replaced("env/common.env", "PAGE_SIZE=50", "PAGE_SIZE=  50  ")),
    _equal("lines of Windows", in_windows_lines("env/queue.env")),
    _equal("another order", reversed_lines("env/web.env")),
    _equal("comments and empty lines", appended("env/web.env", "\n# the end\n\n")),
    _equal("a mapping for a list", replaced(_COMPOSE, "- LOG_LEVEL=${LOG_LEVEL:-info}", "- LOG_LEVEL=$LOG_LEVEL")),
    _equal(
        "a list for a text",
        replaced(_COMPOSE, "command: celery --app shop beat", "command: [celery, --app, shop, beat]"),
    ),
    _equal("a list for one file", replaced(_COMPOSE, "env_file: env/web.env", "env_file: [env/web.env]")),
    _equal(
        "a list for labels",
        replaced(
            _COMPOSE,
            'traefik.enable: "true"\n      traefik.http.routers.shop.rule: Host(`${DOMAIN}`)',
            "- traefik.enable=true\n      - traefik.http.routers.shop.rule=Host(`${DOMAIN}`)",
        ),
    ),
    _equal(
        "the long form of a mount",
        replaced(
            _COMPOSE,
            "      - ./proxy/nginx.conf:/etc/nginx/nginx.conf:ro\n",
            "      - {type: bind, source: ./proxy/nginx.conf, target: /etc/nginx/nginx.conf, read_only: true}\n",
        ),
    ),
    _equal("another unit", replaced(_COMPOSE, "timeout: 5s # of the network as well", "timeout: 5000ms")),
    _equal("a field that Compose ignores", replaced(_COMPOSE, "x-usual:", "x-note: {of: nobody}\n\nx-usual:")),
)

DIFFERENCES: tuple[Difference, ...] = (*_KEYS, *_KEYS_WITH_CONSEQUENCES, *_FILES, *_FIELDS, *_EQUAL)

SECRETS = frozenset(
    {
        *(f"env/common.env {name}" for name in ("SENTRY_DSN", "DATABASE_URL", "REDIS_URL")),
        *(f"env/api.env {name}" for name in ("SESSION_SECRET", "JWT_PRIVATE_KEY", "STRIPE_API_KEY")),
        *(f"env/worker.env {name}" for name in ("SMTP_PASSWORD", "S3_SECRET_ACCESS_KEY")),
        *("env/db.env POSTGRES_PASSWORD", "env/queue.env RABBITMQ_DEFAULT_PASS", ".env INTERNAL_TOKEN"),
    }
)
"""Keys that two environments must not share."""


def expected_findings(differences: Iterable[Difference], *, environments: bool) -> set[str]:
    """What compare must find if the right side has these differences; ``environments``: the sides are two."""
    lines = {line for difference in differences for line in difference.findings}
    if not environments:
        return lines
    changed = {line: line.replace(" differs", " expected") for line in lines if " ".join(line.split()[:2]) in SECRETS}
    shared = SECRETS - {" ".join(line.split()[:2]) for line in changed}
    return (lines - changed.keys()) | {*changed.values()} | {f"{secret} same-secret" for secret in shared}


def mirrored(lines: Iterable[str]) -> set[str]:
    """The findings for the same sides the other way round."""
    opposite = {"missing-left": "missing-right", "missing-right": "missing-left"}
    return {" ".join(opposite.get(word, word) for word in line.split(" ")) for line in lines}


def findings(comparison: dict[str, Any]) -> set[str]:
    """Given a comparison as JSON, return everything in it that is not the same on both sides and counts."""
    lines = set()
    for file in comparison["files"]:
        place = file["left"] or file["right"]
        for key in file["keys"]:
            if key["class"] != "same" or key["unexplained"]:
                lines.add(" ".join((place, key["key"], key["class"], *key["remarks"])))
        lines |= {f"{place} {line}" for line in _facts(file["facts"])}
    for kind, word in (("services", "service"), ("definitions", "compose")):
        for entry in comparison[kind]:
            lines |= {f"{word} {entry['service']} {line}" for line in _facts(entry["facts"])}
    return lines | {f"problem {problem}" for problem in comparison["problems"]}


def _facts(facts: Iterable[dict[str, Any]]) -> set[str]:
    return {
        f"{fact['name']} {fact['class']}" for fact in facts if fact["class"] != "same" and not fact["informational"]
    }
