"""What the tests share: the chart, the programs, and how values become objects."""

import os
import pathlib
import re
import shutil
import subprocess

import pytest
import yaml

from oci import Image

TOP = pathlib.Path(__file__).resolve().parents[2]
CHART = TOP / "charts" / "kvtier"
HERE = pathlib.Path(__file__).resolve().parent
CASES = sorted((HERE / "cases").glob("*.yaml"))
KUBERNETES = ["1.27.0", "1.37.0"]  # the oldest that the chart allows, and the newest with schemas


def run(*command, check=True, **more):
    """Runs a program; its output is in the failure."""
    result = subprocess.run([str(word) for word in command], text=True, capture_output=True, **more)
    if check and result.returncode:
        raise AssertionError(f"{command}: exit {result.returncode}\n{result.stdout}\n{result.stderr}")
    return result


def template(values=None, *options, version=KUBERNETES[0], check=True):
    """helm template with a file of values."""
    files = ["--values", values] if values else []
    return run("helm", "template", "kvtier", CHART, "--namespace", "kvtier", "--kube-version", version, *files, *options, check=check)


def objects(text):
    """The objects in it, by kind and name."""
    found = {}
    for item in yaml.safe_load_all(text):
        if item:
            key = f"{item['kind']}/{item['metadata']['name']}"
            assert key not in found, f"{key} twice"
            found[key] = item
    return found


def daemon(rendered):
    """The daemon's container."""
    return pod(rendered)["containers"][0]


def pod(rendered):
    """The daemon's pod."""
    return rendered["DaemonSet/kvtier"]["spec"]["template"]["spec"]


def configuration(rendered):
    """kvtierd.toml."""
    return rendered["ConfigMap/kvtier"]["data"]["kvtierd.toml"]


@pytest.fixture(scope="session")
def kvtier():
    """The admin command."""
    return os.environ["KVTIER"]


@pytest.fixture(scope="session")
def kvtierd():
    """The daemon."""
    return os.environ["KVTIERD"]


@pytest.fixture(scope="session")
def image(tmp_path_factory):
    """The image of the archive KVTIER_IMAGE, unpacked; nothing where that is not set."""
    archive = os.environ.get("KVTIER_IMAGE")
    if not archive:
        yield None
        return
    place = tmp_path_factory.mktemp("image")
    yield Image(archive, place)
    shutil.rmtree(place)


@pytest.fixture
def folder(request):
    """An empty folder on a device, which /tmp may not be."""
    made = pathlib.Path(os.environ["KVTIER_CHART_SCRATCH"]) / re.sub(r"\W+", "-", request.node.name)
    shutil.rmtree(made, ignore_errors=True)
    (made / "nvme" / "a").mkdir(parents=True)
    yield made
    shutil.rmtree(made)
