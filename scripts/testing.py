"""What the tests in this folder share: commands, the sample of photographs, a server, and what was not so."""

from __future__ import annotations

import argparse
import json
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PHOTOS = ROOT / "examples/photos"
MODEL = ROOT / "models/efficientnet-lite0"
TARGET = ["--target-far=0.1", "--confidence=0.9"]
TEST = Path(sys.argv[0]).name

wrong: list[str] = []


def parser_of(doc: str | None) -> argparse.ArgumentParser:
    """Arguments of a test: the program that it tests."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", required=True, type=lambda name: Path(name).resolve(), help="matchpoint")
    return parser


def check(held: bool, what: str) -> None:
    print(f"   {'ok  ' if held else 'NOT '} {what}", flush=True)
    if not held:
        wrong.append(what)


def verdict(if_all_held: str) -> int:
    """The exit code, after what was not so."""
    print("\n".join(wrong) or if_all_held)
    return 1 if wrong else 0


def run(*command: object, **options: object) -> str:
    """What a command that has to succeed writes."""
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]
    if done.returncode != 0:
        sys.exit(f"{TEST}: {' '.join(words[:4])} failed:\n{done.stdout}{done.stderr}")
    return str(done.stdout)


def until(happened: Callable[[], bool], what: str, seconds: float = 60.0, pause: float = 0.05) -> float:
    """Waits, and returns for how many seconds."""
    begun = time.monotonic()
    while not happened():
        if begun + seconds < time.monotonic():
            sys.exit(f"{TEST}: {what}: not within {seconds:.0f} s; so far: {wrong}")
        time.sleep(pause)
    return time.monotonic() - begun


def free_ports(count: int) -> list[int]:
    """Ports that are free now, each another one."""
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def is_ready(program: Path, url: str) -> bool:
    """Whether a server is ready."""
    ask = [program, "health", "--quiet", "--server", url]
    return subprocess.run(ask, capture_output=True, check=False).returncode == 0


def make_deployment(program: Path, folder: Path, *flags: str) -> None:
    """Of the sample of photographs, with an operating point."""
    run(program, "build", folder, "--images", PHOTOS / "gallery.csv", "--model", MODEL, *flags)
    run(program, "calibrate", folder, "--queries", PHOTOS / "calibrate.csv", *TARGET)


def vector(label: int, number: int, components: int) -> list[float]:
    """The same for the same numbers, and near to the label's others."""
    own = [(label * 31 + axis * 17) % 97 - 48 for axis in range(components)]
    return [value + ((label * 7 + number * 13 + axis * 29) % 23) / 10 for axis, value in enumerate(own)]


def write_vectors(folder: Path, labels: int, components: int) -> list[object]:
    """Writes three vectors of each label; returns what `build` is to be told of them."""
    vectors, names = folder / "v.fvecs", folder / "v.csv"
    with vectors.open("wb") as out, names.open("w", encoding="utf-8") as rows:
        rows.write("id,label\n")
        for label in range(labels):
            for number in range(3):
                out.write(struct.pack(f"<i{components}f", components, *vector(label, number, components)))
                rows.write(f"{label}/{number},label {label}\n")
    return ["--embeddings", vectors, "--labels", names, "--vectors-of", "x"]


def certificate(folder: Path) -> tuple[Path, Path]:
    """For localhost, signed by itself, with its private key."""
    pem, key = folder / "server.pem", folder / "server.key"
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", 2]
    name = ["-subj", "/CN=matchpoint", "-addext", "subjectAltName=DNS:localhost"]
    name += ["-addext", "basicConstraints=critical,CA:FALSE"]
    run("openssl", "req", "-x509", *kind, *name, "-keyout", key, "-out", pem)
    return pem, key


class Server:
    """A server on ports of its own, once it is ready."""

    def __init__(self, program: Path, deployment: Path, *flags: object) -> None:
        given = ["--listen", "127.0.0.1:0", "--metrics-listen", "off", "--log-format", "json"]
        command = [str(word) for word in (program, "serve", "--deployments", deployment, *given, *flags)]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        # Where it says that it listens, by the word that it has for it.
        self.addresses: dict[str, str] = {}
        self.said: list[str] = []
        assert self.process.stderr is not None
        for line in self.process.stderr:
            said = json.loads(line)
            self.said.append(said["message"])
            if "address" in said:
                self.addresses.setdefault(said["message"], said["address"])
            if said["message"] == "ready":
                return
        sys.exit(f"{TEST}: the server did not start")

    def port(self) -> str:
        return self.addresses["listening"].rpartition(":")[2]

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()
