#!/usr/bin/env python3
"""Writes a CycloneDX bill of materials of what is shipped: the crates that kvtierd, kvtier and libkvtier are made of.

It reads `cargo metadata`; development and build-only dependencies of ours are left out, as is what other platforms need.
"""

import json
import os
import subprocess
import sys
import uuid

SHIPPED = ["kvstore", "connector-abi"]


def metadata():
    """What Cargo says about this workspace on Linux."""
    command = ["cargo", "metadata", "--format-version=1", "--locked", "--filter-platform=x86_64-unknown-linux-gnu"]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def reachable(data):
    """Ids of packages that are linked into what is shipped, with what each needs."""
    nodes = {node["id"]: node for node in data["resolve"]["nodes"]}
    names = {package["id"]: package["name"] for package in data["packages"]}
    waiting = [member for member in data["workspace_members"] if names[member] in SHIPPED]
    found = {}
    while waiting:
        identity = waiting.pop()
        if identity in found:
            continue
        normal = [dep["pkg"] for dep in nodes[identity]["deps"] if any(kind["kind"] is None for kind in dep["dep_kinds"])]
        found[identity] = sorted(normal)
        waiting += normal
    return found


def purl(package):
    """Its name in the whole world; Cargo's own names contain paths of this machine."""
    return f"pkg:cargo/{package['name']}@{package['version']}"


def component(package, checksums):
    """One crate."""
    made = {"type": "library", "bom-ref": purl(package), "name": package["name"], "version": package["version"], "purl": purl(package)}
    if package.get("license"):
        made["licenses"] = [{"expression": package["license"].replace("/", " OR ")}]
    checksum = checksums.get((package["name"], package["version"]))
    if checksum:
        made["hashes"] = [{"alg": "SHA-256", "content": checksum}]
    if package.get("description"):
        made["description"] = package["description"].strip()
    if package.get("repository"):
        made["externalReferences"] = [{"type": "vcs", "url": package["repository"]}]
    return made


def lock_checksums():
    """Checksums of Cargo.lock, by name and version."""
    found = {}
    name = version = ""
    with open("Cargo.lock", encoding="utf-8") as lock:
        for line in lock:
            key, _, value = line.strip().partition(" = ")
            value = value.strip('"')
            if key == "name":
                name = value
            elif key == "version":
                version = value
            elif key == "checksum":
                found[name, version] = value
    return found


def main():
    """Prints the document."""
    data = metadata()
    found = reachable(data)
    checksums = lock_checksums()
    packages = sorted((p for p in data["packages"] if p["id"] in found), key=lambda p: (p["name"], p["version"]))
    version = next(p["version"] for p in packages if p["name"] == SHIPPED[0])
    epoch = int(os.environ.get("SOURCE_DATE_EPOCH", "0"))
    stamp = subprocess.run(["date", "-u", f"--date=@{epoch}", "+%Y-%m-%dT%H:%M:%SZ"], check=True, capture_output=True, text=True).stdout.strip()
    refs = {p["id"]: purl(p) for p in packages}
    names = ",".join(refs.values())
    json.dump(
        {
            "bomFormat": "CycloneDX",
            "specVersion": "1.5",
            "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, names)}",
            "version": 1,
            "metadata": {
                "timestamp": stamp,
                "component": {"type": "application", "bom-ref": "kvtier", "name": "kvtier", "version": version, "licenses": [{"license": {"id": "Apache-2.0"}}]},
            },
            "components": [component(package, checksums) for package in packages],
            "dependencies": [{"ref": "kvtier", "dependsOn": [purl(p) for p in packages if p["name"] in SHIPPED]}]
            + [{"ref": purl(p), "dependsOn": sorted(refs[needed] for needed in found[p["id"]])} for p in packages],
        },
        sys.stdout,
        indent=1,
    )
    print()


if __name__ == "__main__":
    main()
