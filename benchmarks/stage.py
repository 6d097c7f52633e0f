"""A database that is filled, both servers on it, and what they are asked."""

import json
import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from pydantic import SecretStr

from app.config import Settings
from app.core.security import AccessTokens
from benchmarks import dataset
from benchmarks.contenders import SECRET, BenchmarkFailed, Contender, Cores, production, running
from benchmarks.dataset import SeededTenant
from benchmarks.load import Load
from deploy.local.servers import LocalServers

PROJECTS_ASKED = 3
LIST, ONE = "GET /projects?page_size=20", "GET /projects/{id}"


@dataclass(frozen=True)
class Data:
    """How much data: so many tenants, with so many projects each."""

    name: str
    tenants: int
    projects: int

    def __str__(self) -> str:
        return f"{self.tenants:,} tenants with {self.tenants * self.projects:,} projects"


@dataclass(frozen=True)
class Filled:
    """A database that holds so much data, by the addresses of its owner and of the service."""

    data: Data
    owner_url: str
    service_url: str
    tenants: list[SeededTenant]


@dataclass(frozen=True)
class Stage:
    """Both servers, on one set of data."""

    tenants: list[SeededTenant]
    service: Contender
    bare: Contender

    def loads(self, endpoint: str) -> tuple[Load, Load]:
        """Return what the service and what the bare handler is asked."""
        if endpoint == LIST:
            service = [_request("/api/v1/projects?page_size=20", tenant) for tenant in self.tenants]
            bare = [_request(f"/projects?page_size=20&tenant_id={tenant.id}") for tenant in self.tenants]
            size = (4_000, 20_000)
        else:
            asked = [(tenant, project_id) for tenant in self.tenants for project_id in random.Random(7).sample(tenant.project_ids, PROJECTS_ASKED)]
            service = [_request(f"/api/v1/projects/{project_id}", tenant) for tenant, project_id in asked]
            bare = [_request(f"/projects/{project_id}?tenant_id={tenant.id}") for tenant, project_id in asked]
            size = (200, 2_000)
        return Load(self.service.port, service, *size), Load(self.bare.port, bare, *size)

    def check_answers(self) -> None:
        """Raise `BenchmarkFailed` unless both servers give the same rows."""
        for endpoint in (LIST, ONE):
            service, bare = self.loads(endpoint)
            theirs, ours = json.loads(self.bare.ask(bare.requests[0])), json.loads(self.service.ask(service.requests[0]))
            if endpoint == LIST:
                theirs, ours = theirs["items"], ours["items"]
            if theirs != ours:
                raise BenchmarkFailed(f"{endpoint}: the two servers give different rows, so there is nothing to compare:\n{theirs}\n{ours}")


def _request(path: str, tenant: SeededTenant | None = None) -> bytes:
    head = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: application/json\r\n"
    if tenant is not None:
        head += f"Authorization: Bearer {tenant.token}\r\nX-Tenant-Slug: {tenant.slug}\r\n"
    return f"{head}\r\n".encode()


def fill(servers: LocalServers, data: Data) -> Filled:
    """Fill a database of its own."""
    owner_url, service_url = servers.owner_url_for(f"bench_{data.name}"), servers.service_url_for(f"bench_{data.name}")
    dataset.prepare(owner_url, service_url)
    settings = Settings(_env_file=None, secret_key=SecretStr(SECRET))
    return Filled(data, owner_url, service_url, dataset.seed(owner_url, AccessTokens(settings), tenants=data.tenants, projects=data.projects))


@contextmanager
def both_on(filled: Filled, servers: LocalServers, cores: Cores | None, wrapper: tuple[str, ...] = ()) -> Iterator[Stage]:
    """Run both servers on the data, the service inside of `python <wrapper>`."""
    with ExitStack() as both:
        bare = both.enter_context(running("bare", ["-m", "benchmarks.bare"], servers.directory, cores, {"BARE_DATABASE_URL": filled.owner_url}))
        environment = production(filled.service_url, servers.redis_url)
        service = both.enter_context(running("service", [*wrapper, "-m", "app.server"], servers.directory, cores, environment))
        yield Stage(filled.tenants, service, bare)
