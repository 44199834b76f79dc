"""Stands in for an engine: attaches, stores blocks of known bytes once, loads them over and over and compares.

Every change of what it sees is a line of JSON. It goes on through everything that the daemon does.
"""

import ctypes
import hashlib
import json
import os
import signal
import sys
import time
from array import array

from kvtier.client import Group, KVTierError, Session, abi, block_run

BLOCKS, SIZE, TOKENS = 64, 1 << 18, 16
SOCKET = "/run/kvtier/kvtier.sock"
HASHES = [hashlib.sha256(str(block).encode()).digest() for block in range(BLOCKS)]
BYTES = [hash_ * (SIZE // len(hash_)) for hash_ in HASHES]
KEYS = [(0, b"".join(HASHES))]


def say(**what):
    print(json.dumps(what), flush=True)


def attach(role, groups, start, **more):
    """Asks until it is let in; what is refused is said once."""
    said = None
    while True:
        try:
            pod = f"{os.environ.get('POD_IP', '127.0.0.1')}:8000"
            fields = {"model.id": b"example"}
            return Session(role=role, groups=groups, engine_group=start, fields=fields, socket_path=SOCKET, reattach=True, pod=pod, model="example", **more)
        except KVTierError as error:
            if said != str(error):
                say(refused=str(error))
                said = str(error)
            time.sleep(0.5)


def slots_of(answer):
    """Numbers of blocks and their slots, without those that have none."""
    slots = ((block, answer[8 * block : 8 * block + 8]) for block in range(len(answer) // 8))
    return [(block, slot) for block, slot in slots if slot[:4] != bytes(4)]


def store(scheduler, worker):
    tag = scheduler.next_tag()
    scheduler.reserve(tag, KEYS, [block_run(BLOCKS, TOKENS, array("I", range(BLOCKS * TOKENS)))])
    granted = slots_of(scheduler.wait_for(abi.OP_RESERVE, tag, 10).slots)
    for block, slot in granted:
        address, _ = worker.slot_address(slot, 0)
        ctypes.memmove(address, BYTES[block], SIZE)
    if granted:
        say(stored=worker.seal_now(b"".join(slot for _, slot in granted), 10).value)


def load(scheduler, worker):
    """(blocks that are there, blocks whose bytes are wrong)."""
    with scheduler.lookup(KEYS, BLOCKS * TOKENS, 10) as found:
        hit, wrong = found.hit_tokens // TOKENS, 0
        if hit:
            with found.commit() as lease:
                for block, slot in slots_of(lease.slots):
                    address, _ = worker.slot_address(slot, 0)
                    wrong += ctypes.string_at(address, SIZE) != BYTES[block]
    return hit, wrong


def main():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    start = os.urandom(16)
    worker = attach(abi.ROLE_WORKER, [Group(TOKENS, 0, SIZE)], start, rank_fields={"layers": b"a"})
    scheduler = attach(abi.ROLE_SCHEDULER, [Group(TOKENS)], start)
    stored, last = False, None
    while True:
        try:
            scheduler.wait_ready(5)
            worker.wait_ready(5)
            if not stored:
                store(scheduler, worker)
                stored = True
            hit, wrong = load(scheduler, worker)
            now = {"attachment": scheduler.state()[1], "hit": hit, "wrong": wrong}
        except KVTierError as error:
            now = {"error": type(error).__name__}
        if now != last:
            say(**now)
            last = now
        time.sleep(0.3)


if __name__ == "__main__":
    main()
