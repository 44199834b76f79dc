"""Look-ups and leases as context managers, so that nothing stays held when a block of code is left."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from . import abi
from .completion import Span
from .errors import SessionLost, error_of

if TYPE_CHECKING:
    from .session import Session


class Lookup:
    """An answered look-up. Its blocks are held until `release`, `commit`, or the end of the `with` block.

    `promoted` says whether blocks had to come from a slower tier first.
    """

    def __init__(
        self, session: Session, tag: int, hit_tokens: int, spans: tuple[Span, ...], promoted: bool = False
    ) -> None:
        self._session, self._tag = session, tag
        self.hit_tokens, self.spans, self.promoted = hit_tokens, spans, promoted
        self._held = hit_tokens > 0

    def commit(self, spans: Sequence[Span] | None = None, timeout: float = 5.0) -> Lease:
        """Turns holds into a lease on slots. The look-up's other holds are given up."""
        session, tag = self._session, self._session.next_tag()
        session.load_commit(self._tag, tag, self.spans if spans is None else spans)
        self._held = False
        answer = session.wait_for(abi.OP_LOAD, tag, timeout)
        if answer.status:
            raise error_of(answer.status, abi.status_text(answer.status))
        return Lease(session, tag, answer.slots, answer.value)

    def release(self) -> None:
        """Gives up the holds. Calling it twice is harmless, and so is a daemon that has gone."""
        if self._held:
            self._held = False
            try:
                self._session.lookup_release(self._tag)
            except SessionLost:
                pass

    def __enter__(self) -> Lookup:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class Lease:
    """Slots that cannot be evicted. `slots` has 8 bytes for each block; `lost` says how many could not be kept."""

    def __init__(self, session: Session, tag: int, slots: bytes, lost: int) -> None:
        self._session, self._tag, self.slots, self.lost = session, tag, slots, lost
        self._held = True

    def release(self) -> None:
        """Ends the lease; the slots' bytes must not be touched afterwards. Calling it twice is harmless."""
        if self._held:
            self._held = False
            try:
                self._session.lease_release(self._tag)
            except SessionLost:
                pass

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
