"""Sends one message: by SMTP, or where no server is named, in development, into the terminal and a folder."""

import asyncio
import re
import ssl
from contextlib import suppress
from email.headerregistry import Address
from email.utils import parseaddr
from typing import Any
from urllib.parse import unquote, urlsplit

import structlog
from aiosmtplib import SMTP, SMTPDataError, SMTPException, SMTPNotSupported, SMTPRecipientRefused, SMTPResponseException, SMTPServerDisconnected, SMTPStatus
from pydantic import SecretStr

from app.utils import outbox
from app.utils.mail_message import MalformedMail, Message, NoSuchAddress, OutgoingMail, compose
from app.utils.mail_turns import Turns
from app.utils.text import one_line

# For the connection and its greeting, for all until the server wants to see the mail, and for the farewell, after which the mail is noted as sent.
STEP_SECONDS, WHOLE_SECONDS, QUIT_SECONDS = 10.0, 30.0, 1.0
# For the answer to the whole mail (RFC 5321, 4.5.3.2.6). A server that looks for viruses has it already: given up too early, it gets the same mail again.
ANSWER_SECONDS = 600.0
# "Authentication required" and "authentication failed": these speak of our account, wherever they come up.
ACCOUNT_REFUSED = (530, 534, 535, 538)
# As in `550 5.1.1 There is no such mailbox` (RFC 3463). The words behind it may repeat the address, and so have no place in a log.
ENHANCED_CODE = re.compile(r"[245]\.\d{1,3}\.\d{1,3}(?!\S)")
# The recipient's address (X.1) or mailbox (X.2), and not the sender's address (X.1.7, X.1.8). Without such a code, or with one of policy (X.7), it may as
# well be we who are refused, and that is an operator's to mend.
NO_SUCH_RECIPIENT = re.compile(r"5\.(1\.(?![78]$)|2\.)")
LEADING_PERIOD = re.compile(rb"(?m)^\.")

log = structlog.get_logger(__name__)


class MailFailure(Exception):
    """The mail has not been sent. The text names no address."""


class TryLater(MailFailure):
    """The SMTP server is away or busy, or does not take our account: the mail can go later."""


class Unanswered(TryLater):
    """The SMTP server has the whole mail and has not said whether it takes it: sent again, it may arrive twice."""


class Undeliverable(MailFailure):
    """This mail is refused for good, for what it is or for whom it is to."""


class RecipientRefused(Undeliverable):
    """The recipient has no mailbox that takes mail, which is nobody's to mend but theirs."""


class Mailer:
    """Sends mail to the SMTP server of a URL, as `Settings` has checked it."""

    def __init__(self, smtp_url: SecretStr | None, sender: str) -> None:
        name, address = parseaddr(sender)
        self._sender = Address(one_line(name), addr_spec=address)
        self._server = None if smtp_url is None else _server(smtp_url.get_secret_value())
        self._turns = Turns()

    def check(self) -> None:
        """Raise `NotNow` where `send` could not but raise it."""
        if self._server is not None:
            self._turns.check()

    async def send(self, mail: OutgoingMail) -> None:
        """Send a mail. Raises `NotNow`, `TryLater`, `Unanswered` or `Undeliverable`."""
        message = self._compose(mail)
        if self._server is None:
            await outbox.keep(mail, message.content)
            return
        failure: MailFailure | None = None
        with self._turns.take() as turn:
            try:
                await _deliver(SMTP(**self._server, timeout=STEP_SECONDS), message)
            except (SMTPException, OSError, _Silence) as error:
                failure = _failure_of(error)
                turn.hung = isinstance(error.__cause__ if isinstance(error, _Silence) else error, TimeoutError)
            else:
                turn.hung = False
        if failure is not None:
            # Not from within the handler: the library's error has the address in its text, and would be shown as the cause of ours.
            raise failure

    def _compose(self, mail: OutgoingMail) -> Message:
        try:
            return compose(mail, self._sender)
        except NoSuchAddress:
            raise RecipientRefused("the recipient's address is none that mail can be sent to") from None
        except MalformedMail as error:
            raise Undeliverable(f"the mail cannot be made: {error}") from None


