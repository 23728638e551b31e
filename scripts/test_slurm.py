#!/usr/bin/env python3
"""Builds a gallery on a Slurm cluster of three nodes on this machine, while tasks and a node are killed.

    test_slurm.py --program target/debug/matchpoint

The cluster is a slurmctld and three slurmd on 127.0.0.1, in a folder of its own, and gone afterwards.
What runs is deploy/slurm: 30 % of the tasks get SIGKILL, one node loses all its processes at once, and
of one shard two attempts run side by side. Then the merged gallery has to have the rows and the digest
of a single build, bit for bit, and no kill may have cost more than one attempt more. Slurm is told that the
node is lost, since it would take half a minute to find out. Needs slurmctld, slurmd and munged (Debian:
apt-get install slurm-wlm munge), and root, which slurmd wants. Prints figures, and ends with exit code 1 and
says what was not so.
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
from collections.abc import Iterator
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
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}
        self.log = (folder / "daemons.log").open("wb")
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
        self.environment = {
            **os.environ,
            "SLURM_CONF": str(conf),
            "PATH": f"{bin_folder}:{os.environ['PATH']}",
        }

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
        # A task begins again once the credential of its last attempt has expired: five seconds are the least.
        conf.write_text(
            f"""ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
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
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
KillWait=5
MinJobAge=3600
ReturnToService=2
SchedulerParameters=sched_interval=1,bf_interval=1
{nodes}
PartitionName=all Nodes=ALL Default=YES State=UP MaxTime=INFINITE
"""
        )
        (folder / "cgroup.conf").write_text("CgroupAutomount=no\n")
        return conf

    def start(self) -> None:
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        munge = ["munged", "--foreground", "--force", f"--socket={self.folder}/munge.socket"]
        munge += [f"--key-file={key}", f"--pid-file={self.folder}/munge.pid"]
        munge += [f"--log-file={self.folder}/munge.log", f"--seed-file={self.folder}/munge.seed"]
        self.daemon("munged", munge)
        until(lambda: (self.folder / "munge.socket").exists(), "munged listens", 20)
        self.daemon("slurmctld", ["slurmctld", "-D", "-c", "-i"])
        for node in NODES:
            self.daemon(node, ["slurmd", "-D", "-N", node])
        until(
            lambda: self.ask("sinfo", "-h", "-t", "idle", "-o", "%D").strip() == str(len(NODES)),
            "nodes are idle",
            60,
        )

    def daemon(self, name: str, command: list[str]) -> None:
        path = shutil.which(command[0]) or f"/usr/sbin/{command[0]}"
        self.daemons[name] = subprocess.Popen(
            [path, *command[1:]],
            env=self.environment,
            stdout=self.log,
            stderr=self.log,
            start_new_session=True,
        )

    def ask(self, *command: str) -> str:
        asked = subprocess.run(command, env=self.environment, cwd=self.folder, capture_output=True, text=True)
        return asked.stdout

    def submit(self, *arguments: str) -> str:
        command = ["sbatch", "--parsable", "--cpus-per-task=1", "--mem=500", *arguments]
        done = subprocess.run(command, env=self.environment, cwd=self.folder, capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"test_slurm.py: sbatch: {done.stderr}")
        return done.stdout.strip()

    def builds(self, key: str, value: str) -> list[int]:
        """Processes of the program whose environment says so."""
        mine = str(self.folder)
        return [
            number
            for number, command, environment in processes()
            if "build" in command
            and environment.get("SLURM_CONF", "").startswith(mine)
            and environment.get(key) == value
        ]

    def lose(self, node: str) -> int:
        """A power cut: all that runs on the node, at once. How many tasks that were."""
        tasks = self.builds("SLURMD_NODENAME", node)
        commands = {number: command for number, command, _ in processes()}
        mine = str(self.folder)
        there = [
            number
            for number, _, environment in processes()
            if environment.get("SLURM_CONF", "").startswith(mine)
            and environment.get("SLURMD_NODENAME") == node
        ]
        # First whoever could still tell the controller how the tasks ended.
        tellers = [self.daemons[node].pid]
        for number in there:
            while number > 1:
                if "slurmstepd" in commands.get(number, [""])[0]:
                    tellers.append(number)
                number = parent(number)
        for number in [*tellers, *there]:
            kill(number)
        self.ask("scontrol", "update", f"nodename={node}", "state=down", "reason=lost")
        return len(tasks)

    def stop(self) -> None:
        for number, _, environment in processes():
            if environment.get("SLURM_CONF", "").startswith(str(self.folder)) and number != os.getpid():
                kill(number)
        for daemon in self.daemons.values():
            daemon.kill()
            daemon.wait()
        self.log.close()


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


def single_build(program: Path, folder: Path) -> subprocess.Popen[str]:
    command = [
        str(program),
        "build",
        str(folder / "one"),
        "--images",
        str(IMAGES),
        "--model",
        str(MODEL),
        "--json",
    ]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def disturb(cluster: Cluster, shards: Path, program: Path) -> tuple[int, int]:
    """Kills tasks and a node while they build, with a second attempt beside one; how many of each."""
    to_kill, kills, lost, second = set(KILLED), 0, False, None
    end = time.monotonic() + WAIT_SECONDS
    while (to_kill or not lost or second is None) and time.monotonic() < end:
        for index in sorted(to_kill):
            at_work = (shards / f".shard-{index}-of-{SHARDS}.tar.work/items.db").exists()
            for number in cluster.builds("SLURM_ARRAY_TASK_ID", str(index)) if at_work else []:
                kill(number)
                to_kill.discard(index)
                kills += 1
        if second is None and cluster.builds("SLURM_ARRAY_TASK_ID", str(OVERLAPPING)):
            shard = f"{OVERLAPPING}/{SHARDS}"
            command = [
                str(program),
                "build",
                str(shards),
                "--images",
                str(IMAGES),
                "--model",
                str(MODEL),
                "--shard",
                shard,
            ]
            second = subprocess.Popen(
                [*command, "--workers", "1"], stdout=subprocess.DEVNULL, stderr=cluster.log
            )
        # While it builds something that nobody else disturbs.
        busy = cluster.builds("SLURMD_NODENAME", LOST_NODE)
        if not lost and second is not None and busy:
            kills += cluster.lose(LOST_NODE)
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
    program = parser_of(__doc__).parse_args().program
    for needed in ("slurmctld", "slurmd", "munged"):
        if shutil.which(needed) is None and not Path(f"/usr/sbin/{needed}").exists():
            sys.exit(f"test_slurm.py: {needed} is not installed (Debian: apt-get install slurm-wlm munge)")
    with tempfile.TemporaryDirectory(prefix="matchpoint-slurm-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        building = single_build(program, folder)
        cluster = Cluster(folder, program)
        try:
            run(cluster, program, building)
        finally:
            cluster.stop()
            building.kill()
        if wrong:
            for log in [*folder.glob("*.out"), folder / "slurmctld.log", folder / "daemons.log"]:
                print(f"--- {log.name}\n{log.read_text(errors='replace')[-3000:]}")
    if wrong:
        print(f"test_slurm.py: {len(wrong)} things were not so")
    return 1 if wrong else 0


def run(cluster: Cluster, program: Path, building: subprocess.Popen[str]) -> None:
    cluster.start()
    folder, began = cluster.folder, time.monotonic()
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
    single = json.loads(building.communicate(timeout=WAIT_SECONDS)[0])
    report = json.loads((folder / f"slurm-{merge}.out").read_text())
    check(
        report["gallery_digest"] == single["gallery_digest"],
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
