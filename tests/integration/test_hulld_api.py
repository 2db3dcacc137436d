"""hulld's API as clients see it: routes, their description, WebSockets, clients that behave badly, and what is left when it dies."""
import http.client
import json
import os
import random
import signal
import socket
import ssl
import stat
import subprocess
import time

import jsonschema
import pytest
from hulld_wire import HULLD, TIMEOUT, Connection, Hulld, WebSocket, exchange


@pytest.fixture(name="hulld")
def _hulld(tmp_path):
    with Hulld(tmp_path / "state") as hulld:
        yield hulld


def error_of(answer):
    """An answer's error: code and message."""
    assert set(answer) == {"error"}
    return answer["error"]["code"], answer["error"]["message"]


def test_system(hulld):
    """What it says of itself, its host and what it has."""
    system = hulld.get("/v1/system")
    assert system["pid"] == hulld.process.pid
    assert system["place"]["state"] == str(hulld.state)
    assert system["host"]["cpus"] == os.cpu_count() and system["host"]["hostname"] == socket.gethostname()
    assert system["counts"] == {"instances": 0, "images": 0, "networks": 1, "pools": 1, "profiles": 1, "volumes": 0}
    mode = stat.S_IMODE(os.stat(hulld.socket).st_mode)
    assert mode in ({0o600, 0o660} if os.geteuid() == 0 else {0o600})


def resolve(document, schema):
    """A schema with the document's components."""
    return {"components": document["components"], **schema}


