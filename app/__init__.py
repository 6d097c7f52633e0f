"""A multi-tenant SaaS platform: FastAPI, PostgreSQL, Redis."""

__version__ = "0.1.0"
