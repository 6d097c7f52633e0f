"""Derived tokens: the same again where it is asked for, under no other key, and nothing else in their place."""

import base64
import random
from uuid import uuid4

import pytest

from app.config import Settings
from app.core.derived_tokens import DerivedTokens, TokenKind, TokenName, name_of, token_hash

OLD, NEW = "the-old-key-of-the-service-0123456789", "the-new-key-of-the-service-0123456789"


def tokens(key: str, *previous: str) -> DerivedTokens:
    return DerivedTokens(Settings(_env_file=None, secret_key=key, secret_keys_previous=previous))


def a_name(number: int = 0) -> TokenName:
    return TokenName(uuid4(), uuid4(), number)


def test_a_token_says_what_it_stands_for() -> None:
    name = a_name(7)
    assert name_of(tokens(OLD).make(TokenKind.REFRESH, name)) == name


def test_a_token_has_256_bits_that_only_the_key_gives() -> None:
    name = a_name()
    ours, theirs = (base64.urlsafe_b64decode(tokens(key).make(TokenKind.REFRESH, name) + "=") for key in (OLD, NEW))
    assert ours[:-32] == theirs[:-32]
    assert ours[-32:] != theirs[-32:]


def test_every_row_number_and_kind_has_a_token_of_its_own() -> None:
    made = tokens(OLD)
    name = a_name()
    names = [name, name._replace(number=1), name._replace(row_id=uuid4()), name._replace(tenant_id=uuid4())]
    assert len({made.make(kind, each) for kind in TokenKind for each in names}) == len(names) * len(TokenKind)


def test_what_is_stored_of_a_token_is_not_the_token() -> None:
    token = tokens(OLD).make(TokenKind.REFRESH, a_name())
    assert len(token_hash(token)) == 32
    assert token.encode() not in token_hash(token)


def test_the_same_token_is_made_again_after_the_key_was_changed() -> None:
    name = a_name()
    token = tokens(OLD).make(TokenKind.MAILED, name)
    assert tokens(NEW, OLD).make(TokenKind.MAILED, name) != token
    assert tokens(NEW, OLD).again(TokenKind.MAILED, name, token_hash(token)) == token
    assert tokens(NEW).again(TokenKind.MAILED, name, token_hash(token)) is None


def test_a_token_is_ours_under_any_key_that_is_known() -> None:
    token = tokens(OLD).make(TokenKind.REFRESH, a_name())
    assert tokens(NEW, OLD).is_ours(TokenKind.REFRESH, token)
    assert not tokens(NEW).is_ours(TokenKind.REFRESH, token)
    assert not tokens(OLD).is_ours(TokenKind.INVITATION, token)


@pytest.mark.parametrize("token", ["", "x", "=", "é" * 91, "a" * 10_000, "A" * 90, "A" * 92, "\ud800"])
def test_what_was_never_a_token_names_nothing(token: str) -> None:
    assert name_of(token) is None
    assert not tokens(OLD).is_ours(TokenKind.REFRESH, token)


def test_a_token_with_any_character_changed_is_not_ours() -> None:
    made = tokens(OLD)
    token = made.make(TokenKind.REFRESH, a_name(3))
    chance = random.Random(1)
    for place in range(len(token)):
        other = chance.choice([character for character in "AZaz09-_" if character != token[place]])
        assert not made.is_ours(TokenKind.REFRESH, token[:place] + other + token[place + 1 :])
