"""The refusals of accounts: sessions, invitations, links that were mailed, passwords, proof of work. All others are in app/core/exceptions.py.

Refusal
├── BadRequest 400        LinkInvalid
├── Unauthenticated 401   RefreshTokenReused
├── Forbidden 403         EmailNotVerified InvitationInvalid WrongPassword
├── Unprocessable 422     CaptchaRequired CaptchaInvalid
└── RateLimited 429       SignInThrottled MailThrottled
"""

from app.core.exceptions import BadRequest, Forbidden, RateLimited, TokenInvalid, Unprocessable


class LinkInvalid(BadRequest):
    """This link is not valid any more. Ask for a new one."""

    code = "link_invalid"


class RefreshTokenReused(TokenInvalid):
    """This refresh token was used before, so somebody else may have it: its session is ended. Sign in again."""

    code = "refresh_token_reused"


class EmailNotVerified(Forbidden):
    """The address is not verified yet. Open the link that was mailed to it, or ask for another one."""

    code = "email_not_verified"


class InvitationInvalid(Forbidden):
    """This invitation is not good: it is not for this address or tenant, was used or withdrawn, or has expired. Ask for a new one."""

    code = "invitation_invalid"


class WrongPassword(Forbidden):
    """The current password is wrong."""

    code = "wrong_password"


class CaptchaRequired(Unprocessable):
    """Solve a challenge of GET /api/v1/auth/captcha, and send the solution as `captcha`."""

    code = "captcha_required"
    location = ("body", "captcha")


class CaptchaInvalid(Unprocessable):
    """This solution is wrong, too old, or was used before. Solve a new challenge of GET /api/v1/auth/captcha."""

    code = "captcha_invalid"
    location = ("body", "captcha")


class SignInThrottled(RateLimited):
    """Too many wrong passwords in a row. Wait for as many seconds as Retry-After says, then try again."""

    code = "sign_in_throttled"


class MailThrottled(RateLimited):
    """Your tenant has sent this address too many mails within the hour, or you have sent too many. Wait for as many seconds as Retry-After says."""

    code = "mail_throttled"
