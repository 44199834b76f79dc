"""What the chart gives the daemon is what the daemon needs: real daemons, within the limits of a pod."""

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
import urllib.request

import pytest

from conftest import CHART, configuration, daemon, objects, template

WATCHDOG_SECONDS = 120
PROFILE = CHART / "files" / "seccomp.json"


class Daemon:
    """kvtierd with a configuration of the chart whose paths are moved into a folder."""

    def __init__(self, program, folder, text, confine=None):
        # Paths of sockets are short.
        self.sockets = pathlib.Path(tempfile.mkdtemp(prefix="kvt-"))
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
        shutil.rmtree(self.sockets)


def scratch(name):
    """An empty folder on a device, which /tmp may not be."""
    folder = pathlib.Path(os.environ["KVTIER_CHART_SCRATCH"]) / f"{name}-{os.getpid()}"
    subprocess.run(["rm", "-rf", folder], check=True)
    (folder / "nvme" / "a").mkdir(parents=True)
    return folder


@pytest.fixture
def folder(request):
    made = scratch(re.sub(r"\W+", "-", request.node.name))
    yield made
    subprocess.run(["rm", "-rf", made], check=True)


NVME = ["--set", "nvme.volumes[0].name=a,nvme.volumes[0].hostPath=/mnt/a,config.nvme.capacity=256MiB,config.host.arena-bytes=16MiB"]


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


@pytest.mark.parametrize("options", [[], NVME], ids=["memory", "nvme"])
def test_the_memory_limit_is_enough_and_not_by_much(options, kvtierd, folder):
    rendered = objects(template(None, "--set", "resources.memoryExtra=32MiB", *options).stdout)
    limit = int(daemon(rendered)["resources"]["limits"]["memory"].removesuffix("Mi")) << 20
    group = Cgroup.make(limit)
    if group is None:
        pytest.skip("no memory cgroup can be made here")
    try:
        with Daemon(kvtierd, folder, configuration(rendered), group.enter) as running:
            running.ready()
            assert running.end() == 0
        failures = group.failures()
    finally:
        group.remove()
    assert failures == 0
    less = Cgroup.make(limit - (64 << 20))
    try:
        with Daemon(kvtierd, folder, configuration(rendered), less.enter) as running:
            assert running.process.wait(WATCHDOG_SECONDS) == 78, running.log.read_text()
            assert "host.capacity" in running.log.read_text()
    finally:
        less.remove()


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


def test_the_seccomp_profile_allows_io_uring_and_all_else_that_the_daemon_needs(kvtierd, kvtier, folder):
    rendered = objects(template(None, "--set", "config.nvme.io=io-uring,security.seccomp.type=Localhost", *NVME).stdout)
    with Daemon(kvtierd, folder, configuration(rendered), confined_by(PROFILE)) as running:
        running.ready()
        asked = [kvtier, "devices", "--json", "--socket", str(running.sockets / "kvtier-admin.sock")]
        # kubectl exec runs under the same profile.
        answer = subprocess.run(asked, capture_output=True, text=True, check=True, preexec_fn=confined_by(PROFILE)).stdout
        assert "io_uring" in answer or "io-uring" in answer, answer
        metrics = urllib.request.urlopen(f"http://{running.address()}/metrics", timeout=10).read().decode()
        assert 'io="io-uring"' in metrics or 'io="io_uring"' in metrics, metrics
        assert running.end() == 0


def test_the_seccomp_profile_forbids_what_it_does_not_name(tmp_path):
    code = "import ctypes, sys; libc = ctypes.CDLL(None, use_errno=True); libc.unshare(0x10000000); sys.exit(ctypes.get_errno())"
    result = subprocess.run(["/usr/bin/env", "python3", "-c", code], preexec_fn=confined_by(PROFILE), check=False)
    assert result.returncode == 38


def test_probes_are_answered_where_the_chart_asks(kvtierd, folder):
    rendered = objects(template().stdout)
    container = daemon(rendered)
    with Daemon(kvtierd, folder, configuration(rendered)) as running:
        running.ready()
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            path = container[probe]["httpGet"]["path"]
            assert urllib.request.urlopen(f"http://{running.address()}{path}", timeout=10).status == 200
        assert running.end() == 0


def test_directories_on_the_node_are_given_to_the_daemons_user_with_two_capabilities(tmp_path):
    """The second start finds directories that are no longer root's."""
    if os.geteuid() != 0:
        pytest.skip("only root gives directories away")
    prepare = next(c for c in objects(template(None, *NVME).stdout)["DaemonSet/kvtier"]["spec"]["template"]["spec"]["initContainers"])
    (tmp_path / "kvtier" / "nvme").mkdir(parents=True)
    os.chmod(tmp_path, 0o755)
    script = prepare["command"][2].replace("/run/kvtier", f"{tmp_path}/run").replace("/var/lib", str(tmp_path))
    wanted = ",".join(f"+{name.lower()}" for name in prepare["securityContext"]["capabilities"]["add"])
    for _ in range(2):
        subprocess.run(["setpriv", "--no-new-privs", f"--bounding-set=-all,{wanted}", f"--inh-caps=-all,{wanted}", "sh", "-ec", script], check=True)
    assert {(path.stat().st_uid, oct(path.stat().st_mode & 0o777)) for path in (tmp_path / "run", tmp_path / "kvtier/nvme/a")} == {(10470, "0o750"), (10470, "0o700")}
