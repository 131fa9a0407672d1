"""A machine of its own for the shipped unit: a real systemd as process 1, and what is installed here, below it.

Its root file system is this machine's with a layer of memory on top, so there is no image to make and nothing to
download; every change is gone with it. Namespaces keep its processes, mounts, control groups and network apart, and
/proc/sys and /sys are read-only. It boots in a second.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import reconciler
from reconciler.demo.dockerd import ensure_image
from tests.support.commands import run
from tests.support.engine import IMAGE
from tests.support.forks import COMMAND
from tests.support.waiting import eventually

CHECKOUT = Path(reconciler.__file__).parents[1]
UNIT = CHECKOUT / "deploy/systemd/reconciler.service"
INIT = Path("/lib/systemd/systemd")
PROGRAM = "/opt/reconciler/bin/reconciler"
# They would change this machine's kernel, look for its devices, or wait for what is not there.
MASKED = """
dev-hugepages.mount dev-mqueue.mount kmod-static-nodes.service proc-sys-fs-binfmt_misc.automount
sys-fs-fuse-connections.mount sys-kernel-config.mount sys-kernel-debug.mount sys-kernel-tracing.mount
systemd-binfmt.service systemd-modules-load.service systemd-remount-fs.service systemd-sysctl.service
systemd-udevd.service systemd-udev-trigger.service systemd-update-utmp.service
"""
DOCKER = """\
[Service]
Type=notify
Delegate=yes
ExecStart=dockerd --iptables=false --ip-forward=false --bridge=none
"""

# Run in new namespaces, but for those of processes and control groups: $1 is an empty directory, $2 names a control
# group, $3 is BOOT.
PREPARE = """
set -eu
mount --make-rprivate /
mount -t tmpfs none "$1"
cd "$1"
mkdir cgroup layer root
mount -t cgroup2 none cgroup
mkdir "cgroup/$2"
echo $$ > "cgroup/$2/cgroup.procs"
exec unshare --pid --cgroup --mount --fork --kill-child sh -c "$3"
"""

# Run as process 1, before systemd takes its place.
BOOT = """
set -eu
overlay() {{ # LOWER TARGET
    mkdir -p "layer/$3/upper" "layer/$3/work" "$2"
    mount -t overlay none -o "lowerdir=$1,upperdir=layer/$3/upper,workdir=layer/$3/work" "$2"
}}
overlay / root root
for name in home root srv opt var/lib/docker var/lib/containerd var/lib/reconciler; do
    mkdir -p "root/$name"
    mount -t tmpfs none "root/$name"
