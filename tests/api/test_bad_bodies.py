"""Bodies that no operation can take: a clear 4xx, never a 5xx, and no echo of what was sent."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from fastapi import FastAPI
from httpx import AsyncClient, Response

from app.middleware.tenant import NAMED_ELSEWHERE
from tests.api.answers import accepted, problem_in, refused
from tests.api.world import WITH_BODY, Operation, World

each_operation = pytest.mark.parametrize("operation", WITH_BODY, ids=" ".join)
PROJECTS = "/api/v1/projects"


async def send(client: AsyncClient, world: World, operation: Operation, content: bytes | str, **headers: str) -> Response:
    """Send a body as it is, signed in as an admin."""
    given = {"Content-Type": "application/json", **world.admin.headers, **headers}
    if operation[1] in NAMED_ELSEWHERE:
        given.pop("X-Tenant-Slug", None)
    return await client.request(operation[0], world.path(operation[1]), headers=given, content=content)


async def send_json(client: AsyncClient, world: World, operation: Operation, body: Any) -> Response:
    return await send(client, world, operation, json.dumps(body))


def whole(world: World, operation: Operation) -> dict[str, Any]:
    body = world.body(operation)
    assert body is not None
    return body


@each_operation
@pytest.mark.parametrize(
    "content",
    [
        *(b"{", b"}", b"[", b'{"name": }', b'{"name": "x"', b"{'name': 'x'}", b'{"name": "x",}', b"nul", b"\x00", b" "),
        *(b'{"name": "\xff"}', b"\xfe\xff\x00{", b'{"name": "x"} trailing', b"[" * 100_000, b'{"a":' * 100_000, b'{"name": "\t"}'),
        b'{"name": ' + b"9" * 5000 + b"}",
        b"[" * 50_000 + b"]" * 50_000,
        b'{"name": "\\ud8"}',
    ],
    ids=lambda content: repr(content[:12]),
)
async def test_what_is_no_json_is_refused(client: AsyncClient, world: World, operation: Operation, content: bytes) -> None:
    assert problem_in(await send(client, world, operation, content))["status"] in (400, 422)


@each_operation
@pytest.mark.parametrize("body", [[], [{}], "text", 7, 1.5, True, None, [["name", "x"]]])
async def test_what_is_no_object_is_refused(client: AsyncClient, world: World, operation: Operation, body: Any) -> None:
    refused(await send_json(client, world, operation, body), 422, "validation_error")


@each_operation
async def test_a_missing_body_is_refused(client: AsyncClient, world: World, operation: Operation) -> None:
    refused(await send(client, world, operation, b""), 422, "validation_error")


@each_operation
@pytest.mark.parametrize("name", ["unknown", "Name", "tenant_id", "__proto__", "", "a\0b", "\ud800", "x" * 100_000])
async def test_an_unknown_field_is_refused(client: AsyncClient, world: World, operation: Operation, name: str) -> None:
    document = refused(await send_json(client, world, operation, {**whole(world, operation), name: "x"}), 422, "validation_error")
    assert [error["loc"][0] for error in document["errors"]] == ["body"]


@each_operation
async def test_very_many_unknown_fields_are_one_error(client: AsyncClient, world: World, operation: Operation) -> None:
    """As many as a body has room for: each of them named would be eight megabytes, and half a second in which nobody else is served."""
    response = await send_json(client, world, operation, {**whole(world, operation), **{f"a{number}": 0 for number in range(70_000)}})
    document = refused(response, 422, "validation_error")
    assert [error["loc"] for error in document["errors"]] == [["body"]]
    assert len(response.content) < 2_000


async def test_at_most_fifty_errors_are_named_and_the_text_says_of_how_many(client: AsyncClient, world: World) -> None:
    document = refused(await send_json(client, world, ("POST", PROJECTS), {f"a{number}": 0 for number in range(50)}), 422, "validation_error")
    assert len(document["errors"]) == 50
    assert "the first 50 of 51" in document["detail"]


@pytest.mark.parametrize("key", ["x" * 1_000_000, "\x1b" * 100_000, "é" * 150_000], ids=["ascii", "control", "other"])
async def test_a_long_name_is_not_sent_back_whole(client: AsyncClient, world: World, key: str) -> None:
    response = await send_json(client, world, ("POST", PROJECTS), {"name": "x", key: 0})
    (error,) = refused(response, 422, "validation_error")["errors"]
    assert (len(error["loc"][1]), len(response.content) < 4_000) == (300, True)


async def test_data_that_is_too_large_is_not_looked_into(client: AsyncClient, world: World) -> None:
    body = whole(world, ("POST", "/api/v1/resources")) | {"data": {"x": ["\0"] * 100_000}}
    (error,) = refused(await send_json(client, world, ("POST", "/api/v1/resources"), body), 422, "validation_error")["errors"]
    assert (error["loc"], error["msg"]) == (["body", "data"], "Value error, must not be larger than 64 KiB as JSON")


@each_operation
@pytest.mark.parametrize("value", [[], {}, [[]], {"a": {"b": 1}}, 7, -1, 1e300, 10**400, "\0", "\ud800", "a\udfffb", "x" * 200_000])
async def test_a_value_of_the_wrong_kind_is_refused_in_every_field(client: AsyncClient, world: World, operation: Operation, value: Any) -> None:
    body = whole(world, operation)
    for name in body:
        if name == "data" and isinstance(value, dict):
            continue
        response = await send_json(client, world, operation, {**body, name: value})
        refused(response, 422, "validation_error")


@each_operation
@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"])
async def test_numbers_that_are_none_are_refused_in_every_field(client: AsyncClient, world: World, operation: Operation, number: str) -> None:
    body = whole(world, operation)
    for name in body:
        content = json.dumps({**body, name: "?number?"}).replace('"?number?"', number)
        assert problem_in(await send(client, world, operation, content))["status"] in (400, 422)


@pytest.mark.parametrize("operation", [each for each in WITH_BODY if each[0] == "PATCH"], ids=" ".join)
async def test_null_is_refused_in_exactly_the_fields_that_the_document_does_not_show_as_nullable(
    app: FastAPI, client: AsyncClient, world: World, operation: Operation
) -> None:
    document = app.openapi()
    schema = document["paths"][operation[1]]["patch"]["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
    properties = document["components"]["schemas"][schema]["properties"]
    nullable = {name for name, field in properties.items() if {"type": "null"} in field.get("anyOf", [])}
    assert nullable < set(properties)
    for name in properties:
        response = await send_json(client, world, operation, {name: None})
        if name in nullable:
            accepted(response)
        else:
            assert [error["loc"] for error in refused(response, 422, "validation_error")["errors"]] == [["body", name]]


def nested(value: Any) -> list[dict[str, Any]]:
    """Return objects that hold the value in places where it is easily overlooked."""
    return [{"x": value}, {"x": [value]}, {"x": {"y": [1, {"z": value}]}}, {"x": [[[[[[value]]]]]]}]


@pytest.mark.parametrize("operation", [each for each in WITH_BODY if "resources" in each[1]], ids=" ".join)
@pytest.mark.parametrize("text", ["\0", "a\0b", "\ud800", "\udfff", "\ud83d", "é\udc00", "\udc00\ud800"])
async def test_text_that_cannot_be_stored_is_refused_wherever_it_is_in_data(client: AsyncClient, world: World, operation: Operation, text: str) -> None:
    body = whole(world, operation)
    for data in [*nested(text), *nested({text: 1}), {text: 1}]:
        refused(await send_json(client, world, operation, {**body, "data": data}), 422, "validation_error")


@pytest.mark.parametrize("operation", [each for each in WITH_BODY if "resources" in each[1]], ids=" ".join)
@pytest.mark.parametrize("depth", [65, 500, 900, 5_000])
async def test_data_that_is_nested_too_deep_is_refused(client: AsyncClient, world: World, operation: Operation, depth: int) -> None:
    for opening, closing in (("[", "]"), ('{"x":', "}")):
        data = '{"x":' + opening * (depth - 1) + "1" + closing * (depth - 1) + "}"
        content = json.dumps({**whole(world, operation), "data": "?data?"}).replace('"?data?"', data)
        assert problem_in(await send(client, world, operation, content))["status"] in (400, 422)


async def test_a_pair_of_surrogates_is_a_character(client: AsyncClient, world: World) -> None:
    created = await send(client, world, ("POST", PROJECTS), b'{"name": "\\ud83d\\ude80"}')
    assert accepted(created, 201)["name"] == "🚀"


async def test_numbers_of_many_digits_come_back_whole(client: AsyncClient, world: World) -> None:
    body = whole(world, ("POST", "/api/v1/resources")) | {"data": {"x": 10**400, "y": -(10**400)}}
    assert accepted(await send_json(client, world, ("POST", "/api/v1/resources"), body), 201)["data"] == body["data"]


async def test_of_two_fields_of_one_name_the_last_counts(client: AsyncClient, world: World) -> None:
    assert accepted(await send(client, world, ("POST", PROJECTS), b'{"name": "first", "name": "second"}'), 201)["name"] == "second"


@each_operation
@pytest.mark.parametrize(
    "content_type",
    [
        "text/plain",
        "application/xml",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/merge-patch+json",
        "application/jsonx",
        "json",
        "",
        "*/*",
        "é",
    ],
)
async def test_another_content_type_is_refused(client: AsyncClient, world: World, operation: Operation, content_type: str) -> None:
    content = json.dumps(whole(world, operation)).encode()
    headers = [(b"Content-Type", content_type.encode()), *((name.encode(), value.encode()) for name, value in world.admin.headers.items())]
    response = await client.request(operation[0], world.path(operation[1]), headers=headers, content=content)
    refused(response, 415, "unsupported_media_type")


@each_operation
async def test_a_body_without_a_content_type_is_refused(client: AsyncClient, world: World, operation: Operation) -> None:
    content = json.dumps(whole(world, operation)).encode()
    response = await client.request(operation[0], world.path(operation[1]), headers=world.admin.headers, content=content)
    refused(response, 415, "unsupported_media_type")


@pytest.mark.parametrize("content_type", ["application/json; charset=utf-8", "Application/JSON", " application/json ;x=y"])
async def test_the_content_type_is_read_as_http_has_it(client: AsyncClient, world: World, content_type: str) -> None:
    accepted(await send(client, world, ("POST", PROJECTS), b'{"name": "x"}', **{"Content-Type": content_type}), 201)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32"])
async def test_a_body_that_is_not_utf_8_is_refused(client: AsyncClient, world: World, encoding: str) -> None:
    refused(await send(client, world, ("POST", PROJECTS), '{"name": "x"}'.encode(encoding)), 400, "bad_request")


async def test_a_length_of_5000_digits_is_refused(client: AsyncClient, world: World) -> None:
    response = await send(client, world, ("POST", PROJECTS), b"{}", **{"Content-Length": "9" * 5_000})
    assert problem_in(response)["status"] in (400, 413)


class Counted:
    """A body in pieces that counts how many of them were taken."""

    def __init__(self, pieces: int, piece: bytes = b" " * 65_536) -> None:
        self.left = pieces
        self._piece = piece

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while self.left:
            self.left -= 1
            yield self._piece


@each_operation
async def test_a_body_that_says_that_it_is_too_large_is_not_read(client: AsyncClient, world: World, operation: Operation) -> None:
    body = Counted(160)
    headers = {**world.admin.headers, "Content-Type": "application/json", "Content-Length": str(160 * 65_536)}
    response = await client.request(operation[0], world.path(operation[1]), headers=headers, content=body)
    refused(response, 413, "content_too_large")
    assert body.left >= 159


@each_operation
async def test_a_body_that_turns_out_too_large_is_not_read_whole(client: AsyncClient, world: World, operation: Operation) -> None:
    body = Counted(160)
    response = await client.request(operation[0], world.path(operation[1]), headers={**world.admin.headers, "Content-Type": "application/json"}, content=body)
    refused(response, 413, "content_too_large")
    assert body.left >= 160 - 18


async def test_a_body_of_one_mebibyte_is_the_largest(client: AsyncClient, world: World) -> None:
    content = b'{"name": "x"}'.ljust(1024 * 1024)
    accepted(await send(client, world, ("POST", PROJECTS), content), 201)
    refused(await send(client, world, ("POST", PROJECTS), content + b" "), 413, "content_too_large")


async def test_a_refused_value_is_not_echoed(client: AsyncClient, world: World) -> None:
    for operation in WITH_BODY:
        for name in whole(world, operation):
            for value in ("hunter2\0", ["hunter2"], {"hunter2": "hunter2"}, "hunter2" * 20_000):
                response = await send_json(client, world, operation, {**whole(world, operation), name: value})
                assert response.is_success or "hunter2" not in response.text, (operation, name, response.text[:300])
