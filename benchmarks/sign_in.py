"""What signing in tells and costs others: whether an account exists must not show in the time, and a crowd that signs in must stall nobody."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from http.client import HTTPConnection
from itertools import count
from statistics import median
from threading import Event, Thread
from typing import Any

import asyncpg
import httpx
from passlib.context import CryptContext
from rich.console import Console
from rich.table import Table

from app.models import Role, new_id
from benchmarks import dataset
from benchmarks.contenders import BenchmarkFailed, Contender, Cores, production, running
from benchmarks.measure import percentile
from benchmarks.report import KEYS
from deploy.local.servers import LocalServers

DATABASE, SLUG, PASSWORD = "bench_sign_in", "sign-in", "a passphrase of the benchmark"
LARGEST_DIFFERENCE = 0.05
TRIES = 60
CROWD, LONGEST_P99_MS = 50, 100.0
LOGIN, FORGOT, RESEND = "/api/v1/auth/login", "/api/v1/auth/password/forgot", "/api/v1/auth/verify-email/resend"
_numbers = count(1)

Ask = Callable[[], float]


@dataclass(frozen=True)
class Plan:
    """How often each kind of sign-in is tried, how many passes there are of what is quick, and for how many seconds a crowd signs in."""

    sign_ins: int
    passes: int
    crowd_seconds: float

    @property
    def accounts(self) -> int:
        """How many accounts that takes. Each is asked about once, so that none is slowed down."""
        return self.sign_ins + 2 * self.passes * TRIES + CROWD


FULL, QUICK = Plan(TRIES, 5, 10.0), Plan(16, 3, 4.0)


@dataclass(frozen=True)
class Difference:
    """The medians of two kinds of requests, in milliseconds, and their ratio: the median of the passes'."""

    name: str
    p50_ms: float
    other_p50_ms: float
    ratio: float

    @property
    def missed(self) -> str | None:
        """Say what is wrong, if anything is."""
        if abs(self.ratio - 1) <= LARGEST_DIFFERENCE:
            return None
        return f"{self.name}: the medians are {self.ratio:.3f} to 1, and should not differ by more than {LARGEST_DIFFERENCE:.0%}"


@dataclass(frozen=True)
class Crowd:
    """How a cheap request fared while many signed in at once."""

    name: str
    p50_ms: float
    p99_ms: float
    requests: int
    sign_ins: int
    told_to_come_back: int

    @property
    def missed(self) -> str | None:
        """Say what is wrong, if anything is."""
        if self.p99_ms < LONGEST_P99_MS:
            return None
        return f"{self.name}: p99 {self.p99_ms:.0f} ms, and it should be below {LONGEST_P99_MS:.0f} ms"


Row = Difference | Crowd


def measure_sign_in(servers: LocalServers, cores: Cores | None, plan: Plan, progress: Callable[[str], None]) -> list[Row]:
    """Measure on a service and a database of its own. Raises `BenchmarkFailed`."""
    owner_url, service_url = servers.owner_url_for(DATABASE), servers.service_url_for(DATABASE)
    dataset.prepare(owner_url, service_url)
    known = asyncio.run(_make_accounts(owner_url, plan.accounts))
    # Each request comes from a client of its own, as far as the service can tell, so that none is limited.
    environment = {**production(service_url, servers.redis_url), "TRUSTED_PROXIES": "127.0.0.1"}
    everywhere = None if cores is None else Cores(cores.server | cores.others, cores.others)
    with running("sign-in", ["-m", "app.server"], servers.directory, everywhere, environment) as service:
        addresses = iter(known)
        rows: list[Row] = []
        for path, tries, passes in ((LOGIN, plan.sign_ins, 1), (FORGOT, TRIES, plan.passes), (RESEND, TRIES, plan.passes)):
            progress(f"{path}: known and unknown accounts")
            rows.append(_difference(service, path, addresses, tries, passes))
        progress(f"{CROWD} people sign in at once")
        rows.append(asyncio.run(_crowd(service, list(addresses), plan.crowd_seconds)))
    return rows


async def _make_accounts(owner_url: str, number: int) -> list[str]:
    """Make a tenant with so many people, all with the same password. Returns their addresses."""
    tenant_id = new_id()
    password_hash = CryptContext(schemes=["bcrypt_sha256"], bcrypt_sha256__rounds=12).hash(PASSWORD)
    addresses = [f"member-{index:05}@example.com" for index in range(number)]
    columns = ("tenant_id", "id", "email", "full_name", "role", "email_verified", "password_hash")
    connection = await asyncpg.connect(owner_url)
    try:
        await connection.execute("DELETE FROM tenants WHERE slug = $1", SLUG)
        tenant = [(tenant_id, SLUG, SLUG, SLUG, dataset.UNLIMITED, dataset.UNLIMITED)]
        await connection.copy_records_to_table("tenants", columns=dataset.COLUMNS["tenants"], records=tenant)
        people = [(tenant_id, new_id(), address, "Member Person", Role.MEMBER, True, password_hash) for address in addresses]
        await connection.copy_records_to_table("users", columns=columns, records=people)
        await connection.execute("VACUUM ANALYZE users")
    finally:
        await connection.close()
    return addresses


