"""Projects."""

from datetime import timedelta
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Response
from sqlalchemy import bindparam, exists, func, or_, select

from app.api.answers import JSONBytes
from app.api.deps import AsAdmin, AsMember, Context, ReadAsViewer
from app.api.documented import documented
from app.api.listing import Listing
from app.api.query import parameters_of, query_of
from app.api.retry import RetryingRoute
from app.core.exceptions import Forbidden, NotFound, OwnerNotFound
from app.database import Query
from app.models import RECOVERABLE_DAYS, Project, User
from app.schemas.common import Id, Page
from app.schemas.project import ProjectCreate, ProjectList, ProjectRead, ProjectUpdate
from app.utils.json import to_json

router = APIRouter(prefix="/api/v1/projects", tags=["projects"], route_class=RetryingRoute)

COLUMNS = tuple(ProjectRead.model_fields)
OF_TENANT = select(Project).where(Project.tenant_id == bindparam("tenant_id"))
OPTIONS: dict[str, Any] = {
    "model": Project,
    "columns": COLUMNS,
    "filters": {"status": Project.status == bindparam("status"), "owner_id": Project.owner_id == bindparam("owner_id")},
    "search": (Project.name, Project.description),
}
LIST = Listing(OF_TENANT.where(Project.is_deleted.is_(False)), scope="not deleted", **OPTIONS)
LIST_WITH_DELETED = Listing(OF_TENANT, **OPTIONS)
ONE = Query(OF_TENANT.with_only_columns(*(getattr(Project, name) for name in COLUMNS)).where(Project.id == bindparam("id"), Project.is_deleted.is_(False)))


@router.get("", response_model=Page[ProjectRead], responses=documented(), openapi_extra=parameters_of(ProjectList))
async def list_projects(caller: ReadAsViewer, asked: Annotated[ProjectList, Depends(query_of(ProjectList))]) -> Response:
    """List the tenant's projects. `q` looks in name and description."""
    if asked.include_deleted and not caller.is_admin:
        raise Forbidden("Only an admin may list deleted projects.")
    listing = LIST_WITH_DELETED if asked.include_deleted else LIST
    async with caller.read() as reader:
        return JSONBytes(await listing.answer(reader, caller.services.cursors, caller.tenant.id, asked))


@router.get("/{project_id}", response_model=ProjectRead, responses=documented(NotFound))
async def read_project(project_id: Id, caller: ReadAsViewer) -> Response:
    """Show one project, and count a view."""
    async with caller.read() as reader:
        row = await reader.fetch_one(ONE, tenant_id=caller.tenant.id, id=project_id)
        if row is not None:
            # Here, so that it travels while the transaction ends, and nothing waits for it.
            await caller.services.views.count(caller.tenant.id, row["id"])
    if row is None:
        raise NotFound
    return JSONBytes(to_json(dict(row)))


@router.post("", status_code=201, responses=documented(OwnerNotFound))
async def create_project(new: ProjectCreate, ctx: AsMember, response: Response) -> ProjectRead:
    """Create a project. Its owner is the caller; an admin may name another user."""
    owner_id = new.owner_id or ctx.user.id
    await _check_owner(ctx, owner_id)
    project = Project(tenant_id=ctx.tenant.id, name=new.name, description=new.description, status=new.status, owner_id=owner_id)
    ctx.session.add(project)
    await ctx.session.flush()
    await ctx.session.refresh(project)
    response.headers["Location"] = f"/api/v1/projects/{project.id}"
    return ProjectRead.model_validate(project)


@router.patch("/{project_id}", responses=documented(NotFound, OwnerNotFound))
async def update_project(project_id: Id, change: ProjectUpdate, ctx: AsMember) -> ProjectRead:
    """Change a project's name, description or status; an admin its owner as well."""
    project = await _project(ctx, project_id)
    changes = change.changes_to(project)
    if "owner_id" in changes:
        if not ctx.is_admin:
            raise Forbidden("Only an admin may change `owner_id`.")
        await _check_owner(ctx, changes["owner_id"])
    if changes:
        for name, value in changes.items():
            setattr(project, name, value)
        await _touch(ctx, project)
    return ProjectRead.model_validate(project)


@router.delete("/{project_id}", status_code=204, responses=documented(NotFound))
async def delete_project(project_id: Id, ctx: AsMember) -> None:
    """Delete a project, so that it can be restored. Admins, and members their own."""
    project = await _project(ctx, project_id)
    if not ctx.is_admin and project.owner_id != ctx.user.id:
        raise Forbidden("Only an admin or the project's owner may delete it.")
    project.is_deleted, project.deleted_at = True, func.now()
    await _touch(ctx, project)


@router.post("/{project_id}/restore", responses=documented(NotFound))
async def restore_project(project_id: Id, ctx: AsAdmin) -> ProjectRead:
    """Restore a project that was deleted within the last 30 days, with its resources. Admins only. One that is not deleted stays as it is."""
    # What may be purged at this moment is not restored in halves.
    restorable = or_(Project.is_deleted.is_(False), Project.deleted_at > func.now() - timedelta(days=RECOVERABLE_DAYS))
    project = await ctx.get_or_404(select(Project).where(Project.tenant_id == ctx.tenant.id, Project.id == project_id, restorable).with_for_update())
    if project.is_deleted:
        project.is_deleted, project.deleted_at = False, None
        await _touch(ctx, project)
    return ProjectRead.model_validate(project)


async def _project(ctx: Context, project_id: UUID) -> Project:
    return await ctx.get_or_404(
        select(Project).where(Project.tenant_id == ctx.tenant.id, Project.id == project_id, Project.is_deleted.is_(False)).with_for_update()
    )


async def _touch(ctx: Context, project: Project) -> None:
    project.version += 1
    project.updated_at = func.now()
    await ctx.session.flush()
    await ctx.session.refresh(project)


async def _check_owner(ctx: Context, owner_id: UUID | None) -> None:
    """Raise `Forbidden` where a member names somebody else, `OwnerNotFound` for who is no user of the tenant."""
    if owner_id is None or owner_id == ctx.user.id:
        return
    if not ctx.is_admin:
        raise Forbidden("Only an admin may choose another owner.")
    known = exists().where(User.tenant_id == ctx.tenant.id, User.id == owner_id)
    if not (await ctx.session.execute(select(known))).scalar_one():
        raise OwnerNotFound
