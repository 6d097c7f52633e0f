"""The endpoint modules under /api/v1."""

from fastapi import APIRouter

from app.api.endpoints import auth, projects, resources, tenant, users

router = APIRouter(prefix="/api/v1")
for module in (auth, users, projects, resources, tenant):
    router.include_router(module.router)
