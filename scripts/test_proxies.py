#!/usr/bin/env python3
"""Calls a server through nginx and through Envoy, as deploy/nginx and deploy/envoy configure them.

    test_proxies.py --program target/debug/matchpoint

Through each: searches, a stream, errors with their details, keys, and a restart of the server while calls are
made, which may end in UNAVAILABLE and in nothing else. Of nginx also its own limits; of Envoy JSON over HTTP,
held to docs/openapi.json, gRPC-Web, and the commands of docs/json.md. Then three replicas,
behind nginx and for a client that takes turns by itself: each is ended and started while calls are made, of
which none may fail, without a retry by the client. Needs nginx, openssl and curl
(Debian: apt-get install nginx-light openssl curl), and the Python of `scripts/venv.sh proxies
scripts/proxies-requirements.txt`, which has Envoy. Ends with exit code 1 and says what was not so.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import jsonschema
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from grpc_tools import protoc
from testing import (
    PHOTOS,
    ROOT,
    certificate,
    check,
    free_ports,
    is_ready,
    make_deployment,
    parser_of,
    run,
    until,
    verdict,
)

ENROLLED = PHOTOS / "images/gc_explore_monuments_egypt_meidumPyramid/q1_rotpersp.jpg"
WAIT_SECONDS = 30.0
# Of the server.
MESSAGE_BYTES, STALL_SECONDS = 80 << 20, 20
# Of deploy/nginx/matchpoint.conf.
CALLS_OF_ONE_ADDRESS, BODY_BYTES = 64, 81 << 20
# Of deploy/envoy.
JSON_BYTES, IDLE = 111_900_000, "idle_timeout: 60s"


def adapted(path: Path, words: dict[str, str]) -> str:
    """The file with ports and paths of this test."""
    text = path.read_text(encoding="utf-8")
    for word, here in words.items():
        if word not in text:
            sys.exit(f"test_proxies.py: {path} has no `{word}` any more")
        text = text.replace(word, here)
    return text


class Served:
    """A deployment, its key and certificate, and the server of it, which can be restarted."""

    def __init__(self, program: Path, folder: Path) -> None:
        self.program, self.folder, [self.port] = program, folder, free_ports(1)

        make_deployment(program, folder / "shop")
        self.certificate, self.key = certificate(folder)
        new = [program, "keys", "new", "--keys-file", folder / "keys.json"]
        self.secret = run(*new, "test", "--scopes", "all").splitlines()[0]
        self.searching = run(*new, "till", "--scopes", "search", "--calls-per-second=3").splitlines()[0]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        at = f"127.0.0.1:{self.port}"
        given = ["--listen", at, "--address-share=1", "--metrics-listen=off"]
        given += ["--keys-file", str(self.folder / "keys.json")]
        log = (self.folder / "server.log").open("ab")
        command = [self.program, "serve", "--deployments", self.folder / "shop", *given]
        self.process = subprocess.Popen(command, stderr=log, cwd=ROOT)
        until(lambda: is_ready(self.program, f"http://{at}"), "the server is ready")

    def stop(self) -> None:
        if self.process:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(WAIT_SECONDS)


class Replicas:
    """Three servers of one folder, which change nothing of it."""

    def __init__(self, served: Served) -> None:
        self.served, self.ports = served, free_ports(3)
        self.processes: list[subprocess.Popen[bytes] | None] = [None] * 3

    def start(self, number: int) -> None:
        at, folder = f"127.0.0.1:{self.ports[number]}", self.served.folder
        given = ["--listen", at, "--listen-when=ready", "--metrics-listen=off", "--address-share=1"]
        given += ["--read-only=true", "--journal-dir", str(folder / f"journal-{number}")]
        command = [self.served.program, "serve", "--deployments", folder / "shop", *given]
        with (folder / "replicas.log").open("ab") as log:
            self.processes[number] = subprocess.Popen(command, stderr=log, cwd=ROOT)
        until(lambda: is_ready(self.served.program, f"http://{at}"), "the replica is ready")

    def stop(self, number: int) -> None:
        process = self.processes[number]
        if process:
            process.send_signal(signal.SIGTERM)
            process.wait(WAIT_SECONDS)


@contextlib.contextmanager
def nginx(served: Served, ports: list[int] | None = None) -> Iterator[int]:
    [port], folder = free_ports(1), served.folder
    several = " ".join(f"server 127.0.0.1:{one} max_conns=448 fail_timeout=1s;" for one in ports or [])
    site = {
        "listen 443": f"listen 127.0.0.1:{port}",
        "server 127.0.0.1:50051 max_conns=448;": several or f"server 127.0.0.1:{served.port} max_conns=448;",
        "/etc/matchpoint/server": str(folder / "server"),
    }
    if ports:
        # As its comment says for several.
        site["grpc_next_upstream off;"] = "grpc_next_upstream error timeout non_idempotent;"
    (folder / "site.conf").write_text(adapted(ROOT / "deploy/nginx/matchpoint.conf", site), encoding="utf-8")
    temporary = "".join(
        f"{kind}_temp_path {folder}/tmp;" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    logs = f"daemon off; pid {folder}/nginx.pid; error_log {folder}/nginx.log;"
    main = f"{logs} events {{ worker_connections 2048; }}"
    http = f"http {{ access_log off; {temporary} include {folder}/site.conf; }}"
    (folder / "nginx.conf").write_text(f"{main}\n{http}\n", encoding="utf-8")
    with running(["nginx", "-c", str(folder / "nginx.conf"), "-p", str(folder)], port):
        yield port


@contextlib.contextmanager
def envoy(served: Served, name: str = "matchpoint.yaml", idle: str = IDLE) -> Iterator[int]:
    [port], folder = free_ports(1), served.folder
    path = ROOT / "deploy/envoy" / name
    words = {
        "deploy/envoy/matchpoint.binpb": str(ROOT / "deploy/envoy/matchpoint.binpb"),
        "port_value: 50051": f"port_value: {served.port}",
        IDLE: idle,
    }
    if name == "json.yaml":
        words["address: 127.0.0.1, port_value: 8080"] = f"address: 127.0.0.1, port_value: {port}"
    else:
        words["address: 0.0.0.0, port_value: 443"] = f"address: 127.0.0.1, port_value: {port}"
        words["/etc/matchpoint/server"] = str(folder / "server")
    text = adapted(path, words)
    # With its lines for pages of another site.
    text = re.sub(r"^( +)# (?=typed_per_filter_config| {2})", r"\1", text, flags=re.MULTILINE)
    (folder / name).write_text(text, encoding="utf-8")
    program = Path(sys.executable).with_name("envoy")
    command = [str(program), "-c", str(folder / name), "--log-level", "error", "--concurrency", "1"]
    with running(command, port):
        yield port


@contextlib.contextmanager
def running(command: list[str], port: int) -> Iterator[None]:
    process = subprocess.Popen(command)

    def listens() -> bool:
        if process.poll() is not None:
            sys.exit(f"test_proxies.py: {command[0]} ended with {process.returncode}")
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    try:
        until(listens, f"{command[0]} listens")
        yield
    finally:
        process.terminate()
        process.wait(WAIT_SECONDS)


def channel_to(served: Served, port: int) -> grpc.Channel:
    certificate = grpc.ssl_channel_credentials(served.certificate.read_bytes())
    key = grpc.access_token_call_credentials(served.secret)
    # Retries are made here, so that each refusal is seen; and no connection is shared with another channel.
    options = [("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1)]
    return grpc.secure_channel(
        f"localhost:{port}", grpc.composite_channel_credentials(certificate, key), options
    )


def refusal(call: Callable[[], object]) -> tuple[str, str, bool]:
    """The code of a call that fails, the reason in its details, and whether it says when to come back."""
    try:
        call()
    except grpc.RpcError as error:
        info = error_details_pb2.ErrorInfo()
        status = rpc_status.from_call(error)
        found = any(detail.Unpack(info) for detail in status.details) if status else False
        metadata = [*(error.initial_metadata() or ()), *(error.trailing_metadata() or ())]
        pushback = any(key == "grpc-retry-pushback-ms" for key, _ in metadata)
        return error.code().name, info.reason if found else "", pushback
    return "OK", "", False


class Calls:
    """The calls that the test makes, through whatever is at a port."""

    def __init__(self, served: Served, port: int) -> None:
        from matchpoint.v1 import retrieval_pb2, retrieval_pb2_grpc

        self.made, self.served, self.port = retrieval_pb2, served, port
        self.channel = channel_to(served, port)
        self.stub = retrieval_pb2_grpc.RetrievalServiceStub(self.channel)

    def search(self, image: bytes):
        return self.stub.Search(self.made.SearchRequest(image=image), timeout=WAIT_SECONDS)

    def stream(self, images: Iterator[bytes]):
        def items() -> Iterator:
            for n, image in enumerate(images):
                search = self.made.SearchRequest(image=image)
                yield self.made.SearchStreamRequest(request_id=str(n), search=search)

        return self.stub.SearchStream(items(), timeout=WAIT_SECONDS)


def check_answers(calls: Calls) -> None:
    photo = ENROLLED.read_bytes()
    check(calls.search(photo).matches[0].label == ENROLLED.parent.name, "a search finds what is enrolled")
    code, reason, _ = refusal(lambda: calls.search(photo[:1000]))
    check(
        (code, reason) == ("INVALID_ARGUMENT", "IMAGE_UNDECODABLE"),
        f"an error has its details: {code}, {reason}",
    )
    outcomes = [answer.WhichOneof("outcome") for answer in calls.stream(iter([photo, b"", photo]))]
    check(
        sorted(outcomes) == ["error", "result", "result"], f"a stream goes on after a bad image: {outcomes}"
    )
    server = ["--server", f"https://localhost:{calls.port}", "--server-ca", str(calls.served.certificate)]
    key = {**os.environ, "MATCHPOINT_API_KEY": calls.served.secret}
    for command in (["health", *server], ["search", str(ENROLLED), *server]):
        ended = subprocess.run([calls.served.program, *command], env=key, capture_output=True, text=True)
        said = (ended.stdout + ended.stderr).strip().replace("\n", " ")
        check(ended.returncode == 0, f"matchpoint {command[0]}: {said[:80]}")


def check_restart(calls: Calls, says_when: bool) -> None:
    """Searches all the time, from four threads, while the server ends and starts."""
    photo, codes, ended = ENROLLED.read_bytes(), [], threading.Event()

    def ask() -> None:
        while not ended.is_set():
            codes.append(refusal(lambda: calls.search(photo)))
            if codes[-1][0] != "OK":
                time.sleep(0.1)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    answered = lambda: sum(code == "OK" for code, _, _ in codes)  # noqa: E731
    until(lambda: 20 <= answered(), "20 searches are answered")
    calls.served.stop()
    calls.served.start()
    before = answered()
    until(lambda: before + 20 <= answered(), "20 searches are answered after the restart")
    ended.set()
    for thread in threads:
        thread.join()
    counts = {code: sum(found == code for found, _, _ in codes) for code in {code for code, _, _ in codes}}
    check(counts.keys() <= {"OK", "UNAVAILABLE"}, f"restarted while calls are made: {counts}")
    if says_when:
        all_say = all(pushback for code, _, pushback in codes if code != "OK")
        check(all_say and 1 < len(counts), "each refusal says when to come back")


def check_replicas(replicas: Replicas, channels: dict[str, grpc.Channel]) -> None:
    """Searches all the time, over each of the channels, while each replica in turn ends and starts."""
    from matchpoint.v1 import retrieval_pb2, retrieval_pb2_grpc

    photo, ended = ENROLLED.read_bytes(), threading.Event()
    ids: dict[str, list[str]] = {name: [] for name in channels}
    failed: dict[str, list[str]] = {name: [] for name in channels}

    def ask(name: str) -> None:
        stub = retrieval_pb2_grpc.RetrievalServiceStub(channels[name])
        while not ended.wait(0.02):
            try:
                answer = stub.Search(retrieval_pb2.SearchRequest(image=photo), timeout=WAIT_SECONDS)
                ids[name].append(answer.decision_id)
            except grpc.RpcError as error:
                failed[name].append(f"{error.code().name} {error.details()}")

    def answer_more() -> None:
        for name, found in ids.items():
            before = len(found)
            until(lambda: before + 15 <= len(found), f"searches are answered through {name}")  # noqa: B023

    threads = [threading.Thread(target=ask, args=[name]) for name in channels for _ in range(2)]
    for thread in threads:
        thread.start()
    answer_more()
    for number in range(3):
        replicas.stop(number)
        answer_more()
        replicas.start(number)
        answer_more()
    ended.set()
    for thread in threads:
        thread.join()
    for name, found in ids.items():
        # The last digits of an id name the journal, and so the replica.
        answered = len({decision[-4:] for decision in found})
        check(answered == 3, f"{name}: all three answer")
        few = sorted(set(failed[name]))[:3]
        check(not failed[name], f"{name}: {len(failed[name])} of {len(found)} calls fail {few}")
        check(len(set(found)) == len(found), f"{name}: each decision has an id of its own")


def in_turn(replicas: Replicas) -> grpc.Channel:
    """A client that takes turns by itself, and asks for the health of each, as docs/scale.md has it."""
    config = {"loadBalancingConfig": [{"round_robin": {}}], "healthCheckConfig": {"serviceName": ""}}
    options = [
        ("grpc.service_config", json.dumps(config)),
        ("grpc.default_authority", "matchpoint"),
        ("grpc.enable_retries", 0),
        ("grpc.max_reconnect_backoff_ms", 500),
    ]
    addresses = ",".join(f"127.0.0.1:{port}" for port in replicas.ports)
    return grpc.insecure_channel(f"ipv4:{addresses}", options=options)


class Json:
    """Calls as JSON over HTTP, whose answers are held to the OpenAPI file."""

    def __init__(self, served: Served, port: int) -> None:
        self.served, self.port = served, port
        self.openapi = json.loads((ROOT / "docs/openapi.json").read_text(encoding="utf-8"))
        self.strict(self.openapi["components"]["schemas"])

    def strict(self, schemas: dict) -> None:
        """What no schema names is found, too."""
        for schema in schemas.values():
            if "properties" in schema and "@type" not in schema["properties"]:
                schema["additionalProperties"] = False

    def holds(self, value: object, name: str) -> bool:
        schema = {**self.openapi, "$ref": f"#/components/schemas/{name}"}
        problems = list(jsonschema.Draft202012Validator(schema).iter_errors(value))
        for problem in problems:
            print(f"       {problem.json_path}: {problem.message[:200]}")
        return not problems

    def raw(
        self, method: str, path: str, body: bytes = b"", **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        trusted = ssl.create_default_context(cafile=str(self.served.certificate))
        there = http.client.HTTPSConnection("localhost", self.port, timeout=WAIT_SECONDS, context=trusted)
        with contextlib.closing(there):
            named = {name.replace("_", "-"): text for name, text in headers.items()}
            there.request(method, path, body, named)
            answer = there.getresponse()
            return answer.status, {name.lower(): text for name, text in answer.getheaders()}, answer.read()

    def post(self, call: str, message: object, key: str | None = None) -> tuple[int, object]:
        headers = {"content-type": "application/json"}
        if key != "":
            headers["authorization"] = f"Bearer {key or self.served.secret}"
        status, _, body = self.raw("POST", f"/{call}", json.dumps(message).encode(), **headers)
        return status, json.loads(body) if body.startswith((b"{", b"[")) else body.decode()

    def refused(self, call: str, message: object, key: str | None = None) -> tuple[int, str, bool]:
        """The status of HTTP, the reason, and whether it says when to come back."""
        status, error = self.post(call, message, key)
        check(self.holds(error, "google.rpc.Status"), f"the error of {call} is as the OpenAPI file has it")
        said = {one["@type"].rpartition("/")[2]: one for one in error["details"]}
        reason = said.get("google.rpc.ErrorInfo", {}).get("reason", "")
        return status, reason, "retry_delay" in said.get("google.rpc.RetryInfo", {})


def check_json(served: Served, port: int) -> None:
    call, photo = Json(served, port), ENROLLED.read_bytes()
    searching, text = "matchpoint.v1.RetrievalService/Search", base64.b64encode(photo).decode()
    status, answer = call.post(searching, {"image": text, "limit": 2})
    found = status == 200 and (answer["decision"], answer["decided_label"])
    check(found == ("DECISION_ACCEPT", ENROLLED.parent.name), f"JSON: a search is answered: {status} {found}")
    check(call.holds(answer, "SearchResponse"), "JSON: the answer is as the OpenAPI file has it")
    for service, message, kind in [
        ("ServerService/GetServerInfo", {}, "GetServerInfoResponse"),
        ("GalleryService/ListItems", {"page_size": 3, "include_embedding": True}, "ListItemsResponse"),
        ("OperatingPointService/ListOperatingPoints", {}, "ListOperatingPointsResponse"),
        ("MonitoringService/GetDrift", {}, "GetDriftResponse"),
    ]:
        status, answer = call.post(f"matchpoint.v1.{service}", message)
        check(status == 200 and call.holds(answer, kind), f"JSON: {service} as the OpenAPI file has it")
    items = [{"request_id": name, "search": {"image": data}} for name, data in (("a", text), ("b", "AAAA"))]
    status, answers = call.post("matchpoint.v1.RetrievalService/SearchStream", items)
    outcomes = {one["request_id"]: set(one) - {"request_id"} for one in answers}
    check(outcomes == {"a": {"result"}, "b": {"error"}}, f"JSON: a stream is an array: {status} {outcomes}")
    undecodable = base64.b64encode(photo[:1000]).decode()
    refusals = {
        "no picture": (call.refused(searching, {"image": undecodable}), (400, "IMAGE_UNDECODABLE", False)),
        "too large for the server": (
            call.refused(searching, {"image": "A" * ((MESSAGE_BYTES // 3 + 1) * 4)}),
            (400, "", False),
        ),
        "no key": (call.refused(searching, {"image": text}, ""), (401, "KEY_MISSING", False)),
        "another key": (call.refused(searching, {"image": text}, "mp_no"), (401, "KEY_UNKNOWN", False)),
        "no scope": (
            call.refused("matchpoint.v1.GalleryService/DeleteItem", {"id": "x"}, served.searching),
            (403, "SCOPE_MISSING", False),
        ),
        "not there": (
            call.refused("matchpoint.v1.GalleryService/GetItem", {"id": "no"}),
            (404, "ITEM_NOT_FOUND", False),
        ),
    }
    for what, (refusal_, expected) in refusals.items():
        check(refusal_ == expected, f"JSON: {what}: {refusal_}")
    several = [call.post(searching, {"image": text}, served.searching) for _ in range(8)]
    waits = [error for status, error in several if status == 429]
    check(
        bool(waits) and "CALLS_PER_SECOND" in str(waits[0]), f"JSON: calls per second: {str(waits[:1])[:90]}"
    )
    check(bool(waits) and "retry_delay" in str(waits[0]), "JSON: it says when to come back")
    key = {"authorization": f"Bearer {served.secret}"}
    for what, (method, path, kind, body), expected in [
        ("a misspelt path", ("POST", "Find", "application/json", b"{}"), 404),
        ("no JSON", ("POST", "Search", "application/json", b"{"), 400),
        # As a form of another site would be sent, which needs no leave.
        ("a form", ("POST", "Search", "text/plain", b"{}"), 415),
        ("GET", ("GET", "Search", "application/json", b""), 404),
    ]:
        path = f"/matchpoint.v1.RetrievalService/{path}"
        status, _, said = call.raw(method, path, body, content_type=kind, **key)
        check(status == expected, f"JSON: {what}: {status} {said[:60]!r}")


def check_pages(served: Served, port: int) -> None:
    """gRPC-Web, and what a browser asks before it sends something of a page of another site."""
    call, path = Json(served, port), "/matchpoint.v1.RetrievalService/Search"
    asked = {"access_control_request_method": "POST", "access_control_request_headers": "x-grpc-web"}
    for origin, let in [("https://shop.example", "https://shop.example"), ("https://other.example", None)]:
        _, headers, _ = call.raw("OPTIONS", path, origin=origin, **asked)
        found = headers.get("access-control-allow-origin")
        check(found == let, f"gRPC-Web: a page of {origin} may call: {found}")
    from matchpoint.v1 import retrieval_pb2

    message = retrieval_pb2.SearchRequest(image=ENROLLED.read_bytes()).SerializeToString()
    body = struct.pack(">BI", 0, len(message)) + message
    key = f"Bearer {served.secret}"
    status, _, answer = call.raw(
        "POST", path, body, content_type="application/grpc-web+proto", authorization=key, x_grpc_web="1"
    )
    length = struct.unpack(">BI", answer[:5])[1] if 5 <= len(answer) else 0
    found = retrieval_pb2.SearchResponse.FromString(answer[5 : 5 + length]).decided_label
    trailers = answer[5 + length + 5 :].decode()
    check((status, found) == (200, ENROLLED.parent.name), f"gRPC-Web: a search is answered: {status} {found}")
    check("grpc-status:0" in trailers.replace(" ", ""), f"gRPC-Web: trailers: {trailers.split()[:2]}")


def check_commands_of_json(served: Served, port: int) -> None:
    """The commands of docs/json.md, as they stand there."""
    text = (ROOT / "docs/json.md").read_text(encoding="utf-8")
    blocks = [one for one in re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL) if "curl" in one]
    check(len(blocks) == 1, f"docs/json.md has a command with curl: {len(blocks)}")
    shutil.copy(ENROLLED, served.folder / "photo.jpg")
    # The server of this test asks for a key.
    (served.folder / ".curlrc").write_text(f'silent\nheader = "authorization: Bearer {served.secret}"\n')
    command = blocks[0].replace("127.0.0.1:8080", f"127.0.0.1:{port}")
    home = {**os.environ, "HOME": str(served.folder)}
    done = subprocess.run(
        ["bash", "-c", command], cwd=served.folder, env=home, capture_output=True, text=True
    )
    label = json.loads(done.stdout or "{}").get("decided_label")
    check(label == ENROLLED.parent.name, f"docs/json.md: curl is answered: {label} {done.stderr[:80]}")
    other = ["curl", "--silent", "--json", "{}", "--header", "host: other.example"]
    status = ["--output", "/dev/null", "--write-out", "%{http_code}"]
    url = f"http://127.0.0.1:{port}/matchpoint.v1.ServerService/GetServerInfo"
    found = subprocess.run([*other, *status, url], capture_output=True, text=True).stdout
    check(found == "404", f"JSON: no other name leads to this machine: {found}")


def check_size_of_json(call: Json) -> None:
    """Only a request that says that it is small enough is taken, by its head alone."""
    key = {"authorization": f"Bearer {call.served.secret}", "content-type": "application/json"}
    path = "/matchpoint.v1.ServerService/GetServerInfo"
    for what, headers, expected in [
        ("of a few bytes", {"content-length": "2"}, 200),
        ("a byte too much", {"content-length": str(JSON_BYTES + 1)}, 413),
        ("in chunks", {"transfer-encoding": "chunked"}, 411),
        ("of no length", {}, 411),
    ]:
        trusted = ssl.create_default_context(cafile=str(call.served.certificate))
        there = http.client.HTTPSConnection("localhost", call.port, timeout=WAIT_SECONDS, context=trusted)
        with contextlib.closing(there):
            there.putrequest("POST", path)
            for name, value in {**key, **headers}.items():
                there.putheader(name, value)
            there.endheaders(b"{}" if expected == 200 else None)
            answer = there.getresponse()
            said = json.loads(answer.read())
        known = expected == 200 or call.holds(said, "google.rpc.Status")
        kind = answer.getheader("content-type")
        check(
            (answer.status, kind, known) == (expected, "application/json", True),
            f"JSON: {what}: {answer.status} {kind} {str(said)[:90]}",
        )


def check_only_json_is_translated(call: Json) -> None:
    """Nothing under a name like that of gRPC, which has no limit; nor health, which asks for no key."""
    searching, check_health = "/matchpoint.v1.ServerService/GetServerInfo", "/grpc.health.v1.Health/Check"
    key = f"Bearer {call.served.secret}"
    for kind in ("application/grpc-json", "application/grpcjson", "application/grpc+json"):
        status, headers, said = call.raw("POST", searching, b"{}", content_type=kind, authorization=key)
        refused = status == 415 or headers.get("grpc-status", "0") != "0"
        check(refused and b"{" not in said, f"JSON as {kind} is not translated: {status} {said[:60]!r}")
    status, _, said = call.raw("POST", check_health, b"{}", content_type="application/json")
    check(status == 404, f"JSON: health is not translated: {status} {said[:60]!r}")


def half_a_request(port: int, key: str) -> socket.socket:
    head = f"POST /matchpoint.v1.RetrievalService/Search HTTP/1.1\r\nhost: localhost\r\n{key}"
    head += "content-type: application/json\r\ncontent-length: 1000000\r\n\r\n"
    there = socket.create_connection(("127.0.0.1", port), timeout=WAIT_SECONDS)
    there.sendall(f'{head}{{"image": "AAAA'.encode())
    return there


def check_slow_json(served: Served, port: int) -> None:
    """A request has to be complete within the server's `stall_seconds`, whether or not more of it comes."""
    key = f"authorization: Bearer {served.secret}\r\n"
    began, ended = time.monotonic(), threading.Event()
    with half_a_request(port, key) as stalled, half_a_request(port, key) as slow:

        def drip() -> None:
            with contextlib.suppress(OSError):
                while not ended.wait(1):
                    slow.sendall(b"A")

        dripping = threading.Thread(target=drip)
        dripping.start()
        for what, one in (("stops half-way", stalled), ("comes slowly", slow)):
            said = one.recv(4000).decode()
            seconds = time.monotonic() - began
            late = said.split()[1:2] == ["504"] and "STALL_SECONDS" in said
            in_time = STALL_SECONDS - 2 <= seconds <= STALL_SECONDS + 8
            first = said.partition("\r\n")[0]
            check(late and in_time, f"JSON: it {what}: after {seconds:.0f} s {first} {said[-120:]!r}")
        ended.set()
        dripping.join()


