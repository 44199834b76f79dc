"""A real kvtierd for a test: started, stopped in every way, and looked into."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path


def binary() -> str:
    """The daemon to test: `KVTIERD`, else the one on the path."""
    path = os.environ.get("KVTIERD") or shutil.which("kvtierd")
    assert path, "set KVTIERD to the path of the kvtierd binary"
    return path


class Daemon:
    """A daemon with a socket of its own in `directory`."""

    def __init__(self, directory: Path, capacity: str = "64MiB", **settings: str) -> None:
        """`settings` are further variables of its configuration without their prefix: `nvme_io="threads"`."""
        self.socket = str(directory / "kvtier.sock")
        self._log = (directory / "kvtierd.log").open("ab")
        self._environment = {**os.environ, "KVTIER_SOCKET": self.socket, "KVTIER_HOST_CAPACITY": capacity}
        self._environment |= {f"KVTIER_{name.upper()}": value for name, value in settings.items()}
        self._process: subprocess.Popen | None = None

    @property
    def environment(self) -> dict[str, str]:
        """What an engine needs to find this daemon."""
        return {"KVTIER_SOCKET": self.socket}

    def start(self) -> Daemon:
        """Starts it and waits until it serves."""
        self._process = subprocess.Popen([binary()], env=self._environment, stdout=self._log, stderr=self._log)
        until = time.monotonic() + 60
        while not self._serves():
            assert self._process.poll() is None, f"kvtierd ended with {self._process.returncode}"
            assert time.monotonic() < until, "kvtierd does not serve"
            time.sleep(0.02)
        return self

    def _serves(self) -> bool:
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as probe:
            try:
                probe.connect(self.socket)
            except OSError:
                return False
            return True

    def signal(self, number: int) -> None:
        """Sends it a signal; after SIGSTOP it stands still when this returns."""
        assert self._process is not None
        self._process.send_signal(number)
        if number == signal.SIGSTOP:
            # The threads stop one by one, when each is next scheduled; on a busy machine that takes a while.
            until = time.monotonic() + 60
            while not self._stands_still():
                assert time.monotonic() < until, "kvtierd does not stop"
                time.sleep(0.001)

    def _stands_still(self) -> bool:
        tasks = Path(f"/proc/{self._process.pid}/task").iterdir()
        states = [(task / "stat").read_text().rpartition(")")[2].split()[0] for task in tasks]
        return set(states) == {"T"}

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> int:
        """SIGTERM, and its exit status."""
        assert self._process is not None
        self.signal(signal.SIGTERM)
        status = self._process.wait(60)
        self._process = None
        return status

    def status(self) -> dict:
        """What it says of its one tenant: occupancy, counters and devices."""
        return self._ask("status")["tenants"][0]

    def tiers(self) -> list[dict]:
        """How it is with each tier."""
        return self._ask("tiers")["tiers"]

    def _ask(self, subcommand: str) -> dict:
        command = [str(Path(binary()).with_name("kvtier")), subcommand, "--json"]
        answer = subprocess.run(command, env=self._environment, capture_output=True, text=True, check=True, timeout=60)
        return json.loads(answer.stdout)

    def settle(self) -> dict:
        """Waits until all that was stored is on NVMe and all that was there is known; what it says then."""
        until = time.monotonic() + 60
        while True:
            status = self.status()
            busy = status["occupancy"]["nvme_queue"] + status["occupancy"]["nvme_writes_in_flight"]
            if not busy and all(device["state"] != "loading" for device in status["devices"]):
                return status
            assert time.monotonic() < until, f"not settled: {status}"
            time.sleep(0.02)

    def scramble(self) -> int:
        """Flips every bit of the host tier behind the region's header; the number of bytes that were not zero."""
        assert self._process is not None
        changed = 0
        for link in Path(f"/proc/{self._process.pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                if "memfd:" in os.readlink(link) and link.stat().st_size > 16 << 20:
                    changed += _flip(link)
        return changed


def _flip(path: Path) -> int:
    changed, piece = 0, 1 << 20
    flip = bytes(255 - value for value in range(256))
    with path.open("r+b", buffering=0) as region:
        size = os.fstat(region.fileno()).st_size
        for offset in range(4096, size, piece):
            content = os.pread(region.fileno(), min(piece, size - offset), offset)
            if content.strip(b"\0"):
                changed += len(content)
                os.pwrite(region.fileno(), content.translate(flip), offset)
    return changed
