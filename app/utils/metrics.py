"""What Prometheus is told. Served on an internal port of its own, never on the public one."""

from bisect import bisect_left
from collections import Counter as Counts
from collections.abc import Iterator
from itertools import accumulate

from prometheus_client import REGISTRY, Counter, Gauge, start_http_server
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

# Seconds.
BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, float("inf"))
LABELS = [floatToGoString(bound) for bound in BOUNDS]  # type: ignore[no-untyped-call]  # untyped in prometheus_client

RATE_LIMITED = Counter("rate_limited_total", "Requests refused by the rate limiter", ["bucket"])
SESSION_REFRESHES = Counter("session_refreshes_total", "Refreshes of sessions", ["outcome"])
REDIS_AWAY = Gauge("redis_away", "1 while the circuit breaker for Redis is open")
VIEWS_FLUSHED = Counter("project_views_flushed_total", "Project views written to PostgreSQL")

MAILS_REFUSED = Counter("mails_refused_total", "Mails whose recipient has no mailbox that takes mail", ["template"])

JOBS = Counter("jobs_total", "Attempts at jobs, by what became of them", ["kind", "outcome"])
OLDEST_JOB = Gauge("jobs_oldest_waiting_seconds", "How long the oldest job that is due has been waiting")
FAILED_JOBS = Gauge("jobs_failed_kept", "Jobs that failed for good and wait for an operator")


class RequestMetrics(Collector):
    """Counts and times answers. Plain numbers: the client's own metrics take a lock for each of theirs, three for each request."""

    def __init__(self) -> None:
        self._answers: Counts[tuple[str, str, int]] = Counts()
        self._durations: dict[str, list[int]] = {}
        self._seconds: dict[str, float] = {}

    def observe(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count an answered request. To be called by the event loop alone."""
        self._answers[method, route, status] += 1
        durations = self._durations.get(route)
        if durations is None:
            self._seconds[route] = 0.0
            durations = self._durations[route] = [0] * len(BOUNDS)
        durations[bisect_left(BOUNDS, seconds)] += 1
        self._seconds[route] += seconds

    def collect(self) -> Iterator[Metric]:
        """Yield what there is to tell, from copies: requests go on meanwhile, in another thread."""
        answers = CounterMetricFamily("http_requests", "Requests answered", labels=("method", "route", "status"))
        for (method, route, status), count in self._answers.copy().items():
            answers.add_metric((method, route, str(status)), count)
        yield answers
        durations = HistogramMetricFamily("http_request_duration_seconds", "Time to answer, by route", labels=("route",))
        for route, counts in self._durations.copy().items():
            buckets = list(zip(LABELS, map(float, accumulate(counts)), strict=True))
            durations.add_metric((route,), buckets, self._seconds[route])
        yield durations


REQUESTS = RequestMetrics()
REGISTRY.register(REQUESTS)


class MetricsUnavailable(RuntimeError):
    """Nobody can listen on the port of /metrics that was asked for."""


def serve_metrics(host: str, port: int, variable: str) -> None:
    """Answer GET /metrics on `host:port` from a thread of its own. Raises `MetricsUnavailable`, with the variable that named the port."""
    try:
        start_http_server(port, addr=host)
    except OSError as error:
        reason = error.strerror or str(error)
        raise MetricsUnavailable(f"{variable} is {port}, and {host}:{port} (METRICS_HOST, {variable}) cannot be listened on: {reason}.") from None
