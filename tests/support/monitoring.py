"""A real Prometheus and a real Alertmanager for tests: on loopback, everything below a temporary directory."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import socket
import subprocess
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml

from tests.support.components import program
from tests.support.waiting import eventually

DEPLOY = Path(__file__).parent.parent.parent / "deploy"
INTERVAL = "500ms"  # of scrapes and of evaluations
_DURATION = re.compile(r"\d+(ms|[smhdwy])")


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
def prometheus(directory: Path, scraped: int, alertmanager: int | None = None) -> Iterator[Prometheus]:
    """A Prometheus that scrapes the daemon on port ``scraped``, with the shipped files at short intervals."""
    directory.mkdir()
    binary = program("prometheus")
    assert binary is not None
    (directory / "rules.yml").write_text(yaml.safe_dump(_quick_rules()))
    (directory / "prometheus.yml").write_text(yaml.safe_dump(_quick_config(scraped, alertmanager)))
    port = free_port()
    arguments = (f"--config.file={directory}/prometheus.yml", f"--storage.tsdb.path={directory}/data")
    listen = f"--web.listen-address=127.0.0.1:{port}"
    with _running(Prometheus, directory, binary, *arguments, listen, port=port) as service:
        yield service


def _quick_config(scraped: int, alertmanager: int | None) -> dict[str, Any]:
    """The shipped example with other addresses and intervals."""
    config: dict[str, Any] = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())
    config["global"] = {"scrape_interval": INTERVAL, "scrape_timeout": INTERVAL, "evaluation_interval": INTERVAL}
    config["scrape_configs"][0]["static_configs"][0]["targets"] = [f"127.0.0.1:{scraped}"]
    if alertmanager is None:
        del config["alerting"]
    else:
        managers = config["alerting"]["alertmanagers"]
        managers[0]["static_configs"][0]["targets"] = [f"127.0.0.1:{alertmanager}"]
    return config


def _quick_rules() -> dict[str, Any]:
    """The shipped rules, but none waits for longer than an evaluation."""
    rules: dict[str, Any] = yaml.safe_load((DEPLOY / "prometheus/rules.yml").read_text())
    for group in rules["groups"]:
        for rule in group["rules"]:
            if "for" in rule:
                assert _DURATION.fullmatch(rule["for"])
                rule["for"] = INTERVAL
    return rules


@contextlib.contextmanager
def alertmanager(directory: Path, receiver: str) -> Iterator[Service]:
    """An Alertmanager that tells the address ``receiver`` at once of what fires and of what is resolved."""
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
    """What Alertmanager has said so far, newest last."""

    url: str
    alerts: list[dict[str, Any]] = field(default_factory=list)

    def notification(self, name: str, status: str) -> dict[str, Any] | None:
        """The latest notification of this alert with this status (firing, resolved)."""
        alerts = [alert for alert in self.alerts if (alert["labels"]["alertname"], alert["status"]) == (name, status)]
        return alerts[-1] if alerts else None


@contextlib.contextmanager
def receiver() -> Iterator[Receiver]:
    """A webhook receiver on loopback."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            heard.alerts.extend(json.loads(body)["alerts"])
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    heard = Receiver(f"http://127.0.0.1:{server.server_port}/")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield heard
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
