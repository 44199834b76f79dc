"""What the chart makes of good values: stable, valid for Kubernetes, and taken by the daemon."""

import importlib.util
import json
import os
import pathlib
import re
import shutil

import pytest
import yaml

from conftest import CASES, CHART, HERE, KUBERNETES, TOP, configuration, daemon, objects, pod, run, template

EXAMPLES = sorted((CHART / "examples").glob("*.yaml"))
KINDS = ["podmonitors", "prometheusrules", "servicemonitors"]
OPERATOR = pathlib.Path(os.environ["KVTIER_OPERATOR"]) / "example" / "prometheus-operator-crd"


def names(paths):
    return [path.stem for path in paths]


@pytest.mark.parametrize("case", CASES, ids=names(CASES))
def test_lint_finds_nothing(case):
    run("helm", "lint", "--strict", CHART, "--values", case, "--kube-version", KUBERNETES[0])


@pytest.mark.parametrize("case", CASES, ids=names(CASES))
def test_golden(case):
    golden = HERE / "goldens" / case.name
    text = template(case).stdout
    if os.environ.get("KVTIER_BLESS"):
        golden.write_text(text)
    assert text == golden.read_text(), "if this is right: KVTIER_BLESS=1 scripts/chart.sh -k golden"


class Loader(yaml.SafeLoader):
    """Takes "=", an operator in one of the definitions, for the text that it is."""


Loader.add_constructor("tag:yaml.org,2002:value", Loader.construct_yaml_str)


