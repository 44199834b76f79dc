#!/usr/bin/env python3
"""Runs a command beside emulators of Google Cloud Storage and Azure Blob Storage, and ends them with it.

usage: emulators.py [--gcs PROGRAM] [--azure FOLDER] COMMAND...

PROGRAM is tests/gcs, built; FOLDER is where npm has put azurite.

The command finds them in KVTIER_TEST_GCS ("ENDPOINT BUCKET - FILE", the file of a service account; without openssl, which makes its
key, "ENDPOINT BUCKET") and KVTIER_TEST_AZURE ("ENDPOINT CONTAINER ACCOUNT FILE", the file with the account's key). Both keep everything in
memory. What is not given is not started.
"""

import argparse
import base64
import contextlib
import email.utils
import hashlib
import hmac
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

BUCKET = "kvtier"
ACCOUNT = "kvtiertest"
API = "2021-12-02"
SECONDS = 60


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def running(command, log, **more):
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, **more)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def ask(process, log, request):
    """Asks until it is answered at all."""
    deadline = time.monotonic() + SECONDS
    while True:
        try:
            return urllib.request.urlopen(request, timeout=10).read()
        except urllib.error.HTTPError as error:
            sys.exit(f"error: {request.full_url}: {error} {error.read().decode(errors='replace')}")
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"error: the emulator does not answer:\n{log.read_text(errors='replace')}")
            time.sleep(0.1)


def service_account(place):
    """A file of an account that nobody knows, with a key that is good; the emulator checks none."""
    if not shutil.which("openssl"):
        return []
    command = ["openssl", "genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"]
    key = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    account = {"type": "service_account", "client_email": "kvtier@test.invalid", "private_key": key, "private_key_id": "1"}
    file = place / "service-account.json"
    file.touch(mode=0o600)
    file.write_text(json.dumps(account))
    return ["-", str(file)]


@contextlib.contextmanager
def gcs(program, place):
    """Says where it is in its first line, and ends with its input."""
    process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        where = process.stdout.readline().strip() or sys.exit(f"error: {program} says nothing")
        yield {"KVTIER_TEST_GCS": " ".join([where, *service_account(place)])}
    finally:
        process.stdin.close()
        process.wait()


def container_request(endpoint, key):
    """Makes the container: https://learn.microsoft.com/rest/api/storageservices/authorize-with-shared-key."""
    date = email.utils.formatdate(usegmt=True)
    resource = f"/{ACCOUNT}/{ACCOUNT}/{BUCKET}\nrestype:container"
    text = "PUT" + "\n" * 12 + f"x-ms-date:{date}\nx-ms-version:{API}\n{resource}"
    signature = base64.b64encode(hmac.digest(base64.b64decode(key), text.encode(), hashlib.sha256)).decode()
    headers = {"x-ms-date": date, "x-ms-version": API, "authorization": f"SharedKey {ACCOUNT}:{signature}", "content-length": "0"}
    return urllib.request.Request(f"{endpoint}/{BUCKET}?restype=container", headers=headers, method="PUT")


@contextlib.contextmanager
def azure(folder, place):
    port, key = free_port(), base64.b64encode(secrets.token_bytes(64)).decode()
    program = Path(folder) / "node_modules/azurite/dist/src/blob/main.js"
    options = ["--inMemoryPersistence", "--skipApiVersionCheck", "--disableTelemetry", "--silent", "--blobPort", str(port)]
    log, file = place / "azure.log", place / "azure-key"
    file.touch(mode=0o600)
    file.write_text(key)
    accounts = {**os.environ, "AZURITE_ACCOUNTS": f"{ACCOUNT}:{key}"}
    with running(["node", program, *options], log, env=accounts, cwd=place) as process:
        endpoint = f"http://127.0.0.1:{port}/{ACCOUNT}"
        ask(process, log, container_request(endpoint, key))
        yield {"KVTIER_TEST_AZURE": f"{endpoint} {BUCKET} {ACCOUNT} {file}"}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gcs", metavar="PROGRAM")
    parser.add_argument("--azure", metavar="FOLDER")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    arguments = parser.parse_args()
    # So that what was started is ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with contextlib.ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kvtier-emulators-")))
        environment = dict(os.environ)
        if arguments.gcs:
            environment |= stack.enter_context(gcs(arguments.gcs, place))
        if arguments.azure:
            environment |= stack.enter_context(azure(arguments.azure, place))
        return subprocess.run(arguments.command, env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())