def check_stalled_json(served: Served, port: int) -> None:
    """Envoy ends a request that stops half-way, if it waits less than the server; at once without a key."""
    for key, codes in ((f"authorization: Bearer {served.secret}\r\n", ("408", "504")), ("", ("401",))):
        with half_a_request(port, key) as stalled:
            said = stalled.recv(4000).decode()
        first = said.partition("\r\n")[0]
        by_envoy = "STALL_SECONDS" not in said
        check(
            said.split()[1:2] in [[code] for code in codes] and by_envoy, f"JSON: it stops half-way: {first}"
        )


def check_limits_of_nginx(calls: Calls) -> None:
    code, _, _ = refusal(lambda: calls.search(bytes(BODY_BYTES)))
    check(code == "OUT_OF_RANGE", f"a message that is too large: {code}")
    silent = threading.Event()

    def nothing() -> Iterator[bytes]:
        silent.wait()
        yield from ()

    streams = [calls.stream(nothing()) for _ in range(CALLS_OF_ONE_ADDRESS + 6)]
    refused = []
    until(lambda: 6 <= sum(stream.done() for stream in streams), "calls of one address are refused")
    for stream in streams:
        if stream.done():
            refused.append(refusal(lambda stream=stream: next(stream)))
    check(refused == [("RESOURCE_EXHAUSTED", "", True)] * 6, f"calls beyond those of one address: {refused}")
    silent.set()


