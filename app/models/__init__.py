"""All tables. Importing this package makes the metadata complete."""

from app.models.base import Base, TenantModel, new_id
from app.models.invitation import Invitation
from app.models.mail import Mail, MailState, MailTemplate
from app.models.one_time_token import OneTimeToken, TokenPurpose
from app.models.project import RECOVERABLE_DAYS, Project, ProjectStatus
from app.models.resource import Resource
from app.models.session import Session
from app.models.spent_challenge import SpentChallenge
from app.models.tenant import RegistrationPolicy, Tenant, Tier
from app.models.user import Role, User
from app.models.view_batch import ViewBatch

__all__ = [
    "RECOVERABLE_DAYS",
    "Base",
    "Invitation",
    "Mail",
    "MailState",
    "MailTemplate",
    "OneTimeToken",
    "Project",
    "ProjectStatus",
    "RegistrationPolicy",
    "Resource",
    "Role",
    "Session",
    "SpentChallenge",
    "Tenant",
    "TenantModel",
    "Tier",
    "TokenPurpose",
    "User",
    "ViewBatch",
    "new_id",
]
