"""Three tenants with three roles each do whatever they like, to their own things and to each other's; each sees what its own model says, and no more.

Hypothesis chooses the steps. The model of a tenant is a few dictionaries; what another tenant does must never show in it.
"""

from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from httpx import Response
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, initialize, multiple, rule

from app.models import Role
from tests.factories import Person
from tests.state_machines import ApiMachine, check

Thing = dict[str, Any]

TENANTS = 3
PEOPLE = st.tuples(st.integers(0, TENANTS - 1), st.sampled_from(list(Role)))
TENANT = st.integers(0, TENANTS - 1)
WORDS = st.sampled_from(["red", "green", "blue"])
COLLECTIONS = ("users", "projects", "resources")


@dataclass
class Model:
    """What a tenant should see: by collection, what each object's answer must hold."""

    marker: str = field(default_factory=lambda: f"m{uuid4().hex}")
    users: dict[str, Thing] = field(default_factory=dict)
    projects: dict[str, Thing] = field(default_factory=dict)
    resources: dict[str, Thing] = field(default_factory=dict)

    def visible(self, collection: str) -> dict[str, Thing]:
        """Return what a list of the collection shows: no deleted projects, and no resources of these."""
        things: dict[str, Thing] = getattr(self, collection)
        if collection == "projects":
            return {name: thing for name, thing in things.items() if not thing["is_deleted"]}
        if collection == "resources":
            return {name: thing for name, thing in things.items() if not self.projects[thing["project_id"]]["is_deleted"]}
        return things

    def found(self, collection: str, identifier: str) -> bool:
        return identifier in self.visible(collection)


