#!/usr/bin/env python3
"""Tests clients/go: generates its messages, compiles its first program, and runs that against a real server.

    test_go.py --program target/debug/matchpoint

The server is encrypted and asks for a key, as one that others reach. Takes Go and its libraries from
Debian as the module's vendored packages, so that no module proxy is needed, and is skipped without
them: apt-get install golang-go protobuf-compiler protoc-gen-go protoc-gen-go-grpc golang-google-grpc-dev
golang-google-protobuf-dev openssl. Ends with exit code 1 and says what was not so.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from testing import PHOTOS, ROOT, Server, certificate, check, make_deployment, parser_of, run, verdict

ENROLLED = PHOTOS / "images/gc_fishes_fish14/g0_ref.jpg"
LIBRARIES = Path("/usr/share/gocode/src")
# Those that the program needs, and what they need.
MODULES = (
    "github.com/golang/protobuf",
    "golang.org/x/net",
    "golang.org/x/sys",
    "golang.org/x/text",
    "google.golang.org/genproto",
    "google.golang.org/grpc",
    "google.golang.org/protobuf",
)
NEEDED = ("go", "protoc", "protoc-gen-go", "protoc-gen-go-grpc", "openssl")
# Debian's gRPC is older than what its generator writes, and would encode messages by the library before.
CODEC = """package main

import (
	"google.golang.org/grpc/encoding"
	"google.golang.org/protobuf/proto"
)

type codec struct{}

func (codec) Marshal(message interface{}) ([]byte, error) { return proto.Marshal(message.(proto.Message)) }
func (codec) Unmarshal(bytes []byte, message interface{}) error {
	return proto.Unmarshal(bytes, message.(proto.Message))
}
func (codec) Name() string { return "proto" }

func init() { encoding.RegisterCodec(codec{}) }
"""


def compile_search(folder: Path) -> Path:
    sources, made = folder / "src", folder / "search"
    shutil.copytree(ROOT / "clients/go/search", sources / "search")
    (sources / "search/codec.go").write_text(CODEC, encoding="utf-8")
    # Where Debian has what other machines have at cloud.google.com/go/longrunning.
    operations = "google/longrunning/operations.proto=google.golang.org/genproto/googleapis/longrunning"
    mapped = [f"--go_opt=M{operations}", f"--go-grpc_opt=M{operations}"]
    # As buf.gen.yaml has them.
    mapped += ["--go_opt=module=matchpoint.dev/go", "--go-grpc_opt=module=matchpoint.dev/go"]
    protos = sorted((ROOT / "proto/matchpoint/v1").glob("*.proto"))
    to = [f"--go_out={sources}", f"--go-grpc_out={sources}"]
    run("protoc", f"-I{ROOT / 'proto'}", *to, *mapped, *protos)
    vendor(sources)
    settings = {"GO111MODULE": "on", "GOPROXY": "off", "GOFLAGS": "-mod=vendor"}
    environment = {**os.environ, **settings, "GOCACHE": str(folder / "cache")}
    for command in (["vet"], ["build", "-o", str(made)]):
        subprocess.run(["go", *command, "./search"], cwd=sources, env=environment, check=True)
    return made


def vendor(module: Path) -> None:
    """Makes it a module, whose dependencies are Debian's sources and not what a proxy has."""
    (module / "vendor").mkdir()
    for host in {name.split("/")[0] for name in MODULES}:
        (module / "vendor" / host).symlink_to(LIBRARIES / host)
    needs = "".join(f"require {name} v1.0.0\n" for name in MODULES)
    (module / "go.mod").write_text(f"module matchpoint.dev/go\n\ngo 1.19\n\n{needs}", encoding="utf-8")
    lines = []
    for name in MODULES:
        folders = (folder for folder in (LIBRARIES / name).rglob("*") if folder.is_dir())
        packages = sorted(str(folder.relative_to(LIBRARIES)) for folder in folders)
        lines += [f"# {name} v1.0.0", "## explicit; go 1.19", name, *packages]
    (module / "vendor/modules.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def check_searches(search: Path, environment: dict[str, str], key: str, folder: Path) -> None:
    def ask(path: Path, **more: str) -> tuple[int, str]:
        done = subprocess.run([search, path], env={**environment, **more}, capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr

    mine = {"MATCHPOINT_API_KEY": key}
    code, said = ask(ENROLLED, **mine)
    accepted = "ACCEPT gc_fishes_fish14" in said and "1.0000 gc_fishes_fish14" in said
    check(code == 0 and accepted, f"an enrolled picture is accepted under its label: {said.strip()[-120:]}")
    none = folder / "none.jpg"
    none.write_bytes(b"no picture")
    code, said = ask(none, **mine)
    check(code == 1 and "IMAGE_" in said, f"what is no picture is refused, and why: {said.strip()[-120:]}")
    code, said = ask(ENROLLED, MATCHPOINT_API_KEY="mp_nobody")
    check(code == 1 and "Unauthenticated" in said, f"another key is refused: {said.strip()[-120:]}")
    code, said = ask(ENROLLED, **mine, MATCHPOINT_SERVER="localhost:50051")
    check(code == 1 and "https://HOST:PORT" in said, f"an address needs a scheme: {said.strip()[-120:]}")
    done = subprocess.run([search], env=environment, capture_output=True, text=True)
    check(done.returncode == 2 and "usage" in done.stderr, f"without a picture: {done.stderr.strip()[:60]}")
    code, said = ask(ENROLLED, **mine, MATCHPOINT_SERVER="http://192.0.2.1:1")
    check(code == 1 and "unencrypted" in said, f"a key is not sent unencrypted: {said.strip()[-120:]}")


def main() -> int:
    program = parser_of(__doc__).parse_args().program
    missing = [name for name in NEEDED if not shutil.which(name)]
    if not (LIBRARIES / "google.golang.org/grpc").is_dir():
        missing.append("golang-google-grpc-dev")
    if missing:
        print(f"skipped: {', '.join(missing)} missing; `test_go.py --help` has the packages of Debian")
        return 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        search = compile_search(folder)
        shop, keys = folder / "shop", folder / "keys.json"
        make_deployment(program, shop)
        pem, private = certificate(folder)
        made = run(program, "keys", "new", "go", "--scopes", "search", "--keys-file", keys)
        flags = ["--tls-certificate", pem, "--tls-key", private, "--keys-file", keys]
        with Server(program, shop, *flags) as server:
            there = {"MATCHPOINT_SERVER": f"https://localhost:{server.port()}"}
            # Debian's gRPC follows the retry policy only by this.
            asked = {**os.environ, **there, "MATCHPOINT_SERVER_CA": str(pem), "GRPC_GO_RETRY": "on"}
            check_searches(search, asked, made.splitlines()[0], folder)
    return verdict("Go: generated, compiled, and the first program was answered")


if __name__ == "__main__":
    sys.exit(main())
