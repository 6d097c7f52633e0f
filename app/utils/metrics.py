"""What Prometheus is told. Served on an internal port of its own, never on the public one."""

from functools import cache

from prometheus_client import Counter, Gauge, Histogram, start_http_server

REQUESTS = Counter("http_requests_total", "Requests answered", ["method", "route", "status"])
DURATION = Histogram(
    "http_request_duration_seconds", "Time to answer, by route", ["route"], buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
)
RATE_LIMITED = Counter("rate_limited_total", "Requests refused by the rate limiter", ["bucket"])
REDIS_AWAY = Gauge("redis_away", "1 while the circuit breaker for Redis is open")
VIEWS_FLUSHED = Counter("project_views_flushed_total", "Project views written to PostgreSQL")


@cache
def _children(method: str, route: str, status: int) -> tuple[Counter, Histogram]:
    return REQUESTS.labels(method, route, status), DURATION.labels(route)


def observe_request(method: str, route: str, status: int, seconds: float) -> None:
    """Count an answered request."""
    requests, duration = _children(method, route, status)
    requests.inc()
    duration.observe(seconds)


def serve_metrics(host: str, port: int) -> None:
    """Answer GET /metrics on `host:port` from a thread of its own. Raises `OSError` where the port is taken."""
    start_http_server(port, addr=host)
