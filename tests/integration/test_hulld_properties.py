"""What holds for whatever hulld is asked: no answer of 500 and above, no operation whose worker dies, and a manager that finds itself whole afterwards."""
import os

import pytest
from api_client import Client
from hulld import NEEDS_ROOT, manager  # noqa: F401 (a fixture)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytestmark = NEEDS_ROOT
LONG = os.environ.get("HULL_TEST_EXAMPLES")  # how many in place of the usual; these are not the same each time
LIMITS = settings(max_examples=int(LONG or 15), derandomize=LONG is None, database=None, deadline=None, suppress_health_check=list(HealthCheck))
NAMES = ("inst1", "inst2", "prof", "net1", "pool1", "vol1", "default", "bb", "new", "snap1")
TRICKY = ("", ".", "..", "../x", "a/b", "-x", "%s%n", "a b", "a\nb", "\u00e4", "\U0001f600",
          "'", '"', "$(x)", "null", "0", "x" * 64, "x" * 300, "\x7f", "\ufeff", "auto", "none")
SIZES = ("0", "1", "512", "1M", "64M", "-1", "1.5G", "99999999999999999999", "18446744073709551615", "16E", "1e9", "\u0661M")
texts = st.one_of(st.sampled_from(NAMES), st.sampled_from(TRICKY), st.sampled_from(SIZES),
                  st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0"), max_size=20))
integers = st.one_of(st.sampled_from((0, 1, 2, 511, 512, 1 << 20, 1 << 31, 1 << 32, (1 << 63) - 1, -1, -(1 << 63))), st.integers(-(1 << 63), (1 << 63) - 1))
scalars = st.one_of(texts, integers, st.booleans(), st.floats(allow_nan=False, allow_infinity=False), st.none())
anything = st.recursive(scalars, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts, inner, max_size=3)), max_leaves=6)


class Values:
    """Strategies for values of schemas. What would reach out of the test stays in: files are those of its folder, addresses the loopback."""

    def __init__(self, client, folder):
        self.client = client
        self.keys = client.getInstanceSchema()["properties"]
        files = [str(folder / name) for name in ("none", "pool1", "new", "not-there/new", "text")] + ["relative", "/dev/null", "/proc/self/mem", ""]
        self.files = files
        self.named = {"path": st.sampled_from(files), "kernel": st.sampled_from(files), "initrd": st.sampled_from(files),
                      "url": st.sampled_from(("http://127.0.0.1:1/x", "https://127.0.0.1:1/x", "docker://127.0.0.1:1/x", "file:///x", "http://", "", "x")),
                      "source": st.sampled_from(("import", "none")), "count": st.sampled_from((0, 1, 2, -1, 1 << 40)), "image": st.sampled_from(("bb", "none", "")),
                      "config": self.config(), "devices": self.devices()}

    def config(self):
        keys = [name for name in self.keys["config"]["properties"] if not name.startswith("raw")]
        own = st.sampled_from([*keys, "ipv4", "ipv6", "bridge", "path"])
        values = st.one_of(st.sampled_from(("true", "false", "1", "64M", "2", "10.88.9.1/24", "x=y", "1h", "daily")), scalars)
        return st.one_of(st.dictionaries(own, values, max_size=2), st.just({}), anything)

    def devices(self):
        device = st.fixed_dictionaries({"type": st.sampled_from(("none", "disk", "nic", "share", "proxy", "forward", "serial", "x"))}, optional={
            name: scalars for name in ("pool", "network", "size", "source", "path", "mac", "ipv4", "listen", "connect", "readonly")})
        names = st.sampled_from(("eth0", "root", "d1", "", "../d", "x" * 80))
        return st.one_of(st.dictionaries(names, device, max_size=2), st.just({"eth0": {"type": "none"}}), anything)

    def of(self, schema, name=None):
        """Values that the schema allows, mostly."""
        if name in self.named:
            return self.named[name]
        if "enum" in schema:
            return st.sampled_from(schema["enum"])
        kinds = schema.get("type", "object")
        each = {"string": texts, "integer": integers, "number": scalars, "boolean": st.booleans(), "null": st.none(), "object": anything,
                "array": st.lists(self.of(schema["items"]) if "items" in schema else scalars, max_size=4)}
        return st.one_of([each[kind] for kind in ([kinds] if isinstance(kinds, str) else kinds)])

    def bodies(self, route):
        """Bodies whose members are mostly right, and others."""
        rules = route.body["properties"]
        required = {name: self.of(rules[name], name) for name in route.body.get("required", [])}
        optional = {name: self.of(rule, name) for name, rule in rules.items() if name not in required}
        right = st.fixed_dictionaries(required, optional=optional)
        wrong = st.builds(lambda body, name, value: {**body, name: value}, right, st.sampled_from(sorted(rules)), anything)
        return st.one_of(right, right, st.one_of(wrong, anything).filter(self.stays_in))

    def stays_in(self, body):
        """Does it build nothing, and name no other file?"""
        return not isinstance(body, dict) or body.get("source") != "build" and not any(str(body.get(name, "")).startswith("/") and body[name] not in self.files
                                                                                      for name in ("path", "kernel", "initrd"))


