"""What the chart gives the daemon is what the daemon needs: real daemons, within the limits of a pod."""

import os
import pathlib
import subprocess
import urllib.request

import pytest

from conftest import CHART, TOP, configuration, daemon, objects, template
from pods import WATCHDOG_SECONDS, Cgroup, Daemon, confined_by

PROFILE = CHART / "files" / "seccomp.json"
NVME = ["--set", "nvme.volumes[0].name=a,nvme.volumes[0].hostPath=/mnt/a,config.nvme.capacity=256MiB,config.host.arena-bytes=16MiB"]


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


PAGE, BLOCKS, TOKENS = 4096, 4, 16


def test_an_engine_lives_through_an_upgrade_and_finds_what_was_on_nvme(kvtierd, folder, monkeypatch):
    """A new pod serves the same directory on the node; the engine's process and its session are those of before."""
    monkeypatch.setenv("KVTIER_LIBRARY", str(pathlib.Path(kvtierd).with_name("libkvtier.so")))
    monkeypatch.syspath_prepend(str(TOP / "python-shim"))
    client = pytest.importorskip("kvtier.client")
    before, after = (configuration(objects(template(None, "--set", f"config.host.capacity={size}", *NVME).stdout)) for size in ("1GiB", "2GiB"))
    engine = {"engine_group": os.urandom(16), "fields": {"model.id": b"example"}, "reattach": True}
    keys = b"".join(os.urandom(32) for _ in range(BLOCKS))
    with Daemon(kvtierd, folder, before) as old:
        old.ready()
        engine["socket_path"] = str(old.sockets / "kvtier.sock")
        with (
            client.Session(role=client.abi.ROLE_WORKER, groups=[client.Group(TOKENS, 0, PAGE)], **engine) as worker,
            client.Session(role=client.abi.ROLE_SCHEDULER, groups=[client.Group(TOKENS)], **engine) as scheduler,
        ):
            worker.wait_ready(WATCHDOG_SECONDS)
            first = scheduler.wait_ready(WATCHDOG_SECONDS)
            worker.seal_now(scheduler.reserve_now([(0, keys)], WATCHDOG_SECONDS), WATCHDOG_SECONDS)
            assert old.end() == 0
            with Daemon(kvtierd, folder, after, sockets=old.sockets) as new:
                new.ready()

                def attached_again():
                    worker.info()
                    second = scheduler.info()
                    return second.ready and second.attachment > first.attachment and second

                second = new.until("the engine to attach again", attached_again)
                assert second.namespace_id == first.namespace_id and second.region_bytes > first.region_bytes

                def found():
                    with scheduler.lookup([(0, keys)], 1 << 30, WATCHDOG_SECONDS) as hit:
                        return hit.hit_tokens == BLOCKS * TOKENS

                new.until("the blocks to be found on NVMe", found)
                assert new.end() == 0
