#!/usr/bin/env python3
"""Builds a gallery on a Slurm cluster of three nodes on this machine, while tasks and a node are killed.

    test_slurm.py --program target/debug/matchpoint

The cluster is a slurmctld and three slurmd on 127.0.0.1, with a munged, a key, ports and a folder of its
own, so that it minds no other on this machine, and gone afterwards.
What runs is deploy/slurm: 30 % of the tasks get SIGKILL, one node loses all its processes at once, and
of one shard two attempts run side by side. Then the merged gallery has to have the rows and the digest
of a single build, bit for bit, and no kill may have cost more than one attempt more. Slurm is told that the
node is lost, since it would take half a minute to find out. Needs slurmctld, slurmd and munged (Debian:
apt-get install slurm-wlm munge), and root, which slurmd wants. Prints figures, and ends with exit code 1 and
says what was not so. Where no cluster comes up here, which says nothing about the program, --or-skip ends
with 0 and says why.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from testing import MODEL, ROOT, check, free_ports, parser_of, until, wrong

IMAGES = ROOT / "examples/photos/images"
SHARDS = 10
# Three of ten tasks.
KILLED = (1, 4, 7)
OVERLAPPING = 2
NODES = ("n1", "n2", "n3")
LOST_NODE = "n3"
WAIT_SECONDS = 300.0
CLUSTER_SECONDS = 120.0


def processes() -> Iterator[tuple[int, list[str], dict[str, str]]]:
    """Every process, its command line and its environment."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
            said = (folder / "environ").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        yield int(folder.name), command, dict(one.split("=", 1) for one in said if "=" in one)


