#!/usr/bin/env python3
"""Three replicas, each on a host of its own: one is cut off while it is asked, and all are switched.

    test_network.py --program target/debug/matchpoint

Each host is a network namespace with a cable, which is pulled and put in again. Clients of grpcio, with the
options that docs/scale.md names, search all the time: no call may fail, no decision may have another's id,
and all answers are of one state. `matchpoint switch --servers` has to refuse while one is cut off, and to
change nothing. Then it switches back and forth, while each replica is asked all the time which state it
decides by: two states may answer for a second at most. Needs root and iproute2, and is skipped without; and
the Python of `scripts/venv.sh network scripts/network-requirements.txt`. Ends with exit code 1 and says
what was not so.
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
from pathlib import Path

import grpc
from grpc_tools import protoc
from testing import ROOT, check, is_ready, parser_of, until, vector, verdict, write_vectors, wrong

WAIT_SECONDS = 60.0
LABELS, COMPONENTS = 60, 16
PORT = 50051
# RFC 2544 has these addresses for measurements within one network.
NETWORK = "198.18"
CUT_SECONDS = 30.0
SWITCHES = 20

SERVICE = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "healthCheckConfig": {"serviceName": ""},
    "methodConfig": [
        {
            "name": [{"service": "matchpoint.v1.RetrievalService"}],
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.05s",
                "maxBackoff": "1s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ],
}
KEEPALIVE = [
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
]


class Host:
    """A network namespace at the end of a cable, and the replica that it has."""

    def __init__(self, number: int) -> None:
        self.space, self.cable = f"matchpoint-{os.getpid()}-{number}", f"mp{os.getpid() % 10**8}-{number}"
        self.address = f"{NETWORK}.{number}.2"
        self.url = f"http://{self.address}:{PORT}"
        self.process: subprocess.Popen[bytes] | None = None
        self.inside = ["ip", "netns", "exec", self.space]

    def connect(self) -> None:
        here, there = f"{self.address[:-1]}1/30", f"{self.address}/30"
        for command in (
            ["ip", "netns", "add", self.space],
            ["ip", "link", "add", self.cable, "type", "veth", "peer", "name", "eth0", "netns", self.space],
            ["ip", "address", "add", here, "dev", self.cable],
            ["ip", "link", "set", self.cable, "up"],
            [*self.inside, "ip", "address", "add", there, "dev", "eth0"],
            [*self.inside, "ip", "link", "set", "lo", "up"],
        ):
            subprocess.run(command, check=True, capture_output=True, text=True)
        self.put_in()

    def pull(self) -> None:
        subprocess.run([*self.inside, "ip", "link", "set", "eth0", "down"], check=True)

    def put_in(self) -> None:
        subprocess.run([*self.inside, "ip", "link", "set", "eth0", "up"], check=True)

    def serve(self, program: Path, link: Path, journal: Path) -> None:
        given = ["--listen", f"{self.address}:{PORT}", "--listen-when=ready", "--metrics-listen=off"]
        given += ["--plaintext-on-network=true", "--anyone-on-network=true", "--address-share=1"]
        given += ["--read-only=true", "--journal-dir", str(journal)]
        command = [*self.inside, str(program), "serve", "--deployments", str(link), *given]
        with journal.with_suffix(".log").open("ab") as log:
            self.process = subprocess.Popen(command, stderr=log)
        until(lambda: is_ready(program, self.url), "a replica is ready")

    def end(self) -> None:
        if self.process:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(WAIT_SECONDS)
        subprocess.run(["ip", "netns", "delete", self.space], capture_output=True)
        subprocess.run(["ip", "link", "delete", self.cable], capture_output=True)


class Searches:
    """Searches of several threads over one channel, until they are ended."""

    def __init__(self, channel: grpc.Channel, threads: int, pause: float) -> None:
        from matchpoint.v1 import retrieval_pb2, retrieval_pb2_grpc

        self.made, self.stub = retrieval_pb2, retrieval_pb2_grpc.RetrievalServiceStub(channel)
        self.pause, self.ended = pause, threading.Event()
        # For each answer when the call began and ended, and its state and decision.
        self.answers: list[tuple[float, float, str, str]] = []
        self.failed: list[str] = []
        self.threads = [threading.Thread(target=self.ask, args=[number]) for number in range(threads)]
        for thread in self.threads:
            thread.start()

    def ask(self, number: int) -> None:
        while not self.ended.wait(self.pause):
            query = query_of(self.made, number % LABELS)
            begun = time.monotonic()
            try:
                answer = self.stub.Search(query, timeout=WAIT_SECONDS)
                self.answers.append((begun, time.monotonic(), answer.state, answer.decision_id))
            except grpc.RpcError as error:
                self.failed.append(f"{error.code().name} {error.details()}")

    def more(self, count: int = 30) -> None:
        before = len(self.answers)
        until(lambda: before + count <= len(self.answers), "searches are answered")

    def end(self) -> None:
        self.ended.set()
        for thread in self.threads:
            thread.join()


def query_of(made, label: int):
    query = made.SearchRequest()
    query.embedding.values.extend(vector(label, 5, COMPONENTS))
    return query


def run(program: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([program, *arguments], capture_output=True, text=True, timeout=WAIT_SECONDS * 3)


def build(program: Path, folder: Path) -> None:
    """Two deployments of the same items, by two operating points, and a link to the first."""
    made = write_vectors(folder, LABELS, COMPONENTS)
    for name, far in (("shop-1", "0.2"), ("shop-2", "0.1")):
        for command in (
            ["build", folder / name, *made],
            ["calibrate", folder / name, "--gallery-as-queries", "--target-far", far],
        ):
            ended = run(program, *command)
            if ended.returncode:
                sys.exit(f"test_network.py: {command[0]}: {ended.stderr}")
    (folder / "shop").symlink_to(folder / "shop-1")


def check_cut_off(hosts: list[Host]) -> None:
    options = [
        ("grpc.service_config", json.dumps(SERVICE)),
        ("grpc.default_authority", "matchpoint"),
        *KEEPALIVE,
    ]
    addresses = ",".join(f"{host.address}:{PORT}" for host in hosts)
    searches = Searches(grpc.insecure_channel(f"ipv4:{addresses}", options=options), 6, 0.02)
    searches.more()
    cut = time.monotonic()
    hosts[1].pull()
    time.sleep(CUT_SECONDS)
    searches.more()
    hosts[1].put_in()
    back = time.monotonic()
    journal = next(answer[3][-4:] for answer in searches.answers if answer[3][-4:] not in last(searches))
    until(lambda: journal in last(searches), "the replica that was cut off answers again")
    again = time.monotonic() - back
    searches.end()
    answers = searches.answers
    slowest = max(ended - begun for begun, ended, *_ in answers)
    waited = sum(1.0 < ended - begun for begun, ended, *_ in answers)
    few = sorted(set(searches.failed))[:3]
    check(not searches.failed, f"{len(searches.failed)} of {len(answers)} calls fail {few}")
    check(len({answer[3] for answer in answers}) == len(answers), "each decision has an id of its own")
    check(len({answer[2] for answer in answers}) == 1, "all answers are of one state")
    print(
        f"        cut off for {back - cut:.0f} s: {waited} calls took longer than a second, the longest "
        f"{slowest:.1f} s; it answered again {again:.1f} s after it was back",
        flush=True,
    )


def last(searches: Searches) -> set[str]:
    """The journals of the latest answers."""
    return {answer[3][-4:] for answer in searches.answers[-30:]}


def state_of(program: Path, host: Host) -> str:
    ended = run(program, "status", "--json", "--server", host.url)
    return json.loads(ended.stdout)["deployments"][0]["state"]


def check_switch(program: Path, hosts: list[Host], folder: Path) -> None:
    states = [state_of(program, host) for host in hosts]
    switch = ["switch", folder / "shop", folder / "shop-2", "--servers", ",".join(host.url for host in hosts)]
    for named in range(3):
        hosts[named].pull()
        refused = run(program, *switch)
        hosts[named].put_in()
        said = refused.stderr.strip()
        right = refused.returncode == 69 and hosts[named].address in said
        check(right, f"refused, and named: {refused.returncode}, {said}")
        until(lambda: all(is_ready(program, one.url) for one in hosts), "back")
        unchanged = states == [state_of(program, host) for host in hosts]
        check(unchanged and (folder / "shop").resolve().name == "shop-1", "nothing was switched")


def check_window(program: Path, hosts: list[Host], folder: Path) -> None:
    options = [("grpc.use_local_subchannel_pool", 1)]
    asked = [
        Searches(grpc.insecure_channel(f"{one.address}:{PORT}", options=options), 1, 0.002) for one in hosts
    ]
    told, seen = [], []
    for number in range(SWITCHES):
        for searches in asked:
            searches.more(10)
            searches.answers.clear()
        to = [folder / f"shop-{2 - number % 2}"]
        servers = ["--servers", ",".join(host.url for host in hosts), "--json"]
        done = run(program, "switch", folder / "shop", *to, *servers)
        for searches in asked:
            searches.more(10)
        if done.returncode:
            check(False, f"switched: {done.stderr}")
            break
        said = json.loads(done.stdout)
        told.append(said["seconds_of_two_states"])
        answers = [answer for searches in asked for answer in searches.answers]
        new = min(ended for _, ended, state, _ in answers if state == said["state"])
        old = max(ended for _, ended, state, _ in answers if state != said["state"])
        seen.append(max(0.0, old - new))
    for searches in asked:
        searches.end()
    failed = sum(len(searches.failed) for searches in asked)
    check(failed == 0, f"{failed} calls fail while three replicas are switched {len(told)} times")
    most, usual = max(seen) * 1000, sorted(seen)[len(seen) // 2] * 1000
    check(most <= 1000, f"two states are seen for at most {most:.1f} ms, median {usual:.1f} ms")
    print(f"        the command says at most {max(told) * 1000:.1f} ms", flush=True)


def main() -> int:
    program = parser_of(__doc__).parse_args().program
    for name in [name for name in os.environ if name.startswith("MATCHPOINT_")]:
        del os.environ[name]
    hosts = [Host(number) for number in range(3)]
    try:
        hosts[0].connect()
    except (OSError, subprocess.CalledProcessError) as cause:
        hosts[0].end()
        print(f"skipped: needs root, iproute2 and network namespaces ({getattr(cause, 'stderr', cause)})")
        return 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        stubs = folder / "stubs"
        stubs.mkdir()
        protos = [str(path) for path in (ROOT / "proto/matchpoint/v1").glob("*.proto")]
        made = [f"-I{ROOT / 'proto'}", f"--python_out={stubs}", f"--grpc_python_out={stubs}"]
        protoc.main(["protoc", f"-I{Path(protoc.__file__).parent / '_proto'}", *made, *protos])
        sys.path.insert(0, str(stubs))
        build(program, folder)
        try:
            for host in hosts[1:]:
                host.connect()
            for number, host in enumerate(hosts):
                host.serve(program, folder / "shop", folder / f"journal-{number}")
            print("== one of three is cut off", flush=True)
            check_cut_off(hosts)
            print("== switched while one is cut off", flush=True)
            check_switch(program, hosts, folder)
            print("== switched", flush=True)
            check_window(program, hosts, folder)
        finally:
            for host in hosts:
                host.end()
            for log in sorted(folder.glob("journal-*.log")) if wrong else []:
                print(f"{log.stem}: {log.read_text(encoding='utf-8')[-1500:]}")
    return verdict("no call fails while one of three is cut off, and all are switched or none")


if __name__ == "__main__":
    sys.exit(main())
