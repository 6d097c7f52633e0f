"""Resources of projects. Those of a deleted project are hidden until it is restored."""

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Response
from sqlalchemy import Select, and_, bindparam, delete, func, select
from sqlalchemy.orm.attributes import flag_modified

from app.api.answers import JSONBytes
from app.api.columns import Columns
from app.api.deps import AsMember, Context, ReadAsViewer
from app.api.documented import documented
from app.api.listing import Listing
from app.api.query import parameters_of, query_of
from app.api.retry import RetryingRoute
from app.core.exceptions import NotFound, ProjectNotFound
from app.database import Query
from app.models import Project, Resource
from app.schemas.common import Id, Page
from app.schemas.resource import ResourceCreate, ResourceList, ResourceRead, ResourceUpdate
from app.utils.json import to_json

router = APIRouter(prefix="/api/v1/resources", tags=["resources"], route_class=RetryingRoute)

COLUMNS = Columns(Resource, tuple(ResourceRead.model_fields))


def of_live_projects(tenant_id: Any) -> Select[Resource]:
    """Return the SELECT of the tenant's resources whose project is not deleted."""
    return (
        select(Resource)
        .join(Project, and_(Project.tenant_id == Resource.tenant_id, Project.id == Resource.project_id))
        .where(Resource.tenant_id == tenant_id, Project.tenant_id == tenant_id, Project.is_deleted.is_(False))
    )


LIST = Listing(
    of_live_projects(bindparam("tenant_id")),
    model=Resource,
    columns=tuple(ResourceRead.model_fields),
    filters={"project_id": Resource.project_id == bindparam("project_id"), "type": Resource.type == bindparam("type")},
    search=(Resource.name,),
)
ONE = Query(of_live_projects(bindparam("tenant_id")).with_only_columns(*COLUMNS.selected).where(Resource.id == bindparam("id")))


@router.get("", response_model=Page[ResourceRead], responses=documented(), openapi_extra=parameters_of(ResourceList))
async def list_resources(caller: ReadAsViewer, asked: Annotated[ResourceList, Depends(query_of(ResourceList))]) -> Response:
    """List the tenant's resources. `q` looks in the name."""
    async with caller.read() as reader:
        return JSONBytes(await LIST.answer(reader, caller.services.cursors, caller.tenant.id, asked))


@router.get("/{resource_id}", response_model=ResourceRead, responses=documented(NotFound))
async def read_resource(resource_id: Id, caller: ReadAsViewer) -> Response:
    """Show one resource."""
    async with caller.read() as reader:
        row = await reader.fetch_one(ONE, tenant_id=caller.tenant.id, id=resource_id)
    if row is None:
        raise NotFound
    return JSONBytes(to_json(COLUMNS.plain(row)))


@router.post("", status_code=201, responses=documented(ProjectNotFound))
async def create_resource(new: ResourceCreate, ctx: AsMember, response: Response) -> ResourceRead:
    """Create a resource in a project."""
    # FOR SHARE: the project must not be deleted between this look and our commit.
    await ctx.get_or_404(
        select(Project.id).where(Project.tenant_id == ctx.tenant.id, Project.id == new.project_id, Project.is_deleted.is_(False)).with_for_update(read=True),
        ProjectNotFound,
    )
    resource = Resource(tenant_id=ctx.tenant.id, project_id=new.project_id, name=new.name, type=new.type, data=new.data, created_by=ctx.user.id)
    ctx.session.add(resource)
    await ctx.session.flush()
    await ctx.session.refresh(resource)
    response.headers["Location"] = f"/api/v1/resources/{resource.id}"
    return ResourceRead.model_validate(resource)


@router.patch("/{resource_id}", responses=documented(NotFound))
async def update_resource(resource_id: Id, change: ResourceUpdate, ctx: AsMember) -> ResourceRead:
    """Change a resource. Each change makes a new version."""
    resource = await _resource(ctx, resource_id)
    changes = change.changes_to(resource)
    if changes:
        for name, value in changes.items():
            setattr(resource, name, value)
            # SQLAlchemy compares as Python does, for which 1 is true, and would write nothing.
            flag_modified(resource, name)
        resource.version += 1
        resource.updated_at = func.now()
        await ctx.session.flush()
        await ctx.session.refresh(resource)
    return ResourceRead.model_validate(resource)


@router.delete("/{resource_id}", status_code=204, responses=documented(NotFound))
async def delete_resource(resource_id: Id, ctx: AsMember) -> None:
    """Delete a resource for good."""
    await _resource(ctx, resource_id)
    await ctx.session.execute(delete(Resource).where(Resource.tenant_id == ctx.tenant.id, Resource.id == resource_id))


async def _resource(ctx: Context, resource_id: UUID) -> Resource:
    return await ctx.get_or_404(of_live_projects(ctx.tenant.id).where(Resource.id == resource_id).with_for_update(of=Resource))
