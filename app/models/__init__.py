"""All tables. Importing this package makes the metadata complete."""

from app.models.base import Base, TenantModel, new_id
from app.models.project import Project, ProjectStatus, ViewCountBatch
from app.models.resource import Resource
from app.models.session import Session
from app.models.tenant import RegistrationPolicy, Tenant, Tier
from app.models.user import Role, User

__all__ = [
    "Base",
    "Project",
    "ProjectStatus",
    "RegistrationPolicy",
    "Resource",
    "Role",
    "Session",
    "Tenant",
    "TenantModel",
    "Tier",
    "User",
    "ViewCountBatch",
    "new_id",
]
