"""The chart in a cluster, as somebody uses it who runs one: scripts/cluster.sh."""

import json
import os
import pathlib
import subprocess
import time
import urllib.request

import pytest
import yaml

HERE = pathlib.Path(__file__).resolve().parent
TOP = HERE.parents[1]
CHART = TOP / "charts" / "kvtier"
CASES = sorted((TOP / "tests" / "chart" / "cases").glob("*.yaml"))
WATCHDOG_SECONDS = 120
DIRECTORY = pathlib.Path(os.environ["CLUSTER_MOUNT"]) / "nvme0" / "kvtier"
VALUES = {
    "image": {"tag": "one"},
    "config": {"host": {"capacity": "256MiB"}, "nvme": {"capacity": "512MiB"}},
    "nvme": {"volumes": [{"name": "nvme0", "hostPath": str(DIRECTORY)}]},
    "resources": {"cpu": {"request": "50m"}},
}
ALL_CAPABILITIES_DROPPED = {"capabilities": {"drop": ["ALL"]}}


def run(*command, check=True, stdin=None):
    result = subprocess.run([str(word) for word in command], text=True, capture_output=True, input=stdin, check=False)
    assert not check or result.returncode == 0, f"{command}: exit {result.returncode}\n{result.stdout}\n{result.stderr}"
    return result


def kubectl(*words, **more):
    return run("kubectl", *words, **more).stdout


def helm(verb, *words, **more):
    return run("helm", verb, *words, "--namespace", "kvtier", **more)


def until(what, condition):
    began = time.monotonic()
    while not (answer := condition()):
        state = kubectl("get", "pods,events", "--all-namespaces") if time.monotonic() - began > WATCHDOG_SECONDS else ""
        assert not state, f"waiting for {what}:\n{state}"
        time.sleep(0.3)
    return answer


def replaced():
    kubectl("--namespace", "kvtier", "rollout", "status", "daemonset/kvtier", f"--timeout={WATCHDOG_SECONDS}s")


def pods(namespace, label):
    return json.loads(kubectl("--namespace", namespace, "get", "pods", "--selector", label, "--output", "json"))["items"]


def daemon():
    """The daemon's pod."""
    (pod,) = pods("kvtier", "app.kubernetes.io/name=kvtier")
    return pod


def upgrade(*options):
    return helm("upgrade", "kvtier", CHART, "--values", "-", *options, stdin=yaml.safe_dump(VALUES))


@pytest.fixture
def namespace():
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    kubectl("create", "namespace", "kvtier")
    yield
    helm("uninstall", "kvtier", "--wait", "--ignore-not-found")
    kubectl("delete", "namespace", "kvtier")


@pytest.fixture
def install(namespace):
    def installed(*options):
        result = helm("install", "kvtier", CHART, "--values", "-", *options, stdin=yaml.safe_dump(VALUES))
        replaced()
        return result.stdout

    return installed


