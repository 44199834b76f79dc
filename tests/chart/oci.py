"""Containers of the rendered pod, run by runc as a kubelet's runtime would: what the chart grants, and nothing else.

The root file system is this machine's /usr, or an image's, read-only. Volumes are folders of the test. The network is the machine's
own, so that probes can be asked; process ids, mounts and the like are the container's.
"""

import json
import os
import pathlib
import subprocess
import tarfile
import time

from pods import WATCHDOG_SECONDS

MASKED = ["/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/proc/sched_debug", "/sys/firmware"]


class Image:
    """An image of an archive (OCI's layout in a tar file, as `buildah push NAME oci-archive:FILE` writes it), unpacked into a folder."""

    def __init__(self, archive, folder):
        with tarfile.open(archive) as outer:
            def blob(digest):
                return outer.extractfile("blobs/" + digest.replace(":", "/"))

            (entry,) = json.load(outer.extractfile("index.json"))["manifests"]
            manifest = json.load(blob(entry["digest"]))
            self.config = json.load(blob(manifest["config"]["digest"]))["config"]
            self.root = folder / "image"
            self.root.mkdir()
            for layer in manifest["layers"]:
                with tarfile.open(fileobj=blob(layer["digest"])) as inner:
                    assert not [name for name in inner.getnames() if "/.wh." in name], "a layer that takes files away"
                    inner.extractall(self.root, numeric_owner=True, filter="fully_trusted")
        self.environment = self.config["Env"]

    def mounts(self):
        """Nothing: all that there is was unpacked."""
        return []


class Machine:
    """This machine's /usr, with the programs of a folder found first."""

    environment = ["PATH=/programs:/usr/sbin:/usr/bin"]

    def __init__(self, programs, folder):
        self.programs = programs
        self.root = folder / "root"
        self.root.mkdir()
        for link in ("bin", "lib", "lib64", "sbin"):
            if os.path.islink(f"/{link}"):
                (self.root / link).symlink_to(os.readlink(f"/{link}"))

    def mounts(self):
        """What is in it."""
        return [bind("/usr", "/usr", "ro"), bind(self.programs, "/programs", "ro")]


class Container:
    """One container of a pod, with the pod's volumes, on an Image or a Machine."""

    def __init__(self, folder, spec, volumes, base, profile=None):
        self.name = f"kvtier-chart-{os.getpid()}-{spec['name']}"
        self.bundle = folder / f"bundle-{spec['name']}"
        self.folder = folder
        self.bundle.mkdir()
        mounts = [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=64k"]},
            {"destination": "/sys", "type": "none", "source": "/sys", "options": ["rbind", "ro", "nosuid", "noexec", "nodev"]},
            *base.mounts(),
        ]
        for mount in spec["volumeMounts"]:
            mounts.append(bind(volumes[mount["name"]], mount["mountPath"], "ro" if mount.get("readOnly") else "rw"))
        config = self.configuration(spec, mounts, base, profile)
        (self.bundle / "config.json").write_text(json.dumps(config))
        self.log = folder / f"{spec['name']}.log"
        self.process = None

    @staticmethod
    def configuration(spec, mounts, base, profile):
        """What runc reads."""
        context = spec["securityContext"]
        capabilities = [f"CAP_{name}" for name in context["capabilities"].get("add", [])]
        environment = [f"{variable['name']}={variable['value']}" for variable in spec.get("env", []) if "value" in variable]
        linux = {
            "namespaces": [{"type": kind} for kind in ("pid", "mount", "ipc", "uts")],
            "resources": {"memory": {"limit": quantity(spec["resources"]["limits"]["memory"])}},
            "maskedPaths": MASKED,
        }
        if profile:
            rules = json.loads(pathlib.Path(profile).read_text())
            linux["seccomp"] = {key: rules[key] for key in ("defaultAction", "defaultErrnoRet", "architectures")} | {
                "syscalls": [{"names": rule["names"], "action": rule["action"]} for rule in rules["syscalls"]]
            }
        return {
            "ociVersion": "1.0.2",
            "process": {
                "args": spec["command"],
                "cwd": "/",
                "env": [*base.environment, *environment],
                "user": {"uid": context["runAsUser"], "gid": context["runAsGroup"]},
                "noNewPrivileges": not context["allowPrivilegeEscalation"],
                "capabilities": {kind: capabilities for kind in ("bounding", "effective", "permitted")},
                # As systemd and container runtimes leave it.
                "rlimits": [{"type": "RLIMIT_MEMLOCK", "soft": 8 << 20, "hard": 8 << 20}],
            },
            "root": {"path": str(base.root), "readonly": context["readOnlyRootFilesystem"]},
            "mounts": mounts,
            "linux": linux,
        }

    def runc(self, *words):
        """A command of runc's about containers of this test."""
        return ["runc", "--root", str(self.folder / "runc"), *words]

    def start(self):
        """Starts it; its standard error goes to the log."""
        with self.log.open("w") as log:
            self.process = subprocess.Popen(self.runc("run", "--bundle", str(self.bundle), self.name), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        return self

    def run(self):
        """Runs it to its end, as an init container; its exit code."""
        return self.start().process.wait()

    def until(self, what, condition):
        """Waits for a condition, for as long as the container lives."""
        began = time.monotonic()
        while not (answer := condition()):
            assert self.process.poll() is None, f"exit {self.process.returncode}:\n{self.log.read_text()}"
            assert time.monotonic() - began < WATCHDOG_SECONDS, f"waiting for {what}:\n{self.log.read_text()}"
            time.sleep(0.05)
        return answer

    def exec(self, *words):
        """What `kubectl exec` prints."""
        result = subprocess.run(self.runc("exec", self.name, *words), capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
        return result.stdout

    def end(self):
        """SIGTERM, as the kubelet sends it; the exit code."""
        subprocess.run(self.runc("kill", self.name, "TERM"), check=True)
        return self.process.wait()

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        if self.process.poll() is None:
            subprocess.run(self.runc("delete", "--force", self.name), check=False)
            self.process.wait()


def bind(source, destination, how):
    """A bind mount."""
    return {"destination": destination, "type": "none", "source": str(source), "options": ["rbind", how]}


def quantity(text):
    """Bytes of a quantity in mebibytes."""
    assert text.endswith("Mi")
    return int(text[:-2]) << 20
