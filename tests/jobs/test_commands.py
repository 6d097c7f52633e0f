"""`python -m app.cli jobs`: what failed for good is seen, and sent again or discarded."""

import re
from pathlib import Path

import pytest

from app.config import Settings
from app.jobs.view_counts import FLUSH_VIEW_COUNTS
from app.services.container import Services
from app.services.mail import SEND_MAIL
from tests.factories import Factory
from tests.faults.support import environment_of, process, run_cli
from tests.jobs.support import add


@pytest.fixture
def environment(settings: Settings) -> dict[str, str]:
    return {**environment_of(settings), "COLUMNS": "200"}


async def failed(services: Services, factory: Factory, kind: str = "test_failed", tenant: object = None) -> int:
    """Make a job that has failed. Returns its identifier."""
    await add(services, kind, {}, tenant_id=getattr(tenant, "id", None))
    ((number,),) = await factory.run("SELECT max(id) FROM jobs.pgqueuer WHERE entrypoint = :kind", kind=kind)
    await factory.run("UPDATE jobs.pgqueuer SET status = 'failed', attempts = 3, execute_after = now() + interval '1 hour' WHERE id = :id", id=number)
    traceback = '{"exception_message": "SMTPRefused"}'
    await factory.run(
        "INSERT INTO jobs.pgqueuer_log (job_id, status, priority, entrypoint, traceback) VALUES (:id, 'failed', 0, 'x', CAST(:traceback AS jsonb))",
        id=number,
        traceback=traceback,
    )
    return int(number)


def lines_of(output: str) -> dict[int, list[str]]:
    """The cells of each row of the table, by the job's identifier."""
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in output.splitlines() if re.match(r"│ +\d", line)]
    return {int(row[0]): row[1:] for row in rows}


async def test_failed_jobs_are_listed_and_the_others_where_they_are_asked_for(
    services: Services, factory: Factory, environment: dict[str, str], tmp_path: Path
) -> None:
    tenant = await factory.tenant()
    one, other = await failed(services, factory, tenant=tenant), await failed(services, factory)
    await add(services, "test_waiting", {})
    await factory.run("INSERT INTO jobs.pgqueuer (id, priority, status, entrypoint, payload) VALUES (999999, 0, 'failed', 'test_garbage', '\\xff')")
    shown = lines_of(run_cli(tmp_path, environment, "jobs", "list"))
    assert set(shown) == {one, other, 999999}
    kind, slug, state, attempts, _, next_try, error = shown[one]
    assert (kind, slug, state, attempts, next_try, error) == ("test_failed", tenant.slug, "failed", "4", "", "SMTPRefused")
    assert shown[other][1] == shown[999999][1] == ""
    everything = lines_of(run_cli(tmp_path, environment, "jobs", "list", "--all"))
    (waiting,) = [row for number, row in everything.items() if number not in shown]
    assert waiting[:4] == ["test_waiting", "", "queued", "0"]
    assert re.fullmatch(r"[\d-]{10} [\d:]{8}", waiting[5])


async def test_a_narrow_terminal_or_a_pipe_cuts_nothing(services: Services, factory: Factory, environment: dict[str, str], tmp_path: Path) -> None:
    tenant = await factory.tenant()
    number = await failed(services, factory, "test_a_kind_of_job_with_a_long_name", tenant=tenant)
    output = run_cli(tmp_path, {**environment, "COLUMNS": "80"}, "jobs", "list")
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in output.splitlines() if line.startswith("│")]
    whole = ["".join(parts) for parts in zip(*rows, strict=True)]
    assert whole[:3] == [str(number), "test_a_kind_of_job_with_a_long_name", tenant.slug]
    assert whole[7] == "SMTPRefused"


async def test_no_more_jobs_are_listed_than_asked_for_and_the_rest_is_counted(
    services: Services, factory: Factory, environment: dict[str, str], tmp_path: Path
) -> None:
    numbers = [await failed(services, factory) for _ in range(3)]
    output = run_cli(tmp_path, environment, "jobs", "list", "--limit", "2")
    assert list(lines_of(output)) == numbers[:2]
    assert "… and 1 more: --limit 3 shows them all" in output
    assert "more" not in run_cli(tmp_path, environment, "jobs", "list", "--limit", "3")


