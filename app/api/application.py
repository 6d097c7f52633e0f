"""The application: FastAPI's, inside of our middleware alone."""

from fastapi import FastAPI
from fastapi.middleware.asyncexitstack import AsyncExitStackMiddleware
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send


class Application(FastAPI):
    """FastAPI without the three layers that it puts around everybody's middleware.

    They answer errors that nobody foresaw, observe them for telemetry, and limit bodies: `app/middleware/` does the first and the last, and the second is
    off. Each request, and each message of its answer, would pass through them all the same.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, as Starlette does. FastAPI would ask for each anew whether its telemetry is on, which is off, and for a root path of its own."""
        scope["app"] = self
        if self.middleware_stack is None:
            self.middleware_stack = self.build_middleware_stack()
        await self.middleware_stack(scope, receive, send)

    def build_middleware_stack(self) -> ASGIApp:
        """Return the router inside of what handles its errors and closes what it opened, inside of our middleware."""
        app: ASGIApp = AsyncExitStackMiddleware(self.router)
        app = ExceptionMiddleware(app, handlers=self.exception_handlers, debug=self.debug)
        for cls, arguments, options in reversed(self.user_middleware):
            app = cls(app, *arguments, **options)
        return app
