"""A session's tokens, presented in any order and at any time, are answered as a model of a few lines says.

Hypothesis chooses the steps. The model keeps the tokens in their line, the time of the last rotation, and whether the session lives.
"""

from typing import ClassVar
from uuid import uuid4

from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule

from app.core.derived_tokens import TokenKind, TokenName
from app.services.container import Services
from tests.api.sessions import ME, headers_with, let_pass, refresh, row_of
from tests.factories import Person
from tests.state_machines import ApiMachine, check

GRACE_SECONDS = 10
# None comes near the ten seconds: how long the requests themselves take is not for the model to know.
PAUSES = st.sampled_from([5.0, 20.0])
# How far back in the line: mostly the current token, and the one before.
AGES = st.sampled_from([0, 0, 0, 1, 1, 2, 3])


class OneSession(ApiMachine):
    """The rules: what can be presented, and what happens to a session besides."""

    seen: ClassVar[set[str]] = set()

    @initialize()
    def sign_in(self) -> None:
        self.person: Person = self.run(self.factory.person())
        self.line = [self.person.refresh_token]
        self.access = self.person.token
        # When each token of the line was used, by the model's own clock.
        self.now, self.used = 0.0, [0.0]
        self.lives, self.is_active = True, True

    # Presenting tokens

    @rule(age=AGES, pause=PAUSES)
    def present_after_a_while(self, age: int, pause: float) -> None:
        self.run(let_pass(self.factory, self.person.session_id, pause))
        self.now += pause
        self.present(age)

    @rule(age=st.sampled_from([0, 1]))
    def present_at_once(self, age: int) -> None:
        self.present(age)

    def present(self, age: int) -> None:
        """Present a token of the line."""
        place = max(0, len(self.line) - 1 - age)
        outcome = self.expected(place)
        answer = self.run(refresh(self.client, self.line[place]))
        body = answer.json()
        self.seen.add(outcome)
        if outcome == "rotated":
            assert answer.status_code == 200, answer.text
            assert body["refresh_token"] not in self.line
            self.line.append(body["refresh_token"])
            self.access, self.used[-1] = body["access_token"], self.now
            self.used.append(self.now)
        elif outcome == "repeated":
            assert (answer.status_code, body.get("refresh_token")) == (200, self.line[-1]), answer.text
            self.access = body["access_token"]
        else:
            assert (answer.status_code, body["code"]) == (401, outcome)
            self.lives = self.lives and outcome != "refresh_token_reused"

    def expected(self, place: int) -> str:
        """Return what the model says of the token at that place in the line."""
        if not (self.lives and self.is_active):
            return "token_revoked"
        if place == len(self.line) - 1:
            return "rotated"
        if self.now - self.used[place] < GRACE_SECONDS:
            return "repeated"
        return "refresh_token_reused"

    @rule(number=st.integers(0, 6))
    def present_a_token_of_another_kind(self, number: int) -> None:
        name = TokenName(self.person.tenant.id, self.person.session_id, number)
        self.is_refused(self.factory.derived_tokens.make(TokenKind.MAILED, name))

    @rule(ahead=st.integers(1, 3))
    def present_a_token_that_is_not_there_yet(self, ahead: int) -> None:
        name = TokenName(self.person.tenant.id, self.person.session_id, len(self.line) - 1 + ahead)
        token = self.factory.derived_tokens.make(TokenKind.REFRESH, name)
        self.is_refused(token, "token_invalid" if self.lives and self.is_active else "token_revoked")

    @rule()
    def present_a_token_of_no_session(self) -> None:
        self.is_refused("A" * len(self.line[0]))
        name = TokenName(uuid4(), self.person.session_id)
        self.is_refused(self.factory.derived_tokens.make(TokenKind.REFRESH, name))

    @rule(age=AGES)
    def present_a_token_in_another_tenant(self, age: int) -> None:
        token = self.line[max(0, len(self.line) - 1 - age)]
        answer = self.run(refresh(self.client, token, **{"X-Tenant-ID": str(uuid4())}))
        assert (answer.status_code, answer.json()["code"]) == (401, "token_invalid")

    def is_refused(self, token: str, code: str = "token_invalid") -> None:
        answer = self.run(refresh(self.client, token))
        assert (answer.status_code, answer.json()["code"]) == (401, code)

    # What else happens

    @precondition(lambda self: len(self.line) > 2)
    @rule(way=st.sampled_from(["logout", "logout-all"]))
    def log_out(self, way: str) -> None:
        answer = self.run(self.client.post(f"/api/v1/auth/{way}", headers=headers_with(self.access, self.person)))
        assert answer.status_code == (204 if self.lives and self.is_active else 401)
        self.lives = self.lives and not self.is_active

    @precondition(lambda self: len(self.line) > 1)
    @rule()
    def deactivate_or_activate(self) -> None:
        """In the database alone, so that the session itself is untouched."""
        self.is_active = not self.is_active
        self.run(self.factory.run("UPDATE users SET is_active = :value WHERE id = :id", value=self.is_active, id=self.person.user.id))
        services: Services = self.app.state.services
        self.run(services.stamps.renew(self.person.tenant.id, self.person.user.id))

    @invariant()
    def the_access_token_is_good_exactly_while_the_session_lives(self) -> None:
        if hasattr(self, "person"):
            answer = self.run(self.client.get(ME, headers=headers_with(self.access, self.person)))
            assert answer.status_code == (200 if self.lives and self.is_active else 401), answer.text

    def teardown(self) -> None:
        """At the end PostgreSQL says what the model says."""
        row = self.run(row_of(self.factory, self.person.session_id))
        assert (row.refresh_count, row.revoked_at is None) == (len(self.line) - 1, self.lives)
        self.run(self.client.aclose())


def test_a_session_answers_as_its_model_says() -> None:
    check(OneSession, "refresh_model", examples=60, steps=15)
    assert OneSession.seen == {"rotated", "repeated", "refresh_token_reused", "token_revoked"}