async def test_failed_jobs_are_sent_again_by_name_or_all(services: Services, factory: Factory, environment: dict[str, str], tmp_path: Path) -> None:
    one, two, three = [await failed(services, factory) for _ in range(3)]
    state = "SELECT id, status::text, attempts, execute_after <= now() FROM jobs.pgqueuer ORDER BY id"
    assert "sent again: 1" in run_cli(tmp_path, environment, "jobs", "retry", str(two))
    assert await factory.run(state) == [(one, "failed", 3, False), (two, "queued", 0, True), (three, "failed", 3, False)]
    assert "sent again: 2" in run_cli(tmp_path, environment, "jobs", "retry", "--all")
    assert await factory.run(state) == [(number, "queued", 0, True) for number in (one, two, three)]


async def test_failed_jobs_are_discarded_by_name_or_all_with_their_mails(
    services: Services, factory: Factory, environment: dict[str, str], tmp_path: Path
) -> None:
    tenant = await factory.tenant()
    waiting, failed_mail, sent = [await factory.mail(tenant) for _ in range(3)]
    await factory.run("UPDATE mails SET state = 'sent', finished_at = created_at WHERE id = :id", id=sent.id)
    one = await failed(services, factory)
    await add(services, SEND_MAIL, *({"mail_id": mail.id} for mail in (failed_mail, sent)), tenant_id=tenant.id)
    await factory.run("UPDATE jobs.pgqueuer SET status = 'failed'")
    await add(services, SEND_MAIL, {"mail_id": waiting.id}, tenant_id=tenant.id)
    await factory.run("INSERT INTO jobs.pgqueuer (priority, status, entrypoint, payload) VALUES (0, 'failed', :kind, '\\xff')", kind=SEND_MAIL)
    numbers = [number for (number,) in await factory.run("SELECT id FROM jobs.pgqueuer ORDER BY id")]
    assert "discarded: 1" in run_cli(tmp_path, environment, "jobs", "discard", str(one))
    assert [number for (number,) in await factory.run("SELECT id FROM jobs.pgqueuer ORDER BY id")] == [number for number in numbers if number != one]
    assert "discarded: 3" in run_cli(tmp_path, environment, "jobs", "discard", "--all")
    assert await factory.run("SELECT status::text FROM jobs.pgqueuer") == [("queued",)]
    states = await factory.run("SELECT id, state, finished_at IS NULL FROM mails WHERE tenant_id = :id", id=tenant.id)
    assert set(states) == {(waiting.id, "waiting", True), (failed_mail.id, "dropped", False), (sent.id, "sent", False)}


async def test_a_mail_that_is_sent_again_has_as_many_tries_as_a_new_one(
    services: Services, factory: Factory, environment: dict[str, str], tmp_path: Path
) -> None:
    tenant = await factory.tenant()
    mails = [await factory.mail(tenant, unanswered=2) for _ in range(2)]
    await add(services, SEND_MAIL, {"mail_id": mails[0].id}, tenant_id=tenant.id)
    await factory.run("UPDATE jobs.pgqueuer SET status = 'failed'")
    assert "sent again: 1" in run_cli(tmp_path, environment, "jobs", "retry", "--all")
    assert set(await factory.run("SELECT id, unanswered FROM mails WHERE tenant_id = :id", id=tenant.id)) == {(mails[0].id, 0), (mails[1].id, 2)}


@pytest.mark.parametrize("command_name", ["retry", "discard"])
@pytest.mark.parametrize("arguments, said", [(["--all", "1"], "or say --all"), ([], "or say --all"), (["888888"], "No failed job: 888888.")])
def test_what_cannot_be_sent_again_or_discarded_is_said(
    environment: dict[str, str], tmp_path: Path, command_name: str, arguments: list[str], said: str
) -> None:
    with process(tmp_path, ["-m", "app.cli", "jobs", command_name, *arguments], environment) as command:
        assert command.wait() == 1
        assert said in command.output


async def test_a_scheduled_job_that_waits_already_is_not_sent_twice(services: Services, factory: Factory, environment: dict[str, str], tmp_path: Path) -> None:
    number = await failed(services, factory, FLUSH_VIEW_COUNTS)
    await factory.run("UPDATE jobs.pgqueuer SET dedupe_key = 'the same' WHERE id = :id", id=number)
    await factory.run("INSERT INTO jobs.pgqueuer (priority, status, entrypoint, dedupe_key) VALUES (0, 'queued', :kind, 'the same')", kind=FLUSH_VIEW_COUNTS)
    assert f"{number} stays failed" in run_cli(tmp_path, environment, "jobs", "retry", "--all")
