"""What no change, one change and the first run cost, with reconciler and with the tools that people use instead.

The tools take turns, so that whatever else the machine does hits all. The CPU is that of the tool and its children,
git, sops and docker among them; what dockerd and containerd do on their behalf is the same for all and not counted.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from benchmarks.figures import Figure, Point
from benchmarks.peers.sites import (
    LONGEST_RUN,
    SITES,
    AnsibleSite,
    ReconcilerSite,
    Run,
    ScriptSite,
    Site,
    content,
    names,
)
from tests.support.age_key import AgeKey
from tests.support.server import Daemon
from tests.support.waiting import eventually

SIZES = (3, 50, 200)  # files
ROUNDS = 5
FEWER_ROUNDS = {(AnsibleSite.tool, 3): 3, (AnsibleSite.tool, 50): 1, (AnsibleSite.tool, 200): 1}
# With so many files a run takes minutes. Its first one finds the live files as they should be (only the services are
# not there yet), and counts as the run with no change.
SEEDED = (AnsibleSite.tool, 200)
POLLS = 20  # for one sample: the clock of processes counts in hundredths of a second
QUIET = 0.5  # seconds without CPU: the daemon has done everything
UNITS = {"CPU": "s", "started": "s", "healthy": "s", "memory": "MB"}
SECRET = b"the webhook's own secret"
MakeSite = Callable[[type[Site], str], Site]


class Samples:
    """Samples by measure (such as "no change: CPU") and tool, for one number of files."""

    def __init__(self, files: int) -> None:
        self._files = files
        self._samples: defaultdict[tuple[str, str], list[float]] = defaultdict(list)

    def add(self, tool: str, kind: str, **values: float) -> None:
        for name, value in values.items():
            self._samples[f"{kind}: {name}", tool].append(value)

    def figures(self) -> Iterator[Figure]:
        for (measure, tool), samples in self._samples.items():
            unit = UNITS[measure.rpartition(": ")[2]]
            name = f"{self._files} files, {measure}, {tool}"
            yield Figure(name, unit, tuple(samples), point=Point(tool, "files", self._files), group=measure)


def measure(files: int, make_site: MakeSite, key: AgeKey) -> Iterator[Figure]:
    """The figures for so many files, also those before a failure; ``make_site`` makes one of this kind and name."""
    with ThreadPoolExecutor(2) as pool:
        plain = {name: content(name, "first") for name in names(files)}
        encrypted = dict(
            zip(plain, pool.map(lambda data: key.encrypt("source.env", data), plain.values()), strict=True)
        )
    samples = Samples(files)
    try:
        with ExitStack() as stack:
            sites = []
            for kind in SITES:
                site = make_site(kind, f"{kind.__name__.lower()}-{files}")
                stack.callback(site.remove)
                shared = isinstance(site, ReconcilerSite | ScriptSite | AnsibleSite)
                sources = encrypted if shared else {name: site.encrypt(name, data) for name, data in plain.items()}
                seeded = (site.tool, files) == SEEDED
                if seeded:
                    site.seed(plain)
                samples.add(site.tool, "no change" if seeded else "first run", CPU=site.start(sources).cpu)
                sites.append(site)
            _rounds(stack, sites, samples, files)
    except Exception:
        yield from samples.figures()
        raise
    yield from samples.figures()


def _rounds(stack: ExitStack, sites: list[Site], samples: Samples, files: int) -> None:
    reconciler = next(site for site in sites if isinstance(site, ReconcilerSite))
    daemon = WatchedDaemon(stack, reconciler)
    for number in range(ROUNDS):
        for site in sites:
            if number >= FEWER_ROUNDS.get((site.tool, files), ROUNDS):
                continue
            if isinstance(site, ReconcilerSite):
                samples.add(site.tool, "no change", CPU=daemon.announce("in_sync", POLLS)[0] / POLLS)
            elif (site.tool, files) != SEEDED:
                _unchanged(site, samples)
            changed = {"api.env": content("api.env", f"round{number}")}
            began = time.time()
            site.commit(changed)
            since = time.time()
            if isinstance(site, ReconcilerSite):
                cpu, memory = daemon.announce("applied")
            else:
                run = _successful(site)
                cpu, memory, since = run.cpu, run.memory, run.began
            if site.live("api.env").read_bytes() != changed["api.env"]:
                raise RuntimeError(f"{site.tool} has ended, but the live file is not the changed one")
            started, healthy = _events(site, began)
            samples.add(
                site.tool, "one change", CPU=cpu, memory=memory, started=started - since, healthy=healthy - since
            )


def _successful(site: Site, **more: str) -> Run:
    """Run the tool. Raises RuntimeError unless it exits with 0: a run that fails is quick."""
    run = site.run(**more)
    if run.exit_code != 0:
        raise RuntimeError(f"{site.tool} ended with {run.exit_code}: {run.output[-2000:]}")
    return run


def _unchanged(site: Site, samples: Samples) -> None:
    samples.add(site.tool, "no change", CPU=_successful(site).cpu)
    if isinstance(site, ScriptSite):
        samples.add("cron script, only news", "no change", CPU=_successful(site, ONLY_NEW="yes").cpu)
    if isinstance(site, AnsibleSite):
        site.options = ("--only-if-changed",)
        samples.add("ansible-pull, only news", "no change", CPU=_successful(site).cpu)
        site.options = ()


def _events(site: Site, since: float) -> tuple[float, float]:
    """When the engine started the changed service's newest container, and when it was healthy (epoch seconds)."""

    def seen() -> Mapping[str, float]:
        labels = [f"label=com.docker.compose.project={site.project.name}", "label=com.docker.compose.service=api"]
        filters = [word for label in labels for word in ("--filter", label)]
        span = ("--since", f"{since:.6f}", "--until", f"{time.time():.6f}", "--format", "{{json .}}")
        answer = subprocess.run(
            ["docker", "events", *span, *filters], env=site.variables, check=True, capture_output=True, text=True
        )
        events = [json.loads(line) for line in answer.stdout.splitlines()]
        return {event["Action"].removeprefix("health_status: "): event["timeNano"] / 1e9 for event in events}

    eventually(lambda: "healthy" in seen(), timeout=60)
    times = seen()
    return times["start"], times["healthy"]


