"""The scheduler's session: its state, cheap enough to be asked in every hook, and submits that never raise."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from kvtier.client import Completion, KVTierError, Session, TraceContext, TracedRequest, abi

logger = logging.getLogger("vllm.kvtier")


class Link:
    """A session, with the loss of the daemon turned into answers instead of exceptions."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.ready = False
        self.attachment = 0
        self.epoch = b""
        self.traces_below: int | None = None
        """None: nobody records traces. Else which requests are followed."""

    def refresh(self) -> bool:
        """Looks at the session's state; says whether it was lost or attached anew since the last look, which voids
        every tag, lease and slot."""
        state, attachment = self.session.state()
        lost = state == abi.STATE_LOST
        changed = attachment != self.attachment or (lost and self.epoch != b"")
        self.ready = state == abi.STATE_READY
        if attachment != self.attachment:
            logger.info("kvtier: attached to the daemon (attachment %d)", attachment)
            self.attachment = attachment
            self.traces_below = self.session.traces_below()
        if lost:
            if self.epoch:
                logger.warning("kvtier: the daemon is gone; serving without it until it is back")
            self.epoch, self.traces_below = b"", None
        elif changed or not self.epoch:
            self.epoch = self.session.info().boot_epoch
        return changed

    def submit(self, call: Callable[[], None]) -> bool:
        """Runs a submit; False if nothing was sent."""
        try:
            call()
        except KVTierError as error:
            logger.debug("kvtier: nothing was sent: %s", error)
            return False
        return True

    def poll(self) -> Completion | None:
        """The next answer; a session that broke has none."""
        try:
            return self.session.poll()
        except KVTierError as error:
            logger.debug("kvtier: %s", error)
            return None

    def wait(self, timeout_us: int) -> None:
        """A bounded wait for an answer."""
        try:
            self.session.wait(timeout_us)
        except KVTierError as error:
            logger.debug("kvtier: %s", error)

    def abort(self, slots: bytes) -> None:
        """Gives reserved slots back that no worker was told of."""
        if slots:
            self.submit(lambda: self.session.abort(self.session.next_tag(), slots))

    def follow(self, tag: int, contexts: Sequence[TraceContext]) -> None:
        """Says whose the keys of the next message are."""
        self.submit(lambda: self.session.trace_next(tag, contexts))

    def followed(self, request: TracedRequest) -> None:
        """Says that a request that was followed is over."""
        self.submit(lambda: self.session.trace_request(request))

    def lookup(self, tag: int, keys: Sequence[tuple[int, bytes]], tokens_max: int) -> bool:
        """Asks for a prefix."""
        return self.submit(lambda: self.session.lookup_submit(tag, keys, tokens_max))
