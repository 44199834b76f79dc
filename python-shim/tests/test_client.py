"""The binding against a real daemon: bytes go in and come back, and every failure is an exception with a status."""

from __future__ import annotations

import ctypes
import hashlib
import itertools
import os
import time
from array import array

import pytest
from real import Daemon

from kvtier.client import (
    Copier,
    Group,
    KVTierError,
    Refused,
    Run,
    Session,
    SessionLost,
    Status,
    Unavailable,
    abi,
    block_run,
)

PAGE, BLOCKS = 4096, 12
_starts = itertools.count(1)


@pytest.fixture
def daemon(tmp_path):
    running = Daemon(tmp_path).start()
    yield running
    running.kill()


class Pair:
    """A scheduler, a worker and the worker's device memory."""

    def __init__(
        self, daemon: Daemon, fields: dict[str, bytes] | None = None, reattach: bool = False, page: int = PAGE
    ) -> None:
        self.page = page
        start = next(_starts).to_bytes(16, "little")
        common = {"engine_group": start, "fields": fields or {"model.id": b"m"}, "socket_path": daemon.socket}
        self.worker = Session(
            role=abi.ROLE_WORKER, groups=[Group(16, 0, page)], rank_fields={"layers": b"a,b"}, reattach=reattach,
            **common,
        )
        self.scheduler = Session(role=abi.ROLE_SCHEDULER, groups=[Group(16)], reattach=reattach, **common)
        self.device = ctypes.create_string_buffer(os.urandom(page * BLOCKS), page * BLOCKS)
        self.copier = Copier()
        self.copier.group_set(0, 1, [Run(ctypes.addressof(self.device), page, page, BLOCKS)])
        self.ready()

    def ready(self) -> None:
        self.scheduler.wait_ready(20)
        self.worker.wait_ready(20)

    def copy(self, direction: int, slots: bytes, first_block: int = 0) -> None:
        lines = b"".join(
            slots[8 * i : 8 * i + 8] + (first_block + i).to_bytes(4, "little") + bytes(4)
            for i in range(len(slots) // 8)
        )
        self.copier.submit(self.worker, 1, direction, 0, lines)
        self.copier.wait(5_000_000)
        (result,) = self.copier.poll()
        assert (result.tag, result.status, result.bytes) == (1, 0, self.page * len(slots) // 8)

    def store(self, joined: bytes) -> int:
        slots = self.scheduler.reserve_now([(0, joined)])
        granted = b"".join(slots[i : i + 8] for i in range(0, len(slots), 8) if slots[i : i + 4] != bytes(4))
        if granted:
            self.copy(abi.COPY_STORE, granted)
            return self.worker.seal_now(granted).value
        return 0

    def close(self) -> None:
        self.copier.close()
        self.scheduler.close()
        self.worker.close()


def keys(count: int, salt: str = "") -> bytes:
    return b"".join(hashlib.sha256(f"{salt}{index}".encode()).digest() for index in range(count))


def test_what_blocks_are_about_reaches_the_daemon(daemon):
    pair = Pair(daemon)
    keys = b"".join(os.urandom(32) for _ in range(4))
    tokens = array("I", range(3 * 16))
    runs = [block_run(3, 16, tokens, parent=os.urandom(32), lora_name=b"sql", extra_keys=b"\xc0"), block_run(1)]
    tag = pair.scheduler.next_tag()
    pair.scheduler.reserve(tag, [(0, keys)], runs)
    assert len(pair.scheduler.wait_for(abi.OP_RESERVE, tag).slots) == 4 * 8
    occupancy = pair.scheduler.counters()["occupancy"]
    assert (occupancy["blocks"], occupancy["blocks_described"]) == (4, 3)
    with pytest.raises(KVTierError, match="as many blocks as there are keys"):
        pair.scheduler.reserve(tag, [(0, keys)], runs[:1])
    pair.close()


def test_what_is_stored_is_found_and_loaded_back(daemon):
    pair = Pair(daemon)
    assert pair.store(keys(5)) == 5
    with pair.scheduler.lookup([(0, keys(6))], 6 * 16) as lookup:
        assert (lookup.hit_tokens, lookup.spans) == (80, ((0, 0, 5),))
        with lookup.commit() as lease:
            assert lease.lost == 0
            before = pair.device.raw[: 5 * PAGE]
            pair.copy(abi.COPY_LOAD, lease.slots, first_block=6)
            assert pair.device.raw[6 * PAGE : 11 * PAGE] == before
    pair.close()


def test_engines_with_different_fields_do_not_see_each_other(daemon):
    one, two = Pair(daemon, {"model.id": b"m"}), Pair(daemon, {"model.id": b"n"})
    one.store(keys(3))
    with two.scheduler.lookup([(0, keys(3))], 48) as lookup:
        assert lookup.hit_tokens == 0
    one.close()
    two.close()


def test_a_second_store_of_a_block_is_told_that_it_is_present(daemon):
    pair = Pair(daemon)
    pair.store(keys(2))
    grants = pair.scheduler.reserve_now([(0, keys(2))])
    assert grants == (bytes(4) + abi.GRANT_ALREADY_PRESENT.to_bytes(4, "little")) * 2
    pair.close()


def test_a_reset_moves_to_an_empty_namespace(daemon):
    pair = Pair(daemon)
    pair.store(keys(2))
    before = pair.scheduler.info().namespace_id
    tag = pair.scheduler.next_tag()
    pair.scheduler.namespace_reset(tag)
    pair.scheduler.wait_for(abi.OP_RESET, tag)
    assert pair.scheduler.info().namespace_id != before
    with pair.scheduler.lookup([(0, keys(2))], 32) as lookup:
        assert lookup.hit_tokens == 0
    pair.close()


def test_no_daemon_is_an_exception_or_a_lost_session(tmp_path):
    options = {"role": abi.ROLE_SCHEDULER, "engine_group": bytes(16), "groups": [Group(16)], "fields": {}}
    options["socket_path"] = str(tmp_path / "nothing.sock")
    with pytest.raises(Unavailable) as failure:
        Session(**options)
    assert failure.value.status == Status.UNAVAILABLE
    with Session(**options, reattach=True) as session:
        assert session.info().attachment == 0
        with pytest.raises(SessionLost):
            session.lookup_submit(1, [(0, keys(1))], 16)


def test_a_refusal_says_why(daemon):
    pair = Pair(daemon)
    with pytest.raises(Refused) as failure:
        Session(
            role=abi.ROLE_SCHEDULER, engine_group=bytes(16), groups=[Group(16)], fields={},
            socket_path=daemon.socket, tenant="nobody-has-this",
        )
    assert "nobody-has-this" in str(failure.value)
    pair.close()


def test_bad_transfers_move_nothing(daemon):
    pair = Pair(daemon)
    slots = pair.scheduler.reserve_now([(0, keys(1))])
    for line in (
        slots + BLOCKS.to_bytes(4, "little") + bytes(4),
        slots + bytes(4) + (1).to_bytes(4, "little"),
        b"\xff" * 4 + slots[4:] + bytes(8),
    ):
        with pytest.raises(KVTierError):
            pair.copier.submit(pair.worker, 1, abi.COPY_STORE, 0, line)
    assert pair.copier.poll() == []
    pair.close()


def test_a_session_finds_a_daemon_that_came_back(daemon):
    pair = Pair(daemon, reattach=True)
    pair.store(keys(2))
    epoch = pair.scheduler.info().boot_epoch
    daemon.kill()
    until = time.monotonic() + 20
    for session in (pair.scheduler, pair.worker):
        with pytest.raises(SessionLost):
            while time.monotonic() < until:
                session.poll()
                session.wait(20_000)
    daemon.start()
    pair.ready()
    assert pair.scheduler.info().attachment == 2
    assert pair.scheduler.info().boot_epoch != epoch
    with pair.scheduler.lookup([(0, keys(2))], 32) as lookup:
        assert lookup.hit_tokens == 0
    assert pair.store(keys(2)) == 2
    pair.close()


def settle(scheduler: Session) -> dict:
    """Waits until all that was on NVMe is known and all that was stored is there; the counters then."""
    until = time.monotonic() + 60
    while True:
        counters = scheduler.counters()
        busy = counters["occupancy"]["nvme_queue"] + counters["occupancy"]["nvme_writes_in_flight"]
        if not busy and all(device["state"] != "loading" for device in counters["nvme"]):
            return counters
        assert time.monotonic() < until, f"not settled: {counters}"
        time.sleep(0.02)


@pytest.mark.parametrize("settings", [{}, {"nvme_io": "threads", "nvme_direct": "never"}])
def test_what_left_host_memory_comes_back_from_nvme_also_after_a_kill(tmp_path, settings):
    nvme = {"nvme_directories": str(tmp_path / "nvme"), "nvme_capacity": "128MiB", "nvme_promotion_deadline": "20s"}
    daemon = Daemon(tmp_path, "8MiB", **nvme, **settings).start()
    pair = Pair(daemon, reattach=True, page=64 << 10)
    batches = 20  # twice what host memory has room for
    stored = {}
    for batch in range(batches):
        ctypes.memmove(pair.device, os.urandom(len(pair.device)), len(pair.device))
        stored[batch] = pair.device.raw
        assert pair.store(keys(BLOCKS, f"{batch}:")) == BLOCKS
        settle(pair.scheduler)

    def compare() -> int:
        promoted = 0
        for batch in range(batches):
            with pair.scheduler.lookup([(0, keys(BLOCKS, f"{batch}:"))], BLOCKS * 16, 30) as lookup:
                assert lookup.hit_tokens == BLOCKS * 16, f"batch {batch}"
                promoted += lookup.promoted
                with lookup.commit() as lease:
                    ctypes.memset(pair.device, 0, len(pair.device))
                    pair.copy(abi.COPY_LOAD, lease.slots)
                    assert pair.device.raw == stored[batch], f"batch {batch}"
        return promoted

    assert compare() > 0
    daemon.kill()
    daemon.start()
    pair.ready()
    assert settle(pair.scheduler)["counters"]["nvme_blocks_loaded"] == batches * BLOCKS
    assert compare() == batches
    assert not pair.scheduler._stash
    pair.close()
    daemon.kill()


def test_counters_tell_what_happened(daemon):
    pair = Pair(daemon)
    pair.store(keys(3))
    counters = pair.scheduler.counters()["counters"]
    assert counters["published"] == 3
    pair.close()


def test_closing_twice_is_harmless_and_a_closed_session_fails_cleanly(daemon):
    pair = Pair(daemon)
    pair.close()
    pair.close()
    with pytest.raises(KVTierError):
        pair.scheduler.lookup_release(1)