def main() -> int:
    program = parser_of(__doc__).parse_args().program
    if not shutil.which("nginx"):
        sys.exit("test_proxies.py: nginx is missing (Debian: apt-get install nginx-light)")
    for name in [name for name in os.environ if name.startswith("MATCHPOINT_")]:
        del os.environ[name]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "stubs").mkdir()
        protos = [str(path) for path in (ROOT / "proto/matchpoint/v1").glob("*.proto")]
        places = [
            f"-I{ROOT / 'proto'}",
            f"--python_out={folder / 'stubs'}",
            f"--grpc_python_out={folder / 'stubs'}",
        ]
        protoc.main(["protoc", f"-I{Path(protoc.__file__).parent / '_proto'}", *places, *protos])
        sys.path.insert(0, str(folder / "stubs"))
        served = Served(program, folder)
        served.start()
        try:
            for proxy in (nginx, envoy):
                print(f"== {proxy.__name__}", flush=True)
                with proxy(served) as port:
                    calls = Calls(served, port)
                    check_answers(calls)
                    # Envoy tries again itself, and has no such trailer.
                    check_restart(calls, says_when=proxy is nginx)
                    if proxy is nginx:
                        check_limits_of_nginx(Calls(served, port))
                    else:
                        check_json(served, port)
                        check_size_of_json(Json(served, port))
                        check_only_json_is_translated(Json(served, port))
                        check_pages(served, port)
            with envoy(served, "json.yaml") as port:
                check_commands_of_json(served, port)
                check_slow_json(served, port)
            with envoy(served, "json.yaml", idle="idle_timeout: 2s") as port:
                check_stalled_json(served, port)
        finally:
            served.stop()
        print("== three replicas", flush=True)
        replicas = Replicas(served)
        try:
            for number in range(3):
                replicas.start(number)
            with nginx(served, replicas.ports) as port:
                behind = channel_to(served, port)
                check_replicas(replicas, {"nginx": behind, "in turn": in_turn(replicas)})
        finally:
            for number in range(3):
                replicas.stop(number)
    return verdict("both proxies answer as the server does, and no call to three replicas fails")


if __name__ == "__main__":
    sys.exit(main())
