"""Metrics: what Prometheus reads is what prometheus_client's own metrics would have told it."""

import random
import urllib.request

import pytest
from httpx import AsyncClient
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram, generate_latest

from app.utils.metrics import BOUNDS, MetricsUnavailable, RequestMetrics, serve_metrics
from deploy.local.memory import free_port

CHANCE = random.Random(7)


def told(registry: CollectorRegistry) -> list[str]:
    """Return the lines, but for the times at which prometheus_client made each of its own."""
    lines = generate_latest(registry).decode().splitlines()
    return sorted(line for line in lines if "_created" not in line)


def test_requests_are_told_as_prometheus_clients_own_metrics_tell_them() -> None:
    ours, theirs, requests = CollectorRegistry(), CollectorRegistry(), RequestMetrics()
    ours.register(requests)
    counter = Counter("http_requests_total", "Requests answered", ["method", "route", "status"], registry=theirs)
    histogram = Histogram("http_request_duration_seconds", "Time to answer, by route", ["route"], buckets=BOUNDS, registry=theirs)
    assert told(ours) == told(theirs)
    for seconds in (*BOUNDS[:-1], 0.0, 60.0, *(CHANCE.expovariate(20) for _ in range(500))):
        method, route, status = CHANCE.choice(("GET", "POST")), CHANCE.choice(("/a/{b}", '/"', "(none)")), CHANCE.choice((200, 404))
        requests.observe(method, route, status, seconds)
        counter.labels(method, route, status).inc()
        histogram.labels(route).observe(seconds)
    assert told(ours) == told(theirs)
    assert len(told(ours)) > 40


async def test_an_answer_is_counted_under_its_route_and_never_under_its_path(client: AsyncClient) -> None:
    def count(method: str, route: str, status: int) -> float:
        return REGISTRY.get_sample_value("http_requests_total", {"method": method, "route": route, "status": str(status)}) or 0

    asked = [("GET", "/health/live"), ("GET", "/nowhere"), ("PUT", "/health/live")]
    labels = [("GET", "/health/live", 200), ("(any)", "(none)", 404), ("(any)", "(none)", 405)]
    before = [count(*named) for named in labels]
    for method, path in asked:
        await client.request(method, path)
    assert [count(*named) for named in labels] == [number + 1 for number in before]
    assert "nowhere" not in generate_latest(REGISTRY).decode()


def test_metrics_are_served_on_a_port_of_their_own() -> None:
    port = free_port()
    serve_metrics("127.0.0.1", port, "METRICS_PORT")
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        text = answer.read().decode()
    assert {"http_requests_total", "http_request_duration_seconds", "rate_limited_total", "redis_away", "project_views_flushed_total"} <= {
        line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")
    }


@pytest.mark.parametrize("host", ["192.0.2.1", "no.such.host.invalid"])
def test_an_address_that_is_not_ours_is_named_with_the_variables(host: str) -> None:
    with pytest.raises(MetricsUnavailable, match=rf"METRICS_PORT is 9100, and {host}:9100 \(METRICS_HOST, METRICS_PORT\) cannot be listened on: "):
        serve_metrics(host, 9100, "METRICS_PORT")