class WatchedDaemon:
    """`reconciler run` with a webhook, which lets each of its reconciliations be waited for in its log."""

    def __init__(self, stack: ExitStack, site: ReconcilerSite) -> None:
        secret = site.root / "webhook"
        secret.write_bytes(SECRET)
        secret.chmod(0o600)
        site.server.settings["webhook"] = {"secret_file": str(secret)}
        variables = {name: site.variables[name] for name in ("DOCKER_HOST", "PATH")}
        self._daemon: Daemon = stack.enter_context(
            site.server.daemon(installed=True, RECONCILER_LOG_LEVEL="debug", **variables)
        )
        self._wait_until_quiet()

    def announce(self, result: str, times: int = 1) -> tuple[float, float]:
        """Announce a push and wait until it has ended so, some times; return the seconds of CPU of all together,
        children included, and peak MB."""
        before = self._cpu()
        for _ in range(times):
            self._announce_once(result)
        self._wait_until_quiet()
        status_lines = Path(f"/proc/{self._daemon.process.pid}/status").read_text().splitlines()
        peak = next(int(line.split()[1]) for line in status_lines if line.startswith("VmHWM"))
        return self._cpu() - before, peak * 1024 / 1e6

    def _announce_once(self, result: str) -> None:
        seen = len(self._daemon.events())
        body = json.dumps({"ref": "refs/heads/main"}).encode()
        signature = hmac.new(SECRET, body, hashlib.sha256).hexdigest()
        status, _ = self._daemon.post("/webhook", body, {"X-Hub-Signature-256": f"sha256={signature}"})
        if status != 202:
            raise RuntimeError(f"the webhook was answered with {status}")

        def done() -> bool:
            events = [event for event in self._daemon.events()[seen:] if event.get("trigger") == "webhook"]
            ends = [event for event in events if event["event"].startswith("reconciled")]
            if bad := [event for event in ends if event["result"] not in (result, "in_sync")]:
                raise RuntimeError(f"the daemon did not end with {result}: {bad[0]}")
            return any(event["result"] == result for event in ends)

        eventually(done, timeout=LONGEST_RUN)

    def _cpu(self) -> float:
        """Seconds of CPU of the daemon and its ended children, in hundredths."""
        fields = Path(f"/proc/{self._daemon.process.pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")

    def _wait_until_quiet(self) -> None:
        used, since = self._cpu(), time.monotonic()
        while time.monotonic() - since < QUIET:
            time.sleep(QUIET / 10)
            if (now := self._cpu()) != used:
                used, since = now, time.monotonic()
