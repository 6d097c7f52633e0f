"""Proof of work against floods of registrations and mail: a challenge that costs a phone about a second, and this service next to nothing.

The form is that of ALTCHA, version 2, whose widgets and libraries solve it. A challenge is signed and holds all that is needed to judge its solution, so
every process judges those of all; and each solution is good once, which the database remembers until the challenge expires.
"""

import hashlib
import secrets
import time
from datetime import UTC, datetime
from typing import Any

from altcha import Payload, create_challenge, verify_solution
from sqlalchemy.dialects.postgresql import insert

from app.config import Settings
from app.core import attempts
from app.core.account_exceptions import CaptchaInvalid, CaptchaRequired
from app.database import Database
from app.models import SpentChallenge

ALGORITHM, ITERATIONS = "PBKDF2/SHA-256", 1_000
# The number to be found: so many derivations, of about a millisecond each on a phone, have to be made. Between narrow bounds, so that nobody is unlucky.
SMALLEST_NUMBER, LARGEST_NUMBER = 300, 900
LIFETIME_SECONDS = 600
# How much longer a used solution is remembered: our clock and PostgreSQL's, which decides when it is forgotten, may differ.
REMEMBERED_SECONDS = 60
# One is some 750 characters long. The schema refuses longer ones, so that no time is lost on reading them.
LONGEST_SOLUTION = 2_000


class Captcha:
    """Makes challenges, and takes solutions."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._required = settings.captcha_required
        self._database = database
        keys = (settings.secret_key.get_secret_value(), *settings.secret_keys_previous)
        # The challenge is signed with the first of a pair, the number's derivation with the second: judging a solution is two HMACs.
        self._keys = [(_derived(b"challenge", key), _derived(b"solution", key)) for key in keys]

    def challenge(self) -> dict[str, Any]:
        """Return a new challenge, good for ten minutes."""
        challenge_key, solution_key = self._keys[0]
        number = SMALLEST_NUMBER + secrets.randbelow(LARGEST_NUMBER - SMALLEST_NUMBER + 1)
        expires_at = int(time.time()) + LIFETIME_SECONDS
        made = create_challenge(ALGORITHM, ITERATIONS, counter=number, expires_at=expires_at, hmac_secret=challenge_key, hmac_key_secret=solution_key)
        return made.to_dict()

    async def demand(self, solution: str | None) -> None:
        """Use a solution up, where this installation demands one. Raises `CaptchaRequired`, `CaptchaInvalid`.

        It stays used up where the request comes to nothing afterwards; only a request that is run again by itself has spent it for all its attempts.
        """
        if not self._required:
            return
        if not solution:
            raise CaptchaRequired
        digest, expires_at = self._judge(solution)
        if attempts.has(digest):
            return
        spending = insert(SpentChallenge).values(digest=digest, expires_at=expires_at).on_conflict_do_nothing().returning(SpentChallenge.digest)
        async with self._database.transaction(None) as session:
            spent = (await session.execute(spending)).scalar_one_or_none()
        if spent is None:
            raise CaptchaInvalid
        attempts.note(digest)

    def _judge(self, solution: str) -> tuple[bytes, datetime]:
        """Return what a right solution is remembered by, and until when. Raises `CaptchaInvalid`.

        The signature is verified before anything in the challenge is believed, so nobody else's numbers cost us time.
        """
        try:
            payload = Payload.from_base64(solution)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise CaptchaInvalid from None
        if not any(verify_solution(payload, first, hmac_key_secret=second).verified for first, second in self._keys):
            raise CaptchaInvalid
        # Verified, so both are as we made them.
        signature, expires_at = str(payload.challenge.signature), payload.challenge.parameters.expires_at or 0
        return hashlib.sha256(signature.encode()).digest(), datetime.fromtimestamp(expires_at + REMEMBERED_SECONDS, UTC)


def _derived(purpose: bytes, key: str) -> bytes:
    return hashlib.sha256(b"captcha-" + purpose + b":" + key.encode()).digest()
