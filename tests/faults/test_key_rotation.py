"""SECRET_KEY is changed under constant traffic, as docs/sessions.md says, and no request fails for it."""

import asyncio
import itertools
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from httpx import AsyncClient, Response

from app.config import Settings
from tests.api.answers import accepted
from tests.api.sessions import ME, headers_with
from tests.factories import PASSWORD, Factory, Person
from tests.faults.support import FRESH, PATIENCE, ServerProcess, changed, environment_of, eventually

OLD, NEW = "the-old-key-of-the-service-0123456789", "the-new-key-of-the-service-0123456789"
# How long a process serves on once it says that it is not ready: far longer than the load balancer takes to hear it.
DRAIN_SECONDS = 5.0
PROJECTS, VISITORS, PAUSE_SECONDS = 4, 2, 0.2


class LoadBalancer:
    """Passes each request to the next process that is ready, and asks all of them again and again whether they are."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        self._folder, self._settings = folder, settings
        self._clients: dict[ServerProcess, AsyncClient] = {}
        self._ready: list[ServerProcess] = []
        self._turns = itertools.count()
        self.processes: list[ServerProcess] = []

    async def request(self, method: str, path: str, **request: Any) -> Response:
        process = self._ready[next(self._turns) % len(self._ready)]
        return await self._clients[process].request(method, path, **request)

    async def start(self, name: str, key: str, *previous: str) -> None:
        """Start a process with these keys, and wait until it has its share of the requests."""
        environment = environment_of(self._settings, secret_key=key, secret_keys_previous=previous, drain_seconds=DRAIN_SECONDS)
        process = await asyncio.to_thread(ServerProcess, self._folder / name, environment)
        self.processes.append(process)
        self._clients[process] = AsyncClient(base_url=process.url, timeout=PATIENCE, limits=FRESH)
        await self._until(process, ready=True)

    async def start_pair(self, *keys: str) -> None:
        """Start two processes beside those that there are."""
        names = [f"server {len(self.processes) + number}" for number in range(2)]
        await asyncio.gather(*(self.start(name, *keys) for name in names))

    async def stop_one(self) -> None:
        """Have the oldest process drain and end, as a rolling deployment does. It gets no more requests once it says that it is not ready."""
        oldest = self._ready[0]
        oldest.send(signal.SIGTERM)
        await self._until(oldest, ready=False)

    async def _until(self, process: ServerProcess, *, ready: bool) -> None:
        async def told() -> bool:
            return ((await self._clients[process].get("/health/ready")).status_code == 200) == ready

        await eventually(told)
        self._ready = [*self._ready, process] if ready else [each for each in self._ready if each is not process]

    async def close(self) -> None:
        for client in self._clients.values():
            await client.aclose()
        for process in self.processes:
            process.kill()


@asynccontextmanager
async def load_balancer(folder: Path, settings: Settings) -> AsyncIterator[LoadBalancer]:
    made = LoadBalancer(folder, settings)
    try:
        yield made
    finally:
        await made.close()


class Visitor:
    """Somebody who signs in, refreshes in two tabs at once, reads, and walks a list, again and again. Each answer has to be right."""

    def __init__(self, servers: LoadBalancer, person: Person, credentials: dict[str, str]) -> None:
        self._servers, self._person, self._credentials = servers, person, credentials
        self._refresh_token = ""
        self.rounds = 0

    async def live(self) -> None:
        while True:
            await self._round()
            self.rounds += 1
            # Constant traffic, and yet time for processes to start beside it.
            await asyncio.sleep(PAUSE_SECONDS)

    async def _round(self) -> None:
        signed_in = accepted(await self._ask("POST", "/api/v1/auth/login", json=self._credentials))
        tabs = [await self._refreshed(self._refresh_token)] if self._refresh_token else []
        tabs += [*await asyncio.gather(*(self._refreshed(signed_in["refresh_token"]) for _ in range(2)))]
        assert tabs[-1]["refresh_token"] == tabs[-2]["refresh_token"]
        for tab in (signed_in, *tabs):
            accepted(await self._get(ME, tab["access_token"]))
        await self._walk(tabs[-1]["access_token"])
        if self._refresh_token:
            accepted(await self._ask("POST", "/api/v1/auth/logout", headers=headers_with(tabs[0]["access_token"], self._person)), 204)
        self._refresh_token = tabs[-1]["refresh_token"]

    async def _refreshed(self, token: str) -> Any:
        return accepted(await self._ask("POST", "/api/v1/auth/refresh", json={"refresh_token": token}))

    async def _walk(self, access_token: str) -> None:
        seen: list[str] = []
        cursor: dict[str, str] = {}
        for _ in range(PROJECTS):
            page = accepted(await self._get("/api/v1/projects", access_token, page_size=1, **cursor))
            seen += [item["id"] for item in page["items"]]
            cursor = {"cursor": page["next_cursor"]}
        assert len(set(seen)) == PROJECTS

    async def _get(self, path: str, access_token: str, **query: Any) -> Response:
        return await self._ask("GET", path, params=query, headers=headers_with(access_token, self._person))

    async def _ask(self, method: str, path: str, **request: Any) -> Response:
        return await self._servers.request(method, path, **request)


async def has_lived_on(visitors: list[Visitor], living: asyncio.Future[Any]) -> None:
    """Wait until each visitor has ended a round that began since: whatever it holds now was made since."""
    before = [visitor.rounds for visitor in visitors]

    async def further() -> bool:
        if living.done():
            living.result()
        return all(visitor.rounds > earlier + 1 for visitor, earlier in zip(visitors, before, strict=True))

    await eventually(further)


async def test_the_signing_key_is_changed_and_no_request_fails(settings: Settings, database_urls: tuple[str, str], tmp_path: Path) -> None:
    factory = Factory(database_urls[0], changed(settings, secret_key=OLD))
    person = await factory.person()
    for _ in range(PROJECTS):
        await factory.project(person.tenant)
    credentials = {"email": person.user.email, "password": PASSWORD, "tenant_slug": person.tenant.slug}
    # Signed in under the old key, and away until it is gone; and with an access token that is nearly as old as they get.
    away, steady = await factory.sign_in(person.tenant, person.user), await factory.sign_in(person.tenant, person.user)
    await factory.close()

    async with load_balancer(tmp_path, settings) as servers:
        await servers.start_pair(OLD)
        visitors = [Visitor(servers, person, credentials) for _ in range(VISITORS)]
        living = asyncio.gather(*(visitor.live() for visitor in visitors))
        first_page = accepted(await servers.request("GET", "/api/v1/projects", params={"page_size": 1}, headers=steady.headers))
        for keys in ((OLD, NEW), (NEW, OLD)):
            await servers.start_pair(*keys)
            for _ in range(4):
                query = {"page_size": 1, "cursor": first_page["next_cursor"]}
                accepted(await servers.request("GET", "/api/v1/projects", params=query, headers=steady.headers))
            # Under both sets of keys, then under one and a half, then under the new set alone.
            for _ in range(2):
                await has_lived_on(visitors, living)
                await servers.stop_one()
        await has_lived_on(visitors, living)
        # Thirty minutes later: no access token is left that the old key signed.
        await servers.start_pair(NEW)
        for _ in range(2):
            await has_lived_on(visitors, living)
            await servers.stop_one()
        await has_lived_on(visitors, living)
        tabs = await asyncio.gather(*(servers.request("POST", "/api/v1/auth/refresh", json={"refresh_token": away.refresh_token}) for _ in range(4)))
        assert len({accepted(tab)["refresh_token"] for tab in tabs}) == 1
        living.cancel()
        assert min(visitor.rounds for visitor in visitors) >= 6
    for process in servers.processes:
        assert "Traceback" not in process.output