def test_openapi_describes_what_it_does(hulld):
    """The description is valid, its schemas are, and answers fit them."""
    document = hulld.get("/v1/openapi.json")
    assert document["openapi"].startswith("3.1")
    names = set()
    for path, methods in document["paths"].items():
        assert path.startswith("/v1/")
        words = {part[1:-1] for part in path.split("/") if part.startswith("{")}
        for method, row in methods.items():
            assert method in {"get", "post", "put", "patch", "delete"}
            assert row["operationId"] not in names
            names.add(row["operationId"])
            assert row["summary"] and row["responses"]
            assert {p["name"] for p in row["parameters"] if p["in"] == "path"} == words
            assert all(p["required"] for p in row["parameters"] if p["in"] == "path")
    for schema in document["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)
    text = json.dumps(document)
    for part in text.split('"$ref": "')[1:]:
        ref = part.split('"')[0]
        assert ref.removeprefix("#/components/schemas/") in document["components"]["schemas"]
    # Every GET without words that answers JSON.
    tried = 0
    for path, methods in document["paths"].items():
        content = methods.get("get", {}).get("responses", {}).get("200", {}).get("content", {})
        if "{" not in path and "application/json" in content:
            schema = resolve(document, content["application/json"].get("schema", {}))
            jsonschema.Draft202012Validator(schema).validate(hulld.get(path))
            tried += 1
    assert tried >= 4
    # And its errors.
    status, _, answer = hulld.ask("GET", "/v1/profiles/none")
    assert status == 404
    jsonschema.Draft202012Validator(resolve(document, document["components"]["schemas"]["Error"])).validate(answer)


def test_profiles(hulld):
    """Made, listed, replaced, deleted."""
    assert [p["name"] for p in hulld.get("/v1/profiles")] == ["default"]
    default = hulld.get("/v1/profiles/default")
    assert default["devices"]["root"] == {"type": "disk", "pool": "default"}
    assert default["devices"]["eth0"] == {"type": "nic", "network": "default"}
    web = {"name": "web", "description": "for the web: \u00e4", "config": {"memory": "512M"}}
    status, _, answer = hulld.ask("POST", "/v1/profiles", web)
    assert status == 200 and answer["config"] == {"memory": "512M"} and answer["description"] == web["description"]
    status, _, answer = hulld.ask("POST", "/v1/profiles", web)
    assert status == 409 and error_of(answer)[0] == "exists"
    status, _, answer = hulld.ask("PUT", "/v1/profiles/web", {"config": {"cpus": "2"}})
    assert status == 200 and answer["config"] == {"cpus": "2"} and answer["name"] == "web"
    assert hulld.get("/v1/profiles/web") == answer
    status, _, answer = hulld.ask("PUT", "/v1/profiles/web", {"name": "other"})
    assert status == 400
    status, _, answer = hulld.ask("PUT", "/v1/profiles/wbe", {})
    assert status == 404 and "did you mean 'web'?" in error_of(answer)[1]
    assert [p["name"] for p in hulld.get("/v1/profiles")] == ["default", "web"]
    assert hulld.ask("DELETE", "/v1/profiles/web")[0] == 200
    assert hulld.ask("DELETE", "/v1/profiles/web")[0] == 404
    status, _, answer = hulld.ask("DELETE", "/v1/profiles/default")
    assert status == 409 and error_of(answer)[0] == "busy"


@pytest.mark.parametrize("body, words", [
    (b"", "missing"),
    (b"{", "line 1"),
    (b"\xff\xfe", "line 1"),
    (b'{"name":"a","name":"b"}', "uplicate"),
    (b'{"name":"a\\u0000b"}', ""),
    (b'"a"', "type object"),
    (b"[]", "type object"),
    (b"{}", "'name' is missing"),
    (b'{"name":7}', "name: it has to be of type string"),
    (b'{"name":"a","confg":{}}', "did you mean 'config'"),
    (b'{"name":"a","config":{"memory":{}}}', "config.memory"),
    (b'{"name":"a","config":{"memry":"7M"}}', "memory"),
    (b'{"name":"a","config":{"memory":"much"}}', "memory"),
    (b'{"name":"a","devices":{"root":{"type":"dsk"}}}', "disk"),
    (b'{"name":"a","devices":{"root":{}}}', "devices.root: member 'type'"),
    (b'{"name":"../../etc"}', ""),
    (b'{"name":"' + b"a" * 100 + b'"}', "64"),
    (b"[" * 100000, ""),
    (b'{"name":"a","description":"' + b"x" * 5000 + b'"}', "4096"),
])
def test_bodies_are_checked(hulld, body, words):
    """What is wrong is said, and where."""
    status, _, answer = hulld.ask("POST", "/v1/profiles", body)
    assert status == 400
    code, message = error_of(answer)
    assert code == "invalid" and words in message
    assert [p["name"] for p in hulld.get("/v1/profiles")] == ["default"]


@pytest.mark.parametrize("method, path, expected, code", [
    ("GET", "/", 404, "not-found"),
    ("GET", "/v1", 404, "not-found"),
    ("GET", "/v2/system", 404, "not-found"),
    ("GET", "/v1/system/x", 404, "not-found"),
    ("GET", "/v1/system?x=1", 400, "invalid"),
    ("GET", "/v1/operations/" + "0" * 32, 404, "not-found"),
    ("GET", "/v1/operations/" + "0" * 200, 404, "not-found"),
    ("GET", "/v1/operations/" + "0" * 32 + "?wait=x", 400, "invalid"),
    ("GET", "/v1/operations/" + "0" * 32 + "?wait=1&wait=2", 400, "invalid"),
    ("GET", "/v1/operations/" + "0" * 32 + "?wait=99999999999999999999", 400, "invalid"),
    ("DELETE", "/v1/operations/" + "0" * 32, 404, "not-found"),
    ("GET", "/v1/profiles/%41%20b%ff", None, None),
    ("GET", "/v1/profiles/..%2f..%2fetc", 404, "not-found"),
    ("GET", "/v1/profiles/default%0a", 400, "invalid"),
    ("DELETE", "/v1/profiles/def%0d%0aault", 400, "invalid"),
    ("GET", "/v1/operations?%0a", 400, "invalid"),
    ("GET", "/v1/events?type=" + "x" * 300, 426, "upgrade-required"),
    ("DELETE", "/v1/system", 405, "method-not-allowed"),
    ("OPTIONS", "/v1/system", 405, "method-not-allowed"),
    ("POST", "/v1/operations/x", 405, "method-not-allowed"),
    ("GET", "/v1/" + "a/" * 400, 404, "not-found"),
])
def test_paths_and_queries_are_checked(hulld, method, path, expected, code):
    """Each has its status and its code."""
    status, headers, answer = hulld.ask(method, path)
    if expected is None:
        assert status in (400, 404)
        return
    assert status == expected and error_of(answer)[0] == code
    if status == 405:
        assert headers["Allow"]


def test_methods(hulld):
    """HEAD has GET's head alone; Allow names what is accepted; a connection serves many."""
    connection = Connection(hulld.socket)
    status, headers, body = exchange(connection, "HEAD", "/v1/profiles")
    assert status == 200 and body == "" and int(headers["Content-Length"]) > 10
    status, headers, _ = exchange(connection, "PATCH", "/v1/profiles", {})
    assert status == 405 and headers["Allow"] == "GET, HEAD, POST"
    first = connection.sock
    for _ in range(50):
        status, _, _ = exchange(connection, "GET", "/v1/profiles")
        assert status == 200
        status, _, _ = exchange(connection, "POST", "/v1/profiles", {"nme": "a"})
        assert status == 400
    assert connection.sock is first
    connection.close()


def test_events(hulld):
    """Who listens hears; with a filter only that."""
    with WebSocket(hulld, "/v1/events") as everything, WebSocket(hulld, "/v1/events?type=profile,other") as some, \
            WebSocket(hulld, "/v1/events?type=rofile,profil") as none:
        assert (everything.status, some.status, none.status) == (101, 101, 101)
        assert hulld.figure("hull_api_listeners") == 3
        assert hulld.ask("POST", "/v1/profiles", {"name": "a"})[0] == 200
        for listener in (everything, some):
            event = listener.event()
            assert (event["type"], event["action"], event["name"]) == ("profile", "created", "a")
            assert event["time"].endswith("Z")
        assert none.is_silent()
        everything.send(1, b"a listener has nothing to say")
        everything.send(9, b"ping")
        assert everything.receive() == (10, b"ping")
        everything.send(8, b"\x03\xe8")
        assert everything.receive() == (8, b"\x03\xe8")
    wait_for(lambda: hulld.figure("hull_api_listeners") == 0)


def wait_for(condition):
    """Until it is so."""
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("path, headers, status", [
    ("/v1/system", {}, 400),
    ("/v1/nothing", {}, 404),
    ("/v1/events?nonsense=1", {}, 400),
    ("/v1/events?type=" + "x" * 300, {}, 400),
])
def test_upgrades_are_refused_in_words(hulld, path, headers, status):
    """By an HTTP answer with an error."""
    with WebSocket(hulld, path, **headers) as client:
        assert client.status == status
        assert b'"error"' in client.buffer or b'"error"' in client.socket.recv(65536)
    assert hulld.get("/v1/system")


def read_all(client):
    """Until the other side closes."""
    got = b""
    try:
        while more := client.recv(65536):
            got += more
    except ConnectionResetError:
        pass
    return got


@pytest.mark.parametrize("request_text", [
    b"\r\n\r\n",
    b"GET\r\n\r\n",
    b"GET / HTTP/9.9\r\nHost: x\r\n\r\n",
    b"GET  /v1/system  HTTP/1.1\r\n\r\n",
    b"NONSENSE /v1/system HTTP/1.1\r\n\r\n",
    b"CONNECT /v1/system HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET http://x/v1/system HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /v1/system%zz HTTP/1.1\r\n\r\n",
    b"GET /v1/system%00 HTTP/1.1\r\n\r\n",
    b"GET /v1/system\0 HTTP/1.1\r\n\r\n",
    b"GET /v1/" + b"a" * 20000 + b" HTTP/1.1\r\n\r\n",
    b"GET /v1/system?" + b"a&" * 500 + b" HTTP/1.1\r\n\r\n",
    b"GET /v1/system?" + b"%" * 500 + b" HTTP/1.1\r\n\r\n",
    b"GET /v1/system HTTP/1.1\r\n" + b"X: y\r\n" * 5000 + b"\r\n",
    b"GET /v1/system HTTP/1.1\r\n" + b"X" * 20000 + b": y\r\n\r\n",
    b"POST /v1/profiles HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n{}",
    b"POST /v1/profiles HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n{}",
    b"POST /v1/profiles HTTP/1.1\r\nHost: x\r\nContent-Length: 2000000\r\n\r\n{}",
    b"POST /v1/profiles HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Length: 9\r\n\r\n{}",
    b"POST /v1/profiles HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    b"POST /v1/profiles HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /v1/events HTTP/1.1\r\nHost: x\r\nUpgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\n"
    b"HTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
    b"GET /v1/events HTTP/1.1\r\nHost: x\r\nUpgrade: nonsense\r\nConnection: Upgrade\r\n\r\n",
    b"GET /v1/events HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n\r\n",
    b"GET /v1/events HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    b"GET /v1/events HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: x\r\n"
    b"Sec-WebSocket-Version: 99\r\nSec-WebSocket-Protocol: nonsense\r\n\r\n",
    b"POST /v1/events HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nContent-Length: 3\r\n\r\nabc",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64),
    bytes(range(256)) * 64,
], ids=range(30))
def test_malformed_requests(hulld, request_text):
    """Are answered by an error, or by a closed connection; others are served as before."""
    with hulld.raw() as client:
        try:
            client.sendall(request_text)
            client.shutdown(socket.SHUT_WR)
        except (BrokenPipeError, ConnectionResetError):
            pass
        got = read_all(client)
        if got:
            assert got.startswith(b"HTTP/1.1 ") or got.startswith(b"HTTP/1.0 ") or got.startswith(b"HTTP/2 "), got
    assert hulld.get("/v1/system")["pid"] == hulld.process.pid
    assert [p["name"] for p in hulld.get("/v1/profiles")] == ["default"]


