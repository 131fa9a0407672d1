"""`reconciler demo`: the whole story on real components, in a scratch directory, in about a minute."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator

from rich.console import Console
from rich.markup import escape
from rich.text import Text

from reconciler.core.errors import EngineUnavailableError, ReconcilerError
from reconciler.demo import dockerd
from reconciler.demo.site import ENVIRONMENT, Site

IMAGE = "reconciler-test/busybox:1"
CHANGED_SOURCE, CHANGED_KEY, CHANGED_VALUE = "worker.env", "WORKER_CONCURRENCY", "12"
CHANGED_FILE = "config/worker.env"
HAND_EDITED_KEY = "LOG_LEVEL"
BROKEN_SOURCE, BROKEN_KEY, BROKEN_VALUE = "api.env", "DATABASE_URL", "db-2.internal.example.com/app"
_METRICS = (
    "reconciler_reconcile_total",
    "reconciler_drift_corrected_total",
    "reconciler_service_recreate_total",
    "reconciler_decrypt_total",
    "reconciler_backups",
    "reconciler_revision_info",
)
_ROLLBACK_METRICS = ("reconciler_rollback_total", "reconciler_rollback_last_timestamp_seconds")


def run_demo(*, keep: bool, files_only: bool) -> None:
    """Run the story and clean up after it, unless ``keep``. Raises ReconcilerError if a component fails."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # cleans up, like Ctrl-C
    root = tempfile.mkdtemp(prefix="reconciler-demo-")
    console = Console(highlight=False, soft_wrap=not sys.stdout.isatty())
    try:
        with _engine(root, files_only, console) as with_engine:
            asyncio.run(_run_story(console, Site(root, with_engine), keep))
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
    finally:
        if not keep:
            shutil.rmtree(root, ignore_errors=True)


@contextlib.contextmanager
def _engine(root: str, files_only: bool, console: Console) -> Iterator[bool]:
    """An engine while inside, if there is one or one can be started; yields whether there is."""
    reason = "--files-only was given" if files_only else dockerd.obstacle()
    if reason is not None:
        console.print(f"[yellow]No Docker Engine ({reason}): the same story on files alone, without services.[/yellow]")
        yield False
        return
    with dockerd.engine(os.path.join(root, "dockerd.log")) as started:
        if started:
            console.print("[dim]No Docker Engine answered, so one was started; it is stopped at the end.[/dim]")
        try:
            dockerd.ensure_image(IMAGE)
        except EngineUnavailableError as error:
            console.print(f"[yellow]{escape(str(error))}: the same story on files alone, without services.[/yellow]")
            yield False
            return
        yield True


async def _run_story(console: Console, site: Site, keep: bool) -> None:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)  # as asyncio does for Ctrl-C
    story = Story(console, site)
    try:
        await story.begin()
        await story.start()
        await story.merge()
        await story.observe()
        await story.edit_by_hand()
        await story.revert()
        if site.with_engine:
            await story.break_it()
        story.end(keep)
    finally:
        await site.end(keep=keep)


