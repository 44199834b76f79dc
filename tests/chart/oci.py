"""Containers of the rendered pod, run by runc as a kubelet's runtime would: what the chart grants, and nothing else.

The root file system is this machine's /usr, read-only. Volumes are folders of the test. The network is the machine's own, so that
probes can be asked; process ids, mounts and the like are the container's.
"""

import json
import os
import pathlib
import subprocess

MASKED = ["/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/proc/sched_debug", "/sys/firmware"]


class Container:
    """One container of a pod, with the pod's volumes."""

    def __init__(self, folder, spec, volumes, programs, profile=None):
        self.name = f"kvtier-chart-{os.getpid()}-{spec['name']}"
        self.bundle = folder / f"bundle-{spec['name']}"
        self.folder = folder
        root = self.bundle / "rootfs"
        root.mkdir(parents=True)
        for link in ("bin", "lib", "lib64", "sbin"):
            if os.path.islink(f"/{link}"):
                (root / link).symlink_to(os.readlink(f"/{link}"))
        mounts = [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=64k"]},
            {"destination": "/sys", "type": "none", "source": "/sys", "options": ["rbind", "ro", "nosuid", "noexec", "nodev"]},
            bind("/usr", "/usr", "ro"),
            bind(programs, "/programs", "ro"),
        ]
        for mount in spec["volumeMounts"]:
            mounts.append(bind(volumes[mount["name"]], mount["mountPath"], "ro" if mount.get("readOnly") else "rw"))
        config = self.config(spec, mounts, profile)
        (self.bundle / "config.json").write_text(json.dumps(config))
        self.log = folder / f"{spec['name']}.log"
        self.process = None

    @staticmethod
    def config(spec, mounts, profile):
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
                "env": ["PATH=/programs:/usr/sbin:/usr/bin", *environment],
                "user": {"uid": context["runAsUser"], "gid": context["runAsGroup"]},
                "noNewPrivileges": not context["allowPrivilegeEscalation"],
                "capabilities": {kind: capabilities for kind in ("bounding", "effective", "permitted")},
                # As systemd and container runtimes leave it.
                "rlimits": [{"type": "RLIMIT_MEMLOCK", "soft": 8 << 20, "hard": 8 << 20}],
            },
            "root": {"path": "rootfs", "readonly": context["readOnlyRootFilesystem"]},
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
