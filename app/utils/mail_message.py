"""Makes a message as it travels, header by header, out of names that strangers chose.

Python's email package decodes the encoded words (RFC 2047) in what it is given as a header, line breaks and all, and quotes names differently from version
to version. So no header passes through it: each is made here, of ASCII that is either harmless as it stands or encoded by us, and what was made is looked at
once more before it leaves.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from email import message_from_bytes, policy
from email.header import Header
from email.headerregistry import Address, AddressHeader
from email.message import EmailMessage
from email.utils import format_datetime
from uuid import UUID

from email_validator import EmailNotValidError, validate_email

from app.utils.text import ENCODED_WORD, one_line

# What stands in a header as it is. A name of it needs no quotes; a subject has no room for what a reader would decode.
PLAIN_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9 '-]{0,58}[A-Za-z0-9])?")
PLAIN_SUBJECT = re.compile(r"[!-~](?:[ -~]{0,58}[!-~])?")
# The two that the email package adds stand last, above the body.
HEADERS = ["From", "To", "Subject", "Date", "Message-ID", "Auto-Submitted", "MIME-Version", "Content-Type"]
HEADER_LINE = re.compile(rb"([A-Za-z-]+): [^\r\n\x00]*|[ \t][^\r\n\x00]*[^\r\n\x00 \t]")


class MalformedMail(Exception):
    """The mail cannot be made without one of its values becoming something else. The text holds none of them."""


class NoSuchAddress(Exception):
    """No mail can be sent to what is given as the recipient's address."""


@dataclass(frozen=True)
class OutgoingMail:
    """One mail to one person."""

    id: UUID
    template: str
    recipient: str
    name: str
    subject: str
    text: str
    html: str


@dataclass(frozen=True)
class Message:
    """A mail as it travels. `recipient` is ASCII, save for a mailbox whose name has other letters."""

    sender: str
    recipient: str
    content: bytes


def compose(mail: OutgoingMail, sender: Address) -> Message:
    """Return the message. It is known by the mail's identifier, so that one that was sent twice can be told. Raises `NoSuchAddress`, `MalformedMail`."""
    recipient = deliverable(mail.recipient)
    headers = {
        "From": _mailbox("From", sender.display_name, sender.addr_spec),
        "To": _mailbox("To", mail.name, recipient),
        "Subject": _encoded("Subject", mail.subject, PLAIN_SUBJECT),
        "Date": format_datetime(datetime.now(UTC)),
        "Message-ID": f"<{mail.id}@{sender.domain}>",
        # RFC 3834: no holiday replies to this.
        "Auto-Submitted": "auto-generated",
    }
    body = EmailMessage(policy=policy.SMTP)
    body.set_content(mail.text, cte="quoted-printable")
    body.add_alternative(mail.html, subtype="html", cte="quoted-printable")
    del body["MIME-Version"]
    ours = "".join(f"{name}: {value}\r\n" for name, value in headers.items()) + "MIME-Version: 1.0\r\n"
    content = ours.encode() + body.as_bytes()
    _verify(content, recipient)
    return Message(sender.addr_spec, recipient, content)


def deliverable(recipient: str) -> str:
    """Return the address as it travels. Raises `NoSuchAddress`."""
    try:
        address = validate_email(recipient, check_deliverability=False)
    except EmailNotValidError:
        raise NoSuchAddress from None
    # A mailbox may be called so, but some who read its address would take it for another.
    if ENCODED_WORD.search(address.local_part):
        raise NoSuchAddress
    return f"{address.local_part}@{address.ascii_domain}"


def _mailbox(header: str, name: str, address: str) -> str:
    name = _encoded(header, name, PLAIN_NAME)
    # On a line of its own, however long the name.
    return f"{name}\r\n <{address}>" if name else address


def _encoded(header: str, text: str, plain: re.Pattern[str]) -> str:
    """Return the text as it stands where it is plain, and otherwise as encoded words of our own making, which are decoded to it and no further."""
    line = one_line(text)
    if not line or (plain.fullmatch(line) and not ENCODED_WORD.search(line)):
        return line
    return Header(line, charset="utf-8", header_name=header).encode(linesep="\r\n")


def _verify(content: bytes, recipient: str) -> None:
    """Look at the message as a reader does. Raises `MalformedMail` where it has other headers, or another recipient, than it was given."""
    head, found, _ = content.partition(b"\r\n\r\n")
    lines = [HEADER_LINE.fullmatch(line) for line in head.split(b"\r\n")]
    if not found or not all(lines) or [line[1].decode() for line in lines if line and line[1]] != HEADERS:
        raise MalformedMail("the headers are not those that were set")
    to = message_from_bytes(content, policy=policy.default)["To"]
    read = [address.addr_spec.encode("utf-8", "surrogateescape").decode() for address in to.addresses] if isinstance(to, AddressHeader) else []
    if read != [recipient]:
        raise MalformedMail("the recipient is not the one that was given")
