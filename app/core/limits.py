"""Which buckets a request takes from, how large they are, and what the answer's headers say of them."""

from collections.abc import Sequence
from functools import lru_cache
from time import time
from typing import NamedTuple, cast
from uuid import UUID

from app.config import Settings
from app.core.exceptions import LimiterAway, RateLimited
from app.core.networks import network_of
from app.core.redis import RedisAway, RedisGateway
from app.core.stamps import STAMP_MILLISECONDS, Stamp, stamp_key
from app.core.tenancy import TenantInfo
from app.core.token_bucket import TAKE_SCRIPT, Bucket, BucketState, LocalBuckets, Taken

USER_SHARE = 2
USER_MINIMUM_PER_MINUTE = 60
USER_MINIMUM_BURST = 30
MICROSECONDS = 1_000_000
REMEMBERED_USERS = 50_000

Arguments = tuple[str | int, ...]


class Admission(NamedTuple):
    """An admitted request: where its buckets stand, and the stamps of its tenant and user where Redis could be asked."""

    states: tuple[BucketState, ...]
    stamp: Stamp | None = None


class RateLimiter:
    """Takes a request's tokens, in one call to Redis."""

    def __init__(self, redis: RedisGateway, settings: Settings) -> None:
        self._redis = redis
        self._settings = settings
        self._local = LocalBuckets()

    async def admit(self, tenant: TenantInfo, user_id: UUID) -> Admission:
        """Take a token from the tenant's and the user's bucket. Raises `RateLimited`, or `LimiterAway` under RATE_LIMIT_FALLBACK=closed."""
        tier = self._settings.tiers[tenant.subscription_tier]
        rate, burst = tenant.rate_limit_per_minute or tier.requests_per_minute, tenant.rate_limit_burst or tier.burst
        buckets, arguments = _of_tenant_and_user(tenant.id, user_id, rate, burst)
        try:
            taken, stamp = await self._take(buckets, arguments)
        except RedisAway:
            if self._settings.rate_limit_fallback == "closed":
                raise LimiterAway from None
            if self._settings.rate_limit_fallback == "open":
                return Admission(())
            taken, stamp = self._local.take(buckets), None
        return _admission(taken, stamp)

    async def admit_anonymous(self, address: str) -> Admission:
        """Take a token from the bucket of a client's network. Never unlimited, whatever RATE_LIMIT_FALLBACK says. Raises as `admit`."""
        rate, burst = self._settings.anonymous_requests_per_minute, self._settings.anonymous_burst
        buckets = (Bucket("address", f"{{a:{network_of(address)}}}:bucket", rate, burst),)
        try:
            taken, _ = await self._take(buckets, _arguments(buckets))
        except RedisAway:
            if self._settings.rate_limit_fallback == "closed":
                raise LimiterAway from None
            taken = self._local.take(buckets)
        return _admission(taken, None)

    async def _take(self, buckets: Sequence[Bucket], arguments: Arguments) -> tuple[Taken, Stamp | None]:
        reply: list[int | bytes] = await self._redis.run(TAKE_SCRIPT, *arguments)
        numbers = cast("list[int]", reply[1 : 1 + 3 * len(buckets)])
        states = tuple(BucketState(bucket, *numbers[3 * i : 3 * i + 3]) for i, bucket in enumerate(buckets))
        stamps = cast("list[bytes]", reply[1 + 3 * len(buckets) :])
        return Taken(reply[0] == 1, states), Stamp(*stamps) if stamps else None


@lru_cache(REMEMBERED_USERS)
def _of_tenant_and_user(tenant_id: UUID, user_id: UUID, rate: int, burst: int) -> tuple[tuple[Bucket, Bucket], Arguments]:
    """Return the buckets of a user and its tenant, and what the script is asked with."""
    tag = f"{{t:{tenant_id}}}"
    user_rate, user_burst = max(rate // USER_SHARE, USER_MINIMUM_PER_MINUTE), max(burst // USER_SHARE, USER_MINIMUM_BURST)
    buckets = (Bucket("tenant", f"{tag}:bucket", rate, burst), Bucket("user", f"{tag}:bucket:{user_id}", user_rate, user_burst))
    return buckets, _arguments(buckets, stamp_key(tenant_id), stamp_key(tenant_id, user_id))


def _arguments(buckets: Sequence[Bucket], *stamps: str) -> Arguments:
    """Return the script's number of keys, its keys, and what else it takes."""
    keys = [*(bucket.key for bucket in buckets), *stamps]
    sizes = [size for bucket in buckets for size in (bucket.per_minute, bucket.burst)]
    return (len(keys), *keys, len(buckets), *sizes, STAMP_MILLISECONDS)


def _admission(taken: Taken, stamp: Stamp | None) -> Admission:
    if not taken.admitted:
        seconds = max(-(-state.until_token // MICROSECONDS) for state in taken.states)
        raise RateLimited(headers={"Retry-After": str(max(1, seconds)), **limit_headers(taken.states)})
    return Admission(taken.states, stamp)


def limit_headers(states: Sequence[BucketState]) -> dict[str, str]:
    """Return RateLimit-Policy and RateLimit (draft-ietf-httpapi-ratelimit-headers-10), and the X-RateLimit headers of the bucket nearest to its end.

    `q` is the burst and `w` the seconds in which a bucket fills from empty; X-RateLimit-Reset is the Unix time at which it is full again.
    """
    if not states:
        return {}
    nearest = min(states, key=lambda state: state.remaining)
    return {
        "RateLimit-Policy": ", ".join([_policy(s.bucket.name, s.bucket.burst, s.bucket.per_minute) for s in states]),
        "RateLimit": ", ".join([f'"{s.bucket.name}";r={s.remaining};t={-(-s.until_full // MICROSECONDS)}' for s in states]),
        "X-RateLimit-Limit": str(nearest.bucket.burst),
        "X-RateLimit-Remaining": str(nearest.remaining),
        "X-RateLimit-Reset": str(int(time()) + -(-nearest.until_full // MICROSECONDS)),
    }


@lru_cache(1024)
def _policy(name: str, burst: int, per_minute: int) -> str:
    return f'"{name}";q={burst};w={-(-burst * 60 // per_minute)}'
