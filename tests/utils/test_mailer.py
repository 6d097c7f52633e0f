"""Sending one message: what the server says decides whether it goes later or never, and nobody's name can forge it."""

import asyncio
import socket
import time
from email import message_from_bytes, policy
from pathlib import Path
from urllib.parse import quote

import pytest
from pydantic import SecretStr, ValidationError

from app.config import Settings
from app.models import new_id
from app.utils import mail_turns, outbox
from app.utils import mailer as mailer_module
from app.utils.mail_message import OutgoingMail
from app.utils.mail_turns import AT_ONCE, NotNow
from app.utils.mailer import Mailer, RecipientRefused, TryLater, Unanswered, Undeliverable
from tests.faults.support import Proxy, eventually, proxy_to
from tests.mail.certificates import make_certificate
from tests.mail.listening import listen_to
from tests.mail.smtp_server import SMTP_PASSWORD, USER, SmtpServer, html_of, only_with_the_password, smtp_server, text_of

SENDER = "Ärger & Söhne <no-reply@example.com>"
RECIPIENT = "ada@example.com"


def a_mail(**changes: object) -> OutgoingMail:
    values = {
        "id": new_id(),
        "template": "verify_email",
        "recipient": RECIPIENT,
        "name": "Ada Example",
        "subject": "Confirm",
        "text": "Grüße\n",
        "html": "<p>Grüße</p>",
    }
    return OutgoingMail(**{**values, **changes})  # type: ignore[arg-type]  # each test gives what fits


def mailer_for(smtp: SmtpServer, scheme: str = "smtp", account: str = "") -> Mailer:
    return Mailer(SecretStr(f"{scheme}://{account}127.0.0.1:{smtp.port}"), SENDER)


async def test_a_mail_arrives_as_text_and_html_with_the_headers_of_a_machine(smtp: SmtpServer) -> None:
    mail = a_mail(name="Ada Lovelace-Žižek", subject="Bestätigen Sie Ihre Adresse für Žižek & Söhne, was eine sehr lange Zeile ergibt, länger als üblich")
    await mailer_for(smtp).send(mail)
    (arrived,) = smtp.mails
    assert (arrived["From"], arrived["To"], arrived["Subject"]) == ("Ärger & Söhne <no-reply@example.com>", f"Ada Lovelace-Žižek <{RECIPIENT}>", mail.subject)
    assert arrived["Message-ID"] == f"<{mail.id}@example.com>"
    assert arrived["Auto-Submitted"] == "auto-generated"
    assert arrived["Date"].datetime is not None
    assert arrived.get_content_type() == "multipart/alternative"
    assert (text_of(arrived).strip(), html_of(arrived).strip()) == ("Grüße", "<p>Grüße</p>")


@pytest.mark.parametrize("answer", ["rcpt_answer", "data_answer"])
async def test_a_server_that_is_busy_is_asked_later(smtp: SmtpServer, answer: str) -> None:
    setattr(smtp, answer, "451 4.3.0 Try later")
    with pytest.raises(TryLater, match=r"451 4\.3\.0"):
        await mailer_for(smtp).send(a_mail())


@pytest.mark.parametrize("answer", ["rcpt_answer", "data_answer"])
@pytest.mark.parametrize(
    "reply, reason, recipient_s_fault",
    [
        (f"550 5.1.1 There is no mailbox {RECIPIENT}", r"550 5\.1\.1", True),
        ("550 5.1.10 Null MX", r"550 5\.1\.10", True),
        ("552 5.2.2 Mailbox full", r"552 5\.2\.2", True),
        ("550 5.1.7 Bad sender's address", r"550 5\.1\.7", False),
        ("553 5.1.8 Sender's domain does not exist", r"553 5\.1\.8", False),
        ("550 5.7.1 Relaying denied", r"550 5\.7\.1", False),
        ("554 5.6.0 Message content rejected", r"554 5\.6\.0", False),
        (f"550 There is no mailbox {RECIPIENT}", "550", False),
    ],
)
async def test_a_mail_that_is_refused_for_good_is_undeliverable_and_whose_fault_it_is_the_enhanced_code_says(
    smtp: SmtpServer, answer: str, reply: str, reason: str, recipient_s_fault: bool
) -> None:
    setattr(smtp, answer, reply)
    with pytest.raises(Undeliverable, match=f"{reason}$") as refused:
        await mailer_for(smtp).send(a_mail())
    assert isinstance(refused.value, RecipientRefused) == recipient_s_fault


