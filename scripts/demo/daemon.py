"""The daemon's process, started with its defaults on a socket of our own."""

import os
import signal
import socket
import subprocess
import time
from pathlib import Path

from engine import die_with_parent

START_SECONDS = 60
STOP_SECONDS = 30


class DaemonFailed(RuntimeError):
    """The daemon did not start, ended by itself, or did not end when asked."""


class Daemon:
    """One `kvtierd`, from its start to its end."""

    def __init__(self, program: Path, path: Path, log: Path) -> None:
        self.path = path
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [program],
                env={**os.environ, "KVTIER_SOCKET": str(path)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )

    def wait_ready(self) -> None:
        """Returns when the daemon accepts connections."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            self.check_alive()
            with socket.socket(socket.AF_UNIX) as probe:
                if probe.connect_ex(str(self.path)) == 0:
                    return
            time.sleep(0.05)
        raise DaemonFailed(f"kvtierd does not accept connections after {START_SECONDS} s")

    def check_alive(self) -> None:
        """Raises if the daemon has ended."""
        if self._process.poll() is not None:
            raise DaemonFailed(f"kvtierd ended by itself with {self._process.returncode}")

    def stop(self) -> None:
        """SIGTERM; the daemon must end cleanly and take its socket away."""
        self.check_alive()
        self._process.send_signal(signal.SIGTERM)
        try:
            status = self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            raise DaemonFailed(f"kvtierd is still there {STOP_SECONDS} s after SIGTERM") from None
        if status != 0 or self.path.exists():
            left = " and left its socket behind" if self.path.exists() else ""
            raise DaemonFailed(f"kvtierd ended with {status} after SIGTERM{left}")

    def kill(self) -> None:
        """Ends the daemon whatever it does. For the way out of a failed demo."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