def strict(schema):
    """A schema of a custom resource, without tolerance for unknown fields."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: strict(value) for key, value in schema.items()}
    if schema.get("type") == "object" and "properties" in schema and "additionalProperties" not in schema:
        made["additionalProperties"] = False
    if schema.get("x-kubernetes-int-or-string"):
        made["type"] = ["integer", "string"]
    return made


@pytest.fixture(scope="session")
def schemas(tmp_path_factory):
    """A folder of JSON schemas as kubeconform looks for them."""
    folder = tmp_path_factory.mktemp("schemas")
    # Of that package only the schemas are wanted, so it is not imported.
    package = importlib.util.find_spec("kubernetes_validate").submodule_search_locations[0]
    source = pathlib.Path(package) / "kubernetes-json-schema"
    for version in KUBERNETES:
        (folder / f"v{version}").mkdir()
        for path in (source / f"v{version}-local-strict").glob("*.json"):
            schema = json.loads(path.read_text().replace('"/api/_definitions.json#', '"_definitions.json#'))
            # Schemas find each other by the names of their files.
            for name in ("$id", "$schema"):
                schema.pop(name, None)
            (folder / f"v{version}" / path.name).write_text(json.dumps(schema))
        for kind in KINDS:
            crd = yaml.load((OPERATOR / f"monitoring.coreos.com_{kind}.yaml").read_text(), Loader)
            for served in crd["spec"]["versions"]:
                schema = strict(served["schema"]["openAPIV3Schema"])
                schema["properties"]["metadata"] = {"type": "object"}
                name = f"{crd['spec']['names']['kind'].lower()}-monitoring-{served['name']}.json"
                (folder / f"v{version}" / name).write_text(json.dumps(schema))
    return folder


def conform(text, version, schemas, check=True):
    """kubeconform, which asks nobody but the folder."""
    location = f"{schemas}/{{{{ .NormalizedKubernetesVersion }}}}/{{{{ .ResourceKind }}}}{{{{ .KindSuffix }}}}.json"
    command = ["kubeconform", "-strict", "-summary", "-output", "json", "-kubernetes-version", version, "-schema-location", location, "-"]
    return run(*command, input=text, check=check)


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("case", CASES, ids=names(CASES))
def test_every_object_is_valid(case, version, schemas):
    text = template(case, version=version).stdout
    summary = json.loads(conform(text, version, schemas).stdout)["summary"]
    assert summary == {"valid": len(objects(text)), "invalid": 0, "errors": 0, "skipped": 0}


@pytest.mark.parametrize("change", [("minReadySeconds: 0", "minReadySecond: 0"), ("maxSurge: 0", "maxSurge: {}"), ("containerPort: 9470", "containerPort: x")])
def test_an_object_that_is_not_valid_is_found(change, schemas):
    text = template().stdout
    assert change[0] in text
    assert conform(text.replace(*change), KUBERNETES[1], schemas, check=False).returncode


@pytest.mark.parametrize("path", EXAMPLES, ids=names(EXAMPLES))
def test_examples_are_valid(path, schemas):
    text = path.read_text()
    if path.name.endswith(".values.yaml"):
        template(path)
        return
    # Of the router's own configuration, which is no Kubernetes object, the ConfigMap around it is checked.
    summary = json.loads(conform(text, KUBERNETES[1], schemas).stdout)["summary"]
    assert summary == {"valid": len(objects(text)), "invalid": 0, "errors": 0, "skipped": 0}


def test_examples_tell_vllm_what_the_readme_tells(notes):
    wanted = json.loads(re.search(r"--kv-transfer-config \\\n  '({.*})'", (TOP / "README.md").read_text())[1])
    shown = [re.search(r"--kv-transfer-config '({.*})'", notes())[1]]
    for path in EXAMPLES:
        shown += re.findall(r"^ *- '({\"kv_connector\".*})'$", path.read_text(), re.MULTILINE)
    assert len(shown) == 2
    for text in shown:
        config = json.loads(text)
        config.pop("kv_connector_extra_config", None)
        assert config == wanted


@pytest.fixture(scope="session")
def notes(tmp_path_factory):
    """Renders NOTES.txt, which helm shows after an installation only: here it is text in an object of a copy."""
    copy = tmp_path_factory.mktemp("notes") / "kvtier"
    shutil.copytree(CHART, copy)
    (copy / "templates" / "NOTES.txt").rename(copy / "NOTES.txt")
    wrapped = '{kind: ConfigMap, apiVersion: v1, metadata: {name: notes}, data: {text: {{ tpl (.Files.Get "NOTES.txt") . | toJson }}}}'
    (copy / "templates" / "notes.yaml").write_text(wrapped)
    command = ["helm", "template", "kvtier", copy, "--kube-version", KUBERNETES[0], "--show-only", "templates/notes.yaml"]
    return lambda *options: yaml.safe_load(run(*command, *options).stdout)["data"]["text"]


def test_notes_show_the_weights_of_the_media_that_are_configured(notes):
    full = notes("--values", HERE / "cases" / "full.yaml")
    assert "{name: cpu, weight: 0.8}" in full and "{name: nvme, weight: 0.4}" in full
    assert "supplementalGroups: [2000]" in full
    assert "Routers are told nothing" in notes()
    assert "only root with its usual capabilities reaches the socket" in notes() and "only root" not in full
    shared = notes("--values", HERE / "cases" / "remote-mount.yaml", "--set", "config.events.relay=on-request,config.events.remote-medium=shared")
    assert "{name: storage, weight: 0.4}" in shared and "{name: shared, weight: 0.2}" in shared
    assert "0.2" not in notes("--values", HERE / "cases" / "remote-mount.yaml")


@pytest.mark.parametrize("case", CASES, ids=names(CASES))
def test_the_daemon_accepts_the_configuration(case, kvtier, tmp_path):
    file = tmp_path / "kvtierd.toml"
    file.write_text(configuration(objects(template(case).stdout)))
    # Its Secrets are in the cluster.
    run(kvtier, "check-config", "--elsewhere", file)


def test_a_configuration_that_is_not_sound_is_found(kvtier, tmp_path):
    file = tmp_path / "kvtierd.toml"
    file.write_text(configuration(objects(template().stdout)).replace('"1GiB"', '"1 apple"'))
    result = run(kvtier, "check-config", file, check=False)
    assert result.returncode == 64 and "host.capacity" in result.stderr


def test_values_mean_what_they_say(kvtier, tmp_path):
    """Large numbers and fractions come through templates as they are."""
    text = configuration(objects(template(HERE / "cases" / "full.yaml").stdout))
    for line in ("holds = 268435456", "watermark-high = 1", 'promotion-deadline = "1.5s"', "uids = [0,1000]", "[tenant.research]"):
        assert line in text.splitlines(), line


def test_every_key_of_the_daemon_can_be_set():
    """What the chart decides itself is the exception."""
    table = re.findall(r"^\| `([a-z.A-Z-]+)`<br>", (TOP / "docs" / "configuration.md").read_text(), re.MULTILINE)
    config = json.loads((CHART / "values.schema.json").read_text())["properties"]["config"]["properties"]
    known = set()
    for name, schema in config.items():
        if name == "tenants":
            known |= {f"tenant.NAME.{key}" for key in schema["additionalProperties"]["properties"]}
        elif "properties" in schema:
            known |= {f"{name}.{key}" for key in schema["properties"]}
        else:
            known.add(name)
    own = {"socket", "admin.socket", "nvme.directories", "remote.directory", "remote.credentials-file", "remote.ca-file", "tracing.headers-file", "tracing.ca-file"}
    # These follow from admin.tls.
    own |= {f"admin.{key}" for key in ("listen", "tls-certificate", "tls-key", "tls-client-ca", "tls-administrators")}
    assert len(table) > 40 and set(table) - known == own and known <= set(table)


def test_every_value_is_described_and_known():
    schema = json.loads((CHART / "values.schema.json").read_text())

    def walk(schema, place):
        for name, inner in schema.get("properties", {}).items():
            assert inner.get("description"), f"{place}.{name} is not described"
            if inner.get("type") == "object" and "additionalProperties" not in inner:
                assert name in ("affinity", "global"), f"{place}.{name} takes anything"
            walk(inner, f"{place}.{name}")
            walk(inner.get("items", {}), f"{place}.{name}[]")

    walk(schema, "values")
    assert schema["additionalProperties"] is False


def test_the_daemon_is_confined():
    for case in CASES:
        rendered = objects(template(case).stdout)
        context, spec = daemon(rendered)["securityContext"], pod(rendered)
        root = context["runAsUser"] == 0
        assert context["readOnlyRootFilesystem"] and not context["allowPrivilegeEscalation"]
        assert context["capabilities"] == {"drop": ["ALL"]} | ({"add": ["IPC_LOCK"]} if root else {})
        assert context["runAsNonRoot"] is not root
        assert spec["automountServiceAccountToken"] is False and "hostNetwork" not in spec
        # Engines mount the socket's directory and may be root: the admin socket is not in it.
        admin = next(volume for volume in spec["volumes"] if volume["name"] == "admin")
        assert "emptyDir" in admin
        assert 'socket = "/run/kvtier-admin/' in configuration(rendered)


def test_credentials_come_from_secrets_and_are_in_no_configuration():
    rendered = objects(template(HERE / "cases" / "remote-s3.yaml").stdout)
    variables = {variable["name"]: variable.get("valueFrom") for variable in daemon(rendered)["env"]}
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        assert variables[name]["secretKeyRef"] == {"name": "kvtier-s3", "key": name, "optional": name == "AWS_SESSION_TOKEN"}
    assert "kvtier-s3" not in configuration(rendered)
    egress = rendered["NetworkPolicy/kvtier"]["spec"]["egress"]
    assert {port["port"] for rule in egress for port in rule["ports"]} == {53, 9000}


def test_each_kind_of_store_gets_what_its_credentials_need():
    def ports(rendered):
        return {port["port"] for rule in rendered["NetworkPolicy/kvtier"]["spec"]["egress"] for port in rule["ports"]}

    google = objects(template(HERE / "cases" / "remote-gcs.yaml").stdout)
    # GKE's metadata server is at 988.
    assert ports(google) == {53, 80, 443, 988}
    assert "iam.gke.io/gcp-service-account" in google["ServiceAccount/kvtier"]["metadata"]["annotations"]
    azure = objects(template(HERE / "cases" / "remote-azure.yaml").stdout)
    assert ports(azure) == {53, 443}
    lines = configuration(azure).splitlines()
    assert 'account = "kvcache"' in lines and 'credentials-file = "/etc/kvtier-credentials/credentials"' in lines
    chosen = "config.remote.kind=azure,config.remote.bucket=b,config.remote.account=abc,remote.credentialsSecret=s"
    azure = objects(template(None, "--set", chosen).stdout)
    variables = {variable["name"] for variable in daemon(azure)["env"] if "secretKeyRef" in variable.get("valueFrom", {})}
    assert variables == {"AZURE_STORAGE_KEY", "AZURE_STORAGE_SAS_TOKEN", "AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET"}


def test_the_admin_api_has_a_port_only_where_it_is_asked_for():
    full = objects(template(HERE / "cases" / "full.yaml").stdout)
    lines = configuration(full).splitlines()
    for line in (
        'listen = "[::]:9473"',
        'tls-certificate = "/etc/kvtier-admin-tls/tls.crt"',
        'tls-key = "/etc/kvtier-admin-tls/tls.key"',
        'tls-client-ca = "/etc/kvtier-admin-ca/ca.crt"',
        'tls-administrators = ["spiffe://example/kvtier-operator","ops.example"]',
    ):
        assert line in lines, line
    assert {"name": "admin", "containerPort": 9473, "protocol": "TCP"} in daemon(full)["ports"]
    assert [port["port"] for port in full["Service/kvtier"]["spec"]["ports"]] == [9471, 9473]
    rule = next(rule for rule in full["NetworkPolicy/kvtier"]["spec"]["ingress"] if rule["ports"] == [{"port": "admin", "protocol": "TCP"}])
    assert rule["from"] == [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "operations"}}}]
    # A file that is mounted by itself would never be renewed.
    mounts = {mount["name"]: mount for mount in daemon(full)["volumeMounts"] if mount["name"].startswith("admin-")}
    assert set(mounts) == {"admin-tls", "admin-ca"} and all(mount["readOnly"] and "subPath" not in mount for mount in mounts.values())
    without = template().stdout
    assert "tls" not in configuration(objects(without)) and "name: admin-" not in without
    assert [port["name"] for port in daemon(objects(without))["ports"]] == ["metrics"]


def test_notes_say_how_the_port_of_the_admin_api_is_used(notes):
    full = notes("--values", HERE / "cases" / "full.yaml")
    assert "https://HOST:9473" in full and "Things are changed by: spiffe://example/kvtier-operator, ops.example." in full
    assert "--address" not in notes()


def test_a_pod_has_as_long_to_end_as_the_daemon_may_take():
    rendered = objects(template(HERE / "cases" / "full.yaml").stdout)
    assert 'shutdown-deadline = "1min"' in configuration(rendered)
    assert pod(rendered)["terminationGracePeriodSeconds"] >= 60 + 10


def test_a_changed_configuration_restarts_daemons_and_nothing_else_does():
    def annotations(*options):
        return objects(template(None, *options).stdout)["DaemonSet/kvtier"]["spec"]["template"]["metadata"]["annotations"]

    assert annotations() != annotations("--set", "config.host.capacity=2GiB")
    assert annotations() == annotations("--set", "serviceMonitor.enabled=true")
    assert annotations("--set", "restartOnChange=never") == annotations("--set", "restartOnChange=never", "--set", "config.host.capacity=2GiB")


def test_another_priority_is_another_class():
    """Its value is immutable: to change it would fail, and so would the rollback after it."""
    for value in (1000000, 900000, -5):
        rendered = objects(template(None, "--set", f"priorityClass.value={value}").stdout)
        assert rendered[f"PriorityClass/kvtier-{value}"]["value"] == value
        assert pod(rendered)["priorityClassName"] == f"kvtier-{value}"
