"""Events of kvtier's blocks, for vLLM's own publisher: for routers that only listen to engines.

The daemon says what becomes of the blocks, in batches and only as many as this side has given credit for. They arrive
among the session's other answers and wait, undecoded, until vLLM takes events; each step takes in a bounded number.

A daemon that is lost takes nothing back. So what was passed on is remembered, and said to be removed before anything else
is passed on. An attachment begins with everything that is there.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import Any

import msgspec

from kvtier.client import Completion, KVTierError, Status

from . import compat
from .config import Config
from .link import Link

logger = logging.getLogger("vllm.kvtier")

# Messages that may be under way: as many as the daemon allows. Each has 32 KiB at most.
CREDIT = 8
# What one step takes in, and takes back.
MESSAGES_PER_STEP, REMOVALS_PER_STEP = 4, 4096
# Blocks that are remembered, to be taken back after a loss; about 100 bytes each. Those beyond it a router forgets by itself.
KNOWN_MAX = 1 << 18


def make_relay(vllm_config: Any, config: Config, link: Link) -> Relay | None:
    """A relay if it is wanted and of use."""
    if not config.relay_events:
        return None
    events = getattr(vllm_config, "kv_events_config", None)
    if events is None or not events.enable_kv_cache_events:
        logger.warning(
            "kvtier: relay_events has no effect, because vLLM publishes no events; start it with "
            '--kv-events-config \'{"enable_kv_cache_events":true,"publisher":"zmq"}\''
        )
        return None
    types = compat.event_types()
    if types is None:
        logger.warning("kvtier: relay_events has no effect: this vLLM's events are not known")
        return None
    return Relay(link, types)


class Relay:
    """What the daemon says of blocks, on its way to vLLM's publisher."""

    def __init__(self, link: Link, types: compat.EventTypes) -> None:
        self._link, self._types = link, types
        self._decoder = msgspec.msgpack.Decoder(types.batch)
        # Where a block can be: all that a removal says beside hashes.
        self._place = [name for name in types.removed.__struct_fields__ if name != "block_hashes"]
        self._waiting: deque[bytes] = deque()
        self._known: dict[tuple[Any, ...], set[Any]] = {}
        self._lost: list[tuple[tuple[Any, ...], list[Any]]] = []
        # Messages whose credit is still to be given back; at first all of it is.
        self._owed, self._over = CREDIT, False

    def follow(self, changed: bool) -> None:
        """Looks after the subscription; `changed`: the daemon was lost, or attached anew."""
        if changed:
            self._begin_anew()
        # The first credit is the subscription. Later credit is given in batches.
        if self._link.epoch and not self._over and 2 * self._owed >= CREDIT:
            self._give_credit()

    def on_events(self, completion: Completion) -> None:
        """The daemon has said something."""
        if completion.value:
            self._over = True
            logger.warning('kvtier: relay_events has no effect: the daemon needs events.relay = "on-request"')
        elif not self._over:
            self._waiting.append(completion.data)

    def take(self) -> list[Any]:
        """The next events for vLLM. What the daemon should not have said ends the relay, and nothing else."""
        if self._lost:
            return [self._withdraw()]
        events: list[Any] = []
        try:
            for _ in range(min(len(self._waiting), MESSAGES_PER_STEP)):
                batch = self._decoder.decode(self._waiting.popleft())
                self._owed += 1
                for event in batch.events:
                    self._adapt(event)
                events.extend(batch.events)
        except Exception:
            self._over = True
            self._begin_anew()
            logger.exception("kvtier relays no more events: what the daemon said is none that this vLLM knows")
        return events

    def _adapt(self, event: Any) -> None:
        """Makes an event of ours one of the engine's, and remembers it."""
        convert = self._types.hash_of
        event.block_hashes = [convert(value) for value in event.block_hashes]
        place = tuple(getattr(event, name, None) for name in self._place)
        if isinstance(event, self._types.removed):
            self._known.get(place, set()).difference_update(event.block_hashes)
            return
        if event.parent_block_hash is not None:
            event.parent_block_hash = convert(event.parent_block_hash)
        if sum(map(len, self._known.values())) < KNOWN_MAX:
            self._known.setdefault(place, set()).update(event.block_hashes)

    def _withdraw(self) -> Any:
        """Takes back some of what was passed on of a daemon that is gone."""
        place, hashes = self._lost[-1]
        some = hashes[-REMOVALS_PER_STEP:]
        del hashes[-REMOVALS_PER_STEP:]
        if not hashes:
            self._lost.pop()
        return self._types.removed(block_hashes=some, **dict(zip(self._place, place)))

    def _begin_anew(self) -> None:
        self._waiting.clear()
        self._owed = CREDIT
        self._lost.extend((place, list(hashes)) for place, hashes in self._known.items() if hashes)
        self._known = {}

    def _give_credit(self) -> None:
        try:
            self._link.session.events_request(self._owed)
        except KVTierError as error:
            if error.status == Status.UNSUPPORTED:
                self._over = True
                logger.warning("kvtier: relay_events has no effect: %s", error)
            return
        self._owed = 0
