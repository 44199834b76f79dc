"""Parts of a pod as the tests can have them: a daemon with the chart's configuration, a memory cgroup, a seccomp profile."""

import ctypes
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import tempfile
import time

WATCHDOG_SECONDS = 120


class Daemon:
    """kvtierd with a configuration of the chart whose paths are moved into a folder."""

    def __init__(self, program, folder, text, confine=None, sockets=None):
        # Paths of sockets are short, so they have a folder of their own; unless it is that of a daemon before this one.
        self.is_first = sockets is None
        self.sockets = sockets or pathlib.Path(tempfile.mkdtemp(prefix="kvt-"))
        text = text.replace("/run/kvtier-admin", str(self.sockets)).replace("/run/kvtier", str(self.sockets)).replace("/var/lib/kvtier", str(folder))
        text = re.sub(r'^listen = ".*"$', 'listen = "127.0.0.1:0"', text, flags=re.MULTILINE)
        (folder / "kvtierd.toml").write_text(text)
        self.log = folder / "log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen([program, "--config", folder / "kvtierd.toml"], stderr=log, preexec_fn=confine)

    def until(self, what, condition):
        """Waits for a condition, for as long as the daemon lives."""
        began = time.monotonic()
        while not (answer := condition()):
            assert self.process.poll() is None, f"exit {self.process.returncode}:\n{self.log.read_text()}"
            assert time.monotonic() - began < WATCHDOG_SECONDS, f"waiting for {what}:\n{self.log.read_text()}"
            time.sleep(0.05)
        return answer

    def ready(self):
        """Waits until engines are let in; what the log says by then."""
        self.until("serving", lambda: '"serving"' in self.log.read_text())
        return self.log.read_text()

    def address(self):
        """Where probes are answered."""
        self.until("probes", lambda: "metrics and probes are served" in self.log.read_text())
        line = next(line for line in self.log.read_text().splitlines() if "metrics and probes are served" in line)
        return re.search(r"127\.0\.0\.1:\d+", line)[0]

    def end(self):
        """The exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(WATCHDOG_SECONDS)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        if self.is_first:
            shutil.rmtree(self.sockets)


class Cgroup:
    """A memory cgroup with a limit, of either version; None where there is none to be had."""

    @classmethod
    def make(cls, limit_bytes):
        for root, name in (("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")):
            path = pathlib.Path(root) / f"kvtier-chart-test-{os.getpid()}"
            try:
                path.mkdir()
                (path / name).write_text(str(limit_bytes))
                return cls(path)
            except OSError:
                if path.exists():
                    path.rmdir()
        return None

    def __init__(self, path):
        self.path = path

    def enter(self):
        (self.path / "cgroup.procs").write_text(str(os.getpid()))

    def failures(self):
        """How often something did not fit."""
        for name, pattern in (("memory.failcnt", r"(\d+)"), ("memory.events", r"oom_kill (\d+)")):
            if (self.path / name).exists():
                return int(re.search(pattern, (self.path / name).read_text())[1])
        return 0

    def remove(self):
        began = time.monotonic()
        while time.monotonic() - began < WATCHDOG_SECONDS:
            try:
                return self.path.rmdir()
            except OSError:
                time.sleep(0.1)


def confined_by(profile):
    """Applies a seccomp profile in the child, as a container runtime does, with libseccomp."""
    library = ctypes.CDLL("libseccomp.so.2", use_errno=True)
    library.seccomp_init.restype = ctypes.c_void_p
    allow, errno = 0x7FFF0000, 0x00050000
    profile = json.loads(profile.read_text())
    assert profile["defaultAction"] == "SCMP_ACT_ERRNO"
    context = ctypes.c_void_p(library.seccomp_init(ctypes.c_uint32(errno | profile["defaultErrnoRet"])))
    for rule in profile["syscalls"]:
        assert rule["action"] == "SCMP_ACT_ALLOW"
        for name in rule["names"]:
            number = library.seccomp_syscall_resolve_name(name.encode())
            # A libseccomp that is older than the call cannot allow it; nor does it know its number.
            if number >= 0:
                assert library.seccomp_rule_add(context, ctypes.c_uint32(allow), ctypes.c_int(number), ctypes.c_uint(0)) == 0, name

    def apply():
        # It also sets no_new_privs, as allowPrivilegeEscalation: false does.
        if library.seccomp_load(context) != 0:
            os._exit(99)

    return apply
