"""A real SMTP server for tests, which can be away, hang, and refuse; and what is in the mails that it got."""

import asyncio
import re
from collections.abc import Iterator
from contextlib import contextmanager
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any
from urllib.parse import parse_qs, urlsplit

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from deploy.local.memory import free_port
from tests.faults.support import eventually

USER, SMTP_PASSWORD = "mailer@example.com", "pass/word:with@signs"


class SmtpServer:
    """Keeps what it is sent. `rcpt_answer` and `data_answer` are given instead of taking a recipient or a mail; while `hanging`, no mail is answered."""

    def __init__(self, **options: Any) -> None:
        self.port = free_port()
        self._options = options
        self._controller: Controller | None = None
        self.behave()

    def behave(self) -> None:
        """Forget every mail, and take all that come."""
        self.rcpt_answer: str | None = None
        self.data_answer: str | None = None
        self.hanging = False
        self.deaf_to_quit = False
        # Seconds before it answers to a recipient.
        self.slow_to_take = 0.0
        # What was offered for delivery, taken or not.
        self.attempts = 0
        self.mails: list[EmailMessage] = []
        # The same, as they travelled: to whom, and what.
        self.raw: list[tuple[list[str], bytes]] = []
        self._taken: list[EmailMessage] = []

    @property
    def url(self) -> str:
        return f"smtp://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Listen, on the same port as before."""
        self._controller = Controller(self, hostname="127.0.0.1", port=self.port, server_hostname="smtp.example.com", **self._options)
        self._controller.start()

    def stop(self) -> None:
        """Be away: connections are refused until it is started again. What it got before is kept."""
        if self._controller is not None:
            self._controller.stop()
            self._controller = None

    def mails_to(self, address: str) -> list[EmailMessage]:
        """Return every mail to an address, first to last."""
        return [mail for mail in self.mails if mail["To"].addresses[0].addr_spec == address]

    def copies_of(self, message_id: str) -> int:
        """Return how often a mail arrived."""
        return sum(mail["Message-ID"] == message_id for mail in self.mails)

    async def mail_to(self, address: str) -> EmailMessage:
        """Wait for a mail to an address, and return it; the next call waits for the next one."""

        async def arrived() -> bool:
            return any(mail not in self._taken for mail in self.mails_to(address))

        await eventually(arrived)
        mail = next(mail for mail in self.mails_to(address) if mail not in self._taken)
        self._taken.append(mail)
        return mail

    # What aiosmtpd calls, in a thread of its own, by these names.

    async def handle_RCPT(self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]) -> str:  # noqa: N802 (aiosmtpd's name)
        self.attempts += 1
        await asyncio.sleep(self.slow_to_take)
        if self.rcpt_answer is not None:
            return self.rcpt_answer
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802 (aiosmtpd's name)
        while self.hanging:  # noqa: ASYNC110 (it is set in another thread)
            await asyncio.sleep(0.02)
        if self.data_answer is not None:
            return self.data_answer
        assert isinstance(envelope.original_content, bytes)
        self.raw.append((list(envelope.rcpt_tos), envelope.original_content))
        self.mails.append(message_from_bytes(envelope.original_content, policy=policy.default))
        return "250 Taken"

    async def handle_QUIT(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802 (aiosmtpd's name)
        while self.deaf_to_quit:  # noqa: ASYNC110 (it is set in another thread)
            await asyncio.sleep(0.02)
        return "221 Bye"


def only_with_the_password(server: SMTP, session: Session, envelope: Envelope, mechanism: str, credentials: Any) -> AuthResult:
    """Let in whoever knows the password, as aiosmtpd's `authenticator`."""
    right = isinstance(credentials, LoginPassword) and (credentials.login, credentials.password) == (USER.encode(), SMTP_PASSWORD.encode())
    return AuthResult(success=right, handled=right)


@contextmanager
def smtp_server(**options: Any) -> Iterator[SmtpServer]:
    """Start an SMTP server, and stop it at the end, in whatever state it is."""
    server = SmtpServer(**options)
    server.start()
    try:
        yield server
    finally:
        server.hanging = False
        server.stop()


def text_of(mail: EmailMessage) -> str:
    """Return the mail's text for plain readers."""
    part = mail.get_body(("plain",))
    assert isinstance(part, EmailMessage)
    return str(part.get_content())


def html_of(mail: EmailMessage) -> str:
    """Return the mail's HTML."""
    part = mail.get_body(("html",))
    assert isinstance(part, EmailMessage)
    return str(part.get_content())


def link_in(mail: EmailMessage) -> str:
    """Return the mail's one link."""
    (link,) = re.findall(r"https?://\S+", text_of(mail))
    return str(link)


def token_in(mail: EmailMessage) -> str:
    """Return the token in the fragment of the mail's link."""
    return parse_qs(urlsplit(link_in(mail)).fragment)["token"][0]
