"""Cross-origin requests (CORS): Starlette's, with refusals in our own form."""

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response

from app.core.exceptions import BadRequest


class PreflightRefused(BadRequest):
    """Pages of this origin may not make this request."""

    code = "cors_refused"


class ProblemCORSMiddleware(CORSMiddleware):
    """Answers preflight requests, and adds the headers that let pages of the allowed origins read our answers."""

    def preflight_response(self, request_headers: Headers) -> Response:
        """Return the answer to a preflight request. Raises `PreflightRefused`."""
        response = super().preflight_response(request_headers)
        if response.status_code >= 400:
            raise PreflightRefused(f"{bytes(response.body).decode()}.")
        return response
