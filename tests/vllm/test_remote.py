"""Nodes that share nothing but a directory or a bucket share their cache: what one has computed the other finds."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from daemon import Daemon
from engine import EngineProcess

# Of the wide model: 9 blocks of 256 KiB each, so four of them need more than the host tier.
PROMPTS = 4
TOKENS = 300
CACHED = 288
BLOCKS = PROMPTS * (TOKENS // 32)


@pytest.fixture(scope="module")
def many():
    """Prompts that share nothing."""
    rng = random.Random(47)
    return [[rng.randrange(500) for _ in range(TOKENS)] for _ in range(PROMPTS)]


@pytest.fixture(scope="module")
def answers(models, many):
    """What an engine without kvtier answers to each by itself."""
    plain = EngineProcess(models["wide"], {}, None)
    found = [plain.generate([prompt])[0].content for prompt in many]
    plain.kill()
    return found


@pytest.fixture
def mounted(tmp_path):
    """A directory as nodes have it mounted."""
    directory = tmp_path / "mounted"
    directory.mkdir()
    return {"remote_kind": "mount", "remote_directory": str(directory)}


@pytest.fixture
def bucket(tmp_path):
    """A bucket at the S3-speaking server that the remote room's own tests use."""
    program = os.environ.get("KVTIER_S3_SERVER")
    if program is None:
        pytest.skip("KVTIER_S3_SERVER names no S3 server (cargo build -p kvstore-remote --example s3_server)")
    store = tmp_path / "store"
    server = subprocess.Popen([program, str(store)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    credentials = tmp_path / "credentials"
    credentials.write_text("[default]\naws_access_key_id = kvtier\naws_secret_access_key = kvtier-secret\n")
    yield {
        "remote_kind": "s3",
        "remote_bucket": "bucket",
        "remote_endpoint": server.stdout.readline().strip(),
        "remote_credentials": "file",
        "remote_credentials_file": str(credentials),
    }
    server.stdin.close()
    server.wait(60)


def node(place: Path, remote: dict[str, str]) -> Daemon:
    """A node: its daemon has a small memory, a disk of its own, and the shared store."""
    place.mkdir()
    return Daemon(
        place,
        capacity="8MiB",
        nvme_directories=str(place / "nvme"),
        nvme_capacity="192MiB",
        # A busy machine must not make a miss of what is there.
        nvme_promotion_deadline="30s",
        remote_promotion_deadline="30s",
        **remote,
    ).start()


def stored(daemon: Daemon) -> dict:
    """Waits until the remote tier has all that was stored; what the daemon says then."""
    until = time.monotonic() + 60
    while True:
        status = daemon.status()
        occupancy, counters = status["occupancy"], status["counters"]
        busy = occupancy["remote_queue"] + occupancy["remote_stores_in_flight"]
        if not busy and counters["remote_stored"] + counters["remote_store_present"] >= BLOCKS:
            return status
        assert time.monotonic() < until, f"not stored: {status}"
        time.sleep(0.02)


def in_service(daemon: Daemon) -> None:
    """Waits until the remote tier answers."""
    until = time.monotonic() + 60
    while not any(tier["tier"] == "remote" and tier["state"] == "serving" for tier in daemon.tiers()):
        assert time.monotonic() < until, "the remote tier does not answer"
        time.sleep(0.02)


def ask(engine, prompts, answers) -> list[int]:
    """Asks one after the other and compares; how many tokens of each were cached."""
    cached = []
    for prompt, (tokens, logprobs) in zip(prompts, answers, strict=True):
        (answer,) = engine.generate([prompt])
        assert answer.tokens == tokens
        # Where a prefix ends decides how the rest is batched, so the last digits differ.
        assert answer.logprobs == pytest.approx(logprobs, abs=0.1)
        cached.append(answer.cached)
    return cached


@pytest.mark.parametrize("store", ["mounted", "bucket"])
def test_a_node_answers_from_what_another_has_computed(store, tmp_path, request, start, many, answers):
    remote = request.getfixturevalue(store)
    patient = {"promotion_deadline_ms": 60_000}

    first = node(tmp_path / "a", remote)
    try:
        in_service(first)
        engine = start("wide", first, patient)
        assert ask(engine, many, answers) == [0] * PROMPTS
        assert engine.call("settle")
        stored(first)
        engine.kill()
    finally:
        first.kill()
    # Its memory is gone, and so is its disk.
    shutil.rmtree(tmp_path / "a")

    second = node(tmp_path / "b", remote)
    try:
        in_service(second)
        engine = start("wide", second, patient)
        assert ask(engine, many, answers) == [CACHED] * PROMPTS
        counters = second.status()["counters"]
        assert counters["remote_fetched"] == BLOCKS
        assert counters["remote_hit_blocks"] == BLOCKS
        assert counters["remote_fetch_corrupt"] == 0
        assert engine.call("held_blocks") == 0
        engine.kill()
        assert second.stop() == 0
    finally:
        second.kill()
