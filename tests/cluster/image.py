"""Writes an archive that "ctr images import" and "docker load" take: image.py FILE NAME CONFIGURATION LAYER.tar…"""

import hashlib
import io
import json
import sys
import tarfile


def digest(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main(file, name, configuration, *layers):
    names = {path: digest(path) for path in layers}
    image = {
        "architecture": "amd64",
        "os": "linux",
        "config": json.loads(configuration),
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{names[path]}" for path in layers]},
    }
    text = json.dumps(image).encode()
    manifest = [{"Config": "image.json", "RepoTags": [name], "Layers": [f"{names[path]}.tar" for path in layers]}]
    with tarfile.open(file, "w") as archive:
        for path in layers:
            archive.add(path, f"{names[path]}.tar")
        for member, data in (("image.json", text), ("manifest.json", json.dumps(manifest).encode())):
            info = tarfile.TarInfo(member)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


if __name__ == "__main__":
    main(*sys.argv[1:])
