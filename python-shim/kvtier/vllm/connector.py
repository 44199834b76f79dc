"""vLLM's hooks, handed to the half of the connector that runs in this process.

`Guard` stands between vLLM and both halves. vLLM dies of an exception in a hook, so an unexpected one is logged, kvtier
is switched off for the rest of the engine's life, and whatever was under way is given back as failed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from kvtier.client import KVTierError, LibraryNotFound
from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorMetadata,
    KVConnectorRole,
    SupportsHMA,
)

from . import compat
from .config import parse_config
from .groups import Unsupported, make_plan
from .metadata import FailedLoad, KVTierMetadata, KVTierWorkerMetadata
from .scheduler import SchedulerSide, open_session
from .stats import KVTierPromMetrics, KVTierStats
from .worker import WorkerSide

logger = logging.getLogger("vllm.kvtier")

T = TypeVar("T")

# A broken connector keeps an idle engine stepping for no longer than this while workers finish their copies.
BROKEN_PATIENCE_S = 10.0


class KVTierConnector(KVConnectorBase_V1, SupportsHMA):
    """A KV connector that shares prefixes through the kvtier daemon on the node."""

    def __init__(self, vllm_config: Any, role: KVConnectorRole, kv_cache_config: Any = None) -> None:
        super().__init__(vllm_config, role, kv_cache_config)
        config = parse_config(vllm_config.kv_transfer_config.kv_connector_extra_config)
        self._scheduler: SchedulerSide | None = None
        self._worker: WorkerSide | None = None
        self._broken = self._stores_due = False
        self._broken_since = 0.0
        self._unreported: list[FailedLoad] = []
        try:
            plan = make_plan(vllm_config, kv_cache_config, config)
            if role == KVConnectorRole.SCHEDULER:
                self._scheduler = SchedulerSide(vllm_config, plan, config, open_session(vllm_config, plan, config))
            else:
                self._worker = WorkerSide(vllm_config, kv_cache_config, plan, config)
        except (Unsupported, KVTierError, LibraryNotFound) as error:
            self._switch_off(error)
        except Exception:
            logger.exception("kvtier is off: it could not start")

    def _switch_off(self, error: Exception) -> None:
        logger.warning("kvtier is off, nothing will be loaded or stored: %s", error)

    def _guard(self, hook: Callable[[], T], instead: T) -> T:
        """Runs a hook; an exception breaks the connector, not the engine."""
        if self._broken:
            return instead
        try:
            return hook()
        except Exception:
            self._broken, self._broken_since = True, time.monotonic()
            logger.exception("kvtier is off for the rest of this engine's life: a hook failed")
            self._give_back()
            return instead

    def _give_back(self) -> None:
        try:
            if self._scheduler is not None:
                self._unreported = self._scheduler.abandon()
            if self._worker is not None:
                self._worker.abandon()
        except Exception:
            logger.exception("kvtier could not give everything back")

    # Properties of the connector

    @property
    def requires_kv_delivery(self) -> bool:
        """A dropped store is a future miss, nothing more."""
        return False

    @classmethod
    def get_required_kvcache_layout(cls, vllm_config: Any) -> str | None:
        """With `block_layout: contiguous`, the one in which a block of all layers is one piece, where the attention backend
        allows it; else none: every layout whose pages have no gaps is served."""
        config = parse_config(vllm_config.kv_transfer_config.kv_connector_extra_config)
        return "BLHNC" if config.block_layout == "contiguous" else None

    @classmethod
    def build_kv_connector_stats(cls, data: dict[str, Any] | None = None) -> KVTierStats | None:
        """Stats from their serialised form."""
        return KVTierStats(data=data) if data is not None else KVTierStats()

    @classmethod
    def build_prom_metrics(
        cls, vllm_config: Any, metric_types: Any, labelnames: list[str], per_engine_labelvalues: Any
    ) -> KVTierPromMetrics:
        """The connector's Prometheus metrics."""
        return KVTierPromMetrics(vllm_config, metric_types, labelnames, per_engine_labelvalues)

    def get_kv_connector_stats(self) -> KVTierStats | None:
        """Counts of this process since the last step."""
        side = self._scheduler or self._worker
        return self._guard(side.take_stats, None) if side is not None else None

    def shutdown(self) -> None:
        """Ends copies and sessions."""
        side = self._scheduler or self._worker
        if side is not None:
            try:
                side.close()
            except Exception:
                logger.exception("kvtier did not close cleanly")
            self._scheduler = self._worker = None

    # Scheduler

    def bind_gpu_block_pool(self, gpu_block_pool: Any) -> None:
        """vLLM's block pool, for pins."""
        if (side := self._scheduler) is not None:
            self._guard(lambda: side.bind_pool(gpu_block_pool), None)

    def on_new_request(self, request: Any) -> None:
        """A request has arrived."""
        if (side := self._scheduler) is not None:
            self._guard(lambda: side.on_new_request(request), None)

    def get_num_new_matched_tokens(self, request: Any, num_computed_tokens: int) -> tuple[int | None, bool]:
        """Tokens that can be loaded, always between two steps."""
        if (side := self._scheduler) is None:
            return 0, False
        tokens = self._guard(lambda: side.matched_tokens(request, num_computed_tokens), 0)
        return tokens, bool(tokens)

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        """Blocks are allocated."""
        if (side := self._scheduler) is not None:
            self._guard(lambda: side.allocated(request, blocks, num_external_tokens), None)
            if self._broken and num_external_tokens > 0:
                self._fail_unseen(request, blocks)

    def _fail_unseen(self, request: Any, blocks: Any) -> None:
        """vLLM now waits for a load that was never made: make sure it is told that it failed."""
        if all(load.request != request.request_id for load in self._unreported):
            import numpy as np

            ids = blocks.get_block_ids()[0] if len(blocks.blocks) == 1 else []
            fresh = [block.block_id for block in blocks.blocks[0] if block.block_hash is None] if ids else []
            self._unreported.append(FailedLoad(request.request_id, np.array(fresh, dtype="<u4").tobytes()))

    def get_external_cache_hit_sources(self, request: Any, num_external_tokens: int) -> dict[Any, int]:
        """Loaded tokens come from host memory."""
        if (side := self._scheduler) is None:
            return {}
        return self._guard(lambda: side.hit_sources(num_external_tokens), {})

    def build_connector_meta(self, scheduler_output: Any) -> KVConnectorMetadata:
        """One step's orders to the workers."""
        if (side := self._scheduler) is None:
            return KVTierMetadata()
        orders = self._guard(lambda: side.build_meta(scheduler_output), KVTierMetadata())
        if self._unreported:
            orders.failed.extend(self._unreported)
            self._unreported = []
        return orders

    def update_connector_output(self, connector_output: Any) -> None:
        """What the workers finished. Served by a broken connector too: pins end here."""
        side, news = self._scheduler, connector_output.kv_connector_worker_meta
        if side is None or not isinstance(news, KVTierWorkerMetadata):
            return
        self._guard(lambda: side.worker_news(news), None)
        if not self._broken:
            return
        try:
            side.worker_news(news)
        except Exception:
            logger.exception("kvtier could not take the workers' news")

    def take_events(self) -> Iterable[Any]:
        """Events of kvtier's blocks, if they are relayed."""
        if (side := self._scheduler) is None or not side.relays:
            return ()
        return self._guard(side.take_events, [])

    def request_finished(self, request: Any, block_ids: list[int]) -> tuple[bool, dict[str, Any] | None]:
        """A request is over; pinned blocks outlive it, so nothing has to be kept for it."""
        return self.request_finished_all_groups(request, (block_ids,))

    def request_finished_all_groups(
        self, request: Any, block_ids: tuple[list[int], ...]
    ) -> tuple[bool, dict[str, Any] | None]:
        """A request is over; pinned blocks outlive it, so nothing has to be kept for it."""
        if (side := self._scheduler) is not None:
            self._guard(lambda: side.finished(request), None)
        return False, None

    def has_pending_push_work(self) -> bool:
        """Whether pins wait for news from the workers."""
        if (side := self._scheduler) is None:
            return False
        try:
            pending = bool(self._unreported) or side.pending()
            return pending and not (self._broken and time.monotonic() - self._broken_since > BROKEN_PATIENCE_S)
        except Exception:
            return False

    def reset_cache(self) -> bool | None:
        """The cache is not valid any more."""
        if (side := self._scheduler) is None:
            return True
        return self._guard(side.reset, True)

    # Worker

    def register_kv_caches(self, kv_caches: dict[str, Any]) -> None:
        """The KV cache has been made."""
        if (side := self._worker) is None:
            return
        try:
            side.register(kv_caches)
        except (Unsupported, KVTierError, LibraryNotFound) as error:
            self._switch_off(error)
        except Exception:
            logger.exception("kvtier is off: the KV cache could not be registered")

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        """Starts the loads of this step."""
        if (side := self._worker) is None:
            return
        orders = self._get_connector_metadata()
        assert isinstance(orders, KVTierMetadata)
        if orders.is_empty():
            return
        self._guard(lambda: side.start_loads(orders), None)
        if self._broken:
            side.refuse(orders)

    def wait_for_layer_load(self, layer_name: str) -> None:
        """Loads are made between steps, never layer by layer."""

    def save_kv_layer(self, layer_name: str, kv_layer: Any, attn_metadata: Any, **kwargs: Any) -> None:
        """Stores are made after the forward pass, never layer by layer."""

    def bind_connector_metadata(self, connector_metadata: Any) -> None:
        """The orders of the step that begins."""
        super().bind_connector_metadata(connector_metadata)
        self._stores_due = True

    def wait_for_save(self) -> None:
        """Starts the stores of this step. vLLM 0.26 leaves this call out of a step without a forward pass, so the call
        that collects what is finished makes up for it."""
        if (side := self._worker) is not None and self._stores_due and self.has_connector_metadata():
            self._stores_due = False
            orders = self._get_connector_metadata()
            assert isinstance(orders, KVTierMetadata)
            if orders.stores and not self._broken:
                self._guard(lambda: side.start_stores(orders), None)
                if self._broken:
                    side.refuse(orders)

    def handle_preemptions(self, kv_connector_metadata: Any) -> None:
        """Nothing to wait for: a block that a copy reads is pinned and never reused."""

    def get_finished(self, finished_req_ids: set[str]) -> tuple[set[str] | None, set[str] | None]:
        """Requests whose loads are over, by success or failure."""
        return None, self._loaded()[0] or None

    def get_transfer_results(self, finished_req_ids: set[str]) -> Any:
        """Requests whose loads are over, and those that failed."""
        loaded, failed = self._loaded()
        return compat.TransferResults(finished_recving=loaded, failed_recving=failed)

    def _loaded(self) -> tuple[set[str], set[str]]:
        if (side := self._worker) is None:
            return set(), set()
        self.wait_for_save()
        self._guard(side.collect, None)
        return side.take_loaded()

    def get_block_ids_with_load_errors(self) -> set[int]:
        """Blocks whose load failed."""
        return self._worker.take_bad_blocks() if self._worker is not None else set()

    def build_connector_worker_meta(self) -> KVTierWorkerMetadata | None:
        """Jobs that are over."""
        return self._worker.take_worker_meta() if self._worker is not None else None
