"""Mail from the request that is its reason to a real SMTP server, by workers that are real processes."""

import asyncio
import signal
import time
from pathlib import Path
from uuid import uuid4

from httpx import AsyncClient

from app.config import Settings
from tests.api.answers import accepted
from tests.factories import Factory
from tests.faults.support import Valkey, environment_of, eventually
from tests.jobs.support import QUICK_WORKER, said, started
from tests.mail.smtp_server import SmtpServer

INVITED = 6
# Far more than a request without a password needs, and far less than any wait for an SMTP server.
LONGEST_REQUEST = 2.0


async def test_a_server_that_is_away_fails_and_slows_down_no_request_and_gets_each_mail_once_when_it_is_back(
    client: AsyncClient, factory: Factory, settings: Settings, own_valkey: Valkey, smtp: SmtpServer, tmp_path: Path
) -> None:
    admin = await factory.person()
    invited = [f"{uuid4().hex}@example.com" for _ in range(INVITED)]
    smtp.stop()
    environment = environment_of(settings, redis_url=own_valkey.url, smtp_url=smtp.url, log_level="INFO")
    killed, other = await started(tmp_path, environment, arguments=QUICK_WORKER)
    try:
        for email in invited:
            began = time.monotonic()
            accepted(await client.post("/api/v1/users/invitations", headers=admin.headers, json={"email": email, "role": "viewer"}), 201)
            assert time.monotonic() - began < LONGEST_REQUEST

        async def all_tried() -> bool:
            failures = [line for worker in (killed, other) for line in worker.lines if line["event"] == "mail not sent"]
            return len({line["mail_id"] for line in failures}) == INVITED

        await eventually(all_tried)
        killed.kill()
        smtp.start()

        async def all_done() -> bool:
            return await factory.run("SELECT count(*) FROM jobs.pgqueuer WHERE entrypoint = 'send_mail'") == [(0,)]

        await eventually(all_done)
        assert [len(smtp.mails_to(email)) for email in invited] == [1] * INVITED
        await said(other, "worker started")
        other.send(signal.SIGTERM)
        assert await asyncio.to_thread(other.wait) == 0
    finally:
        for worker in (killed, other):
            worker.kill()
        smtp.stop()
        smtp.start()
