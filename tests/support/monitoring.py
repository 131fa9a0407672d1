"""A real Prometheus and a real Alertmanager for tests: on loopback, everything below a temporary directory."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml

from tests.support.commands import output
from tests.support.components import program
from tests.support.waiting import eventually

DEPLOY = Path(__file__).parent.parent.parent / "deploy"
INTERVAL = "500ms"  # of scrapes and of evaluations
FASTER = 1800  # the longest of the alerts, 4 hours, takes 8 seconds


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(slots=True)
class Service:
    """A program that answers on a port of loopback until it is stopped."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path

    def get(self, path: str, **query: str) -> Any:
        """The JSON answer. Raises AssertionError with what it says for another status than 200."""
        url = f"http://127.0.0.1:{self.port}{path}?{urllib.parse.urlencode(query)}"
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                raise AssertionError(error.read().decode()) from None

    def wait_until_ready(self) -> None:
        def ready() -> bool:
            assert self.process.poll() is None, self.log.read_text()[-2000:]
            with contextlib.suppress(OSError):
                address = f"http://127.0.0.1:{self.port}/-/ready"
                with urllib.request.urlopen(address, timeout=5) as answer:
                    return bool(answer.status == 200)
            return False

        eventually(ready, timeout=60)

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@dataclass(slots=True)
class Prometheus(Service):
    def samples(self, query: str) -> list[tuple[dict[str, str], float]]:
        """The samples of an instant query now. Raises AssertionError for one that Prometheus does not understand."""
        data = self.get("/api/v1/query", query=query)["data"]
        if data["resultType"] == "scalar":
            return [({}, float(data["result"][1]))]
        return [(sample["metric"], float(sample["value"][1])) for sample in data["result"]]


@contextlib.contextmanager
def _running(kind: type[Any], directory: Path, *command: str, port: int) -> Iterator[Any]:
    log = directory / f"{Path(command[0]).name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=directory, start_new_session=True
        )
    service = kind(process, port, log)
    try:
        service.wait_until_ready()
        yield service
    finally:
        service.stop()


@contextlib.contextmanager
def prometheus(
    directory: Path,
    *scraped: int,
    alertmanager: int | None = None,
    runbook: str = "",
    relabel: Sequence[Mapping[str, Any]] = (),
    token: str = "",
) -> Iterator[Prometheus]:
    """A Prometheus that scrapes the daemons on the ports ``scraped``, with the shipped files at short intervals.

    ``token`` is what it sends them. ``runbook`` is the address set in the rules; ``relabel`` changes alerts on
    their way to the Alertmanager.
    """
    directory.mkdir()
    binary = program("prometheus")
    assert binary is not None
    (directory / "rules.yml").write_text(_quick_rules(directory, runbook))
    (directory / "prometheus.yml").write_text(
        yaml.safe_dump(_quick_config(directory, scraped, alertmanager, relabel, token))
    )
    port = free_port()
    arguments = (f"--config.file={directory}/prometheus.yml", f"--storage.tsdb.path={directory}/data")
    listen = f"--web.listen-address=127.0.0.1:{port}"
    with _running(Prometheus, directory, binary, *arguments, listen, port=port) as service:
        yield service


def _quick_config(
    directory: Path, scraped: Sequence[int], alertmanager: int | None, relabel: Sequence[Mapping[str, Any]], token: str
) -> dict[str, Any]:
    """The shipped example with other addresses and intervals."""
    example = (DEPLOY / "prometheus/prometheus.yml").read_text()
    if token:  # as an operator does
        (directory / "reconciler-token").write_text(token)
        example = example.replace("# authorization:", "authorization:")
    config: dict[str, Any] = yaml.safe_load(example)
    config["global"] |= {"scrape_interval": INTERVAL, "scrape_timeout": INTERVAL, "evaluation_interval": INTERVAL}
    config["scrape_configs"][0]["static_configs"][0]["targets"] = [f"127.0.0.1:{port}" for port in scraped]
    if alertmanager is None:
        del config["alerting"]
    else:
        config["alerting"]["alert_relabel_configs"] = [dict(step) for step in relabel]
        managers = config["alerting"]["alertmanagers"]
        managers[0]["static_configs"][0]["targets"] = [f"127.0.0.1:{alertmanager}"]
    return config


