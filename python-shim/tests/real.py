"""A real daemon for tests of the client; `KVTIERD` names its binary."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path


class Daemon:
    """A kvtierd with a socket of its own."""

    def __init__(self, directory: Path, capacity: str = "64MiB", **settings: str) -> None:
        """`settings` are further variables of its configuration without their prefix: `nvme_io="threads"`."""
        path = os.environ.get("KVTIERD") or shutil.which("kvtierd")
        assert path, "set KVTIERD to the path of the kvtierd binary"
        self._path, self.socket = path, str(directory / "kvtier.sock")
        self._environment = {**os.environ, "KVTIER_SOCKET": self.socket, "KVTIER_HOST_CAPACITY": capacity}
        self._environment |= {f"KVTIER_{name.upper()}": value for name, value in settings.items()}
        self._log = (directory / "kvtierd.log").open("ab")
        self._process: subprocess.Popen | None = None

    def start(self) -> Daemon:
        """Starts it and waits until it accepts."""
        self._process = subprocess.Popen([self._path], env=self._environment, stdout=self._log, stderr=self._log)
        until = time.monotonic() + 60
        while not self._accepts():
            assert self._process.poll() is None, f"kvtierd ended with {self._process.returncode}"
            assert time.monotonic() < until, "kvtierd does not serve"
            time.sleep(0.02)
        return self

    def _accepts(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(self.socket) == 0

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
