"""Faults inside the installed command: what no machine brings about at the right moment.

Python imports sitecustomize from PYTHONPATH before anything else; ours asks for its orders, a file each, at every call.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.waiting import eventually

_HOOKS = """\
import errno, os, signal, time

ORDERS = os.environ["FAULTS"]

def order(name):
    try:
        with open(os.path.join(ORDERS, name)) as file:
            return file.read()
    except FileNotFoundError:
        return ""

def failing(call):
    def wrapped(descriptor, *rest):
        where = order("disk-error")
        if where and os.readlink(f"/proc/self/fd/{descriptor}").startswith(where):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return call(descriptor, *rest)
    return wrapped

def shifted(call):
    return lambda: call() + float(order("clock") or 0)

def held(call):
    def wrapped(*arguments):
        if order("hold"):
            with open(os.path.join(ORDERS, "held"), "w"):
                pass
            while order("hold"):
                time.sleep(0.01)
        return call(*arguments)
    return wrapped

os.write, os.fsync = failing(os.write), failing(os.fsync)
time.time = shifted(time.time)

def limited(call, seconds):
    def evaluate():
        signal.setitimer(signal.ITIMER_PROF, seconds)  # of CPU; then the process is killed by a signal
        call()
    return evaluate

from reconciler.adapters.json_schema import worker
from reconciler.adapters.local import files

if order("contract-seconds"):
    worker.main = limited(worker.main, float(order("contract-seconds")))

files.exchange = held(files.exchange)
"""


@dataclass(frozen=True, slots=True)
class Faults:
    """``variables`` are for the environment of the commands that are to have the faults."""

    directory: Path

    @property
    def variables(self) -> dict[str, str]:
        return {"PYTHONPATH": str(self.directory), "FAULTS": str(self.directory)}

    def fail_disk(self, prefix: Path) -> None:
        """From now on no byte is written to a file whose path begins so: EIO."""
        (self.directory / "disk-error").write_text(str(prefix))

    def repair_disk(self) -> None:
        (self.directory / "disk-error").unlink()

    def limit_contracts(self, seconds: float) -> None:
        """Give contracts so much CPU time, where one of them would take all that there is."""
        (self.directory / "contract-seconds").write_text(str(seconds))

    def set_clock(self, seconds: float) -> None:
        """Have the wall clock show so many seconds more than it is; only that, as time_t is not monotonic."""
        new = self.directory / "clock.new"
        new.write_text(str(seconds))
        new.rename(self.directory / "clock")

    @contextlib.contextmanager
    def held_before_the_exchange(self) -> Iterator[None]:
        """Until the end of this, a live file that is written stays at the last step before the new one appears."""
        (self.directory / "hold").write_text("hold")
        yield
        (self.directory / "hold").unlink()

    def wait_until_held(self) -> None:
        eventually((self.directory / "held").exists, timeout=30)


def make_faults(directory: Path) -> Faults:
    directory.mkdir(exist_ok=True)
    (directory / "sitecustomize.py").write_text(_HOOKS)
    return Faults(directory)
