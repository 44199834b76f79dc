"""The image, run as it says of itself: its user and entry point, read-only, with no capability. KVTIER_IMAGE is an archive of it."""

import json
import os
import re
import shutil
import urllib.request

import pytest

from conftest import TOP, run
from oci import Container

CONFIGURATION = """
socket = "/run/kvtier/kvtier.sock"

[host]
capacity = "64MiB"
arena-bytes = "8MiB"

[nvme]
directories = ["/var/lib/kvtier/a"]
capacity = "256MiB"

[metrics]
listen = "127.0.0.1:0"

[log]
format = "json"
"""
S3 = """
[remote]
kind = "s3"
bucket = "b"
endpoint = "http://127.0.0.1:1"
credentials = "anonymous"
"""


@pytest.fixture(autouse=True)
def wants_an_image(image):
    """Skips where there is none, or nothing to run it with."""
    if not image:
        pytest.skip("no image: KVTIER_IMAGE names none")
    if os.geteuid() != 0 or not shutil.which("runc"):
        pytest.skip("only root runs containers, with runc")


@pytest.fixture
def volumes(folder):
    """Folders behind volumes; those that the daemon writes belong to the image's user."""
    made = {"config": folder / "config", "socket": folder / "socket", "nvme": folder / "nvme" / "a"}
    for name in ("config", "socket"):
        made[name].mkdir()
    for name in ("socket", "nvme"):
        os.chown(made[name], 10470, 10470)
    (made["config"] / "kvtierd.toml").write_text(CONFIGURATION)
    return made


@pytest.fixture
def container(image, folder, volumes):
    """Makes a container of the image with further words for its entry point, or with a command in its place."""
    count = iter(range(100))

    def make(*words, command=None):
        user, group = image.config["User"].split(":")
        spec = {
            "name": f"image-{next(count)}",
            "command": [*(command or image.config["Entrypoint"]), *words],
            "securityContext": {
                "runAsUser": int(user),
                "runAsGroup": int(group),
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            },
            "resources": {"limits": {"memory": "512Mi"}},
            "volumeMounts": [
                {"name": "config", "mountPath": "/etc/kvtier", "readOnly": True},
                {"name": "socket", "mountPath": "/run/kvtier"},
                {"name": "nvme", "mountPath": "/var/lib/kvtier/a"},
            ],
        }
        return Container(folder, spec, volumes, image)

    return make


def version():
    """That of the workspace."""
    return re.search(r'^version = "(.*)"', (TOP / "Cargo.toml").read_text(), re.MULTILINE)[1]


def said(container, code=0):
    """What it wrote, once it ended."""
    found = container.run()
    text = container.log.read_text()
    assert found == code, f"exit {found}:\n{text}"
    return text


def test_it_says_what_it_is(image, container):
    assert said(container("--version")) == f"kvtierd {version()}\n"
    assert "check-config" in said(container("--help", command=["kvtier"]))
    # What the base would run is not a word for the daemon.
    assert image.config["Entrypoint"] == ["kvtierd"] and not image.config.get("Cmd")
    assert image.config["Labels"]["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert (image.root / "usr/share/doc/kvtier/LICENSE").read_bytes() == (TOP / "LICENSE").read_bytes()


def test_its_programs_tell_no_place_of_the_build(image):
    """So equal sources make equal programs, wherever a crate lay."""
    for name in ("kvtierd", "kvtier"):
        program = image.root / "usr/bin" / name
        assert not re.findall(rb"/usr/local/cargo/[ -~]*|/src/kvstore[ -~]*|/cache/target[ -~]*", program.read_bytes()), name
        assert ".debug_info" not in run("readelf", "--section-headers", "--wide", program).stdout


def test_a_bucket_has_a_client(container, volumes):
    """None can be made without certificates of authorities, which the base has not."""
    (volumes["config"] / "kvtierd.toml").write_text(CONFIGURATION + S3)
    said(container("check-config", "/etc/kvtier/kvtierd.toml", command=["kvtier"]))


def test_the_daemon_serves_and_ends(container, volumes):
    with container("--config", "/etc/kvtier/kvtierd.toml") as daemon:
        daemon.until("serving", lambda: '"serving"' in daemon.log.read_text())
        line = next(line for line in daemon.log.read_text().splitlines() if "metrics and probes are served" in line)
        address = re.search(r"127\.0\.0\.1:\d+", line)[0]
        for path in ("healthz", "readyz"):
            assert urllib.request.urlopen(f"http://{address}/{path}", timeout=10).status == 200
        status = json.loads(daemon.exec("kvtier", "status", "--json", "--socket", "/run/kvtier/kvtier-admin.sock"))
        assert status["ready"] is True and status["version"] == version()
        assert (volumes["socket"] / "kvtier.sock").is_socket()
        assert daemon.end() == 0, daemon.log.read_text()
    assert not (volumes["socket"] / "kvtier.sock").exists()
    assert list(volumes["nvme"].iterdir())