class _Silence(Exception):
    """What was caused after the last byte of the mail, instead of an answer."""


async def _deliver(client: SMTP, message: Message) -> None:
    try:
        async with asyncio.timeout(WHOLE_SECONDS):
            await client.connect()
            await _announce(client, message)
        await _hand_over(client, message.content)
        # Once the server has taken the mail, nothing that goes wrong may have it sent again.
        with suppress(SMTPException, OSError):
            await client.quit(timeout=QUIT_SECONDS)
    finally:
        client.close()


async def _announce(client: SMTP, message: Message) -> None:
    """Say from whom and to whom a mail is, until the server wants to see it."""
    options, encoding = [], "ascii"
    if not (message.sender + message.recipient).isascii():
        # RFC 6531.
        options, encoding = ["SMTPUTF8", "BODY=8BITMIME"], "utf-8"
        await client.ehlo(timeout=WHOLE_SECONDS)
        if not client.supports_extension("smtputf8"):
            raise SMTPNotSupported("SMTPUTF8 is not supported by this server")
    await client.mail(message.sender, options=options, encoding=encoding, timeout=WHOLE_SECONDS)
    await client.rcpt(message.recipient, encoding=encoding, timeout=WHOLE_SECONDS)
    response = await client.execute_command(b"DATA", timeout=WHOLE_SECONDS)
    if response.code != SMTPStatus.start_input:
        raise SMTPDataError(response.code, response.message)


async def _hand_over(client: SMTP, content: bytes) -> None:
    """Send the mail itself, and wait for what the server says of it. Here, because the library has one time-out for this and for the answer to DATA."""
    if client.protocol is None:
        raise SMTPServerDisconnected("Connection lost")
    client.protocol.write(LEADING_PERIOD.sub(b"..", content) + b".\r\n")
    try:
        response = await client.protocol.read_response(timeout=ANSWER_SECONDS)
    except (SMTPException, OSError) as error:
        raise _Silence from error
    if response.code != SMTPStatus.completed:
        raise SMTPDataError(response.code, response.message)


def _server(url: str) -> dict[str, Any]:
    """Return what the SMTP client needs to know of the server."""
    parsed = urlsplit(url)
    implicit, upgraded = parsed.scheme == "smtps", parsed.scheme == "smtp+starttls"
    return {
        "hostname": parsed.hostname,
        "port": parsed.port,
        "username": None if parsed.username is None else unquote(parsed.username),
        "password": None if parsed.password is None else unquote(parsed.password),
        "use_tls": implicit,
        "start_tls": upgraded,
        # It trusts the system's certificates, or those that SSL_CERT_FILE names.
        "tls_context": ssl.create_default_context() if implicit or upgraded else None,
    }


def _failure_of(error: SMTPException | OSError | _Silence) -> MailFailure:
    """Return what a fault means for the mail. What an operator has to mend is logged as an error."""
    if isinstance(error, _Silence):
        return Unanswered(f"the SMTP server has the mail and did not answer: {type(error.__cause__).__name__}")
    code = error.code if isinstance(error, SMTPResponseException) else None
    enhanced = ENHANCED_CODE.match(error.message) if isinstance(error, SMTPResponseException) else None
    reason = type(error).__name__ if code is None else f"{code} {enhanced[0]}" if enhanced else str(code)
    permanent = code is not None and code >= 500
    if permanent and code not in ACCOUNT_REFUSED and isinstance(error, SMTPRecipientRefused | SMTPDataError):
        kind = RecipientRefused if enhanced and NO_SUCH_RECIPIENT.match(enhanced[0]) else Undeliverable
        return kind(f"the SMTP server refused the mail for good: {reason}")
    if isinstance(error, SMTPNotSupported) and "SMTPUTF8" in error.message:
        return RecipientRefused("the SMTP server takes no mailbox whose name has letters beyond ASCII")
    if permanent or isinstance(error, SMTPNotSupported) or isinstance(error.__cause__ or error, ssl.SSLError):
        log.error("the SMTP server does not serve us: check SMTP_URL and MAIL_FROM", reason=reason)
    return TryLater(f"the SMTP server did not take the mail: {reason}")