async def test_a_server_that_is_away_or_breaks_off_is_asked_later(smtp: SmtpServer) -> None:
    away = SmtpServer()
    with pytest.raises(TryLater):
        await mailer_for(away).send(a_mail())
    proxy = Proxy(away.port)
    await proxy.open()
    with pytest.raises(TryLater):
        await Mailer(SecretStr(f"smtp://127.0.0.1:{proxy.port}"), SENDER).send(a_mail())
    await proxy.close()


async def test_a_server_that_has_a_mail_and_does_not_say_so_is_given_up_after_minutes(smtp: SmtpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    # RFC 5321, 4.5.3.2.6.
    assert mailer_module.ANSWER_SECONDS == 600
    monkeypatch.setattr(mailer_module, "ANSWER_SECONDS", 0.2)
    smtp.hanging = True
    try:
        with pytest.raises(Unanswered):
            await mailer_for(smtp).send(a_mail())
    finally:
        smtp.hanging = False


async def test_a_server_that_says_nothing_at_all_is_given_up_sooner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mailer_module, "STEP_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        started = time.monotonic()
        with pytest.raises(TryLater):
            await Mailer(SecretStr(f"smtp://127.0.0.1:{silent.getsockname()[1]}"), SENDER).send(a_mail())
    assert time.monotonic() - started < 5


async def test_a_server_that_takes_its_time_over_a_mail_gets_it_once(smtp: SmtpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for shorter in ("STEP_SECONDS", "WHOLE_SECONDS"):
        monkeypatch.setattr(mailer_module, shorter, 0.5)
    mail = a_mail()
    smtp.hanging = True
    try:
        sending = asyncio.create_task(mailer_for(smtp).send(mail))
        await asyncio.sleep(1.2)
        assert not sending.done()
    finally:
        smtp.hanging = False
    await sending
    assert smtp.copies_of(f"<{mail.id}@example.com>") == 1


async def test_a_server_that_hangs_before_it_has_a_mail_is_given_up_sooner(smtp: SmtpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mailer_module, "WHOLE_SECONDS", 0.3)
    smtp.slow_to_take = 5.0
    started = time.monotonic()
    with pytest.raises(TryLater) as failed:
        await mailer_for(smtp).send(a_mail())
    assert not isinstance(failed.value, Unanswered)
    assert time.monotonic() - started < 3


async def test_a_connection_that_breaks_after_the_mail_leaves_it_unanswered(smtp: SmtpServer) -> None:
    async with proxy_to(smtp.url) as (proxy, url):
        smtp.hanging = True
        sending = asyncio.create_task(Mailer(SecretStr(url), SENDER).send(a_mail()))

        async def handed_over() -> bool:
            return any(part.endswith(b"\r\n.\r\n") for part in proxy.sent)

        await eventually(handed_over)
        proxy.cut()
        with pytest.raises(Unanswered):
            await sending
        smtp.hanging = False


async def test_a_line_that_begins_with_a_period_arrives_whole(smtp: SmtpServer) -> None:
    text = ".\r\n..\r\n.a line\r\n"
    await mailer_for(smtp).send(a_mail(text=text))
    assert text_of(smtp.mails[0]).replace("\r\n", "\n") == text.replace("\r\n", "\n")


async def test_a_server_that_hangs_holds_up_a_few_mails_and_puts_off_the_others_at_once(smtp: SmtpServer) -> None:
    mailer = mailer_for(smtp)
    smtp.hanging = True
    try:
        held = [asyncio.create_task(mailer.send(a_mail())) for _ in range(AT_ONCE)]

        async def all_offered() -> bool:
            return smtp.attempts == AT_ONCE

        await eventually(all_offered)
        started = time.monotonic()
        pauses = []
        for _ in range(100):
            with pytest.raises(NotNow):
                mailer.check()
            with pytest.raises(NotNow) as later:
                await mailer.send(a_mail())
            pauses.append(later.value.seconds)
        assert time.monotonic() - started < 2
        # The more there are, the later each comes back.
        assert (pauses[0], pauses[-1]) == (2, 11)
        assert pauses == sorted(pauses)
    finally:
        smtp.hanging = False
    await asyncio.gather(*held)
    assert smtp.attempts == AT_ONCE
    await mailer.send(a_mail(subject="afterwards"))
    assert "afterwards" in [mail["Subject"] for mail in smtp.mails]


async def test_after_a_hang_one_mail_tries_the_server_and_the_others_wait_for_what_it_finds(smtp: SmtpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mailer_module, "ANSWER_SECONDS", 0.2)
    monkeypatch.setattr(mail_turns, "REST_SECONDS", 0.5)
    mailer = mailer_for(smtp)
    smtp.hanging = True
    try:
        with pytest.raises(Unanswered):
            await mailer.send(a_mail())
        with pytest.raises(NotNow):
            await mailer.send(a_mail())
        await asyncio.sleep(0.6)
        monkeypatch.setattr(mailer_module, "ANSWER_SECONDS", 600.0)
        outcomes = [asyncio.create_task(mailer.send(a_mail())) for _ in range(5)]
        done, probes = await asyncio.wait(outcomes, timeout=0.5)
        assert [type(task.exception()) for task in done] == [NotNow] * 4
    finally:
        smtp.hanging = False
    await asyncio.gather(*probes)
    await asyncio.gather(*(mailer.send(a_mail()) for _ in range(AT_ONCE)))
    assert smtp.attempts == 1 + 1 + AT_ONCE


async def test_a_mail_that_was_taken_is_sent_whatever_the_server_does_next(smtp: SmtpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mailer_module, "QUIT_SECONDS", 0.2)
    smtp.deaf_to_quit = True
    try:
        await mailer_for(smtp).send(a_mail())
    finally:
        smtp.deaf_to_quit = False
    assert len(smtp.mails) == 1


async def test_a_server_that_demands_an_account_is_the_operator_s_to_mend(smtp: SmtpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    smtp.rcpt_answer = "530 5.7.0 Authentication required"
    logs = listen_to(monkeypatch, mailer_module, outbox)
    with pytest.raises(TryLater, match="530"):
        await mailer_for(smtp).send(a_mail())
    assert [line["log_level"] for line in logs] == ["error"]


@pytest.mark.parametrize("scheme", ["smtp+starttls", "smtps"])
async def test_a_server_that_nobody_vouches_for_gets_no_mail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    certificate, context = make_certificate(tmp_path)
    with smtp_server(**({"ssl_context": context} if scheme == "smtps" else {"tls_context": context})) as server:
        logs = listen_to(monkeypatch, mailer_module, outbox)
        with pytest.raises(TryLater):
            await mailer_for(server, scheme).send(a_mail())
        assert [line["log_level"] for line in logs] == ["error"]
        assert server.attempts == 0
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        await mailer_for(server, scheme).send(a_mail())
        assert len(server.mails) == 1


async def test_an_account_is_used_over_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate, context = make_certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with smtp_server(tls_context=context, require_starttls=True, auth_required=True, authenticator=only_with_the_password) as server:
        logs = listen_to(monkeypatch, mailer_module, outbox)
        with pytest.raises(TryLater, match="535"):
            await mailer_for(server, "smtp+starttls", f"{quote(USER)}:wrong@").send(a_mail())
        assert [line["log_level"] for line in logs] == ["error"]
        assert server.mails == []
        await mailer_for(server, "smtp+starttls", f"{quote(USER, safe='')}:{quote(SMTP_PASSWORD, safe='')}@").send(a_mail())
        assert len(server.mails) == 1


async def test_starttls_is_never_left_out_because_the_server_does_not_offer_it(smtp: SmtpServer) -> None:
    with pytest.raises(TryLater):
        await mailer_for(smtp, "smtp+starttls").send(a_mail())
    assert smtp.attempts == 0


async def test_no_failure_names_the_recipient(smtp: SmtpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    smtp.data_answer = f"550 {RECIPIENT} is not known here"
    logs = listen_to(monkeypatch, mailer_module, outbox)
    with pytest.raises(Undeliverable) as caught:
        await mailer_for(smtp).send(a_mail())
    assert caught.value.__context__ is None
    assert RECIPIENT not in f"{caught.value} {logs}"


@pytest.mark.parametrize("name", ["Ada\r\nBcc: eve@example.com", "Ada\nX: y", "Ada\x00", 'Ada" <eve@example.com>, "', "Ada\u2028Bcc: eve@example.com", ""])
async def test_no_name_or_subject_can_add_a_header_or_a_recipient(smtp: SmtpServer, name: str) -> None:
    await mailer_for(smtp).send(a_mail(name=name, subject=f"Welcome to {name}"))
    (arrived,) = smtp.mails
    assert set(arrived.keys()) == {"From", "To", "Subject", "Date", "Message-ID", "Auto-Submitted", "MIME-Version", "Content-Type"}
    assert [address.addr_spec for address in arrived["To"].addresses] == [RECIPIENT]


@pytest.mark.parametrize(
    "recipient", ["ada@example.com\r\nRCPT TO:<eve@example.com>", "ada@example.com, eve@example.com", "no address", "", "<ada@example.com>", "a@b@example.com"]
)
async def test_what_is_no_address_gets_no_mail(smtp: SmtpServer, recipient: str) -> None:
    with pytest.raises(RecipientRefused):
        await mailer_for(smtp).send(a_mail(recipient=recipient))
    assert smtp.attempts == 0


async def test_an_international_domain_gets_its_mail_in_ascii(smtp: SmtpServer) -> None:
    await mailer_for(smtp).send(a_mail(recipient="ada@bücher.example.com"))
    assert smtp.mails[0]["To"].addresses[0].addr_spec == "ada@xn--bcher-kva.example.com"


async def test_an_international_mailbox_gets_its_mail_where_the_server_can(smtp: SmtpServer) -> None:
    await mailer_for(smtp).send(a_mail(recipient="zoë@example.com"))
    # As Python's parser shows what is not ASCII.
    assert smtp.mails[0]["To"].addresses[0].addr_spec.encode("ascii", "surrogateescape").decode() == "zoë@example.com"
    with smtp_server(enable_SMTPUTF8=False) as server, pytest.raises(RecipientRefused):
        await mailer_for(server).send(a_mail(recipient="zoë@example.com"))


@pytest.mark.parametrize("recipient", [RECIPIENT, "o'hara/$x@example.com"])
async def test_without_a_server_mail_is_shown_and_kept_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipient: str) -> None:
    monkeypatch.chdir(tmp_path)
    link = "http://127.0.0.1:8000/account/verify-email?tenant=acme#token=" + "x" * 110
    logs = listen_to(monkeypatch, mailer_module, outbox)
    await Mailer(None, SENDER).send(a_mail(recipient=recipient, text=f"Open\n\n    {link}\n"))
    (file,) = (tmp_path / ".local" / "outbox").iterdir()
    assert file.suffix == ".eml"
    assert "verify_email" in file.name
    kept = message_from_bytes(file.read_bytes(), policy=policy.default)
    assert kept["To"].addresses[0].addr_spec == recipient
    assert link in text_of(kept)
    assert link in logs[0]["event"]
    assert str(file.relative_to(tmp_path)) in logs[0]["event"]


async def test_a_folder_that_cannot_be_written_is_no_reason_to_lose_a_mail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".local").write_text("a file where a folder should be")
    logs = listen_to(monkeypatch, mailer_module, outbox)
    await Mailer(None, SENDER).send(a_mail(text="to be read"))
    assert "to be read" in logs[0]["event"]


@pytest.mark.parametrize(
    "url",
    [
        "http://mail.example.com",
        "mail.example.com:25",
        "smtp://",
        "smtp://:25",
        "smtp://mail.example.com:port",
        "smtp://user:password@mail.example.com:25",
        "smtps://user:pass#word@mail.example.com",
        "smtps://user:12/3@mail.example.com",
        "smtp+starttls://mail.example.com/path",
    ],
)
def test_an_smtp_url_that_cannot_work_is_refused_at_the_start(url: str) -> None:
    with pytest.raises(ValidationError, match="SMTP_URL must be") as refused:
        Settings(_env_file=None, smtp_url=url)
    assert "12/3" not in str(refused.value)


@pytest.mark.parametrize(
    "url", ["smtp://localhost", "smtp://[::1]:25", "smtp+starttls://user:p%40ss@mail.example.com:587", "smtps://user:p%2Fss@mail.example.com:465"]
)
def test_an_smtp_url_that_can_work_is_taken(url: str) -> None:
    assert Settings(_env_file=None, smtp_url=url).smtp_url is not None


@pytest.mark.parametrize("changes", [{"mail_from": "no address"}, {"mail_from": "Name <>"}, {"public_url": "app.example.com"}, {"public_url": "https://x?y"}])
def test_a_sender_or_a_public_url_that_cannot_work_is_refused_at_the_start(changes: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        Settings(_env_file=None, **changes)  # type: ignore[arg-type]  # wrong on purpose
