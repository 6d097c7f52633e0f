"""The demo tenant that a development installation starts with."""

from dataclasses import dataclass

from app.models import Role

DEMO_SLUG = "acme"
DEMO_PASSWORD = "try-acme-locally"  # noqa: S105 (printed for everybody to see; production never seeds)


@dataclass(frozen=True)
class DemoUser:
    """One person of the demo tenant."""

    email: str
    full_name: str
    role: Role


DEMO_USERS = (
    DemoUser("admin@example.com", "Ada Admin", Role.ADMIN),
    DemoUser("member@example.com", "Mel Member", Role.MEMBER),
    DemoUser("viewer@example.com", "Vic Viewer", Role.VIEWER),
)
DEMO_PROJECTS = (
    ("Website relaunch", "New pages, new words, same friendly service.", "active"),
    ("Warehouse move", "From the old hall to the new one, without a day of closed doors.", "on_hold"),
    ("Annual report", "Numbers, pictures, and what they mean.", "completed"),
)
