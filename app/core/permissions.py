"""Roles: what each may do."""

from app.models import Role

RANK = {Role.VIEWER: 1, Role.MEMBER: 2, Role.ADMIN: 3}

PERMISSIONS: dict[Role, tuple[str, ...]] = {
    Role.VIEWER: ("projects:read", "resources:read", "tenant:read", "users:read", "users:update-self"),
    Role.MEMBER: ("projects:create", "projects:delete-own", "projects:update", "resources:create", "resources:delete", "resources:update"),
    Role.ADMIN: (
        "projects:delete",
        "projects:read-deleted",
        "projects:restore",
        "projects:set-owner",
        "tenant:update",
        "users:create",
        "users:delete",
        "users:invite",
        "users:update",
    ),
}


def includes(role: str, required: Role) -> bool:
    """Whether a role may do what the required one may: admin > member > viewer."""
    return RANK[Role(role)] >= RANK[required]


def permissions_of(role: str) -> list[str]:
    """Return everything that the role may do, sorted."""
    return sorted(name for granted, names in PERMISSIONS.items() if includes(role, granted) for name in names)
