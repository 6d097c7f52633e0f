"""The templates of mails: each complete, each in both forms, and deaf to markup."""

from typing import Any

import pytest
from jinja2 import UndefinedError

from app.models import MailTemplate
from app.utils.mail_templates import FOLDER, render
from app.utils.text import one_line, presentable
from tests.conftest import ROOT

VALUES: dict[str, Any] = {
    "tenant": "Acme",
    "name": "Ada Example",
    "time": "1 May 2026, 10:00 UTC",
    "link": "https://app.example.com/account/verify-email?tenant=acme#token=abc&email=a%40example.com",
    "inviter": "Grace Admin",
    "role": "member",
    "until": "8 May 2026, 10:00 UTC",
    "ip_address": "192.0.2.7",
    "user_agent": "Browser/1.0",
}
WITH_LINK = {
    MailTemplate.VERIFY_EMAIL: "24 hours",
    MailTemplate.RESET_PASSWORD: "30 minutes",
    MailTemplate.SET_PASSWORD: "7 days",
    MailTemplate.INVITATION: "8 May",
}


@pytest.mark.parametrize("template", MailTemplate)
def test_each_mail_has_a_subject_a_greeting_and_says_what_if_it_was_not_you(template: MailTemplate) -> None:
    mail = render(template, VALUES)
    assert "Acme" in mail.subject
    assert len(mail.subject) < 70
    for form in (mail.text, mail.html):
        assert "Hello Ada Example," in form
        assert "If " in form
    assert f"<title>{mail.subject}</title>" in mail.html
    assert max(len(line) for line in mail.text.splitlines()) < 998


@pytest.mark.parametrize(("template", "lifetime"), WITH_LINK.items())
def test_a_link_is_there_as_text_and_as_a_button_and_says_how_long_it_lives(template: MailTemplate, lifetime: str) -> None:
    mail = render(template, VALUES)
    assert f"\n    {VALUES['link']}\n" in mail.text
    assert mail.html.count(VALUES["link"].replace("&", "&amp;")) == 3
    assert lifetime in mail.text
    assert lifetime in mail.html


@pytest.mark.parametrize("template", MailTemplate)
def test_a_mail_loads_nothing_from_anywhere(template: MailTemplate) -> None:
    html = render(template, VALUES).html
    assert not [tag for tag in ("<img", "<link", "<script", "url(", "@import", "src=") if tag in html]


@pytest.mark.parametrize("template", MailTemplate)
@pytest.mark.parametrize("name", ["tenant", "name", "inviter", "role", "until", "ip_address", "user_agent", "time", "link"])
def test_no_value_becomes_markup_or_a_line_of_its_own(template: MailTemplate, name: str) -> None:
    mail = render(template, {**VALUES, name: "\"><script>alert('x')</script>\r\n\r\nA line of its own"})
    assert "<script" not in mail.html
    assert not {"A line of its own"} & set(mail.text.splitlines())
    assert "\n" not in mail.subject
    assert "\r" not in mail.subject + mail.text


def test_a_value_that_is_forgotten_is_no_blank() -> None:
    with pytest.raises(UndefinedError):
        render(MailTemplate.VERIFY_EMAIL, {name: value for name, value in VALUES.items() if name != "link"})


def test_every_template_is_a_file_that_gets_into_the_image() -> None:
    assert {path.name for path in FOLDER.iterdir()} == {
        "layout.html",
        "layout.txt",
        "parts.html",
        *(f"{template}.{form}" for template in MailTemplate for form in ("html", "txt")),
    }
    assert FOLDER.is_relative_to(ROOT / "app")
    assert "COPY app app" in (ROOT / "Dockerfile").read_text()
    assert "!app" in (ROOT / ".dockerignore").read_text().splitlines()


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("Žižek & Söhne GmbH", "Žižek & Söhne GmbH"),
        ("J.R.R. Tolkien", "J.R.R. Tolkien"),
        ("ACME 2.0", "ACME 2.0"),
        ("two\r\nlines\x00 \u202eturned", "two lines turned"),
        ("x" * 100, "x" * 79 + "…"),
        ("go to evil.example.com", "-"),
        ("https:evil", "https:evil"),
        ("ftp://x", "-"),
        ("WWW.x", "-"),
        ("write to eve@example", "-"),
        ("evil。com", "-"),
        ("=?utf-8?q?e=40evil=2Ecom=2C?=", "-"),
        ("=?utf-8?b?ZUBldmlsLmNvbSw=?=", "-"),
        ("Ada =?", "-"),
        ("a = b?", "a = b?"),
        ("", ""),
    ],
)
def test_a_name_is_shown_unless_it_would_become_a_link_or_be_decoded(given: str, shown: str) -> None:
    assert presentable(given, otherwise="-") == shown
    assert one_line(shown) == shown