def test_random_requests(hulld):
    """Requests with a few bytes changed, cut or repeated, many to a connection."""
    seed = 20260101
    chance = random.Random(seed)
    seeds = [b"GET /v1/profiles/default?wait=1 HTTP/1.1\r\nHost: x\r\n\r\n",
             b'POST /v1/profiles HTTP/1.1\r\nHost: x\r\nContent-Length: 14\r\n\r\n{"name":"a%b"}',
             b"GET /v1/events?type=a HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
             b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n\x81\x80abcd"]
    for _ in range(600):
        text = bytearray(b"".join(chance.choices(seeds, k=chance.randint(1, 3))))
        for _ in range(chance.randint(0, 8)):
            at = chance.randrange(len(text))
            what = chance.randrange(3)
            if what == 0:
                text[at] = chance.randrange(256)
            elif what == 1:
                del text[at:at + chance.randint(1, 20)]
            else:
                text[at:at] = text[at:at + chance.randint(1, 40)]
            if not text:
                break
        with hulld.raw() as client:
            try:
                client.sendall(text)
                client.setblocking(False)
                client.recv(65536)
            except (BlockingIOError, BrokenPipeError, ConnectionResetError):
                pass
    assert hulld.get("/v1/system")["pid"] == hulld.process.pid
    wait_for(lambda: hulld.figure("hull_api_connections") == 1)


@pytest.mark.parametrize("kinds, expected", [("gg", [200]), ("pg", [400]), ("gp", [200]), ("ppg", [400]), ("npp", [404])])
def test_requests_before_the_answer(hulld, kinds, expected):
    """The first is answered, then the connection is closed: a client may ask again for the others."""
    body = b'{"nme":"a"}'
    texts = {"g": b"GET /v1/profiles HTTP/1.1\r\nHost: x\r\n\r\n", "n": b"GET /v1/nothing HTTP/1.1\r\nHost: x\r\n\r\n",
             "p": b"POST /v1/profiles HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)}
    with hulld.raw() as client:
        client.sendall(b"".join(texts[kind] for kind in kinds))
        got = read_all(client)
    assert [int(part.split()[0]) for part in got.split(b"HTTP/1.1 ")[1:]] == expected
    assert got.endswith((b"]\n", b"}\n"))


def cpu_seconds(pid):
    """Time that a process has used."""
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_slow_and_half_open_clients_hurt_nobody(hulld):
    """Those that send half a request, that do not read, that say nothing, take neither time nor the others' answers."""
    text = {"description": "x" * 4000}
    for number in range(300):
        assert hulld.ask("POST", "/v1/profiles", {"name": f"p{number}", **text})[0] == 200
    clients = []
    for kind in range(60):
        client = hulld.raw()
        clients.append(client)
        if kind % 4 == 0:
            client.sendall(b"GET /v1/sys")
        elif kind % 4 == 1:
            client.sendall(b"POST /v1/profiles HTTP/1.1\r\nContent-Length: 500\r\n\r\n{")
        elif kind % 4 == 2:
            # More than a socket holds; some have sent their next request already.
            client.sendall(b"GET /v1/profiles HTTP/1.1\r\nHost: x\r\n\r\n" * (1 + kind // 4 % 2))
    assert len(hulld.get("/v1/profiles")) == 301
    before = cpu_seconds(hulld.process.pid)
    time.sleep(2)
    assert cpu_seconds(hulld.process.pid) - before < 1  # it waits; without that it would be 2
    # Those that did not read get their answers at last.
    for client in clients[2::4]:
        got = b""
        while not got.endswith(b"]\n"):
            more = client.recv(1 << 20)
            assert more
            got += more
        assert len(json.loads(got.split(b"\r\n\r\n", 1)[1])) == 301
    for client in clients:
        client.close()
    wait_for(lambda: hulld.figure("hull_api_connections") == 1)


def test_a_listener_that_does_not_read_is_dropped(hulld):
    """Its events do not pile up."""
    with WebSocket(hulld, "/v1/events") as deaf:
        connection = Connection(hulld.socket)
        for number in range(12000):
            if number % 200 == 0 and hulld.figure("hull_api_listeners") == 0:
                break
            status, _, _ = exchange(connection, "PUT", "/v1/profiles/default",
                                    {"description": "x" * 1000 if number % 2 else ""})
            assert status == 200
        connection.close()
        wait_for(lambda: hulld.figure("hull_api_listeners") == 0)
        assert read_all(deaf.socket)
    assert hulld.figure("hull_resident_memory_bytes") < 40 << 20


def test_too_many_connections(hulld):
    """Some are refused in words; when others end there is room again."""
    clients = []
    for _ in range(520):
        clients.append(hulld.raw())
    refused = 0
    for client in clients[500:]:
        client.settimeout(0.3)
        try:
            text = client.recv(4096)
            assert text.startswith(b"HTTP/1.1 503 ") and b'"busy"' in text
            assert len(text.split(b"\r\n\r\n")[1]) == int(text.split(b"Content-Length: ")[1].split()[0])
            refused += 1
        except TimeoutError:
            pass
    assert refused == 8
    for client in clients:
        client.close()
    wait_for(lambda: hulld.ask("GET", "/v1/system")[0] == 200)
    assert hulld.figure("hull_api_refused_connections_total") >= 8


def test_two_clients_at_once(hulld):
    """One that is in the middle of its body does not hold up another one."""
    first, second = hulld.raw(), Connection(hulld.socket)
    first.sendall(b'POST /v1/profiles HTTP/1.1\r\nHost: x\r\nContent-Length: 12\r\n\r\n{"name"')
    assert exchange(second, "GET", "/v1/profiles")[0] == 200
    first.sendall(b':"a"}')
    assert b"200 OK" in first.recv(65536)
    assert [p["name"] for p in exchange(second, "GET", "/v1/profiles")[2]] == ["a", "default"]
    first.close()
    second.close()


def test_killed_and_started_again(tmp_path):
    """What was answered is there; what was deleted does not come back; the old socket is no obstacle."""
    with Hulld(tmp_path / "state") as hulld:
        for number in range(20):
            assert hulld.ask("POST", "/v1/profiles", {"name": f"p{number}"})[0] == 200
            if number % 5 == 4:
                assert hulld.stop(signal.SIGKILL) == -signal.SIGKILL
                hulld.start()
        assert len(hulld.get("/v1/profiles")) == 21
        assert hulld.stop() == 0
        assert not hulld.socket.exists()


def test_database_that_is_damaged(tmp_path):
    """Is kept aside, and a new one made."""
    state = tmp_path / "state"
    with Hulld(state) as hulld:
        assert hulld.ask("POST", "/v1/profiles", {"name": "a"})[0] == 200
        assert hulld.stop() == 0
        (state / "hull.db").write_bytes(b"rubbish" * 1000)
        hulld.start()
        assert [p["name"] for p in hulld.get("/v1/profiles")] == ["default"]
        assert "damaged" in hulld.log.read_text()
        kept = list(state.glob("hull.db.corrupt-*"))
        assert len(kept) == 1 and kept[0].read_bytes().startswith(b"rubbish")


def test_instances_are_known_again_by_their_folders(tmp_path):
    """When the database is damaged. What is no instance stays as it is."""
    state = tmp_path / "state"
    with Hulld(state) as hulld:
        assert hulld.stop() == 0
        for name in ("web1", "web2", "broken", "other"):
            (state / "instances" / name).mkdir(parents=True)
            (state / "instances" / name / "instance.yaml").write_text(
                f"name: {name}\nkind: container\nuuid: 00000000-0000-4000-8000-000000000000\n"
                "description: 'again'\nprofiles: [default]\nconfig: {}\ndevices: {}\n"
                "created_at: '2026-01-01T12:00:00Z'\n")
        (state / "instances/broken/instance.yaml").write_text("{")
        (state / "instances/other/instance.yaml").write_text((state / "instances/web1/instance.yaml").read_text())
        (state / "instances/-x").mkdir()
        (state / "hull.db").write_bytes(b"rubbish" * 1000)
        hulld.start()
        assert [i["name"] for i in hulld.get("/v1/instances")] == ["web1", "web2"]
        assert hulld.get("/v1/instances/web1")["description"] == "again"
        log = hulld.log.read_text()
        assert "instance broken" in log and "instance other" in log and "2 instances" in log
        assert 'hull_instance_running{name="web1",kind="container"} 0' in hulld.get("/v1/metrics")


def test_one_hulld_a_state_folder(hulld):
    """A second one says who serves it."""
    second = subprocess.run([HULLD, "--state", hulld.state], capture_output=True, text=True, timeout=TIMEOUT, check=False)
    assert second.returncode == 1
    assert str(hulld.process.pid) in second.stderr and second.stderr.count("\n") == 1
    assert hulld.get("/v1/system")


@pytest.mark.parametrize("arguments", [["--nonsense"], ["word"], ["--idle-exit", "x"], ["--tls", "127.0.0.1:0"],
                                       ["--state"]])
def test_wrong_command_lines(tmp_path, arguments):
    """One line says what is wrong."""
    ended = subprocess.run([HULLD, "--state", tmp_path / "state", *arguments], capture_output=True, text=True,
                           timeout=TIMEOUT, check=False)
    assert ended.returncode == 1 and ended.stderr.startswith("hulld: ") and ended.stderr.count("\n") == 1


def test_idle_exit(tmp_path):
    """It ends when nobody needs it, not before."""
    with Hulld(tmp_path / "state", "--idle-exit", "1") as hulld:
        with WebSocket(hulld, "/v1/events"):
            time.sleep(3)
            assert hulld.process.poll() is None
        assert hulld.process.wait(TIMEOUT) == 0


def test_socket_activation(tmp_path):
    """It serves the socket that it is given, and leaves it."""
    path = tmp_path / "activated.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(5)
        code = f"""
import os, sys
os.dup2({listener.fileno()}, 3)
os.environ["LISTEN_PID"], os.environ["LISTEN_FDS"] = str(os.getpid()), "1"
os.execv(sys.argv[1], sys.argv[1:])
"""
        os.set_inheritable(listener.fileno(), True)
        process = subprocess.Popen(["/usr/bin/python3", "-c", code, HULLD, "--state", tmp_path / "state"],
                                   pass_fds=[listener.fileno()])
        try:
            status, _, answer = exchange(Connection(path), "GET", "/v1/system")
            assert status == 200 and answer["pid"] == process.pid
            assert not (tmp_path / "state/run/hulld.sock").exists()
            process.terminate()
            assert process.wait(TIMEOUT) == 0
            assert path.exists()
        finally:
            process.kill()
            process.wait()


def make_certificate(folder, name, authority=None, extra=()):
    """A key and a certificate, by 'authority' or by itself."""
    signer = ["-CA", folder / f"{authority}.pem", "-CAkey", folder / f"{authority}.key"] if authority else []
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                    "-subj", f"/CN={name}", "-days", "2", "-keyout", folder / f"{name}.key", "-out",
                    folder / f"{name}.pem", *signer, *extra], check=True, capture_output=True)


def free_port():
    """A port that nobody has."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_tls(tmp_path):
    """Only clients with a certificate of the CA are served; others get nothing, not even an error of HTTP."""
    make_certificate(tmp_path, "ca")
    make_certificate(tmp_path, "stranger")
    make_certificate(tmp_path, "server", "ca", ("-addext", "subjectAltName=IP:127.0.0.1",
                                                "-addext", "basicConstraints=critical,CA:FALSE"))
    make_certificate(tmp_path, "client", "ca", ("-addext", "basicConstraints=critical,CA:FALSE"))
    port = free_port()
    with Hulld(tmp_path / "state", "--tls", f"127.0.0.1:{port}", "--certificate", tmp_path / "server.pem",
               "--key", tmp_path / "server.key", "--client-ca", tmp_path / "ca.pem") as hulld:

        def ask(client, version=None):
            context = ssl.create_default_context(cafile=tmp_path / "ca.pem")
            if version:
                context.maximum_version = version
            if client:
                context.load_cert_chain(tmp_path / f"{client}.pem", tmp_path / f"{client}.key")
            connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=TIMEOUT, context=context)
            try:
                return exchange(connection, "GET", "/v1/system") + exchange(connection, "GET", "/v1/profiles")
            finally:
                connection.close()

        for version in (None, ssl.TLSVersion.TLSv1_2):
            status, _, answer, *_ = ask("client", version)
            assert status == 200 and answer["pid"] == hulld.process.pid
            for other in (None, "stranger"):
                with pytest.raises((ssl.SSLError, ConnectionError, http.client.RemoteDisconnected)):
                    ask(other, version)
        with socket.create_connection(("127.0.0.1", port), TIMEOUT) as plain:
            plain.sendall(b"GET /v1/system HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b"HTTP/1.1 200" not in read_all(plain)
        assert hulld.get("/v1/system")


def test_two_hundred_instances(hulld):
    """Their list takes well under a second, and hulld stays small."""
    assert hulld.stop() == 0
    for number in range(200):
        folder = hulld.state / f"instances/web{number}"
        folder.mkdir(parents=True)
        (folder / "instance.yaml").write_text(
            f"name: web{number}\nkind: {'vm' if number % 2 else 'container'}\n"
            "uuid: 00000000-0000-4000-8000-000000000000\ndescription: ''\nprofiles: [default]\n"
            "config: {memory: 512M}\ndevices: {}\ncreated_at: '2026-01-01T12:00:00Z'\n")
    (hulld.state / "hull.db").write_bytes(b"rubbish" * 1000)
    hulld.start()
    begin = time.monotonic()
    for _ in range(10):
        assert len(hulld.get("/v1/instances")) == 200
    print(f"list of 200: {(time.monotonic() - begin) * 100:.1f} ms, "
          f"{hulld.figure('hull_resident_memory_bytes') / (1 << 20):.1f} MiB")
    assert hulld.figure("hull_resident_memory_bytes") < 15 << 20


def test_memory(hulld):
    """Small, also after many requests."""
    for _ in range(200):
        hulld.get("/v1/system")
        hulld.get("/v1/openapi.json")
    assert hulld.figure("hull_resident_memory_bytes") < 15 << 20