class Story:
    """The chapters, in order. Every command shown really runs, and its output is shown unchanged."""

    def __init__(self, console: Console, site: Site) -> None:
        self._console = console
        self._site = site

    async def begin(self) -> None:
        self._chapter("A server with an empty stack directory, and its configuration in git")
        await self._site.create()
        self._say(f"The git origin holds the example's three environments; this server is {ENVIRONMENT}.")
        self._say("The env files are encrypted: key names can be read, values cannot.")
        source = os.path.join(self._site.clone, "envs", ENVIRONMENT, CHANGED_SOURCE)
        with open(source, encoding="utf-8") as file:
            for line in file.read().splitlines()[:3]:
                self._console.print(Text(f"    {line[:75]}…", "dim"))
        await self._run("plan")
        await self._run("sync")
        if self._site.with_engine:
            self._say("The files are there, so the stack can start:")
            self._command("docker compose up -d --wait")
            await self._site.compose("up", "-d", "--wait", "--quiet-pull")
            self._console.print(f"    {', '.join(sorted(await self._site.containers()))} are healthy")

    async def start(self) -> None:
        self._chapter("The daemon starts")
        self._command(f"reconciler run --config {self._site.config} &")
        await self._site.start_daemon()
        self._say("It polls git, checks the live files, and serves /metrics, /healthz and /readyz.")
        await self._run("status")

    async def merge(self) -> None:
        self._chapter(f"Somebody merges a change: {CHANGED_KEY} in {CHANGED_SOURCE}")
        before = await self._containers()
        await self._site.set_value(CHANGED_SOURCE, CHANGED_KEY, CHANGED_VALUE)
        commit = await self._site.commit(f"Let the worker take {CHANGED_VALUE} jobs at a time")
        await self._site.git("push", "--quiet")
        self._say("What a reviewer sees of it, without any key:")
        await self._run("diff", "HEAD~1..HEAD")
        self._say("What the server would change, by key name:")
        await self._run("plan")
        self._say("The git server calls the webhook (without one, the next poll finds the change):")
        await self._site.merge_webhook()
        await self._show_applied(commit, before)

    async def observe(self) -> None:
        self._chapter("What the operator sees afterwards")
        await self._run("status")
        await self._run("backups")
        await self._metrics(_METRICS)

    async def edit_by_hand(self) -> None:
        self._chapter(f"Somebody edits {CHANGED_FILE} on the server: {HAND_EDITED_KEY} by hand")
        path = self._site.live(CHANGED_FILE)
        runs = len(await self._history())
        with open(path, encoding="utf-8") as file:
            lines = file.read().splitlines()
        edited = [f"{HAND_EDITED_KEY}=debug" if line.startswith(f"{HAND_EDITED_KEY}=") else line for line in lines]
        with open(path, "w", encoding="utf-8") as file:
            file.write("\n".join([*edited, "MADE_BY_HAND=yes", ""]))
        self._command(f"vi {path}")
        self._say("The daemon sees it and restores the file from git; the hand edit is backed up first.")

        async def restored() -> bool:
            return len(await self._history()) > runs

        await self._site.until(restored, "the file to be restored")
        await self._run("history", "--limit", "1")
        with open(path, encoding="utf-8") as file:
            gone = "MADE_BY_HAND" not in file.read()
        self._console.print(f"    MADE_BY_HAND is {'gone from' if gone else 'STILL IN'} the live file")

    async def revert(self) -> None:
        self._chapter("Somebody reverts the merge in git")
        before = await self._containers()
        self._command("git revert HEAD && git push")
        await self._site.git("revert", "--no-edit", "HEAD")
        commit = (await self._site.git("rev-parse", "HEAD")).strip()
        await self._site.git("push", "--quiet")
        await self._site.merge_webhook()
        await self._show_applied(commit, before)
        await self._run("status")

    async def break_it(self) -> None:
        self._chapter(f"Somebody merges a bad value: {BROKEN_KEY} in {BROKEN_SOURCE}")
        before, runs = await self._containers(), len(await self._history())
        await self._site.set_value(BROKEN_SOURCE, BROKEN_KEY, BROKEN_VALUE)
        await self._site.commit("Move the database to the new server")
        await self._site.git("push", "--quiet")
        self._say("The value lacks its postgresql://, which nobody could see in the pull request: it is encrypted.")
        merged = time.monotonic()
        await self._site.merge_webhook()

        async def ended() -> bool:
            history = await self._history()
            return len(history) > runs and "In git: " in str(history[0]["reason"])  # the last thing that is done

        await self._site.until(ended, "the rollback")
        self._say(f"{time.monotonic() - merged:.0f} s after the merge it is over. What happened, and why:")
        await self._run("history", "--limit", "1")
        await self._show_recreated(before)
        self._say(
            "The server was rolled back first, then the commit was reverted in git, so the branch matches what runs:"
        )
        self._command("git pull && git log -1")
        await self._site.git("pull", "--quiet")
        message = await self._site.git("log", "-1", "--format=%h %an%n%B")
        self._console.print(Text("\n".join(f"    {line}" for line in message.strip().splitlines()), "dim"))
        await self._metrics(_ROLLBACK_METRICS)
        self._say("An alert on these metrics informs an operator; meanwhile the server runs the last good values.")
        await self._site.merge_webhook()
        await self._applied((await self._site.git("rev-parse", "HEAD")).strip())
        await self._run("status")

    def end(self, keep: bool) -> None:
        self._chapter("What the demo created")
        site = self._site
        for path, content in {
            site.origin: "the git origin",
            site.clone: "a developer's clone of it",
            site.app: "the stack directory with the live files",
            site.config: "the server configuration",
            os.path.join(site.root, "state"): "the daemon's state and the backups",
            site.log: "the daemon's log",
        }.items():
            self._console.print(f"    {escape(path)}  [dim]{content}[/dim]")
        if not keep:
            self._say("All of it is removed now; `reconciler demo --keep` keeps it for you to look at.")
            return
        self._say("It stays. Look around, then remove it:")
        self._command(f"export RECONCILER_CONFIG={site.config}")
        self._command("reconciler status; reconciler history; reconciler backups; reconciler doctor; reconciler run")
        if site.with_engine:
            self._command(f"docker compose --project-directory {site.app} down --volumes")
        self._command(f"rm -r {site.root}")

    # --- output ---

    def _chapter(self, title: str) -> None:
        self._console.print()
        self._console.rule(f"[bold cyan]{escape(title)}[/bold cyan]", align="left")

    def _say(self, text: str) -> None:
        self._console.print(escape(text))

    def _command(self, text: str) -> None:
        self._console.print(f"[bold green]$[/bold green] [bold]{escape(text)}[/bold]", soft_wrap=True)

    async def _run(self, *arguments: str) -> None:
        """Run a reconciler command and show what it prints. Raises ReconcilerError on exit code 1."""
        self._command(f"reconciler {' '.join(arguments)}")
        console = self._console
        code, text = await self._site.reconciler(
            *arguments, colour=console.is_terminal, width=max(60, console.width - 4)
        )
        for line in text.rstrip().splitlines():
            console.print(Text("    ").append_text(Text.from_ansi(line)), soft_wrap=True)
        if code == 1:
            raise ReconcilerError(f"`reconciler {' '.join(arguments)}` failed", where=self._site.root, hint=text)

    async def _metrics(self, names: tuple[str, ...]) -> None:
        self._command(f"curl -s http://127.0.0.1:{self._site.port}/metrics | grep …")
        for line in (await self._site.get("/metrics")).splitlines():
            if line.startswith(names) and not line.endswith(" 0.0"):
                self._console.print(Text(f"    {line}", "dim"), soft_wrap=True)

    async def _history(self) -> list[dict[str, object]]:
        _, text = await self._site.reconciler("history", "--json", colour=False, width=200)
        return list(json.loads(text)["runs"])

    async def _show_applied(self, commit: str, before: dict[str, str]) -> None:
        await self._applied(commit)
        await self._run("history", "--limit", "1")
        await self._show_recreated(before)
        await self._show_value()

    async def _applied(self, commit: str) -> None:
        async def healthy() -> bool:
            status = json.loads(await self._site.get("/api/v1/status"))["environments"][0]
            return bool(status["healthy"] and status["healthy"]["commit"] == commit)

        await self._site.until(healthy, f"revision {commit[:12]} to be healthy")

    async def _containers(self) -> dict[str, str]:
        return await self._site.containers() if self._site.with_engine else {}

    async def _show_recreated(self, before: dict[str, str]) -> None:
        if not before:
            return
        after = await self._containers()
        for service in sorted(after):
            same = before.get(service) == after[service]
            words = (
                "[dim]untouched[/dim]"
                if same
                else f"[yellow]recreated[/yellow] ({before.get(service)} → {after[service]})"
            )
            self._console.print(f"    {service:10} {words}")

    async def _show_value(self) -> None:
        if self._site.with_engine:
            self._command(f"docker compose exec worker env | grep {CHANGED_KEY}")
            text = await self._site.compose("exec", "-T", "worker", "env")
        else:
            path = self._site.live(CHANGED_FILE)
            self._command(f"grep {CHANGED_KEY} {path}")
            with open(path, encoding="utf-8") as file:
                text = file.read()
        line = next(line for line in text.splitlines() if line.startswith(CHANGED_KEY))
        self._console.print(f"    {escape(line)}")
