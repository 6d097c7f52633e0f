"""The server: an answer is sent whole."""

import asyncio
from typing import Any, cast

import pytest

from app.server import WholeAnswers


class Noted:
    """A transport that notes what is done to it."""

    def __init__(self) -> None:
        self.done: list[bytes | str] = []

    def write(self, data: bytes) -> None:
        self.done.append(bytes(data))

    def close(self) -> None:
        self.done.append("closed")

    def is_closing(self) -> bool:
        return "closed" in self.done


@pytest.fixture
async def noted() -> Noted:
    return Noted()


@pytest.fixture
async def answers(noted: Noted) -> WholeAnswers:
    return WholeAnswers(cast("Any", noted))


async def test_head_and_body_are_one_write(noted: Noted, answers: WholeAnswers) -> None:
    for number in (1, 2):
        answers.write(b"head %d " % number)
        answers.write(b"body")
    assert noted.done == [b"head 1 body", b"head 2 body"]
    await asyncio.sleep(0)
    assert len(noted.done) == 2


async def test_a_head_whose_body_lets_itself_be_waited_for_does_not_wait(noted: Noted, answers: WholeAnswers) -> None:
    answers.write(b"head")
    assert noted.done == []
    await asyncio.sleep(0)
    assert noted.done == [b"head"]
    answers.write(b"part 1")
    answers.write(b"part 2")
    answers.write(b"part 3")
    await asyncio.sleep(0)
    assert noted.done == [b"head", b"part 1part 2", b"part 3"]


async def test_nothing_is_written_to_a_connection_that_the_client_has_closed(noted: Noted, answers: WholeAnswers) -> None:
    answers.write(b"head")
    noted.close()
    await asyncio.sleep(0)
    assert noted.done == ["closed"]


async def test_an_answer_without_a_body_is_written_before_the_connection_closes(noted: Noted, answers: WholeAnswers) -> None:
    answers.write(b"head")
    answers.close()
    assert noted.done == [b"head", "closed"]
    assert answers.is_closing()