def _client_headers() -> dict[str, str]:
    number = next(_numbers)
    return {"Content-Type": "application/json", "X-Forwarded-For": f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"}


def _difference(service: Contender, path: str, known: Iterator[str], tries: int, passes: int) -> Difference:
    """Ask in turn for accounts that there are and that there are not. Neighbours in time share the machine's mood, and each is as often the first."""
    connection = HTTPConnection("127.0.0.1", service.port, timeout=30)
    expected = 401 if path == LOGIN else 202

    def ask(address: str) -> float:
        body = {"email": address, "tenant_slug": SLUG, **({"password": "a wrong passphrase"} if path == LOGIN else {})}
        content, headers = json.dumps(body), _client_headers()
        began = time.perf_counter()
        connection.request("POST", path, content, headers)
        response = connection.getresponse()
        response.read()
        taken = time.perf_counter() - began
        if response.status != expected:
            raise BenchmarkFailed(f"{path} answered {response.status} instead of {expected}")
        return taken * 1000

    def unknown() -> str:
        return f"nobody-{next(_numbers):05}@example.com"

    for _ in range(5):
        ask(unknown())
    medians = []
    for _ in range(passes):
        times: tuple[list[float], list[float]] = ([], [])
        for number in range(tries):
            pair = ((times[0], next(known)), (times[1], unknown()))
            for into, address in pair if number % 2 else reversed(pair):
                into.append(ask(address))
        medians.append((median(times[0]), median(times[1])))
    connection.close()
    return Difference(
        f"POST {path}: known to unknown accounts",
        median(first for first, _ in medians),
        median(second for _, second in medians),
        median(first / second for first, second in medians),
    )


async def _crowd(service: Contender, addresses: Sequence[str], seconds: float) -> Crowd:
    """Have a crowd sign in again and again, and meanwhile somebody who is signed in read."""
    statuses: Counter[int] = Counter()
    over = Event()
    # Servers close a connection that was idle for five seconds; who gives it up well before never sends into one that is just being closed.
    limits = httpx.Limits(max_connections=CROWD, keepalive_expiry=1.0)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{service.port}", timeout=60, limits=limits) as client:
        # The crowd comes from where it is known: otherwise each sign-in would be told by mail.
        headers = {**_client_headers(), "X-Tenant-Slug": SLUG}

        async def sign_in(address: str) -> httpx.Response:
            body = {"email": address, "password": PASSWORD, "tenant_slug": SLUG}
            return await client.post(LOGIN, json=body, headers={**headers, **_client_headers()})

        token = (await sign_in(addresses[0])).json()["access_token"]
        times: list[float] = []
        reader = Thread(target=_read, args=(service.port, {"Authorization": f"Bearer {token}", "X-Tenant-Slug": SLUG}, over, times))
        reader.start()

        async def again_and_again(address: str) -> None:
            while not over.is_set():
                status = (await sign_in(address)).status_code
                statuses[status] += 1
                if status == 503:
                    await asyncio.sleep(0.2)

        people = [asyncio.create_task(again_and_again(address)) for address in addresses[:CROWD]]
        await asyncio.sleep(seconds)
        over.set()
        await asyncio.gather(*people)
        await asyncio.to_thread(reader.join)
    if wrong := {status: number for status, number in statuses.items() if status not in (200, 503)}:
        raise BenchmarkFailed(f"signing in was answered with {wrong}")
    if not times or not statuses[200]:
        raise BenchmarkFailed("nobody was served while a crowd signed in")
    name = f"GET /auth/me while {CROWD} sign in"
    return Crowd(name, percentile(times, 50), percentile(times, 99), len(times), statuses[200], statuses[503])


def _read(port: int, headers: dict[str, str], over: Event, times: list[float]) -> None:
    """Read the caller's own account, over and over. Times are in milliseconds."""
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    while not over.is_set():
        began = time.perf_counter()
        connection.request("GET", "/api/v1/auth/me", headers=headers)
        response = connection.getresponse()
        response.read()
        if response.status == 200:
            times.append((time.perf_counter() - began) * 1000)
        over.wait(0.005)
    connection.close()


def show_sign_in(console: Console, rows: Sequence[Row]) -> None:
    """Print what was measured."""
    table = Table("", "p50 ms", "p99 ms", "ratio", caption="ratio: of the medians, asked in turn")
    for column in table.columns[1:]:
        column.justify = "right"
    for row in rows:
        if isinstance(row, Difference):
            table.add_row(row.name, f"{row.p50_ms:.1f} to {row.other_p50_ms:.1f}", "", f"{row.ratio:.3f}")
        else:
            served = f"{row.sign_ins} signed in, {row.told_to_come_back} were told to come back"
            table.add_row(f"{row.name}; {served}", f"{row.p50_ms:.1f}", f"{row.p99_ms:.1f}", "")
    console.print(table)


def as_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return the rows as the file of results holds them: with the keys of all its rows, null where they do not apply, and with what else was measured."""
    rounded = [{name: round(value, 3) if isinstance(value, float) else value for name, value in vars(row).items()} for row in rows]
    return [{**dict.fromkeys(KEYS), **row} for row in rounded]
