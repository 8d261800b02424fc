"""What Prometheus reads."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector

if TYPE_CHECKING:
    from reelroute.routers.following import CacheInfo

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
#: prometheus_client shares counts between processes through files in this variable's folder.
SHARED_FOLDER_VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"

#: Seconds: a local student answers in the first ones, a model behind the network in the last.
_BUCKETS: Final = (
    0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5,
)  # fmt: skip


class Metrics:
    """The counts of one app; of several workers the sums."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self._registry = registry
        self._requests = Counter(
            "reelroute_requests", "Requests.", ("route", "status"), registry=registry
        )
        self._latency = Histogram(
            "reelroute_request_duration_seconds",
            "From the arrival of a whole request to the end of its answer.",
            ("route",),
            buckets=_BUCKETS,
            registry=registry,
        )
        self._queries = Counter(
            "reelroute_queries", "Queries answered, by who answered.", ("router",),
            registry=registry,
        )  # fmt: skip
        self._fallbacks = Counter(
            "reelroute_fallbacks",
            "Queries that the release's model could not answer, by who stood in.",
            ("router",),
            registry=registry,
        )
        self._release = Gauge(
            "reelroute_release_info",
            "1 for the release at work, 0 for those before it.",
            ("version",),
            registry=registry,
            multiprocess_mode="mostrecent",
        )
        self._changes = Counter(
            "reelroute_release_changes", "Releases taken up after the first.", registry=registry
        )
        self._dropped = Gauge(
            "reelroute_log_lines_dropped",
            "Log lines left out because their reader was too slow.",
            registry=registry,
            multiprocess_mode="sum",
        )
        self._version: str | None = None
        self._cache: _CacheMetrics | None = None
        if SHARED_FOLDER_VARIABLE not in os.environ:
            ProcessCollector(registry=registry)

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count a request."""
        self._requests.labels(route, str(status)).inc()
        self._latency.labels(route).observe(seconds)

    def query(self, router: str, *, fallback: bool) -> None:
        """Count an answered query."""
        # What stands behind the name tells of repairs: no label of its own each.
        name = router.partition(" ")[0]
        self._queries.labels(name).inc()
        if fallback:
            self._fallbacks.labels(name).inc()

    def release(self, version: str | None) -> None:
        """Note the release at work."""
        if version == self._version or version is None:
            return
        if self._version is not None:
            self._release.labels(self._version).set(0)
            self._changes.inc()
        self._release.labels(version).set(1)
        self._version = version

    def cache(self, info: CacheInfo | None) -> None:
        """Note how the router's cache of answers does; None: it has none, and none is shown.

        Always of the same router, whose counts only rise.
        """
        if info is not None:
            self._cache = self._cache or _CacheMetrics(self._registry)
            self._cache.note(info)

    def dropped_lines(self, count: int) -> None:
        """Note how many log lines were left out so far."""
        self._dropped.set(count)

    def exposition(self) -> bytes:
        """All counts in Prometheus' text format."""
        if SHARED_FOLDER_VARIABLE not in os.environ:
            return generate_latest(self._registry)
        together = CollectorRegistry()
        MultiProcessCollector(together)  # type: ignore[no-untyped-call]
        return generate_latest(together)


class _CacheMetrics:
    """The counts of a router's cache of answers; made once there is such a router."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._hits = Counter(
            "reelroute_cache_hits", "Queries answered from the cache.", registry=registry
        )
        self._misses = Counter(
            "reelroute_cache_misses", "Queries that were not in the cache.", registry=registry
        )
        self._size = Gauge(
            "reelroute_cache_size",
            "Answers of the release at work that are cached.",
            registry=registry,
            multiprocess_mode="sum",
        )
        self._noted_hits = self._noted_misses = 0

    def note(self, info: CacheInfo) -> None:
        # The router counts by itself: what came since the last look is added.
        self._hits.inc(info.hits - self._noted_hits)
        self._misses.inc(info.misses - self._noted_misses)
        self._size.set(info.size)
        self._noted_hits, self._noted_misses = info.hits, info.misses