class Cluster:
    """Slurm in a folder, and what it takes to talk to it."""

    def __init__(self, folder: Path, program: Path) -> None:
        self.folder = folder
        self.children: dict[str, subprocess.Popen[bytes]] = {}
        bin_folder = folder / "bin"
        bin_folder.mkdir()
        # Counts attempts, and prints JSON.
        wrapper = bin_folder / "matchpoint"
        attempts = folder / "attempts"
        wrapper.write_text(
            f'#!/bin/sh\necho "${{SLURM_ARRAY_TASK_ID:-merge}} $$" >>{attempts}\nexec {program} "$@" --json\n'
        )
        wrapper.chmod(0o755)
        conf = self.write_configuration()
        # Without what a job of another cluster would bring.
        self.environment = {
            key: value for key, value in os.environ.items() if not key.startswith(("SLURM", "SBATCH"))
        }
        self.environment |= {"SLURM_CONF": str(conf), "PATH": f"{bin_folder}:{os.environ['PATH']}"}

    def write_configuration(self) -> Path:
        folder, (controller, *ports) = self.folder, free_ports(1 + len(NODES))
        host = socket.gethostname()
        nodes = "\n".join(
            f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=1 RealMemory=1000"
            for name, port in zip(NODES, ports, strict=True)
        )
        for name in ("state", *(f"spool.{node}" for node in NODES)):
            (folder / name).mkdir()
        conf = folder / "slurm.conf"
        # A task begins again once the credential of its last attempt has expired: sooner than after the usual
        # two minutes, and not so soon that a busy machine cannot begin one in time.
        conf.write_text(
            f"""ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=30
CredType=cred/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SwitchType=switch/none
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmdLogFile={folder}/%n.log
KillWait=5
MinJobAge=3600
ReturnToService=2
SchedulerParameters=sched_interval=1,bf_interval=1
{nodes}
PartitionName=all Nodes=ALL Default=YES State=UP MaxTime=INFINITE
"""
        )
        # slurmd loads one of them, though nothing above uses it. This one touches nothing before it is used;
        # that of version 2, which it would find by itself, wants systemd.
        (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        return conf

    def start(self) -> str:
        """What keeps a cluster from coming up on this machine; nothing once a first job has run."""
        key, first = self.folder / "munge.key", self.folder / "first"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        munge = ["munged", "--foreground", "--force", f"--socket={self.folder}/munge.socket"]
        munge += [f"--key-file={key}", f"--pid-file={self.folder}/munge.pid"]
        munge += [f"--log-file={self.folder}/munge.log", f"--seed-file={self.folder}/munge.seed"]
        self.spawn("munged", munge)
        if not self.comes((self.folder / "munge.socket").exists):
            return "munged does not listen"
        self.spawn("slurmctld", ["slurmctld", "-D", "-c", "-i"])
        for node in NODES:
            self.spawn(node, ["slurmd", "-D", "-N", node])
        idle = ("sinfo", "-h", "-t", "idle", "-o", "%D")
        if not self.comes(lambda: self.ask(*idle).strip() == str(len(NODES))):
            return "its nodes do not become idle"
        self.ask("sbatch", "--output=first.out", f"--wrap=touch {first}")
        return "" if self.comes(first.exists) else "a first job does not run"

    def comes(self, happened: Callable[[], bool]) -> bool:
        """Whether it happens in time, and before a daemon ends."""
        end = time.monotonic() + CLUSTER_SECONDS
        while not happened():
            if end < time.monotonic() or any(child.poll() is not None for child in self.children.values()):
                return False
            time.sleep(0.05)
        return True

    def spawn(self, name: str, command: list[str]) -> subprocess.Popen[bytes]:
        """A process that is gone when the cluster is."""
        path = shutil.which(command[0]) or f"/usr/sbin/{command[0]}"
        with (self.folder / f"{name}.out").open("wb") as out, (self.folder / f"{name}.err").open("wb") as err:
            self.children[name] = subprocess.Popen(
                [path, *command[1:]], env=self.environment, stdout=out, stderr=err, start_new_session=True
            )
        return self.children[name]

    def ask(self, *command: str) -> str:
        asked = subprocess.run(command, env=self.environment, cwd=self.folder, capture_output=True, text=True)
        return asked.stdout

    def submit(self, *arguments: str) -> str:
        command = ["sbatch", "--parsable", "--cpus-per-task=1", "--mem=500", *arguments]
        done = subprocess.run(command, env=self.environment, cwd=self.folder, capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"test_slurm.py: sbatch: {done.stderr}")
        return done.stdout.strip()

    def processes(self) -> Iterator[tuple[int, list[str], dict[str, str]]]:
        """Those of this cluster."""
        for number, command, environment in processes():
            if environment.get("SLURM_CONF", "").startswith(str(self.folder)):
                yield number, command, environment

    def builds(self, task: int) -> list[int]:
        """The processes that build this shard as a task."""
        return [
            number
            for number, command, environment in self.processes()
            if "build" in command and environment.get("SLURM_ARRAY_TASK_ID") == str(task)
        ]

    def lose(self, node: str, spared: set[int]) -> bool:
        """A power cut: all that runs on the node, at once, if it builds, and none of these tasks."""
        everything = list(self.processes())
        there = [one for one in everything if one[2].get("SLURMD_NODENAME") == node]
        tasks = {int(said["SLURM_ARRAY_TASK_ID"]) for _, command, said in there if "build" in command}
        if not tasks or tasks & spared:
            return False
        # First whoever could still tell the controller how the tasks ended.
        stepping = {number for number, command, _ in everything if "slurmstepd" in command[0]}
        tellers = [self.children[node].pid]
        for number, *_ in there:
            while number > 1:
                if number in stepping:
                    tellers.append(number)
                number = parent(number)
        for number in [*tellers, *(number for number, *_ in there)]:
            kill(number)
        self.ask("scontrol", "update", f"nodename={node}", "state=down", "reason=lost")
        return True

    def stop(self) -> None:
        for child in self.children.values():
            child.kill()
            child.wait()
        # Until there is none: a script whose program was killed begins another.
        while left := [number for number, *_ in self.processes()]:
            for number in left:
                kill(number)
            time.sleep(0.02)

    def print_logs(self) -> None:
        for log in sorted(one for one in self.folder.iterdir() if one.suffix in (".log", ".out", ".err")):
            print(f"--- {log.name}\n{log.read_text(errors='replace')[-3000:]}")


def parent(number: int) -> int:
    try:
        return int(Path(f"/proc/{number}/stat").read_text().rsplit(")", 1)[1].split()[1])
    except (OSError, IndexError, ValueError):
        return 0


def kill(number: int) -> None:
    try:
        os.kill(number, signal.SIGKILL)
    except ProcessLookupError:
        pass


def rows(deployment: Path) -> list[tuple[object, ...]]:
    """Every row but for its number, in order of id."""
    with sqlite3.connect(f"file:{deployment / 'items.db'}?mode=ro", uri=True) as items:
        query = "SELECT id, label, metadata, source_sha256, embedding, checksum FROM items ORDER BY id"
        return items.execute(query).fetchall()


def build(program: Path, into: Path, *more: str) -> list[str]:
    return [str(program), "build", str(into), "--images", str(IMAGES), "--model", str(MODEL), *more]


def disturb(cluster: Cluster, shards: Path, program: Path) -> tuple[int, int]:
    """Kills tasks and a node while they build, with a second attempt beside one; how many of each."""
    to_kill, kills, lost, second = set(KILLED), 0, False, None
    end = time.monotonic() + WAIT_SECONDS
    while (to_kill or not lost or second is None) and time.monotonic() < end:
        for index in sorted(to_kill):
            at_work = (shards / f".shard-{index}-of-{SHARDS}.tar.work/items.db").exists()
            for number in cluster.builds(index) if at_work else []:
                kill(number)
                to_kill.discard(index)
                kills += 1
        if second is None and cluster.builds(OVERLAPPING):
            shard = f"--shard={OVERLAPPING}/{SHARDS}"
            second = cluster.spawn("second", build(program, shards, shard, "--workers=1"))
        # While it builds something that nobody else disturbs.
        if not lost and second is not None and cluster.lose(LOST_NODE, {*KILLED, OVERLAPPING}):
            kills += 1
            lost = True
        time.sleep(0.02)
    check(not to_kill, f"tasks {KILLED} of {SHARDS} were killed at work")
    check(lost, f"node {LOST_NODE} was lost at work")
    if second is None:
        check(False, f"a second attempt ran beside task {OVERLAPPING}")
        return kills, 0
    check(second.wait(WAIT_SECONDS) == 0, f"a second attempt beside task {OVERLAPPING} ended well")
    return kills, 1


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    parser = parser_of(__doc__)
    parser.add_argument("--or-skip", action="store_true", help="end with 0 where no cluster comes up")
    arguments = parser.parse_args()
    for needed in ("slurmctld", "slurmd", "munged"):
        if shutil.which(needed) is None and not Path(f"/usr/sbin/{needed}").exists():
            sys.exit(f"test_slurm.py: {needed} is not installed (Debian: apt-get install slurm-wlm munge)")
    with tempfile.TemporaryDirectory(prefix="matchpoint-slurm-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        cluster = Cluster(folder, arguments.program)
        try:
            obstacle = cluster.start()
            if obstacle and arguments.or_skip:
                print(f"== skipped: a build on a Slurm cluster ({obstacle}; make test-slurm prints the logs)")
                return 0
            check(not obstacle, f"a cluster comes up: {obstacle or 'a first job has run'}")
            if not obstacle:
                run(cluster, arguments.program)
        except BaseException:
            cluster.print_logs()
            raise
        finally:
            cluster.stop()
        if wrong:
            cluster.print_logs()
    if wrong:
        print(f"test_slurm.py: {len(wrong)} things were not so")
    return 1 if wrong else 0


def run(cluster: Cluster, program: Path) -> None:
    folder, began = cluster.folder, time.monotonic()
    single = cluster.spawn("single", build(program, folder / "one", "--json"))
    shards, merged = folder / "shards", folder / "merged"
    array = cluster.submit(
        f"--array=0-{SHARDS - 1}",
        str(ROOT / "deploy/slurm/shards.sbatch"),
        str(IMAGES),
        str(MODEL),
        str(shards),
    )
    merge = cluster.submit(
        f"--dependency=afterok:{array}",
        str(ROOT / "deploy/slurm/merge.sbatch"),
        str(MODEL),
        str(shards),
        str(merged),
    )
    kills, second = disturb(cluster, shards, program)
    until(
        lambda: not cluster.ask("squeue", "-h", "-j", f"{array},{merge}", "-t", "PD,R,CG,S").strip(),
        "all jobs end",
        WAIT_SECONDS,
        pause=0.5,
    )
    check(merged.exists(), "the dependent job merged all shards")
    if not merged.exists():
        return
    attempts = [line.split()[0] for line in (folder / "attempts").read_text().splitlines()]
    builds = len(attempts) - attempts.count("merge")
    more = builds - SHARDS
    check(more <= kills, f"{kills} kills cost {more} attempts more, each of at most one shard")
    ended = single.wait(WAIT_SECONDS)
    check(ended == 0, "a single build ended well")
    if ended != 0:
        return
    one = json.loads((folder / "single.out").read_text())
    report = json.loads((folder / f"slurm-{merge}.out").read_text())
    check(
        report["gallery_digest"] == one["gallery_digest"],
        f"the digest is that of a single build: {report['gallery_digest']}",
    )
    check(
        rows(merged) == rows(folder / "one"),
        f"{report['items']} rows are those of a single build, bit for bit",
    )
    seconds, rate = time.monotonic() - began, report["items_per_second"]
    print(
        f"   {SHARDS} shards, {len(NODES)} nodes, {report['items']} images: {kills} kills (with the node's), "
        f"{builds} attempts and {second} beside them, {seconds:.0f} s; merge {rate:.0f}/s"
    )


if __name__ == "__main__":
    sys.exit(main())