done
mkdir -p root/opt/app root/opt/python root/srv/git root/etc/reconciler
mount --bind {base} root/opt/python
overlay {venv} root/opt/reconciler venv
mkdir -p root/opt/reconciler/source/reconciler
mount --bind {source} root/opt/reconciler/source/reconciler
mount --bind {git} root/srv/git
cd root
mount -t proc none proc
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount -t sysfs -o ro none sys
mount -t cgroup2 none sys/fs/cgroup
for name in run tmp dev; do mount -t tmpfs none "$name"; done
for name in null zero full random urandom tty; do : > "dev/$name"; mount --bind "/dev/$name" "dev/$name"; done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666 none dev/pts
ln -s pts/ptmx dev/ptmx
mount -t tmpfs none dev/shm
rm -rf etc/systemd/system
mkdir etc/systemd/system
for name in {masked}; do ln -s /dev/null "etc/systemd/system/$name"; done
printf '[Unit]\\nRequires=basic.target\\nAfter=basic.target\\n' > etc/systemd/system/default.target
printf '0123456789abcdef0123456789abcdef\\n' > etc/machine-id
: > etc/fstab
mkdir .former
pivot_root . .former
umount -l .former
mount --make-rshared /
exec env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin {init} --show-status=0
"""

TIDY = """
mount -t cgroup2 none "$1"
test ! -e "$1/$2" || find "$1/$2" -depth -type d -delete
"""
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"}


@dataclass(frozen=True, slots=True)
class Machine:
    """``root`` is its file system, seen from here; ``pid`` its process 1, seen from here."""

    pid: int

    @property
    def root(self) -> Path:
        return Path(f"/proc/{self.pid}/root")

    def run(self, *argv: str, timeout: float = 120, check: bool = True) -> str:
        """Run a command there and return what it printed. Raises AssertionError if it fails and ``check``."""
        done = run(*self._inside(), *argv, timeout=timeout, env=ENVIRONMENT)
        text = (done.stdout + done.stderr).decode(errors="replace").strip()
        assert done.returncode == 0 or not check, f"{shlex.join(argv)}: {text}"
        return text

    def start(self, *argv: str) -> subprocess.Popen[bytes]:
        """Start a command there; the caller waits for it."""
        null = subprocess.DEVNULL
        return subprocess.Popen([*self._inside(), *argv], env=ENVIRONMENT, stdin=null, stdout=null, stderr=null)

    def _inside(self) -> tuple[str, ...]:
        return ("nsenter", "--target", str(self.pid), "--all")

    def write(self, path: str, text: str | bytes, mode: int = 0o644) -> None:
        """Write a file there, and the directories above it."""
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        file.chmod(mode)

    def install_unit(self, **settings: str) -> None:
        """The shipped unit, with a drop-in that has these settings of its [Service]."""
        self.write("/etc/systemd/system/reconciler.service", UNIT.read_bytes())
        lines = "".join(f"{name}={value}\n" for name, value in settings.items())
        self.write("/etc/systemd/system/reconciler.service.d/test.conf", f"[Service]\n{lines}")
        self.run("systemctl", "daemon-reload")

    def show(self, *names: str) -> dict[str, str]:
        """Properties of the service."""
        text = self.run("systemctl", "show", "reconciler", *(f"-p{name}" for name in names))
        return dict(line.split("=", 1) for line in text.splitlines())

    def journal(self) -> list[dict[str, str]]:
        """What the service has logged: the JSON lines as they are, any other text as its event."""
        text = self.run("journalctl", "-u", "reconciler", "-o", "cat", "--no-pager")
        lines = [line for line in text.splitlines() if line]
        return [json.loads(line) if line.startswith("{") else {"event": line} for line in lines]

    def start_docker(self) -> None:
        """A Docker engine there, with the test image."""
        self.write("/etc/systemd/system/docker.service", DOCKER)
        self.run("systemctl", "daemon-reload")
        self.run("systemctl", "start", "docker")
        ensure_image(IMAGE, f"unix://{self.root}/run/docker.sock")


@contextlib.contextmanager
def booted(directory: Path, git: Path) -> Iterator[Machine]:
    """A machine that runs inside the block. ``directory`` is empty; ``git`` is its /srv/git."""
    paths: Mapping[str, object] = {
        "base": sys.base_prefix,
        "venv": sys.prefix,
        "source": CHECKOUT / "reconciler",
        "git": git,
    }
    quoted = {name: shlex.quote(str(path)) for name, path in paths.items()}
    boot = BOOT.format(init=INIT, masked=" ".join(MASKED.split()), **quoted)
    name = f"reconciler-test-{os.getpid()}-{directory.name}"
    log = directory.parent / f"{directory.name}.log"
    with log.open("wb") as output:
        unshare = ["unshare", "--mount", "--net", "--uts", "--ipc", "sh", "-c", PREPARE, "prepare"]
        argv = [*unshare, str(directory), name, boot]
        process = subprocess.Popen(argv, env=ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        machine = Machine(eventually(lambda: _first_process(process, log)))
        eventually(lambda: machine.run("systemctl", "is-active", "default.target") == "active", timeout=30)
        _install_program(machine)
        yield machine
    finally:
        process.send_signal(signal.SIGKILL)  # its child, process 1, and all below go with it
        process.wait()
        tidy = ("unshare", "--mount", "sh", "-ec", TIDY, "tidy", str(directory), name)
        eventually(lambda: run(*tidy).returncode == 0)


def _first_process(process: subprocess.Popen[bytes], log: Path) -> int:
    assert process.poll() is None, log.read_text()
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for child in children:
        with contextlib.suppress(OSError):  # it has ended: it was a `mount`
            if os.readlink(f"/proc/{child}/exe") == os.path.realpath(INIT):
                return int(child)
    return 0


def _install_program(machine: Machine) -> None:
    """The virtual environment of these tests, moved to where the unit expects it."""
    script = Path(COMMAND).read_text().partition("\n")[2]
    python = f"/opt/python/bin/python{sys.version_info[0]}.{sys.version_info[1]}"
    machine.write(PROGRAM, f"#!/opt/reconciler/bin/python3\n{script}", 0o755)
    machine.run("ln", "-sfn", python, "/opt/reconciler/bin/python3")
    machine.write("/etc/ld.so.conf.d/0-python.conf", "/opt/python/lib\n")  # its own library, not another build's
    machine.run("ldconfig")
    machine.write("/opt/reconciler/pyvenv.cfg", "home = /opt/python/bin\ninclude-system-site-packages = false\n")
    for file in (machine.root / "opt/reconciler/lib").glob("python*/site-packages/*.pth"):
        if file.read_text().strip() == str(CHECKOUT):
            file.write_text("/opt/reconciler/source\n")
