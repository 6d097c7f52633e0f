"""All endpoints."""

from starlette.routing import BaseRoute

from app.api.endpoints import auth, email_verification, invitations, pages, passwords, projects, resources, sessions, system, tenant, users


def routes() -> list[BaseRoute]:
    """Return the routes of all endpoint modules, in one flat list.

    Not by `include_router`: each included router is one more layer to look through for each request, twice. The first that matches counts: what has a
    fixed path comes before what takes anything in its place.
    """
    modules = (projects, resources, invitations, users, tenant, auth, sessions, email_verification, passwords, system, pages)
    return [route for module in modules for route in module.router.routes]