@pytest.fixture
def engine():
    """Starts pods that stand in for engines; the function that comes of it says what one has seen."""
    made = []

    def start(name, pod=None, container=None):
        spec = {
            "terminationGracePeriodSeconds": 1,
            "securityContext": pod or {},
            "containers": [
                {
                    "name": "engine",
                    "image": "docker.io/cluster/engine:1",
                    "imagePullPolicy": "Never",
                    "env": [{"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
                    "securityContext": container or {},
                    "volumeMounts": [{"name": "kvtier", "mountPath": "/run/kvtier", "readOnly": True}],
                }
            ],
            "volumes": [{"name": "kvtier", "hostPath": {"path": "/run/kvtier", "type": "DirectoryOrCreate"}}],
        }
        kubectl("apply", "--filename", "-", stdin=yaml.safe_dump({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}))
        made.append(name)
        kubectl("wait", "--for=condition=Ready", f"pod/{name}", f"--timeout={WATCHDOG_SECONDS}s")
        return lambda: [json.loads(line) for line in kubectl("logs", name).splitlines()]

    yield start
    for name in made:
        kubectl("delete", "pod", name)


def attached(seen, attachment, blocks=64):
    """Waits until an engine is attached for that time and finds so many blocks, and all bytes are right."""
    wanted = {"attachment": attachment, "hit": blocks, "wrong": 0}
    until(f"{wanted} of an engine", lambda: seen()[-1:] == [wanted])
    assert all(line.get("wrong", 0) == 0 for line in seen())


def test_an_installation_serves_and_says_so(install):
    notes = install()
    for line in notes.splitlines():
        if line.strip().startswith("kubectl"):
            assert run(*line.split()).stdout, line
    pod = daemon()
    assert all(status["ready"] and status["restartCount"] == 0 for status in pod["status"]["containerStatuses"])
    metrics = urllib.request.urlopen(f"http://{pod['status']['podIP']}:9470/metrics", timeout=10).read().decode()
    assert "kvtier_build_info" in metrics
    log = [json.loads(line) for line in kubectl("--namespace", "kvtier", "logs", pod["metadata"]["name"]).splitlines()]
    assert log and all(line["level"] == "INFO" for line in log), log


@pytest.mark.parametrize("case", CASES, ids=[case.stem for case in CASES])
def test_the_api_server_takes_every_rendering(case, namespace):
    definitions = pathlib.Path(os.environ["KVTIER_OPERATOR"]) / "example" / "prometheus-operator-crd"
    for kind in ("servicemonitors", "podmonitors", "prometheusrules"):
        kubectl("apply", "--server-side", "--filename", definitions / f"monitoring.coreos.com_{kind}.yaml")
    kubectl("wait", "--for=condition=Established", "customresourcedefinition", "--all", "--timeout=60s")
    version = json.loads(kubectl("version", "--output", "json"))["serverVersion"]["gitVersion"]
    objects = run("helm", "template", "kvtier", CHART, "--namespace", "kvtier", "--kube-version", version, "--values", case).stdout
    kubectl("--namespace", "kvtier", "apply", "--server-side", "--dry-run=server", "--validate=strict", "--filename", "-", stdin=objects)


def test_engines_outlive_daemons_and_find_their_blocks(install, engine):
    seen = engine("early")
    install()
    attached(seen, 1)
    upgrade("--set", "config.log.level=debug")
    replaced()
    attached(seen, 2)
    upgrade("--set", "image.tag=two")
    replaced()
    assert daemon()["spec"]["containers"][0]["image"] == "kvtier:two"
    attached(seen, 3)
    run("pkill", "-KILL", "-x", "kvtierd")
    attached(seen, 4)
    assert daemon()["status"]["containerStatuses"][0]["restartCount"] == 1
    kubectl("--namespace", "kvtier", "delete", "pod", daemon()["metadata"]["name"])
    attached(seen, 5)
    helm("uninstall", "kvtier", "--wait")
    until("the engine to miss", lambda: "error" in seen()[-1])
    helm("install", "kvtier", CHART, "--values", "-", stdin=yaml.safe_dump(VALUES))
    attached(seen, 6)
    assert [line["stored"] for line in seen() if "stored" in line] == [64]


def test_who_reaches_the_socket_is_who_should(install, engine):
    user = {"runAsUser": 1000, "runAsGroup": 1000}
    install("--set", "config.socket-group=2000,config.access.uids={0,1000}")
    strangers = [engine("no-group", user), engine("no-capabilities", None, ALL_CAPABILITIES_DROPPED)]
    group = {"supplementalGroups": [2000]}
    strict = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    confined = ALL_CAPABILITIES_DROPPED | {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True}
    attached(engine("root", group, ALL_CAPABILITIES_DROPPED), 1)
    attached(engine("restricted", user | group | strict, confined), 1)
    other = engine("other-user", {"runAsUser": 1001} | group)
    until("a refusal", lambda: any("uid 1001" in line.get("refused", "") for line in other()))
    for seen in strangers:
        until("a refusal", lambda seen=seen: any("Permission denied" in line.get("refused", "") for line in seen()))


def test_another_priority_is_taken_and_taken_back(install):
    install()
    upgrade("--set", "priorityClass.value=900000")
    replaced()
    assert daemon()["spec"]["priority"] == 900000
    helm("rollback", "kvtier")
    replaced()
    assert daemon()["spec"]["priority"] == 1000000


def test_an_upgrade_that_cannot_start_is_rolled_back(install):
    install()
    upgrade("--set", "nvme.volumes[0].hostPath=/mnt/absent")
    until("the missing directory", lambda: "is not a directory" in kubectl("--namespace", "kvtier", "get", "events"))
    helm("rollback", "kvtier")
    replaced()


@pytest.mark.parametrize("level", ["baseline", "privileged"])
def test_pods_come_where_the_namespace_may_mount_directories(level, namespace):
    kubectl("label", "namespace", "kvtier", f"pod-security.kubernetes.io/enforce={level}")
    result = helm("install", "kvtier", CHART, "--values", "-", stdin=yaml.safe_dump(VALUES))
    if level == "privileged":
        replaced()
        return
    assert "would violate PodSecurity" in result.stderr
    until("the refusal", lambda: "violates PodSecurity" in kubectl("--namespace", "kvtier", "get", "events"))
    assert not pods("kvtier", "app.kubernetes.io/name=kvtier")


@pytest.mark.parametrize("options", ["security.seccomp.type=Localhost", "security.runAsUser=0,security.runAsGroup=0,security.seccomp.type=Localhost"], ids=["user", "root"])
def test_a_profile_of_our_own_allows_io_uring(options, install, engine):
    # Directories of another user are refused, and the tests before this one were another.
    owner = 0 if "runAsUser=0" in options else 10470
    run("chown", "--recursive", f"{owner}:{owner}", DIRECTORY)
    pathlib.Path("/run/kvtier").mkdir(exist_ok=True)
    run("chown", "--recursive", f"{owner}:{owner}", "/run/kvtier")
    install("--set", options)
    assert '"io":"io-uring"' in kubectl("--namespace", "kvtier", "logs", daemon()["metadata"]["name"])
    attached(engine("engine"), 1)
