"""Seeds the demo tenant."""

from passlib.context import CryptContext
from sqlalchemy import Engine, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session as OrmSession

from app.models import Project, Resource, Tenant, User, new_id
from app.services.demo import DEMO_PASSWORD, DEMO_PROJECTS, DEMO_SLUG, DEMO_USERS


def seed_demo(engine: Engine, rounds: int) -> bool:
    """Make the demo tenant with its people, projects and resources. Returns False where it is there already."""
    with OrmSession(engine) as session, session.begin():
        tenant_id = new_id()
        # The owner's role may have BYPASSRLS or not; naming the tenant serves both.
        session.execute(text(f"SET LOCAL app.tenant_id = '{tenant_id}'"))
        made = (
            insert(Tenant)
            .values(id=tenant_id, slug=DEMO_SLUG, subdomain=DEMO_SLUG, name="Acme", subscription_tier="premium")
            .on_conflict_do_nothing()
            .returning(Tenant.id)
        )
        if session.execute(made).scalar_one_or_none() is None:
            return False
        password_hash = CryptContext(schemes=["bcrypt_sha256"], bcrypt_sha256__rounds=rounds).hash(DEMO_PASSWORD)
        users = [
            User(
                tenant_id=tenant_id,
                email=person.email,
                full_name=person.full_name,
                role=person.role,
                email_verified=True,
                password_hash=password_hash,
            )
            for person in DEMO_USERS
        ]
        session.add_all(users)
        session.flush()
        for name, description, status in DEMO_PROJECTS:
            project = Project(tenant_id=tenant_id, name=name, description=description, status=status, owner_id=users[1].id)
            session.add(project)
            session.flush()
            session.add(
                Resource(
                    tenant_id=tenant_id,
                    project_id=project.id,
                    name=f"Notes on {name.lower()}",
                    type="note",
                    data={"text": description},
                    created_by=users[1].id,
                )
            )
    return True
