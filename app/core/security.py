"""Access tokens: signed JWTs (RFC 7519) that name a user, a tenant and a session."""

import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from time import time
from uuid import UUID, uuid4

from asyncpg.pgproto.pgproto import UUID as DriverUUID  # noqa: N811 (a class, for all its capitals)
from joserfc import jwt
from joserfc.errors import ExpiredTokenError, JoseError
from joserfc.jwk import OctKey
from joserfc.jwt import JWTClaimsRegistry

from app.config import Settings
from app.core.exceptions import TokenExpired, TokenInvalid

ALGORITHM = "HS256"
LONGEST_TOKEN = 4096
VERIFIED_TOKENS = 20_000


@dataclass(frozen=True, slots=True, eq=False)
class Claims:
    """What a verified access token says. While a token is remembered its claims are one object, which the rate limiter remembers its caller by."""

    user_id: UUID
    tenant_id: UUID
    session_id: UUID
    role: str
    expires_at: int


class AccessTokens:
    """Issues access tokens, and verifies them."""

    def __init__(self, settings: Settings) -> None:
        keys = [settings.secret_key.get_secret_value(), *settings.secret_keys_previous]
        self._keys = {key_id(key): OctKey.import_key(hashlib.sha256(b"access-token:" + key.encode()).digest()) for key in keys}
        self._current = key_id(keys[0])
        self._issuer, self._audience = settings.token_issuer, settings.token_audience
        self.lifetime = settings.access_token_minutes * 60
        self._registry = JWTClaimsRegistry(
            iss={"essential": True, "value": self._issuer},
            aud={"essential": True, "value": self._audience},
            sub={"essential": True},
            tenant_id={"essential": True},
            role={"essential": True},
            sid={"essential": True},
            jti={"essential": True},
            iat={"essential": True},
            nbf={"essential": True},
            exp={"essential": True},
        )
        self._verified: OrderedDict[bytes, Claims] = OrderedDict()

    def issue(self, *, user_id: UUID, tenant_id: UUID, session_id: UUID, role: str) -> str:
        """Return a token that is good for `lifetime` seconds."""
        now = int(time())
        claims = {
            "iss": self._issuer,
            "aud": self._audience,
            "sub": str(user_id),
            "tenant_id": str(tenant_id),
            "role": role,
            "sid": str(session_id),
            "jti": str(uuid4()),
            "iat": now,
            "nbf": now,
            "exp": now + self.lifetime,
        }
        return jwt.encode({"alg": ALGORITHM, "typ": "JWT", "kid": self._current}, claims, self._keys[self._current], algorithms=[ALGORITHM])

    def verify(self, token: str) -> Claims:
        """Return what the token says. Raises `TokenInvalid`, or `TokenExpired` for one that once was good."""
        if len(token) > LONGEST_TOKEN:
            raise TokenInvalid
        try:
            digest = hashlib.sha256(token.encode("ascii")).digest()
        except UnicodeEncodeError:
            raise TokenInvalid from None
        claims = self._verified.get(digest)
        if claims is None:
            claims = self._verify_signature(token)
            self._verified[digest] = claims
            if len(self._verified) > VERIFIED_TOKENS:
                self._verified.popitem(last=False)
        if claims.expires_at <= time():
            raise TokenExpired
        return claims

    def _verify_signature(self, token: str) -> Claims:
        try:
            decoded = jwt.decode(token, self._key_of, algorithms=[ALGORITHM])
            self._registry.validate(decoded.claims)
            claims = decoded.claims
            # The driver's kind of UUID: its text, hash and comparison, of which each request needs some ten, are not made in Python.
            user_id, tenant_id, session_id = (DriverUUID(claims[name]) for name in ("sub", "tenant_id", "sid"))
            return Claims(user_id, tenant_id, session_id, str(claims["role"]), int(claims["exp"]))
        except ExpiredTokenError:
            raise TokenExpired from None
        except (JoseError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            # joserfc raises plain built-in errors for some malformed tokens, and for what is no text where text is due.
            raise TokenInvalid from None

    def _key_of(self, token: object) -> OctKey:
        headers = token.headers()  # type: ignore[attr-defined]  # joserfc's CompactSignature, untyped in its callback
        return self._keys[headers.get("kid")]


def key_id(secret: str) -> str:
    """Return the public name of a signing key: enough to choose it, nothing to learn from it."""
    return hashlib.sha256(b"key-id:" + secret.encode()).hexdigest()[:16]
