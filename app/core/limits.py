"""Which buckets a request takes from, how large they are, and what the answer's headers say of them."""

from collections import OrderedDict
from collections.abc import Sequence
from operator import attrgetter
from time import time
from typing import NamedTuple, cast

from app.config import Settings
from app.core.exceptions import LimiterAway, RateLimited
from app.core.networks import network_of
from app.core.redis import PackedCall, RedisAway, RedisGateway
from app.core.security import Claims
from app.core.stamps import STAMP_MILLISECONDS, Stamp, stamp_key
from app.core.tenancy import TenantInfo
from app.core.token_bucket import TAKE_SCRIPT, Bucket, BucketState, LocalBuckets, Taken

USER_SHARE = 2
USER_MINIMUM_PER_MINUTE = 60
USER_MINIMUM_BURST = 30
MICROSECONDS = 1_000_000
REMEMBERED_CALLERS = 20_000

_remaining = attrgetter("remaining")


class BucketSet:
    """Buckets that are taken from together, and what is the same each time: the call to Redis, and the RateLimit-Policy header."""

    __slots__ = ("buckets", "call", "policy")

    def __init__(self, buckets: Sequence[Bucket], stamps: Sequence[str] = ()) -> None:
        """`stamps` are the keys that are to be read with the same call."""
        self.buckets = tuple(buckets)
        keys = [*(bucket.key for bucket in buckets), *stamps]
        sizes = [size for bucket in buckets for size in (bucket.per_minute, bucket.burst)]
        self.call = PackedCall(TAKE_SCRIPT, len(keys), *keys, len(buckets), *sizes, STAMP_MILLISECONDS)
        self.policy = policy_of(buckets)


class Admission(NamedTuple):
    """An admitted request: what the answer's headers say of its buckets, and the stamps of its tenant and user where Redis could be asked."""

    headers: dict[str, str]
    stamp: Stamp | None = None


class RateLimiter:
    """Takes a request's tokens, in one call to Redis."""

    def __init__(self, redis: RedisGateway, settings: Settings) -> None:
        self._redis = redis
        self._settings = settings
        self._local = LocalBuckets()
        self._of_callers: OrderedDict[Claims, tuple[int, int, BucketSet]] = OrderedDict()

    async def admit(self, tenant: TenantInfo, claims: Claims) -> Admission:
        """Take a token from the tenant's and the user's bucket. Raises `RateLimited`, or `LimiterAway` under RATE_LIMIT_FALLBACK=closed."""
        limits = self._of_caller(tenant, claims)
        try:
            taken, stamp = await self._take(limits)
        except RedisAway:
            if self._settings.rate_limit_fallback == "closed":
                raise LimiterAway from None
            if self._settings.rate_limit_fallback == "open":
                return Admission({})
            taken, stamp = self._local.take(limits.buckets), None
        return _admission(limits, taken, stamp)

    async def admit_anonymous(self, address: str) -> Admission:
        """Take a token from the bucket of a client's network. Never unlimited, whatever RATE_LIMIT_FALLBACK says. Raises as `admit`."""
        rate, burst = self._settings.anonymous_requests_per_minute, self._settings.anonymous_burst
        limits = BucketSet([Bucket("address", f"{{a:{network_of(address)}}}:bucket", rate, burst)])
        try:
            taken, _ = await self._take(limits)
        except RedisAway:
            if self._settings.rate_limit_fallback == "closed":
                raise LimiterAway from None
            taken = self._local.take(limits.buckets)
        return _admission(limits, taken, None)

    def _of_caller(self, tenant: TenantInfo, claims: Claims) -> BucketSet:
        """Return the buckets of a caller, whose token is one of the tenant's, as large as the tenant's limits are now."""
        tier = self._settings.tiers[tenant.subscription_tier]
        rate, burst = tenant.rate_limit_per_minute or tier.requests_per_minute, tenant.rate_limit_burst or tier.burst
        known = self._of_callers.get(claims)
        if known is not None and known[0] == rate and known[1] == burst:
            return known[2]
        limits = _of_tenant_and_user(tenant, claims, rate, burst)
        self._of_callers[claims] = rate, burst, limits
        if len(self._of_callers) > REMEMBERED_CALLERS:
            self._of_callers.popitem(last=False)
        return limits

    async def _take(self, limits: BucketSet) -> tuple[Taken, Stamp | None]:
        # Before the call: an answer may still be on its way here when the connection that it came by is lost.
        epoch = self._redis.epoch
        reply: list[int | bytes] = await self._redis.run_packed(limits.call)
        end = 1 + 3 * len(limits.buckets)
        numbers = cast("list[int]", reply[1:end])
        states = tuple(map(BucketState, limits.buckets, numbers[0::3], numbers[1::3], numbers[2::3]))
        taken = Taken(reply[0] == 1, states)
        if len(reply) == end:
            return taken, None
        tenant, user = cast("list[bytes]", reply[end:])
        return taken, Stamp(tenant, user, epoch)


def _of_tenant_and_user(tenant: TenantInfo, claims: Claims, rate: int, burst: int) -> BucketSet:
    tag = f"{{t:{tenant.id}}}"
    user_rate, user_burst = max(rate // USER_SHARE, USER_MINIMUM_PER_MINUTE), max(burst // USER_SHARE, USER_MINIMUM_BURST)
    buckets = (Bucket("tenant", f"{tag}:bucket", rate, burst), Bucket("user", f"{tag}:bucket:{claims.user_id}", user_rate, user_burst))
    return BucketSet(buckets, stamps=(stamp_key(tenant.id), stamp_key(tenant.id, claims.user_id)))


def _admission(limits: BucketSet, taken: Taken, stamp: Stamp | None) -> Admission:
    headers = limit_headers(limits.policy, taken.states)
    if not taken.admitted:
        seconds = max(-(-state.until_token // MICROSECONDS) for state in taken.states)
        raise RateLimited(headers={"Retry-After": str(max(1, seconds)), **headers})
    return Admission(headers, stamp)


def policy_of(buckets: Sequence[Bucket]) -> str:
    """Return the value of RateLimit-Policy: `q` is the burst and `w` the seconds in which a bucket fills from empty."""
    return ", ".join(f'"{name}";q={burst};w={-(-burst * 60 // per_minute)}' for name, _, per_minute, burst in buckets)


def limit_headers(policy: str, states: Sequence[BucketState]) -> dict[str, str]:
    """Return RateLimit-Policy and RateLimit (draft-ietf-httpapi-ratelimit-headers-10), and the X-RateLimit headers of the bucket nearest to its end.

    X-RateLimit-Reset is the Unix time at which that one is full again.
    """
    nearest = min(states, key=_remaining)
    return {
        "RateLimit-Policy": policy,
        "RateLimit": ", ".join([f'"{bucket.name}";r={remaining};t={-(-until_full // MICROSECONDS)}' for bucket, remaining, _, until_full in states]),
        "X-RateLimit-Limit": str(nearest.bucket.burst),
        "X-RateLimit-Remaining": str(nearest.remaining),
        "X-RateLimit-Reset": str(int(time()) + -(-nearest.until_full // MICROSECONDS)),
    }
