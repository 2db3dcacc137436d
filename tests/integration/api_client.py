"""A client made from hulld's own description of its API: a method for each operationId, which holds bodies and answers against their schemas."""
import copy
import http.client
import json
import socket
import urllib.parse

import jsonschema
from hulld import Failure
from hulld_wire import WebSocket

OTHER = {"string": 7, "integer": "seven", "number": "seven", "boolean": "maybe", "array": {"not": "an array"}, "object": ["not an object"], "null": 7}


class Route:
    """One operation of the description."""

    def __init__(self, document, path, method, row):
        self.document, self.path, self.method, self.id = document, path, method.upper(), row["operationId"]
        self.words = [p["name"] for p in row["parameters"] if p["in"] == "path"]
        self.query = {p["name"]: p["schema"] for p in row["parameters"] if p["in"] == "query"}
        self.responses = row["responses"]
        content = row.get("requestBody", {}).get("content", {})
        self.body = self.resolved(content["application/json"]["schema"]) if content else None
        self.is_operation, self.is_socket = "202" in self.responses, "101" in self.responses

    def resolved(self, schema):
        """A schema without the indirection of its name."""
        ref = schema.get("$ref")
        return self.document["components"]["schemas"][ref.rsplit("/", 1)[1]] if ref else schema

    def address(self, words, query):
        path = self.path
        for name in self.words:
            path = path.replace("{" + name + "}", urllib.parse.quote(words[name], safe=""))
        return path + ("?" + urllib.parse.urlencode(query) if query else "")

    def validator(self, schema):
        return jsonschema.Draft202012Validator({"components": self.document["components"], **schema})

    def check_answer(self, status, headers, answer):
        """Is that status declared, and is it what the description says of it?"""
        row = self.responses.get(str(status), self.responses["default"])
        assert str(status) in self.responses or status >= 400, f"{self.id}: status {status} is not declared"
        kind, content = next(iter(row["content"].items()))
        assert headers["Content-Type"].startswith(kind), (self.id, headers["Content-Type"])
        if kind == "application/json":
            self.validator(strict(content.get("schema", {}), self.document)).validate(answer)
        if status == 202:
            assert headers["Location"] == f"/v1/operations/{answer['name']}"


def strict(schema, document):
    """The same with members that are named alone: what is answered has to be described."""
    def tighten(one):
        if isinstance(one, list):
            return [tighten(item) for item in one]
        if not isinstance(one, dict):
            return one
        tight = {name: tighten(value) for name, value in one.items()}
        if "properties" in one and "additionalProperties" not in one:
            tight["additionalProperties"] = False
        return tight
    return {**tighten(schema), "components": {"schemas": tighten(document["components"]["schemas"])}}


class Client:
    """client.getInstance(name="web1"): the path's words by name, 'query' and 'body'. Answers that are errors raise Failure."""

    def __init__(self, manager):
        self.manager = manager
        self.document = manager.get("/v1/openapi.json")
        self.routes = [Route(self.document, path, method, row) for path, methods in self.document["paths"].items() for method, row in methods.items()]
        self.called = set()
        for route in self.routes:
            setattr(self, route.id, lambda route=route, body=None, query=None, **words: self.call(route, words, query, body))

    def route(self, name):
        return next(route for route in self.routes if route.id == name)

    def raw(self):
        """What WebSocket asks of a hulld."""
        client = socket.socket(socket.AF_UNIX)
        client.connect(str(self.manager.socket))
        client.settimeout(60)
        return client

    def call(self, route, words, query=None, body=None):
        if body is not None:
            route.validator(route.body).validate(body)
        if route.is_socket:
            opened = WebSocket(self, route.address(words, query))
            if opened.status != 101:
                opened.socket.close()
                raise Failure(opened.status, opened.head)
            self.called.add(route.id)
            return opened
        status, answer = self.send(route, words, query, body)
        if status >= 400:
            raise Failure(status, answer["error"])
        self.called.add(route.id)
        return answer

    def send(self, route, words, query=None, body=None):
        """What is answered, of whatever status; a body may be bytes that are no JSON."""
        connection = self.manager.connection()
        try:
            text = body if isinstance(body, (bytes, type(None))) else json.dumps(body)
            connection.request(route.method, route.address(words, query), text)
            response = connection.getresponse()
            data = response.read()
        except http.client.HTTPException as error:
            raise AssertionError(f"{route.id} {words} {str(body)[:200]}: no answer: {error!r}") from None
        finally:
            connection.close()
        is_json = response.getheader("Content-Type", "").startswith("application/json")
        answer = json.loads(data) if is_json else data.decode()
        route.check_answer(response.status, response.headers, answer)
        return response.status, answer


def made(route, **values):
    """A body of the members that the schema asks for, and of 'values'."""
    body = {}
    for name, schema in route.body.get("properties", {}).items():
        if name in values:
            body[name] = values[name]
        elif name in route.body.get("required", []):
            body[name] = schema["enum"][0] if "enum" in schema else "x" if schema["type"] == "string" else schema.get("minimum", 1)
    assert not set(values) - set(body), f"{route.id}: {values}"
    return body


def broken(route, good):
    """(how, body): bodies like 'good' which the schema does not allow, each in one way."""
    schema = route.body
    yield "no body", None
    yield "no JSON", b"{"
    yield "no object", ["x"]
    yield "a member twice", b'{"description":"a","description":"b"}'
    if schema.get("additionalProperties") is False:
        yield "extra member", {**good, "nonsense": 1}
    for name in schema.get("required", []):
        yield f"{name} missing", {key: value for key, value in good.items() if key != name}
    yield from broken_members(schema, good, [])


def broken_members(schema, good, at):
    for name, rule in schema.get("properties", {}).items():
        for how, value in broken_values(rule):
            body = copy.deepcopy(good)
            body[name] = value
            yield ".".join([*at, name]) + " " + how, body
        inner = rule.get("additionalProperties")
        if isinstance(inner, dict):
            for how, value in broken_values(inner):
                yield f"{name}.x {how}", {**good, name: {"x": value}}
        elif inner is False:
            yield f"{name} with an extra member", {**good, name: {"nonsense": 1}}


def broken_values(rule):
    types = rule.get("type", [])
    types = [types] if isinstance(types, str) else types
    for kind, value in OTHER.items():
        if types and kind in types and not jsonschema.Draft202012Validator(rule).is_valid(value):
            yield "of another type", value
    if types and "null" not in types:
        yield "null", None
    if "enum" in rule:
        yield "not one of those accepted", "none of these"
    if "maxLength" in rule:
        yield "too long", "x" * (rule["maxLength"] + 1)
    if rule.get("minLength", 0) > 0:
        yield "too short", "x" * (rule["minLength"] - 1)
    if "minimum" in rule:
        yield "too small", rule["minimum"] - 1
        yield "not whole", rule["minimum"] + 0.5
    if "maximum" in rule:
        yield "too large", rule["maximum"] + 1
    if "maxItems" in rule:
        yield "too many", ["x"] * (rule["maxItems"] + 1)
    if "items" in rule:
        for how, value in broken_values(rule["items"]):
            yield f"item {how}", [value]
