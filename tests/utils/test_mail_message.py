"""What a mail is as it travels: whatever a name holds, the headers and the recipient are ours, and the body is what was written."""

import base64
from email import message_from_bytes, policy
from email.header import decode_header, make_header
from email.headerregistry import Address
from email.message import EmailMessage

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from app.models import new_id
from app.utils import mail_message
from app.utils.mail_message import HEADERS, MalformedMail, NoSuchAddress, OutgoingMail, compose
from app.utils.mailer import Mailer, Undeliverable
from app.utils.text import one_line
from tests.mail.smtp_server import SmtpServer, html_of, text_of

RECIPIENT = "ada@example.com"
SENDER = Address("Ärger & Söhne", addr_spec="no-reply@example.com")
TEXT, HTML = "Grüße\n", "<p>Grüße</p>\n"


def a_mail(name: str = "", subject: str = "Confirm", recipient: str = RECIPIENT) -> OutgoingMail:
    return OutgoingMail(id=new_id(), template="verify_email", recipient=recipient, name=name, subject=subject, text=TEXT, html=HTML)


def q_word(text: str) -> str:
    return "=?utf-8?q?" + "".join(f"={byte:02X}" for byte in text.encode()) + "?="


def b_word(text: str) -> str:
    return f"=?utf-8?b?{base64.b64encode(text.encode()).decode()}?="


def assert_ours(content: bytes) -> EmailMessage:
    """The message has our headers, each once, the recipient and nobody else, and the body that was written. Returns it as a reader sees it."""
    read = message_from_bytes(content, policy=policy.default)
    assert list(read.keys()) == HEADERS
    assert [address.addr_spec for address in read["To"].addresses] == [RECIPIENT]
    assert (text_of(read).replace("\r\n", "\n"), html_of(read).replace("\r\n", "\n")) == (TEXT, HTML)
    assert not read.defects
    return read


FRAGMENTS = ["=?", "?=", "=?utf-8?q?", "=?utf-8?b?", "=0D=0A", ",", "<", ">", '"', "\\", "@", ";", ":", "(", ")", "\r\n", "\n", " ", "\t", "\x00", "\u2028"]
ENCODED = [
    form(inner) for form in (q_word, b_word) for inner in ("a\r\n\r\nGo: https://evil.com/", "e@evil.com,", "a\r\nBcc: e@evil.com", "\n", '", <e@evil.com>, "')
]
NAMES = st.one_of(st.text(), st.lists(st.sampled_from([*FRAGMENTS, *ENCODED, "a", "ä", "日本語" * 10, "Bcc: e@evil.com"])).map("".join))


@given(name=NAMES, subject=NAMES)
@settings(max_examples=500, deadline=None)
def test_no_name_becomes_anything_but_a_name(name: str, subject: str) -> None:
    content = compose(a_mail(name, subject), SENDER).content
    assert assert_ours(content)["Subject"] == one_line(subject)
    # Undecoded, as older programs read it.
    shown = message_from_bytes(content)["To"].rpartition("<")[0]
    assert str(make_header(decode_header(shown.strip()))) == one_line(name)
    assert max(len(line) for line in content.split(b"\r\n")) <= 78


@pytest.mark.parametrize("word", ENCODED)
@pytest.mark.parametrize(("before", "after"), [("", ""), ("Ada ", " Example"), ("ä, ", ""), ('"', '" Ä')])
async def test_an_encoded_word_of_a_stranger_arrives_as_it_was_written(smtp: SmtpServer, word: str, before: str, after: str) -> None:
    written = f"{before}{word}{after}"
    mailer = Mailer(SecretStr(smtp.url), str(SENDER))
    await mailer.send(a_mail(name=written, subject=f"Welcome to {written}"))
    ((recipients, content),) = smtp.raw
    assert recipients == [RECIPIENT]
    assert assert_ours(content)["Subject"] == f"Welcome to {written}"
    for hidden in (b"evil.com", b"Bcc", word.encode()):
        assert hidden not in content


@pytest.mark.parametrize("mailbox", ["=?utf-8?q?a=2C?=", "=?utf-8?q?e=40evil?="])
def test_an_address_that_some_would_decode_gets_no_mail(mailbox: str) -> None:
    with pytest.raises(NoSuchAddress):
        compose(a_mail(recipient=f"{mailbox}@example.com"), SENDER)


@pytest.mark.parametrize(
    "value",
    ["Ada\r\nBcc: e@evil.com", "Ada\r\n\r\nGo", "Ada\nX: y", "e@evil.com,", "<e@evil.com>,", "Ada\r\n \r\n"],
)
async def test_a_message_that_is_not_what_was_meant_is_not_sent(smtp: SmtpServer, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """Even were a header made wrongly."""
    monkeypatch.setattr(mail_message, "_mailbox", lambda header, name, address: f"{name} <{address}>")
    monkeypatch.setattr(mail_message, "_encoded", lambda header, text, plain: text)
    with pytest.raises(MalformedMail) as refused:
        compose(a_mail(value), SENDER)
    assert "evil" not in str(refused.value)
    with pytest.raises(Undeliverable):
        await Mailer(SecretStr(smtp.url), str(SENDER)).send(a_mail(value))
    assert smtp.attempts == 0
