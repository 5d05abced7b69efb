"""Numbers about the service for Prometheus; docs/service.md lists them."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from jang_runtime._memory import resident_peak
from jang_runtime._statistics import EngineStatistics

# Seconds. Calls take from milliseconds to minutes; tokens come every few milliseconds.
_LONG: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_SHORT: Final = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1, 5)


@dataclass(frozen=True)
class ServiceLoad:
    """What the service holds at one moment.

    Attributes:
        queued: Requests that wait, here or in the engine.
        active: Requests under way.
        cache_bytes_reserved: Bytes promised to the keys and values of requests under way.
        cache_bytes_limit: The most that may be promised.
    """

    queued: int
    active: int
    cache_bytes_reserved: int
    cache_bytes_limit: int


class Metrics:
    """All metrics of one server, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._calls = Counter(
            "jang_calls",
            "Calls that ended, by status code.",
            ("method", "code"),
            registry=self.registry,
        )
        self._rejected = Counter(
            "jang_rejected_calls",
            "Calls that ended with an error of the server, by the reason in its ErrorInfo.",
            ("reason",),
            registry=self.registry,
        )
        self._open = Gauge("jang_open_calls", "Calls under way.", registry=self.registry)
        self._seconds = Histogram(
            "jang_call_seconds",
            "From a call's arrival to its end.",
            ("method",),
            buckets=_LONG,
            registry=self.registry,
        )
        self._queue = Histogram(
            "jang_queue_seconds",
            "From a request's arrival to its first work.",
            buckets=_LONG,
            registry=self.registry,
        )
        self._first_token = Histogram(
            "jang_time_to_first_token_seconds",
            "From a generation's arrival to its first token.",
            buckets=_LONG,
            registry=self.registry,
        )
        self._between_tokens = Histogram(
            "jang_time_between_tokens_seconds",
            "Between two tokens of one generation.",
            buckets=_SHORT,
            registry=self.registry,
        )
        Gauge(
            "jang_resident_peak_bytes",
            "The most bytes of this process that were resident.",
            registry=self.registry,
        ).set_function(resident_peak)
        # CPU time, resident memory and open files of this process; on Linux only.
        ProcessCollector(registry=self.registry)

    def watch(
        self, engine: Callable[[], EngineStatistics], load: Callable[[], ServiceLoad]
    ) -> None:
        """Read these at every scrape, in the thread that answers it; call it once.

        Args:
            engine: What the engine has done and holds.
            load: What the service holds.
        """
        self.registry.register(_Engine(engine))
        self.registry.register(_Load(load))

    def call_began(self) -> None:
        """Count a call as under way."""
        self._open.inc()

    def call_ended(
        self, method: str, code: str, reason: str, seconds: float, queue_seconds: float | None
    ) -> None:
        """Count a call that `call_began` has counted.

        Args:
            method: Its name, such as "Generate".
            code: Its status, such as "OK".
            reason: Of its ErrorInfo; "" without one.
            seconds: How long it took.
            queue_seconds: How long it waited of these; None if it did no work.
        """
        self._open.dec()
        self._calls.labels(method, code).inc()
        self._seconds.labels(method).observe(seconds)
        if reason:
            self._rejected.labels(reason).inc()
        if queue_seconds is not None:
            self._queue.observe(queue_seconds)

    def first_token(self, seconds: float) -> None:
        """Note the first token of a generation, so long after the call's arrival."""
        self._first_token.observe(seconds)

    def next_tokens(self, seconds: float, count: int) -> None:
        """Note `count` more tokens of a generation, so long after those before them."""
        for _ in range(count):
            self._between_tokens.observe(seconds / count)


class _Engine(Collector):
    def __init__(self, read: Callable[[], EngineStatistics]) -> None:
        self._read = read

    def describe(self) -> Iterable[Metric]:
        """The same metrics without numbers; the engine need not run yet."""
        return _engine_metrics(EngineStatistics())

    def collect(self) -> Iterable[Metric]:
        """The metrics at this moment."""
        return _engine_metrics(self._read())


class _Load(Collector):
    def __init__(self, read: Callable[[], ServiceLoad]) -> None:
        self._read = read

    def describe(self) -> Iterable[Metric]:
        """The same metrics without numbers."""
        return _load_metrics(ServiceLoad(0, 0, 0, 0))

    def collect(self) -> Iterable[Metric]:
        """The metrics at this moment."""
        return _load_metrics(self._read())


def _engine_metrics(now: EngineStatistics) -> list[Metric]:
    ended = CounterMetricFamily(
        "jang_engine_requests", "Requests that the engine ended.", labels=["outcome"]
    )
    # `finished` counts the cancelled ones too.
    ended.add_metric(["finished"], now.finished - now.cancelled)
    ended.add_metric(["cancelled"], now.cancelled)
    ended.add_metric(["failed"], now.failed)
    return [
        ended,
        _counter("jang_prompt_tokens", "Tokens of prompts and contexts.", now.prompt_tokens),
        _counter(
            "jang_cached_prompt_tokens",
            "Tokens of prompts that were known from earlier requests.",
            now.cached_prompt_tokens,
        ),
        _counter("jang_generated_tokens", "Tokens generated.", now.generated_tokens),
        _counter(
            "jang_prefix_cache_lookups",
            "How often the prefix cache was asked.",
            now.prefix_cache_lookups,
        ),
        _counter("jang_prefix_cache_hits", "How often it had something.", now.prefix_cache_hits),
        _gauge("jang_engine_queued_requests", "Requests waiting in the engine.", now.queued),
        _gauge("jang_engine_active_requests", "Requests under way in the engine.", now.active),
        _gauge(
            "jang_engine_decoding_requests",
            "Of these the ones that get a token in every step.",
            now.decoding,
        ),
        _gauge(
            "jang_prefix_cache_bytes", "Bytes kept of earlier requests.", now.prefix_cache_bytes
        ),
        _gauge(
            "jang_mlx_memory_bytes", "Bytes that MLX holds, the model included.", now.active_memory
        ),
        _gauge("jang_mlx_peak_memory_bytes", "The most that it held.", now.peak_memory),
    ]


def _load_metrics(now: ServiceLoad) -> list[Metric]:
    return [
        _gauge("jang_queued_requests", "Requests that wait.", now.queued),
        _gauge("jang_active_requests", "Requests under way.", now.active),
        _gauge(
            "jang_cache_reserved_bytes",
            "Bytes promised to the keys and values of requests under way.",
            now.cache_bytes_reserved,
        ),
        _gauge("jang_cache_limit_bytes", "The most that may be promised.", now.cache_bytes_limit),
    ]


def _counter(name: str, text: str, value: int) -> Metric:
    return CounterMetricFamily(name, text, value=value)


def _gauge(name: str, text: str, value: int) -> Metric:
    return GaugeMetricFamily(name, text, value=value)
