"""A daemon simple enough to be obviously right, in this process, that checks every rule a client has to keep.

It delays, evicts, loses holds, dies and comes back at random. Breaking a rule is recorded in `violations`: the
connector swallows exceptions, a test must not.
"""

from __future__ import annotations

import ctypes
import itertools
import random
from dataclasses import dataclass, field

from kvtier.client import Completion, DeviceLost, RingFull, SessionInfo, SessionLost, Span, Status, abi


@dataclass
class Slot:
    page: int
    generation: int
    memory: dict[int, ctypes.Array] = field(default_factory=dict)
    leases: int = 0


@dataclass
class Filling:
    key: tuple
    slot: Slot
    ranks_left: set[int]
    aborted: bool = False


class FakeDaemon:
    """One node's daemon. `capacity` counts slots of all groups."""

    current: FakeDaemon

    def __init__(self, rng: random.Random, capacity: int = 64) -> None:
        self.rng, self.capacity = rng, capacity
        self.violations: list[str] = []
        self.boots = itertools.count(1)
        self.sessions: list[FakeSession] = []
        self.answer_chance, self.lost_chance, self.ring_full_chance = 0.7, 0.02, 0.01
        # How often a look-up that hits waits for promotions, and how often those have arrived when it is looked.
        self.pending_chance, self.arrival_chance = 0.0, 0.1
        self.counts: dict[str, int] = {}
        # Which requests are to be followed, if any; whose messages were, and requests that were told to be over.
        self.traces_below: int | None = None
        self.traced: list[tuple[str, int, list]] = []
        self.followed: list = []
        # What was said of each key: parent, tokens, LoRA name, extra keys.
        self.said: dict[tuple, tuple] = {}
        # How often a device refuses a copy; what it was writing when it was lost, which is nobody's to give back.
        self.refusal_chance = 0.01
        self.device_lost = False
        self.untouchable: set[int] = set()
        self.alive = False
        self.nonce = 0
        self.start()

    def start(self) -> None:
        self.boot = next(self.boots)
        self.alive = True
        self.blocks: dict[tuple, Slot] = {}
        self.filling: dict[int, Filling] = {}
        self.pages = itertools.count(1)
        self.memory: dict[int, Slot] = {}
        self.nonce = 0

    def kill(self) -> None:
        self.alive = False

    def broken(self, what: str) -> None:
        self.violations.append(what)
        raise AssertionError(what)

    def count(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1

    @property
    def ready(self) -> bool:
        here = [s for s in self.sessions if s.boot == self.boot and not s.closed]
        roles = {(s.role, s.rank) for s in here}
        return bool(here) and roles >= {(0, 0), *((1, rank) for rank in range(here[0].rank_count))}

    def take_slot(self) -> Slot | None:
        if len(self.blocks) + len(self.filling) >= self.capacity:
            free = [key for key, slot in self.blocks.items() if not slot.leases]
            if not free or self.rng.random() < 0.05:
                return None
            victim = self.blocks.pop(self.rng.choice(free))
            del self.memory[victim.page]
            self.count("evicted")
        slot = Slot(next(self.pages), self.rng.randrange(1, 1 << 32))
        self.memory[slot.page] = slot
        return slot

    def finish(self, filling: Filling) -> None:
        if not filling.ranks_left:
            del self.filling[filling.slot.page]
            if filling.aborted:
                del self.memory[filling.slot.page]
            else:
                self.blocks[filling.key] = filling.slot
                self.count("published")

    def leased(self) -> int:
        return sum(slot.leases for slot in self.memory.values())


class FakeSession:
    """What the connector sees of the daemon."""

    def __init__(self, *, role, engine_group, groups, fields, rank_fields=None, rank=0, rank_count=1, **_) -> None:
        self.daemon = FakeDaemon.current
        self.role, self.rank, self.rank_count, self.groups = role, rank, rank_count, groups
        self.closed, self.attachment, self.boot = False, 0, 0
        self._tags = itertools.count(1)
        self._forget()
        self.daemon.sessions.append(self)
        self._try_attach(always=True)

    def _forget(self) -> None:
        self.answers: list[Completion] = []
        self.lookups: dict[int, tuple] = {}
        self.promoting: dict[int, tuple] = {}
        self.leases: dict[int, list[Slot]] = {}
        self.whose: tuple[int, list] | None = None

    def _try_attach(self, always: bool = False) -> None:
        daemon = self.daemon
        if daemon.alive and self.boot != daemon.boot and (always or daemon.rng.random() < 0.3):
            self._forget()
            self.boot, self.attachment = daemon.boot, self.attachment + 1
            self.lost = False

    def _check(self) -> None:
        if not self.daemon.alive or self.boot != self.daemon.boot:
            raise SessionLost(3, "lost")
        if self.daemon.rng.random() < self.daemon.ring_full_chance:
            raise RingFull(8, "full")

    # What the connector calls

    def next_tag(self) -> int:
        return next(self._tags)

    def state(self) -> tuple[int, int]:
        daemon = self.daemon
        if not daemon.alive or self.boot != daemon.boot:
            if getattr(self, "lost", False):
                self._try_attach()
            else:
                self.lost = True
        if not daemon.alive or self.boot != daemon.boot:
            return abi.STATE_LOST, self.attachment
        return (abi.STATE_READY if daemon.ready else abi.STATE_WAITING), self.attachment

    def info(self) -> SessionInfo:
        state, attachment = self.state()
        return SessionInfo(state, attachment, self.boot.to_bytes(16, "little"), b"", 0)

    def poll(self) -> Completion | None:
        if not self.daemon.alive or self.boot != self.daemon.boot:
            raise SessionLost(3, "lost")
        for tag in [tag for tag in self.promoting if self.daemon.rng.random() < self.daemon.arrival_chance]:
            self.daemon.count("promoted")
            self._answer_lookup(tag, *self.promoting.pop(tag))
        if self.answers and self.daemon.rng.random() < self.daemon.answer_chance:
            return self.answers.pop(0)
        return None

    def wait(self, timeout_us: int) -> None:
        pass

    def traces_below(self) -> int | None:
        return self.daemon.traces_below

    def trace_next(self, tag, contexts) -> None:
        self._check()
        if self.daemon.traces_below is None:
            self.daemon.broken("a daemon that records no traces is told of one")
        if not 1 <= len(contexts) <= 256 or not all(any(context.trace_id) or context.keys for context in contexts):
            self.daemon.broken(f"no contexts: {contexts}")
        self.whose = tag, list(contexts)

    def trace_request(self, request) -> None:
        self._check()
        if request.start_unix_ns > request.end_unix_ns:
            self.daemon.broken(f"a request that ended before it came: {request}")
        self.daemon.followed.append(request)

    def _take_whose(self, what: str, tag: int, keys: int) -> None:
        whose, self.whose = self.whose, None
        # What was said of a message that did not come is forgotten.
        if whose is None or whose[0] != tag:
            return
        if what == "reserve" and sum(context.keys for context in whose[1]) != keys and len(whose[1]) < 256:
            self.daemon.broken(f"{keys} keys, and contexts for others: {whose[1]}")
        self.daemon.traced.append((what, keys, whose[1]))

    def close(self) -> None:
        if self.role == abi.ROLE_WORKER and self.daemon.untouchable:
            self.daemon.broken("a worker says good-bye although a device may be writing into its slots")
        self.closed = True

    def _answer(self, tag, op, status=0, value=0, spans=(), slots=b"") -> None:
        self.answers.append(Completion(tag, op, status, value, 0, 0, tuple(spans), slots, b""))

    def _keys(self, groups) -> list[tuple[int, list[tuple]]]:
        if len({group for group, _ in groups}) != len(groups):
            self.daemon.broken("a group is named twice in one message")
        split = []
        for group, joined in groups:
            hashes = [joined[at : at + 32] for at in range(0, len(joined), 32)]
            split.append((group, [(self.daemon.nonce, group, value) for value in hashes]))
        return split

    def lookup_submit(self, tag, groups, tokens_max) -> None:
        self._check()
        daemon = self.daemon
        self._take_whose("lookup", tag, sum(len(keys) for _, keys in self._keys(groups)))
        if tag in self.lookups or tag in self.promoting or tag in self.leases:
            daemon.broken(f"look-up tag {tag} is in use")
        if not daemon.ready:
            self._answer(tag, abi.OP_LOOKUP, 4)
            return
        keys = dict(self._keys(groups))
        hit = self._longest(keys, tokens_max)
        if hit and daemon.rng.random() < daemon.pending_chance:
            self.promoting[tag] = (keys, tokens_max)
            self._answer(tag, abi.OP_LOOKUP_PENDING, 0, hit)
        else:
            self._answer_lookup(tag, keys, tokens_max)

    def _answer_lookup(self, tag, keys, tokens_max) -> None:
        hit = self._longest(keys, tokens_max)
        spans = [Span(g, *self._needed(g, hit)) for g in range(len(self.groups)) if hit] if hit else []
        if hit:
            self.lookups[tag] = (keys, spans)
        self._answer(tag, abi.OP_LOOKUP, 0, hit, spans)

    def _needed(self, group: int, hit: int) -> tuple[int, int]:
        spec = self.groups[group]
        first = max(0, hit - spec.window_tokens + 1) // spec.tokens_per_block if spec.window_tokens else 0
        return first, hit // spec.tokens_per_block - first

    def _longest(self, keys, tokens_max) -> int:
        import math

        step = math.lcm(*(spec.tokens_per_block for spec in self.groups))
        for hit in range(tokens_max // step * step, 0, -step):
            if all(self._has(group, keys[group], hit) for group in range(len(self.groups))):
                return hit
        return 0

    def _has(self, group, keys, hit) -> bool:
        first, count = self._needed(group, hit)
        return len(keys) >= first + count and all(key in self.daemon.blocks for key in keys[first : first + count])

    def lookup_release(self, tag) -> None:
        self._check()
        self.lookups.pop(tag, None)
        self.promoting.pop(tag, None)

    def load_commit(self, lookup_tag, lease_tag, spans) -> None:
        self._check()
        daemon = self.daemon
        if lookup_tag in self.promoting:
            daemon.broken("commit of a look-up that is not answered")
        keys, held = self.lookups.pop(lookup_tag, (None, None))
        if lease_tag in self.leases or lease_tag in self.lookups or lease_tag in self.promoting:
            daemon.broken("lease tag in use")
        grants, lost, leased = b"", 0, []
        for group, first, count in spans:
            if keys is None or not any(
                span.group == group and span.first <= first and first + count <= span.first + span.count
                for span in held
            ):
                daemon.broken("commit of a span that is not held")
            for key in keys[group][first : first + count]:
                slot = daemon.blocks.get(key)
                if slot is None or daemon.rng.random() < daemon.lost_chance:
                    lost += 1
                    grants += (0).to_bytes(4, "little") + abi.GRANT_LOST.to_bytes(4, "little")
                else:
                    slot.leases += 1
                    leased.append(slot)
                    grants += slot.page.to_bytes(4, "little") + slot.generation.to_bytes(4, "little")
        if leased:
            self.leases[lease_tag] = leased
        daemon.count("commits")
        self._answer(lease_tag, abi.OP_LOAD, 0, lost, (), grants)

    def lease_release(self, tag) -> None:
        self._check_for_release()
        for slot in self.leases.pop(tag, ()):
            slot.leases -= 1

    def _check_for_release(self) -> None:
        if not self.daemon.alive or self.boot != self.daemon.boot:
            raise SessionLost(3, "lost")

    def reserve(self, tag, groups, runs=()) -> None:
        self._check()
        daemon = self.daemon
        self._take_whose("reserve", tag, sum(len(keys) for _, keys in self._keys(groups)))
        self._read_runs(groups, runs)
        grants = b""
        filling = {entry.key for entry in daemon.filling.values()}
        for _, keys in self._keys(groups):
            for key in keys:
                code, slot = 0, None
                if not daemon.ready:
                    code = abi.GRANT_NOT_READY
                elif key in daemon.blocks:
                    code = abi.GRANT_ALREADY_PRESENT
                elif key in filling:
                    code = abi.GRANT_FILLING
                elif (slot := daemon.take_slot()) is None:
                    code = abi.GRANT_NO_SPACE
                else:
                    daemon.filling[slot.page] = Filling(key, slot, set(range(self.rank_count)))
                    filling.add(key)
                page, generation = (slot.page, slot.generation) if slot else (0, code)
                grants += page.to_bytes(4, "little") + generation.to_bytes(4, "little")
        self._answer(tag, abi.OP_RESERVE, 0, 0, (), grants)

    def _read_runs(self, groups, runs) -> None:
        """What is said of the keys, read the way the library would; it has to cover them, none of it across groups."""
        daemon, runs = self.daemon, list(runs)
        for group, keys in self._keys(groups):
            keys = list(keys)
            while keys and runs:
                run = runs.pop(0)
                own, keys = keys[: run.blocks], keys[run.blocks :]
                if len(own) != run.blocks or run.tokens_per_block not in (0, self.groups[group].tokens_per_block):
                    daemon.broken(f"a run of {run.blocks} x {run.tokens_per_block} does not fit group {group}")
                parent = ctypes.string_at(ctypes.addressof(run) + 8, 8)
                parent = ctypes.string_at(int.from_bytes(parent, "little"), 32) if any(parent) else None
                for index, key in enumerate(own if run.tokens_per_block else ()):
                    at = run.tokens + 4 * index * run.tokens_per_block
                    raw = ctypes.string_at(at, 4 * run.tokens_per_block)
                    tokens = tuple(memoryview(raw).cast("I"))
                    said = (parent, tokens, run.lora_name, run.extra_keys or b"")
                    if daemon.said.setdefault(key, said) != said:
                        daemon.broken(f"{key!r} is described in two ways")
                    parent = key[2]
            if keys and runs:
                daemon.broken("runs do not cover the keys")
        if runs:
            daemon.broken("there are more runs than keys")

    def _fillings(self, slots) -> list[Filling]:
        found = []
        for at in range(0, len(slots), 8):
            page = int.from_bytes(slots[at : at + 4], "little")
            generation = int.from_bytes(slots[at + 4 : at + 8], "little")
            entry = self.daemon.filling.get(page)
            if entry is None or entry.slot.generation != generation:
                self.daemon.count("stale")
                continue
            found.append(entry)
        return found

    def seal(self, tag, slots) -> None:
        self._check()
        for entry in self._fillings(slots):
            if self.rank not in entry.ranks_left:
                self.daemon.broken("a rank sealed a slot twice")
            entry.ranks_left.discard(self.rank)
            self.daemon.finish(entry)
        self._answer(tag, abi.OP_SEAL)

    def abort(self, tag, slots) -> None:
        self._check_for_release()
        for entry in self._fillings(slots):
            if entry.slot.page in self.daemon.untouchable:
                self.daemon.broken("a slot is given back that a device may be writing into")
            entry.aborted = True
            if self.role == abi.ROLE_SCHEDULER:
                entry.ranks_left.clear()
            entry.ranks_left.discard(self.rank)
            self.daemon.finish(entry)
        self._answer(tag, abi.OP_ABORT)

    def namespace_reset(self, tag) -> None:
        self._check_for_release()
        self.daemon.nonce += 1
        self.lookups.clear()
        for pending in self.promoting:
            self._answer(pending, abi.OP_LOOKUP)
        self.promoting.clear()
        for entry in self.daemon.filling.values():
            entry.aborted = True
        self._answer(tag, abi.OP_RESET)


class FakeCopier:
    """Copies late and in any order, so that a block which is not pinned or a slot which is not leased shows."""

    def __init__(self, tensors, config) -> None:
        self.daemon = FakeDaemon.current
        self.groups: dict[int, tuple[int, list]] = {}
        self.queue: list[tuple] = []

    def group_set(self, group, blocks_per_chunk, runs) -> None:
        self.groups[group] = (blocks_per_chunk, list(runs))

    def attached(self, session) -> None:
        pass

    def watch(self) -> None:
        pass

    def submit(self, session, tag, direction, group, transfers) -> None:
        daemon = self.daemon
        if daemon.device_lost:
            raise DeviceLost(Status.DEVICE_LOST, "lost")
        lines = [
            tuple(int.from_bytes(transfers[at + 4 * i : at + 4 * i + 4], "little") for i in range(4))
            for at in range(0, len(transfers), 16)
        ]
        slots = []
        for page, generation, block, place in lines:
            slot = daemon.memory.get(page)
            if session.boot != daemon.boot:
                slot = Slot(page, generation)  # the old region stays mapped; nobody looks at it any more
                if direction == abi.COPY_LOAD:
                    slot = None
            elif slot is None or slot.generation != generation:
                daemon.broken(f"a copy names slot {page}, which is not granted")
            elif direction == abi.COPY_LOAD and not slot.leases:
                daemon.broken(f"a load reads slot {page} without a lease")
            elif direction == abi.COPY_STORE and page not in daemon.filling:
                daemon.broken(f"a store writes slot {page}, which is not reserved")
            if block == 0:
                daemon.broken("a copy names the null block")
            slots.append((slot, group, block, place))
        self.queue.append((tag, direction, session.rank, slots))

    def poll(self) -> list:
        from kvtier.client import CopyResult

        done, left = [], []
        for job in self.queue:
            if self.daemon.rng.random() < 0.6:
                tag, direction, rank, slots = job
                status = self._status(direction, slots)
                size = 0 if status else sum(self._copy(direction, rank, *line) for line in slots)
                done.append(CopyResult(tag, status, size))
            else:
                left.append(job)
        self.queue = left
        return done

    def _status(self, direction, slots) -> int:
        if self.daemon.device_lost:
            if direction == abi.COPY_STORE:
                self.daemon.untouchable |= {slot.page for slot, *_ in slots}
            return Status.DEVICE_LOST
        if any(slot is None for slot, *_ in slots):
            return Status.SESSION_LOST
        if self.daemon.rng.random() < self.daemon.refusal_chance:
            self.daemon.count("refused")
            return Status.DEVICE_ERROR
        return Status.OK

    def _copy(self, direction, rank, slot, group, block, place) -> int:
        per_chunk, runs = self.groups[group]
        block_bytes = sum(run.page_bytes for run in runs)
        memory = slot.memory.setdefault(rank, ctypes.create_string_buffer(block_bytes * per_chunk))
        at = ctypes.addressof(memory) + place * block_bytes
        for run in runs:
            if block >= run.page_count:
                self.daemon.broken("a copy names a block beyond the cache")
            page = run.base + block * run.stride_bytes
            target, source = (at, page) if direction == abi.COPY_STORE else (page, at)
            ctypes.memmove(target, source, run.page_bytes)
            at += run.page_bytes
        return block_bytes

    def close(self) -> None:
        self.queue.clear()
