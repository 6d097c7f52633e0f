"""The tests. What the caller's shell says of the service is not for them, and `app.main` reads it as soon as it is imported: so it goes first."""

from deploy.local.environment import forget_settings

forget_settings()