class ThreeTenants(ApiMachine):
    """The rules: what people may do, and what the model makes of it. A step's `who` may be of another tenant than the thing it is done to."""

    users, projects, resources = Bundle("users"), Bundle("projects"), Bundle("resources")

    def __init__(self) -> None:
        super().__init__()
        self.models = [Model() for _ in range(TENANTS)]
        self.people: dict[tuple[int, Role], Person] = {}
        self.requests = 0

    def ask(self, who: tuple[int, Role], method: str, path: str, *, as_tenant: int | None = None, **request: Any) -> Response:
        """Ask as somebody, and make sure that the answer holds no other tenant's marker."""
        headers = self.people[who].headers
        if as_tenant is not None:
            headers = {**headers, "X-Tenant-Slug": self.people[as_tenant, Role.ADMIN].tenant.slug}
        answer = self.run(self.client.request(method, f"/api/v1/{path}", headers=headers, **request))
        said = str(request)
        for index, model in enumerate(self.models):
            assert index == who[0] or model.marker in said or model.marker not in answer.text, f"{method} {path} by {who}: {answer.text}"
        assert answer.status_code < 500, answer.text
        return answer

    @initialize(target=users)
    def found_tenants(self) -> Any:
        """Make the tenants and a person of each role."""
        made = []
        for index, model in enumerate(self.models):
            tenant = self.run(self.factory.tenant(name=f"Tenant {model.marker}"))
            for role in Role:
                person = self.run(self.factory.person(tenant, role, full_name=f"{role.value} {model.marker}"))
                self.people[index, role] = person
                identifier = str(person.user.id)
                model.users[identifier] = {"email": person.user.email, "full_name": person.user.full_name, "role": role.value}
                made.append((index, identifier))
        return multiple(*made)

    # Making things

    @rule(target=users, who=PEOPLE, word=WORDS)
    def add_user(self, who: tuple[int, Role], word: str) -> Any:
        body = {"email": f"{uuid4().hex}@example.com", "full_name": f"{word} {self.models[who[0]].marker}", "role": "viewer"}
        return self.make(who, "users", body, allowed=who[1] == Role.ADMIN)

    @rule(target=projects, who=PEOPLE, word=WORDS)
    def add_project(self, who: tuple[int, Role], word: str) -> Any:
        body = {"name": f"{word} {self.models[who[0]].marker}"}
        return self.make(who, "projects", body, allowed=who[1] != Role.VIEWER, more={"is_deleted": False, "owner_id": str(self.people[who].user.id)})

    @rule(target=projects, who=PEOPLE, owner=users)
    def add_project_for(self, who: tuple[int, Role], owner: tuple[int, str]) -> Any:
        """Name an owner, who may be another tenant's user, or one who is deleted by now."""
        body = {"name": f"for somebody {self.models[who[0]].marker}", "owner_id": owner[1]}
        myself = owner[1] == str(self.people[who].user.id)
        if who[1] == Role.ADMIN and owner[1] not in self.models[who[0]].users:
            assert self.ask(who, "POST", "projects", json=body).json()["code"] == "owner_not_found"
            return multiple()
        allowed = who[1] == Role.ADMIN or (who[1] == Role.MEMBER and myself)
        return self.make(who, "projects", body, allowed=allowed, more={"is_deleted": False})

    @rule(target=resources, who=PEOPLE, project=projects, word=WORDS)
    def add_resource(self, who: tuple[int, Role], project: tuple[int, str], word: str) -> Any:
        model = self.models[who[0]]
        body = {"project_id": project[1], "name": f"{word} {model.marker}", "type": "note", "data": {"marker": model.marker}}
        if who[1] != Role.VIEWER and not model.found("projects", project[1]):
            assert self.ask(who, "POST", "resources", json=body).json()["code"] == "project_not_found"
            return multiple()
        return self.make(who, "resources", body, allowed=who[1] != Role.VIEWER)

    def make(self, who: tuple[int, Role], collection: str, body: Thing, *, allowed: bool, more: Thing | None = None) -> Any:
        answer = self.ask(who, "POST", collection, json=body)
        assert answer.status_code == (201 if allowed else 403), answer.text
        if not allowed:
            return multiple()
        identifier = answer.json()["id"]
        getattr(self.models[who[0]], collection)[identifier] = {**body, **(more or {})}
        return who[0], identifier

    # Changing and deleting them

    @rule(who=PEOPLE, user=users, word=WORDS)
    def rename_user(self, who: tuple[int, Role], user: tuple[int, str], word: str) -> None:
        allowed = who[1] == Role.ADMIN or user[1] == str(self.people[who].user.id)
        self.change(who, "users", user[1], {"full_name": f"{word} {self.models[who[0]].marker}"}, allowed=allowed)

    @rule(who=PEOPLE, project=projects, word=WORDS)
    def rename_project(self, who: tuple[int, Role], project: tuple[int, str], word: str) -> None:
        self.change(who, "projects", project[1], {"name": f"{word} {self.models[who[0]].marker}"}, allowed=who[1] != Role.VIEWER)

    @rule(who=PEOPLE, resource=resources, word=WORDS)
    def change_resource(self, who: tuple[int, Role], resource: tuple[int, str], word: str) -> None:
        self.change(who, "resources", resource[1], {"data": {word: self.models[who[0]].marker}}, allowed=who[1] != Role.VIEWER)

    def change(self, who: tuple[int, Role], collection: str, identifier: str, change: Thing, *, allowed: bool) -> None:
        model = self.models[who[0]]
        answer = self.ask(who, "PATCH", f"{collection}/{identifier}", json=change)
        assert answer.status_code == (403 if not allowed else 200 if model.found(collection, identifier) else 404), answer.text
        if answer.status_code == 200:
            getattr(model, collection)[identifier].update(change)

    @rule(who=PEOPLE, user=users)
    def delete_user(self, who: tuple[int, Role], user: tuple[int, str]) -> None:
        model = self.models[who[0]]
        if user[1] in {str(person.user.id) for (tenant, _), person in self.people.items() if tenant == who[0]}:
            return  # those who act are needed to the end
        answer = self.ask(who, "DELETE", f"users/{user[1]}")
        assert answer.status_code == (403 if who[1] != Role.ADMIN else 204 if user[1] in model.users else 404), answer.text
        if answer.status_code == 204:
            del model.users[user[1]]
            for project in model.projects.values():
                project["owner_id"] = None if project["owner_id"] == user[1] else project["owner_id"]

    @rule(who=PEOPLE, project=projects)
    def delete_project(self, who: tuple[int, Role], project: tuple[int, str]) -> None:
        model = self.models[who[0]]
        known = model.found("projects", project[1])
        own = known and model.projects[project[1]]["owner_id"] == str(self.people[who].user.id)
        may = who[1] == Role.ADMIN or (who[1] == Role.MEMBER and own)
        answer = self.ask(who, "DELETE", f"projects/{project[1]}")
        assert answer.status_code == (403 if who[1] == Role.VIEWER else 404 if not known else 204 if may else 403), answer.text
        if answer.status_code == 204:
            model.projects[project[1]]["is_deleted"] = True

    @rule(who=PEOPLE, project=projects)
    def restore_project(self, who: tuple[int, Role], project: tuple[int, str]) -> None:
        model = self.models[who[0]]
        answer = self.ask(who, "POST", f"projects/{project[1]}/restore")
        assert answer.status_code == (403 if who[1] != Role.ADMIN else 200 if project[1] in model.projects else 404), answer.text
        if answer.status_code == 200:
            model.projects[project[1]]["is_deleted"] = False

    @rule(who=PEOPLE, resource=resources)
    def delete_resource(self, who: tuple[int, Role], resource: tuple[int, str]) -> None:
        model = self.models[who[0]]
        answer = self.ask(who, "DELETE", f"resources/{resource[1]}")
        assert answer.status_code == (403 if who[1] == Role.VIEWER else 204 if model.found("resources", resource[1]) else 404), answer.text
        if answer.status_code == 204:
            del model.resources[resource[1]]

    # Looking

    @rule(who=PEOPLE, user=users)
    def look_at_user(self, who: tuple[int, Role], user: tuple[int, str]) -> None:
        self.look(who, "users", user[1])

    @rule(who=PEOPLE, project=projects)
    def look_at_project(self, who: tuple[int, Role], project: tuple[int, str]) -> None:
        self.look(who, "projects", project[1])

    @rule(who=PEOPLE, resource=resources)
    def look_at_resource(self, who: tuple[int, Role], resource: tuple[int, str]) -> None:
        self.look(who, "resources", resource[1])

    def look(self, who: tuple[int, Role], collection: str, identifier: str) -> None:
        model = self.models[who[0]]
        answer = self.ask(who, "GET", f"{collection}/{identifier}")
        assert answer.status_code == (200 if model.found(collection, identifier) else 404), answer.text
        if answer.status_code == 200:
            assert_holds(answer.json(), model.visible(collection)[identifier])

    @rule(who=PEOPLE, collection=st.sampled_from(COLLECTIONS), page_size=st.integers(1, 4))
    def walk(self, who: tuple[int, Role], collection: str, page_size: int) -> None:
        """Walk the whole list by cursors."""
        self.assert_list(who, collection, {"page_size": page_size}, self.models[who[0]].visible(collection))

    @rule(who=PEOPLE, other=TENANT, word=WORDS, collection=st.sampled_from(COLLECTIONS))
    def search(self, who: tuple[int, Role], other: int, word: str, collection: str) -> None:
        """Search for a word with one's own or another tenant's marker behind it."""
        q = f"{word} {self.models[other].marker}"
        visible = self.models[who[0]].visible(collection)
        self.assert_list(who, collection, {"q": q}, {name: thing for name, thing in visible.items() if q in str(thing.get("name") or thing.get("full_name"))})

    @rule(who=PEOPLE, project=projects)
    def list_resources_of(self, who: tuple[int, Role], project: tuple[int, str]) -> None:
        visible = self.models[who[0]].visible("resources")
        expected = {name: thing for name, thing in visible.items() if thing["project_id"] == project[1]}
        self.assert_list(who, "resources", {"project_id": project[1]}, expected)

    @rule(who=PEOPLE, owner=users)
    def list_projects_of(self, who: tuple[int, Role], owner: tuple[int, str]) -> None:
        visible = self.models[who[0]].visible("projects")
        self.assert_list(who, "projects", {"owner_id": owner[1]}, {name: thing for name, thing in visible.items() if thing["owner_id"] == owner[1]})

    def assert_list(self, who: tuple[int, Role], collection: str, query: dict[str, Any], expected: dict[str, Thing]) -> None:
        """Walk a list to its end, and compare it with the model."""
        items: list[Thing] = []
        cursor: dict[str, str] = {}
        while True:
            page = self.ask(who, "GET", collection, params={**query, **cursor, "with_total": "true"}).json()
            assert page["total"] == len(expected)
            items += page["items"]
            if not page["has_more"]:
                break
            cursor = {"cursor": page["next_cursor"]}
        assert sorted(item["id"] for item in items) == sorted(expected), "not what the model has, each once"
        for item in items:
            assert_holds(item, expected[item["id"]])

    # Pretending to be somebody else

    @rule(who=PEOPLE, other=TENANT, collection=st.sampled_from(COLLECTIONS))
    def use_a_token_for_another_tenant(self, who: tuple[int, Role], other: int, collection: str) -> None:
        answer = self.ask(who, "GET", collection, as_tenant=other)
        assert answer.status_code == (200 if other == who[0] else 403), answer.text
        assert other == who[0] or answer.json()["code"] == "tenant_mismatch"

    @rule(who=PEOPLE, other=TENANT)
    def use_a_cursor_of_another_tenant(self, who: tuple[int, Role], other: int) -> None:
        first = self.ask((other, Role.VIEWER), "GET", "users", params={"page_size": 1}).json()
        answer = self.ask(who, "GET", "users", params={"page_size": 1, "cursor": first["next_cursor"]})
        assert answer.status_code == (200 if other == who[0] else 422), answer.text
        assert other == who[0] or answer.json()["code"] == "invalid_cursor"

    def teardown(self) -> None:
        """At the end each tenant, as each role, sees its whole model."""
        if self.people:
            for index, model in enumerate(self.models):
                for collection in COLLECTIONS:
                    self.assert_list((index, Role.VIEWER), collection, {"page_size": 100}, model.visible(collection))
        self.run(self.client.aclose())


def assert_holds(answer: Thing, expected: Thing) -> None:
    """Assert that an answer says what the model says."""
    assert {name: answer[name] for name in expected} == expected


def test_each_tenant_sees_its_own_model_whatever_the_others_do() -> None:
    check(ThreeTenants, "state_machine", examples=15, steps=25)
