#!/usr/bin/env python3
"""Snapshots in object stores: `snapshot`, `restore` and `serve` against servers that speak as the stores do.

    test_object_stores.py --program target/debug/matchpoint

S3 is moto, Azure is Microsoft's Azurite, which is fetched by npm and skipped without it. Google's own
dialect of S3 is moto too, behind a translation of its headers that this test makes: no emulator of its XML
API is in a registry. So what Google itself answers is not tried here. The program must have the feature
`object-stores`. Needs the Python of `scripts/venv.sh stores scripts/stores-requirements.txt`. Ends with
exit code 1 and says what was not so.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import boto3
from azure.storage.blob import BlobServiceClient
from moto.server import DomainDispatcherApplication, ThreadedMotoServer, create_backend_app
from testing import ROOT, check, free_ports, parser_of, verdict
from werkzeug.serving import make_server

SECRET = "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY"
# What Azurite takes, and everybody knows.
AZURE_ACCOUNT = "devstoreaccount1"
AZURE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
AZURITE = "azurite@3.37.0"
# More than one part of an upload, which have 8 MiB.
ITEMS, COMPONENTS = 6000, 512
WAIT_SECONDS = 60.0
OURS = ("AWS_", "GOOGLE_", "AZURE_", "AZURITE_", "MATCHPOINT_")


@dataclass
class Store:
    """A store, what the program has to know of it, and its objects as another tool sees them."""

    name: str
    # What an address begins with.
    bucket: str
    environment: dict[str, str]
    # What in the environment leads to where nobody listens.
    nowhere: dict[str, str]
    secrets: tuple[str, ...]
    put: Callable[[str, bytes], object]
    get: Callable[[str], bytes]

    def at(self, key: str) -> str:
        return f"{self.bucket}/{key}"


class Program:
    """The program, and what a store has to know of who asks."""

    def __init__(self, program: Path, store: Store) -> None:
        self.program, self.store = program, store
        others = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
        self.environment = {**others, **store.environment}

    def run(self, *arguments: str | Path, **environment: str) -> tuple[int, str, str]:
        ended = subprocess.run(
            [self.program, *arguments],
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            timeout=WAIT_SECONDS * 3,
        )
        said = ended.stdout + ended.stderr
        shown = any(secret in said for secret in self.store.secrets)
        check(not shown, f"no secret is shown by {arguments[0]}")
        return ended.returncode, ended.stdout, ended.stderr

    def refused(self, code: int, says: str, *arguments: str | Path, **environment: str) -> None:
        begun = time.monotonic()
        returned, _, said = self.run(*arguments, **environment)
        said = said.strip().replace("\n", " ")
        right = returned == code and says in said and time.monotonic() - begun < WAIT_SECONDS
        check(right, f"{arguments[0]}: {returned}, {said[-200:]}")


def build(program: Program, folder: Path) -> None:
    """A deployment of vectors that were made elsewhere."""
    vectors, labels = folder / "shop.fvecs", folder / "shop.csv"
    with vectors.open("wb") as out, labels.open("w", encoding="utf-8") as names:
        names.write("id,label\n")
        for item in range(ITEMS):
            values = [((item * 7919 + axis * 104729) % 1009) / 1009 - 0.5 for axis in range(COMPONENTS)]
            out.write(struct.pack(f"<i{COMPONENTS}f", COMPONENTS, *values))
            names.write(f"{item},label {item // 3}\n")
    made = ["--embeddings", vectors, "--labels", labels, "--vectors-of", "x"]
    code, _, said = program.run("build", folder / "shop", *made)
    if code != 0:
        sys.exit(f"test_object_stores.py: build: {said}")


@contextmanager
def serving(program: Program, *arguments: str | Path) -> Iterator[dict]:
    """What a server says of the one deployment that it has, once it answers."""
    address = f"127.0.0.1:{free_ports(1)[0]}"
    command = [program.program, "serve", "--listen", address, "--metrics-listen=off", *arguments]
    process = subprocess.Popen(command, env=program.environment, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + WAIT_SECONDS
        while program.run("health", "--quiet", "--server", f"http://{address}")[0] != 0:
            if end < time.monotonic() or process.poll() is not None:
                sys.exit("test_object_stores.py: the server is not ready")
            time.sleep(0.2)
        # Without an operating point, which these have not, its exit code says so.
        _, said, _ = program.run("status", "--json", "--server", f"http://{address}")
        yield json.loads(said)
    finally:
        process.terminate()
        process.wait(WAIT_SECONDS)


def check_there_and_back(program: Program, folder: Path) -> None:
    store = program.store
    shop, address = folder / "shop", store.at("folder/shop.snapshot")
    code, said, errors = program.run("snapshot", shop, address, "--json")
    check(code == 0, f"a snapshot is taken: {errors.strip()[-200:]}")
    taken = json.loads(said)
    check(taken["archive"] == address and 8 << 20 < taken["bytes"], f"in several parts: {taken['bytes']} B")
    program.refused(2, "already", "snapshot", shop, address)
    code, said, errors = program.run("restore", address, folder / "again", "--json")
    restored = json.loads(said) if code == 0 else {}
    check(
        restored.get("gallery_digest") == taken["gallery_digest"], f"it is restored: {errors.strip()[-200:]}"
    )
    code, said, _ = program.run("restore", address, folder / "again", "--if-absent", "--json")
    check(code == 0 and "unchanged" in said, "once more does nothing")
    left = [path.name for path in folder.iterdir() if path.name.startswith(".matchpoint")]
    check(not left, f"nothing is left beside it: {left}")

    # As the store's own tool copies it, without our word for its version.
    body = store.get("folder/shop.snapshot")
    store.put("copied", body)
    code, _, errors = program.run("restore", store.at("copied"), "--check")
    check(code == 0, f"a copy by another tool is whole: {errors.strip()[-200:]}")
    for key, content in (("cut", body[: len(body) // 2]), ("other", b"PK not a snapshot")):
        store.put(key, content)
        program.refused(65, store.at(key), "restore", store.at(key), folder / key)
    check(not (folder / "cut").exists() and not (folder / "other").exists(), "nothing is made of them")


def check_refusals(program: Program, folder: Path) -> None:
    shop, none, store = folder / "shop", folder / "none", program.store
    elsewhere = store.at("none").replace("bucket", "elsewhere")
    for absent in (store.at("none"), elsewhere):
        program.refused(66, "no such bucket", "restore", absent, none)
    program.refused(69, "refused", "restore", store.at("copied"), none, **store.nowhere)
    program.refused(69, "refused", "snapshot", shop, store.at("new"), **store.nowhere)
    # An upload that was killed: the name is claimed, and nothing more.
    store.put("half", b"matchpoint: this object is being written")
    program.refused(69, "not whole", "restore", store.at("half"), none)
    program.refused(69, "not whole", "snapshot", shop, store.at("half"))


def check_serving(program: Program, folder: Path) -> None:
    below = folder / "restored"
    given = [
        "--deployments",
        f"shop={program.store.at('folder/shop.snapshot')}",
        "--restore-dir",
        below,
        "--read-only",
        "true",
    ]
    states = []
    for _start in range(2):
        with serving(program, *given) as status:
            states.append(json.dumps(status).count(f'"gallery_items": {ITEMS}'))
        folders = [path.name for path in below.iterdir()]
        check(len(folders) == 1 and folders[0].startswith("shop-"), f"one folder is restored: {folders}")
    check(all(states), "it is served, and served again")


@contextmanager
def amazon() -> Iterator[Store]:
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    moto.start()
    try:
        host, port = moto.get_host_and_port()
        # What another of its servers has held is otherwise there too.
        urllib.request.urlopen(f"http://{host}:{port}/moto-api/reset", data=b"").close()
        yield s3(f"http://{host}:{port}")
    finally:
        moto.stop()


def s3(endpoint: str) -> Store:
    name, region = "AKIAIOSFODNN7EXAMPLE", "us-east-1"
    given = {"region_name": region, "aws_access_key_id": name, "aws_secret_access_key": SECRET}
    client = boto3.client("s3", endpoint_url=endpoint, **given)
    client.create_bucket(Bucket="bucket")
    environment = {
        "AWS_ACCESS_KEY_ID": name,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_REGION": region,
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ALLOW_HTTP": "true",
    }
    return Store(
        name="S3",
        bucket="s3://bucket",
        environment=environment,
        nowhere={"AWS_ENDPOINT_URL": "http://127.0.0.1:9"},
        secrets=(SECRET,),
        put=lambda key, body: client.put_object(Bucket="bucket", Key=key, Body=body),
        get=lambda key: client.get_object(Bucket="bucket", Key=key)["Body"].read(),
    )


class GoogleDialect:
    """Google's names of headers in place of Amazon's, before a server that speaks as S3 does."""

    def __init__(self, application) -> None:
        self.application, self.generation = application, 0

    def __call__(self, environ, start_response):
        # Without OAuth it is a "Bearer" of nothing, which moto takes for a broken signature.
        environ["HTTP_AUTHORIZATION"] = "AWS4-HMAC-SHA256 Credential=key/20260101/us-east-1/s3/aws4_request"
        for name in [name for name in environ if name.startswith("HTTP_X_GOOG_META_")]:
            environ[name.replace("GOOG", "AMZ")] = environ.pop(name)
        # Where there is nothing yet.
        if environ.pop("HTTP_X_GOOG_IF_GENERATION_MATCH", "") == "0":
            environ["HTTP_IF_NONE_MATCH"] = "*"
        self.generation += 1

        def start(status, headers, *rest):
            renamed = [
                (name.lower().replace("x-amz-meta-", "x-goog-meta-"), value) for name, value in headers
            ]
            return start_response(status, [*renamed, ("x-goog-generation", str(self.generation))], *rest)

        return self.application(environ, start)


def service_account(endpoint: str) -> dict[str, str]:
    told = {"gcs_base_url": endpoint, "disable_oauth": True, "client_email": "", "private_key": ""}
    key = json.dumps({**told, "private_key_id": SECRET})
    return {"GOOGLE_SERVICE_ACCOUNT_KEY": key, "GOOGLE_ALLOW_HTTP": "true"}


@contextmanager
def google() -> Iterator[Store]:
    with amazon() as store:
        moto = GoogleDialect(DomainDispatcherApplication(create_backend_app))
        server = make_server("127.0.0.1", 0, moto, threaded=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield Store(
                name="Google's dialect",
                bucket="gs://bucket",
                environment=service_account(f"http://127.0.0.1:{server.server_port}"),
                nowhere=service_account("http://127.0.0.1:9"),
                secrets=(SECRET,),
                put=store.put,
                get=store.get,
            )
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def azure() -> Iterator[Store]:
    folder, [port] = ROOT / ".cache/azurite", free_ports(1)
    if not (folder / "node_modules/.bin/azurite-blob").exists():
        folder.mkdir(parents=True, exist_ok=True)
        install = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", folder, AZURITE]
        subprocess.run(install, check=True)
    address = ["--blobHost", "127.0.0.1", "--blobPort", str(port)]
    command = [folder / "node_modules/.bin/azurite-blob", *address, "--inMemoryPersistence", "--silent"]
    process = subprocess.Popen([*command, "--skipApiVersionCheck"], stdout=subprocess.DEVNULL)
    try:
        endpoint = f"http://127.0.0.1:{port}/{AZURE_ACCOUNT}"
        client = BlobServiceClient(endpoint, credential=AZURE_KEY)
        container = client.create_container("bucket")
        environment = {
            "AZURE_STORAGE_ACCOUNT_NAME": AZURE_ACCOUNT,
            "AZURE_STORAGE_ACCOUNT_KEY": AZURE_KEY,
            "AZURE_STORAGE_ENDPOINT": endpoint,
            "AZURE_ALLOW_HTTP": "true",
        }
        yield Store(
            name="Azure",
            bucket="az://bucket",
            environment=environment,
            nowhere={"AZURE_STORAGE_ENDPOINT": f"http://127.0.0.1:9/{AZURE_ACCOUNT}"},
            secrets=(AZURE_KEY,),
            put=lambda key, body: container.upload_blob(key, body, overwrite=True),
            get=lambda key: container.download_blob(key).readall(),
        )
    finally:
        # Asked to end, it waits for connections that clients keep.
        process.kill()
        process.wait(WAIT_SECONDS)


def main() -> int:
    path = parser_of(__doc__).parse_args().program
    stores = [amazon, google]
    if shutil.which("npm"):
        stores.append(azure)
    else:
        print("skipped: Azure's (npm is not installed)")
    for begin in stores:
        with begin() as store, tempfile.TemporaryDirectory() as name:
            print(f"== {store.name}", flush=True)
            program, folder = Program(path, store), Path(name)
            build(program, folder)
            check_there_and_back(program, folder)
            check_refusals(program, folder)
            check_serving(program, folder)
    return verdict("snapshots come and go by an object store")


if __name__ == "__main__":
    sys.exit(main())
