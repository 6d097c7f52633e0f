"""Workers that are real processes, and an SMTP server that has the mail and says nothing."""

import asyncio
import signal
import time
from pathlib import Path

from app.config import Settings
from app.models import MailTemplate, User
from app.services.changes import RENEW_STAMP, Changes
from app.services.container import Services
from app.services.mail import SEND_MAIL, post
from app.utils.mail_turns import AT_ONCE
from tests.factories import Factory
from tests.faults.support import Process, environment_of, eventually
from tests.jobs.support import QUICK_WORKER, WORKER, started, waiting
from tests.mail.smtp_server import SmtpServer

WAITING = 25
# What wakes a worker, does a job of another kind and tells of it, on a busy machine. A server that hangs is given up after ten minutes.
LONGEST_WAIT = 10.0


async def post_mails(services: Services, user: User, number: int) -> None:
    for _ in range(number):
        async with services.database.transaction(user.tenant_id) as session:
            await post(session, user.tenant_id, MailTemplate.PASSWORD_CHANGED, user.email, subject_id=user.id)


async def offered(smtp: SmtpServer, number: int) -> None:
    """Wait until so many mails were offered to the server."""

    async def it_was() -> bool:
        return smtp.attempts >= number

    await eventually(it_was)


async def stopped(*workers: Process) -> list[int]:
    for worker in workers:
        worker.send(signal.SIGTERM)
    return [await asyncio.to_thread(worker.wait) for worker in workers]


async def test_a_server_that_hangs_holds_up_no_job_of_another_kind(
    services: Services, settings: Settings, smtp: SmtpServer, factory: Factory, tmp_path: Path
) -> None:
    user = await factory.user(await factory.tenant(), email_verified=True)
    (worker,) = await started(tmp_path, environment_of(settings, smtp_url=smtp.url, log_level="INFO"), 1, WORKER)
    smtp.hanging = True
    try:
        await post_mails(services, user, WAITING)
        await offered(smtp, AT_ONCE)
        for _ in range(4):
            began = time.monotonic()
            async with services.database.transaction(user.tenant_id) as session:
                await Changes(user.tenant_id).announce(session, user.id)

            async def done() -> bool:
                return await waiting(factory, RENEW_STAMP) == []

            await eventually(done)
            assert time.monotonic() - began < LONGEST_WAIT
            await asyncio.sleep(1.5)
        assert smtp.attempts == AT_ONCE
        tries = await factory.run("SELECT status::text, attempts, count(*) FROM jobs.pgqueuer WHERE entrypoint = :kind GROUP BY 1, 2", kind=SEND_MAIL)
        # Those that were put off have come back several times by now.
        assert sum(number for *_, number in tries) == WAITING
        assert {tried for state, tried, _ in tries if state == "queued"} == {0}
        assert "job failed" not in worker.output
        smtp.hanging = False

        async def all_done() -> bool:
            return await waiting(factory, SEND_MAIL) == []

        await eventually(all_done)
        assert len(smtp.mails_to(user.email)) == WAITING
        assert await stopped(worker) == [0]
    finally:
        smtp.hanging = False
        worker.kill()


async def test_a_worker_that_waits_for_a_server_keeps_its_job_and_ends_in_time(
    services: Services, settings: Settings, smtp: SmtpServer, factory: Factory, tmp_path: Path
) -> None:
    user = await factory.user(await factory.tenant(), email_verified=True)
    # These take over after a second what gives no sign of life, and have two to end.
    workers = await started(tmp_path, environment_of(settings, smtp_url=smtp.url, log_level="INFO"), 2, QUICK_WORKER)
    smtp.hanging = True
    try:
        await post_mails(services, user, 1)
        await offered(smtp, 1)
        await asyncio.sleep(4)
        assert smtp.attempts == 1
        told = time.monotonic()
        assert await stopped(*workers) == [0, 0]
        assert time.monotonic() - told < 6
        assert await factory.run("SELECT status::text, execute_after <= now() FROM jobs.pgqueuer WHERE entrypoint = :kind", kind=SEND_MAIL) == [
            ("queued", True)
        ]
    finally:
        smtp.hanging = False
        for worker in workers:
            worker.kill()
