"""What travels between the scheduler's connector and the workers': compact, without token lists.

Slots are 8 bytes each (page, generation), blocks 4 bytes each, both little-endian and joined into one bytes object.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorMetadata, KVConnectorWorkerMetadata


class Part(NamedTuple):
    """One group's share of a job: chunks in slots, and the device blocks they hold.

    The first block is number `first` of its chunk; the rest follow one another.
    """

    group: int
    slots: bytes
    blocks: bytes
    first: int


class LoadJob(NamedTuple):
    """Slots to device blocks, for one request."""

    job: int
    request: str
    epoch: bytes
    parts: tuple[Part, ...]


class StoreJob(NamedTuple):
    """Device blocks to slots, then a seal."""

    job: int
    epoch: bytes
    parts: tuple[Part, ...]


class FailedLoad(NamedTuple):
    """A load that was never sent to the workers and has to be reported as failed by all of them."""

    request: str
    blocks: bytes


@dataclass
class KVTierMetadata(KVConnectorMetadata):
    """One step's orders to the workers."""

    loads: list[LoadJob] = field(default_factory=list)
    stores: list[StoreJob] = field(default_factory=list)
    failed: list[FailedLoad] = field(default_factory=list)

    def is_empty(self) -> bool:
        """Whether there is nothing to do."""
        return not (self.loads or self.stores or self.failed)


@dataclass
class KVTierWorkerMetadata(KVConnectorWorkerMetadata):
    """One step's news from the workers: how many of them finished each job, and which jobs failed anywhere."""

    finished: dict[int, int] = field(default_factory=dict)
    failed: set[int] = field(default_factory=set)

    def aggregate(self, other: KVConnectorWorkerMetadata) -> KVTierWorkerMetadata:
        """Adds another worker's news to this one's."""
        assert isinstance(other, KVTierWorkerMetadata)
        for job, count in other.finished.items():
            self.finished[job] = self.finished.get(job, 0) + count
        self.failed |= other.failed
        return self
