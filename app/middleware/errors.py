"""Turns whatever is raised further in, by middleware or by the application, into a problem document."""

from starlette.types import ASGIApp, Receive, Scope, Send

from app.core.problems import answer

# Where the server leaves why it could not read a request: what is no request is refused as all others are, with their headers, log line and form.
REFUSAL = "app.refusal"


class ErrorMiddleware:
    """Answers every error. One that comes after the response has begun is raised on, so that the server breaks the connection off."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            if REFUSAL in scope:
                raise scope[REFUSAL]
            await self.app(scope, receive, send)
        except Exception as error:
            response = answer(error, scope)
            if scope["state"]["response_begun"]:
                raise
            await response(scope, receive, send)