@pytest.fixture(name="client", scope="module")
def fixture_client(manager):
    """With some objects to ask about."""
    client = Client(manager)
    no_card = {"eth0": {"type": "none"}}
    client.createProfile(body={"name": "prof"})
    (manager.folder / "text").write_text("neither an archive nor a disk")
    for call in (lambda: client.createNetwork(body={"name": "net1"}),
                 lambda: client.createPool(body={"name": "pool1", "config": {"path": str(manager.folder / "pool1")}}),
                 lambda: client.createVolume(body={"name": "vol1", "size_bytes": 1 << 20}),
                 lambda: client.createInstance(body={"name": "inst1", "kind": "container", "image": "bb", "devices": no_card, "start": True}),
                 lambda: client.createInstance(body={"name": "inst2", "kind": "container", "image": "bb", "devices": no_card}),
                 lambda: client.createSnapshot(name="inst2", body={"name": "snap1"})):
        assert manager.wait(call())["status"] == "done"
    return client


def asked(client, manager, route, words, query, body):
    """What holds for each answer, and for the operation that it may be."""
    status, answer = client.send(route, words, query, body)
    told = f"{route.id} {words} {query} {body}: {status} {answer}"
    assert status < 500 or answer["error"]["code"] == "unsupported", told
    if status == 202:
        if route.id in ("exportInstance", "importInstance"):  # they wait for who takes or brings the file
            client.send(client.route("cancelOperation"), {"id": answer["name"]}, None, None)
        ended = manager.wait(answer)
        assert ended["status"] in ("done", "failed") or ended["status"] == "cancelled" and route.id in ("exportInstance", "importInstance"), f"{told}: {ended}"
        assert ended["status"] != "failed" or ended["error"]["message"] and "died" not in ended["error"]["message"], f"{told}: {ended}"
    elif status >= 400:
        assert len(answer["error"]["message"]) > 5, told


def each(check, *strategies):
    """For examples of the strategies."""
    @LIMITS
    @given(st.tuples(*strategies))
    def holds(drawn):
        check(*drawn)

    holds()


def is_whole(manager, pid):
    assert manager.process.pid == pid and manager.process.poll() is None, manager.log()
    found = manager.hull("system", "check", check=False)
    assert found.returncode == 0, found.stdout + found.stderr


def test_random_bodies(client, manager):
    """Each route that takes one, on objects that are there and that are not."""
    values, pid = Values(client, manager.folder), manager.process.pid
    routes = [route for route in client.routes if route.body is not None]
    assert len(routes) > 12
    for route in routes:
        words = st.fixed_dictionaries({name: st.one_of(st.sampled_from(NAMES), texts.filter(bool)) for name in route.words})
        each(lambda words, body, route=route: asked(client, manager, route, words, None, body), words, values.bodies(route))
    is_whole(manager, pid)


def test_random_paths_and_queries(client, manager):
    """Each route that takes no body, but for those that delete what the others need."""
    pid = manager.process.pid
    for route in client.routes:
        if route.body is not None or route.is_socket or not route.words and not route.query:
            continue
        own = st.one_of(texts, st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0"), min_size=1, max_size=300))
        own = own.filter(lambda word: word not in NAMES)
        known = st.sampled_from(NAMES) if route.method == "GET" else own
        own = own.filter(lambda word: word not in (".", "..") and "/." not in word)  # they would name another path
        queries = {"wait": st.one_of(texts, integers.filter(lambda value: not 1 < value < 4000).map(str))}
        words = st.fixed_dictionaries({name: st.one_of(own, known) for name in route.words})
        query = st.fixed_dictionaries({}, optional={name: queries.get(name, texts) for name in route.query})
        each(lambda words, query, route=route: asked(client, manager, route, words, query, None), words, query)
    is_whole(manager, pid)
