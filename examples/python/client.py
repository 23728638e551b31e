#!/usr/bin/env python3
"""A client for Matchpoint: search, compare and enrol images over gRPC.

    client.py search photo.jpg another.png
    client.py search --stream photos/*.jpg
    client.py verify photo.jpg --item "shelf/42"
    client.py upsert "shelf/42" "red mug" photo.jpg --metadata aisle=7

README.md beside this file says how to set it up.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from matchpoint.v1 import (
    decision_pb2,
    gallery_pb2,
    gallery_pb2_grpc,
    retrieval_pb2,
    retrieval_pb2_grpc,
)

# A full queue and a server that is just starting are worth a few tries, with growing pauses.
RETRIES = {
    "methodConfig": [
        {
            "name": [{"service": "matchpoint.v1.RetrievalService"}],
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.1s",
                "maxBackoff": "2s",
                "backoffMultiplier": 3,
                "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED"],
            },
        }
    ]
}
OPTIONS = [
    ("grpc.service_config", json.dumps(RETRIES)),
    # A thousand matches with their metadata, or an image, are larger than the default of 4 MiB.
    ("grpc.max_receive_message_length", 80 << 20),
]
# Without a deadline, a call to a server that hangs never ends. Seconds.
TIMEOUT = 30.0

EXIT_SOME_FAILED = 3
EXIT_UNAVAILABLE = 69


def connect(server: str) -> grpc.Channel:
    """A channel to a server, as HOST:PORT, or https://HOST:PORT where it has a certificate. It connects
    with the first call.

    The variables are those of `matchpoint search`: MATCHPOINT_SERVER_CA names the authorities of the
    server's certificate, MATCHPOINT_API_KEY is the key that the server asks for.
    """
    key = os.environ.get("MATCHPOINT_API_KEY")
    if not server.startswith("https://"):
        if key:
            raise ValueError("a key is sent over https:// only")
        return grpc.insecure_channel(server.removeprefix("http://"), options=OPTIONS)
    authorities = os.environ.get("MATCHPOINT_SERVER_CA")
    credentials = grpc.ssl_channel_credentials(Path(authorities).read_bytes() if authorities else None)
    if key:
        # Sent with each call, as `authorization: Bearer KEY`.
        token = grpc.access_token_call_credentials(key)
        credentials = grpc.composite_channel_credentials(credentials, token)
    return grpc.secure_channel(server.removeprefix("https://"), credentials, options=OPTIONS)


def error_reason(status: status_pb2.Status | None) -> str:
    """The machine-readable reason of an error, such as IMAGE_UNDECODABLE; empty where there is none."""
    info = error_details_pb2.ErrorInfo()
    for detail in status.details if status else ():
        if detail.Unpack(info):
            return info.reason
    return ""


def call_reason(error: grpc.RpcError) -> str:
    """The same for a call that failed."""
    return error_reason(rpc_status.from_call(error) if isinstance(error, grpc.Call) else None)


def explain(error: grpc.RpcError) -> str:
    """What went wrong with a call, for a person to read."""
    reason = call_reason(error)
    return f"{error.code().name}{f' ({reason})' if reason else ''}: {error.details()}"


def decision_name(decision: int) -> str:
    return decision_pb2.Decision.Name(decision).removeprefix("DECISION_")


def basis_text(basis: decision_pb2.DecisionBasis) -> str:
    """What a decision rests on, and what was promised."""
    if not basis.operating_point_id:
        reason = decision_pb2.UndecidedReason.Name(basis.undecided_reason)
        return reason.removeprefix("UNDECIDED_REASON_")
    if basis.HasField("target_far"):
        promise = f"FAR <= {basis.target_far:g} at {basis.confidence:.0%} confidence"
    else:
        promise = "no target FAR"
    outgrown = "" if basis.within_calibrated_size else ", which the gallery has outgrown"
    return f"threshold {basis.threshold:.4f}, {promise}{outgrown}, {basis.operating_point_id}"


def show_search(image: Path, answer: retrieval_pb2.SearchResponse) -> None:
    print(f"{image}: {decision_name(answer.decision)}  ({basis_text(answer.basis)})")
    for match in answer.matches:
        print(f"  {match.score:.4f}  {match.label}  {match.id}")


def search(channel: grpc.Channel, arguments: argparse.Namespace) -> int:
    """One call for each image."""
    retrieval = retrieval_pb2_grpc.RetrievalServiceStub(channel)
    failed = 0
    for image in arguments.images:
        request = retrieval_pb2.SearchRequest(
            deployment=arguments.deployment, image=image.read_bytes(), limit=arguments.limit
        )
        try:
            show_search(image, retrieval.Search(request, timeout=TIMEOUT))
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.UNAVAILABLE:
                raise
            failed += 1
            print(f"{image}: {explain(error)}", file=sys.stderr)
    return EXIT_SOME_FAILED if failed else 0


def search_stream(channel: grpc.Channel, arguments: argparse.Namespace) -> int:
    """All images over one stream: answers come as they are done, and a bad image fails alone."""
    retrieval = retrieval_pb2_grpc.RetrievalServiceStub(channel)

    def requests() -> Iterator[retrieval_pb2.SearchStreamRequest]:
        for number, image in enumerate(arguments.images):
            query = retrieval_pb2.SearchRequest(
                deployment=arguments.deployment, image=image.read_bytes(), limit=arguments.limit
            )
            yield retrieval_pb2.SearchStreamRequest(request_id=str(number), search=query)

    failed = 0
    for answer in retrieval.SearchStream(requests(), timeout=TIMEOUT + len(arguments.images)):
        image = arguments.images[int(answer.request_id)]
        if answer.WhichOneof("outcome") == "result":
            show_search(image, answer.result)
        else:
            failed += 1
            print(f"{image}: {error_reason(answer.error)}: {answer.error.message}", file=sys.stderr)
    return EXIT_SOME_FAILED if failed else 0


def verify(channel: grpc.Channel, arguments: argparse.Namespace) -> int:
    """One comparison: with another image, or with an enrolled item."""
    if arguments.item is not None:
        reference = retrieval_pb2.Reference(item_id=arguments.item)
    else:
        reference = retrieval_pb2.Reference(image=arguments.other.read_bytes())
    request = retrieval_pb2.VerifyRequest(
        deployment=arguments.deployment, image=arguments.image.read_bytes(), reference=reference
    )
    answer = retrieval_pb2_grpc.RetrievalServiceStub(channel).Verify(request, timeout=TIMEOUT)
    print(f"{decision_name(answer.decision)}  score {answer.score:.4f}  ({basis_text(answer.basis)})")
    return 0


def upsert(channel: grpc.Channel, arguments: argparse.Namespace) -> int:
    """Enrols an image, or replaces the item of that id. On disk when the answer is here."""
    request = gallery_pb2.UpsertItemRequest(
        deployment=arguments.deployment,
        id=arguments.id,
        label=arguments.label,
        metadata=dict(arguments.metadata),
        image=arguments.image.read_bytes(),
    )
    answer = gallery_pb2_grpc.GalleryServiceStub(channel).UpsertItem(request, timeout=TIMEOUT)
    print(f"{'replaced' if answer.replaced else 'enrolled'} {arguments.id} (generation {answer.generation})")
    return 0


def file(text: str) -> Path:
    path = Path(text)
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"there is no file {text}")
    return path


def pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"`{text}` is not KEY=VALUE")
    return key, value


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Search, compare and enrol images with Matchpoint.")
    server = os.environ.get("MATCHPOINT_SERVER", "127.0.0.1:50051")
    text = "HOST:PORT or https://HOST:PORT (default: %(default)s)"
    parser.add_argument("--server", default=server, help=text)
    parser.add_argument("--deployment", default="", help="needed where the server has several")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    one = commands.add_parser("search", help="find what images show, and decide")
    one.add_argument("images", nargs="+", type=file)
    one.add_argument("--limit", type=int, default=3, help="matches to show (default: 3)")
    one.add_argument("--stream", action="store_true", help="all images over one stream")
    one.set_defaults(run=lambda channel, a: (search_stream if a.stream else search)(channel, a))

    one = commands.add_parser("verify", help="compare an image with another, or with an item")
    one.add_argument("image", type=file)
    reference = one.add_mutually_exclusive_group(required=True)
    reference.add_argument("other", nargs="?", type=file)
    reference.add_argument("--item", metavar="ID")
    one.set_defaults(run=verify)

    one = commands.add_parser("upsert", help="enrol an image")
    one.add_argument("id")
    one.add_argument("label")
    one.add_argument("image", type=file)
    one.add_argument("--metadata", nargs="*", type=pair, default=[], metavar="KEY=VALUE")
    one.set_defaults(run=upsert)
    return parser.parse_args()


def main() -> int:
    arguments = parse()
    try:
        with connect(arguments.server) as channel:
            return arguments.run(channel, arguments)
    except grpc.RpcError as error:
        print(explain(error), file=sys.stderr)
        return EXIT_UNAVAILABLE if error.code() is grpc.StatusCode.UNAVAILABLE else 1
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
