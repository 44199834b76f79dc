"""The rendered pod, run: init containers, user, capabilities, read-only root, seccomp profile, pid namespace, memory limit.

With KVTIER_IMAGE, an archive of the image, it runs in that; otherwise on this machine's files.
"""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.request

import pytest

from conftest import CHART, TOP, configuration, objects, pod, template
from oci import Container, Machine

SETTINGS = "nvme.volumes[0].name=a,nvme.volumes[0].hostPath=/mnt/a,config.nvme.capacity=256MiB,config.host.arena-bytes=16MiB"
REMOTE = "config.remote.kind=mount,remote.volume.hostPath=/mnt/shared"

# An engine: attaches, reserves slots and says so. It lives in the machine's pid namespace, which the container cannot see.
ENGINE = """
import os, sys, time
from kvtier.client import Group, Session, abi
engine = {"engine_group": os.urandom(16), "fields": {"model.id": b"example"}, "socket_path": sys.argv[1]}
worker = Session(role=abi.ROLE_WORKER, groups=[Group(16, 0, 4096)], **engine)
scheduler = Session(role=abi.ROLE_SCHEDULER, groups=[Group(16)], **engine)
scheduler.wait_ready(60)
scheduler.reserve_now([(0, os.urandom(128))], 60)
print("reserved", flush=True)
time.sleep(3600)
"""


@pytest.fixture
def machine(folder, kvtierd, image):
    """What is on the node: programs, and the folders behind volumes."""
    if os.geteuid() != 0 or not shutil.which("runc"):
        pytest.skip("only root runs containers, with runc")
    base = image
    if not base:
        programs = folder / "programs"
        programs.mkdir()
        for name in ("kvtierd", "kvtier"):
            shutil.copy(pathlib.Path(kvtierd).with_name(name), programs / name)
        base = Machine(programs, folder)
    # Paths of sockets are short.
    sockets = pathlib.Path(tempfile.mkdtemp(prefix="kvt-"))
    os.chmod(sockets, 0o755)
    for name in ("config", "admin", "seccomp", "remote"):
        (folder / name).mkdir()
    # What is mounted on all nodes belongs to the daemons' user: that is for whoever mounts it.
    os.chown(folder / "remote", 10470, 10470)
    os.chmod(folder / "admin", 0o777)
    volumes = {name: folder / name for name in ("config", "admin", "seccomp", "remote")}
    yield {"base": base, "volumes": volumes | {"socket": sockets, "nvme-a": folder / "nvme" / "a"}}
    shutil.rmtree(sockets)


def counters(container):
    """Counters and occupancy, as kubectl exec shows them."""
    status = json.loads(container.exec("kvtier", "status", "--json"))
    found = {}

    def walk(value):
        if isinstance(value, dict):
            for key, inner in value.items():
                if isinstance(inner, (int, str)) and str(inner).isdigit():
                    found[key] = int(inner)
                walk(inner)
        elif isinstance(value, list):
            for inner in value:
                walk(inner)

    walk(status)
    return found


@pytest.mark.parametrize(
    ("options", "io"),
    [(f"security.seccomp.type=Localhost,{REMOTE}", "io-uring"), ("security.seccomp.type=Localhost,security.runAsUser=0,security.runAsGroup=0", "io-uring")],
    ids=["user", "root"],
)
def test_the_pod_runs_with_what_it_is_granted(options, io, machine, folder, kvtierd, monkeypatch):
    rendered = objects(template(None, "--set", f"{SETTINGS},{options}").stdout)
    spec = pod(rendered)
    data = rendered["ConfigMap/kvtier"]["data"]
    text = re.sub(r'^listen = ".*"$', 'listen = "127.0.0.1:0"', configuration(rendered), flags=re.MULTILINE)
    (folder / "config" / "kvtierd.toml").write_text(text)
    (folder / "config" / "seccomp.json").write_text(data["seccomp.json"])
    assert "hostPID" not in spec
    for init in spec["initContainers"]:
        container = Container(folder, init, machine["volumes"], machine["base"])
        assert container.run() == 0, container.log.read_text()
    main = spec["containers"][0]
    # The kubelet reads the profile where an init container has just put it.
    profile = folder / "seccomp" / main["securityContext"]["seccompProfile"]["localhostProfile"]
    assert json.loads(profile.read_text()) == json.loads((CHART / "files" / "seccomp.json").read_text())
    with Container(folder, main, machine["volumes"], machine["base"], profile) as container:
        container.until("serving", lambda: '"serving"' in container.log.read_text())
        log = container.log.read_text()
        assert f'"io":"{io}"' in log, log
        line = next(line for line in log.splitlines() if "metrics and probes are served" in line)
        address = re.search(r"127\.0\.0\.1:\d+", line)[0]
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            assert urllib.request.urlopen(f"http://{address}{main[probe]['httpGet']['path']}", timeout=10).status == 200
        if REMOTE in options:
            ask = f"http://{address}/metrics"
            in_service = r'kvtier_remote_in_service{[^}]*direction="write"[^}]*} 1'
            container.until("the remote tier", lambda: re.search(in_service, urllib.request.urlopen(ask, timeout=10).read().decode()))
        an_engine_dies(container, machine, kvtierd, monkeypatch)
        # As docs/quickstart.md says, for a configuration that restarts nobody.
        (folder / "config" / "kvtierd.toml").write_text(text.replace('level = "info"', 'level = "debug"'))
        container.exec("sh", "-c", "kill -HUP 1")
        container.until("the configuration", lambda: "log.level" in container.log.read_text().split("the admin API is served")[1])
        assert container.end() == 0, container.log.read_text()


def an_engine_dies(container, machine, kvtierd, monkeypatch):
    """Its death is proven across pid namespaces, without hostPID and without a capability: its slots come back."""
    monkeypatch.setenv("KVTIER_LIBRARY", str(pathlib.Path(kvtierd).with_name("libkvtier.so")))
    monkeypatch.setenv("PYTHONPATH", str(TOP / "python-shim"))
    socket = machine["volumes"]["socket"] / "kvtier.sock"
    engine = subprocess.Popen([sys.executable, "-c", ENGINE, str(socket)], stdout=subprocess.PIPE, text=True)
    try:
        assert engine.stdout.readline() == "reserved\n"
        assert counters(container)["slots_filling"] == 4
        # A stopped engine may go on: nothing of it is given to others.
        engine.send_signal(signal.SIGSTOP)
        assert counters(container)["slots_filling"] == 4
    finally:
        engine.kill()
        engine.wait()
    container.until("the slots to come back", lambda: counters(container).get("slots_filling", 0) == 0)
    after = counters(container)
    assert after["sessions_hung_up"] == 2 and after.get("slots_quarantined", 0) == 0