def _quick_rules(directory: Path, runbook: str) -> str:
    """The shipped rules as an operator sets and quickens them."""
    rules = (DEPLOY / "prometheus/rules.yml").read_text()
    if runbook:
        (address,) = re.findall(r"labels: \{url: '(.+)'\}", rules)
        rules = rules.replace(address, runbook)
    script = DEPLOY / "prometheus/quicken.py"
    return output(sys.executable, str(script), str(FASTER), stdin=rules.encode(), cwd=directory).decode()


@contextlib.contextmanager
def alertmanager(directory: Path, receiver: str) -> Iterator[Service]:
    """An Alertmanager that immediately notifies the address ``receiver`` of firing and resolved alerts."""
    directory.mkdir()
    binary = program("prometheus-alertmanager")
    assert binary is not None
    # Alertmanager gives a group no less than a second.
    route = {"receiver": "test", "group_by": ["..."], "group_wait": "0s", "group_interval": "1s"}
    receivers = [{"name": "test", "webhook_configs": [{"url": receiver, "send_resolved": True}]}]
    config = directory / "alertmanager.yml"
    config.write_text(yaml.safe_dump({"route": route, "receivers": receivers}))
    port = free_port()
    arguments = (f"--config.file={config}", f"--storage.path={directory}/data", "--cluster.listen-address=")
    listen = f"--web.listen-address=127.0.0.1:{port}"
    with _running(Service, directory, binary, *arguments, listen, port=port) as service:
        yield service


@dataclass(slots=True)
class Receiver:
    """What Alertmanager has said so far, newest last. ``runbook`` is the address of the runbook's page there."""

    url: str
    alerts: list[dict[str, Any]] = field(default_factory=list)

    @property
    def runbook(self) -> str:
        return f"{self.url}runbook.md"

    def notification(self, name: str, status: str, **labels: str) -> dict[str, Any] | None:
        """The latest notification of this alert, with these labels, with this status (firing, resolved)."""
        expected = {"alertname": name, **labels}.items()
        alerts = [alert for alert in self.alerts if alert["status"] == status and expected <= alert["labels"].items()]
        return alerts[-1] if alerts else None

    def is_over(self, name: str, **labels: str) -> bool:
        """Whether the newest notification about this alert, with these labels, says that it is resolved."""
        expected = {"alertname": name, **labels}.items()
        states = [alert["status"] for alert in self.alerts if expected <= alert["labels"].items()]
        return states[-1:] == ["resolved"]


@contextlib.contextmanager
def receiver() -> Iterator[Receiver]:
    """A webhook receiver on loopback, which serves the runbook too, as a wiki or a git server would."""

    class Handler(_Quiet):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            heard.alerts.extend(json.loads(body)["alerts"])
            self.answer(b"")

        def do_GET(self) -> None:
            known = self.path == "/runbook.md"
            self.answer((DEPLOY.parent / "docs/runbook.md").read_bytes() if known else b"", 200 if known else 404)

    with _serving(Handler) as port:
        heard = Receiver(f"http://127.0.0.1:{port}/")
        yield heard


@contextlib.contextmanager
def exporter(scrape: Callable[[], bytes | None]) -> Iterator[int]:
    """The port of what answers each scrape with ``scrape``; None: as a server that is down."""

    class Handler(_Quiet):
        def do_GET(self) -> None:
            text = scrape()
            self.answer(text or b"", 503 if text is None else 200)

    with _serving(Handler) as port:
        yield port


class _Quiet(BaseHTTPRequestHandler):
    def answer(self, body: bytes, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def _serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
