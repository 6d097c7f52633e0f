"""Runs a Hypothesis state machine against an application of its own."""

import asyncio
from collections.abc import Awaitable
from contextlib import AbstractAsyncContextManager
from typing import ClassVar, TypeVar

from fastapi import FastAPI
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from tests.clients import client_of
from tests.factories import Factory
from tests.isolation.conftest import application_of_its_own

Result = TypeVar("Result")


class ApiMachine(RuleBasedStateMachine):
    """Rules that ask the API. Hypothesis is synchronous, so each step runs on a loop of the machine's own."""

    loop: ClassVar[asyncio.AbstractEventLoop]
    app: ClassVar[FastAPI]
    factory: ClassVar[Factory]

    def __init__(self) -> None:
        super().__init__()
        self.client = client_of(self.app, raise_app_exceptions=True)

    def run(self, work: Awaitable[Result]) -> Result:
        return self.loop.run_until_complete(work)


def check(machine: type[ApiMachine], database: str, *, examples: int, steps: int) -> None:
    """Run the machine so many times with so many steps, on an application with a database of that name. Raises what its rules raise."""
    loop = asyncio.new_event_loop()
    running: AbstractAsyncContextManager[tuple[FastAPI, Factory]] = application_of_its_own(database)
    machine.loop = loop
    machine.app, machine.factory = loop.run_until_complete(running.__aenter__())
    try:
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=examples,
                stateful_step_count=steps,
                deadline=None,
                derandomize=True,
                database=None,
                # The first failure will do as it is: shrinking one takes minutes of requests.
                phases=[Phase.generate],
                report_multiple_bugs=False,
                suppress_health_check=list(HealthCheck),
            ),
        )
    finally:
        loop.run_until_complete(running.__aexit__(None, None, None))
        loop.close()
