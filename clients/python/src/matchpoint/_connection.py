"""Where a server is, what it is shown, and the options of a channel to it."""

from __future__ import annotations

import ipaddress
import json
import os
from dataclasses import dataclass, field
from pathlib import Path

import grpc

#: Of `matchpoint serve` on this machine.
DEFAULT_SERVER = "http://127.0.0.1:50051"

# Larger than any answer: a thousand matches with all their metadata.
_ANSWER_BYTES_MAX = 80 << 20
# A message above this is not sent again by gRPC; the largest that a server takes by default is 64 MiB.
_RETRY_BYTES_MAX = 80 << 20

# Calls that may be sent twice: they change nothing, or the second changes nothing.
_REPEATABLE = {
    "RetrievalService": ("Search", "Verify", "Embed"),
    "GalleryService": ("UpsertItem", "GetItem", "ListItems"),
    "OperatingPointService": (
        "ListOperatingPoints",
        "GetOperatingPoint",
        "GetOperatingPointReport",
        "CompareOperatingPoints",
    ),
    "MonitoringService": ("ListAuditQueue", "GetDecision", "AnnotateDecisions", "GetDrift", "GetShadow"),
    "ServerService": ("GetServerInfo",),
}
# gRPC obeys the server's pushback where it is sent, and these pauses where it is not.
_SERVICE_CONFIG = {
    "methodConfig": [
        {
            "name": [
                {"service": f"matchpoint.v1.{service}", "method": method}
                for service, methods in _REPEATABLE.items()
                for method in methods
            ],
            "retryPolicy": {
                "maxAttempts": 5,
                "initialBackoff": "0.1s",
                "maxBackoff": "1s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED"],
            },
        }
    ]
}
OPTIONS: tuple[tuple[str, str | int], ...] = (
    ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
    ("grpc.max_receive_message_length", _ANSWER_BYTES_MAX),
    ("grpc.per_rpc_retry_buffer_size", _RETRY_BYTES_MAX),
    # A server that restarts is found again soon.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
    # Each client has a connection of its own, as each has its own key; the server shares its time among connections.
    ("grpc.use_local_subchannel_pool", 1),
)

#: A file, or what is in it.
Pem = bytes | str | os.PathLike[str]


@dataclass(frozen=True, slots=True)
class Address:
    """A server, and what it is shown. What is secret is not shown by `repr`."""

    server: str
    target: str
    metadata: tuple[tuple[str, str], ...] = field(repr=False)
    #: None where the server has no certificate.
    credentials: grpc.ChannelCredentials | None = field(repr=False)

    @property
    def options(self) -> tuple[tuple[str, str | int], ...]:
        """Those of a channel to it."""
        if not self.target.startswith("unix:"):
            return OPTIONS
        # gRPC would send the path, which the server's HTTP/2 does not take for an authority.
        return (*OPTIONS, ("grpc.default_authority", "localhost"))


def address(
    server: str | None,
    api_key: str | None,
    api_key_file: str | os.PathLike[str] | None,
    server_ca: Pem | None,
    client_certificate: Pem | None,
    client_certificate_key: Pem | None,
) -> Address:
    """Reads what is given, and where nothing is, the variables of the commands."""
    environment = os.environ.get
    server = server or environment("MATCHPOINT_SERVER") or DEFAULT_SERVER
    if server.startswith("unix:/"):  # a socket in the file system, which gRPC knows by the same name
        scheme, target, host = "http", server, "localhost"
    else:
        scheme, separator, target = server.partition("://")
        if not separator:
            scheme, target = "http", server
        target = target.rstrip("/")
        host, colon, port = target.rpartition(":")
        if scheme not in ("http", "https") or not colon or not host or not port.isdigit():
            raise ValueError(
                f"`{server}` is not the address of a server; write HOST:PORT, https://HOST:PORT or unix:/PATH"
            )
        server = f"{scheme}://{target}"
    key = _key(api_key, api_key_file)
    if scheme == "http":
        if key is not None and not _is_this_machine(host):
            raise ValueError(f"a key is not sent to {host} unencrypted; write https://{target}")
        given = [name for name, pem in (("server_ca", server_ca), ("client_certificate", client_certificate)) if pem]
        if given:
            raise ValueError(f"{' and '.join(given)} need an encrypted connection; write https://{target}")
    metadata = (("authorization", f"Bearer {key}"),) if key is not None else ()
    if scheme == "http":
        return Address(server, target, metadata, None)
    own = _pem(client_certificate or environment("MATCHPOINT_CLIENT_CERTIFICATE"))
    own_key = _pem(client_certificate_key or environment("MATCHPOINT_CLIENT_CERTIFICATE_KEY"))
    if (own is None) != (own_key is None):
        raise ValueError("client_certificate and client_certificate_key are given together")
    credentials = grpc.ssl_channel_credentials(
        root_certificates=_pem(server_ca or environment("MATCHPOINT_SERVER_CA")),
        private_key=own_key,
        certificate_chain=own,
    )
    return Address(server, target, metadata, credentials)


def _key(given: str | None, file: str | os.PathLike[str] | None) -> str | None:
    if given is not None and file is not None:
        raise ValueError("api_key and api_key_file are two keys; pass one")
    if given is None and file is None:
        file = os.environ.get("MATCHPOINT_API_KEY_FILE")
        if file is None:
            given = os.environ.get("MATCHPOINT_API_KEY") or None
    if file is not None:
        given = Path(file).read_text(encoding="utf-8").strip()
        if not given or any(letter.isspace() for letter in given):
            raise ValueError(f"{os.fspath(file)} holds no key: one line is wanted, as `matchpoint keys new` prints it")
    if given is not None and not (given.isascii() and given.isprintable() and given and " " not in given):
        # Without the key: errors end in logs.
        raise ValueError("the key holds characters that no key has; pass it as `matchpoint keys new` prints it")
    return given


def _pem(given: Pem | None) -> bytes | None:
    if given is None:
        return None
    content = given if isinstance(given, bytes) else Path(given).read_bytes()
    if b"-----BEGIN " not in content:
        what = "the certificate or key" if isinstance(given, bytes) else os.fspath(given)
        raise ValueError(f"{what} is not PEM: it has no line `-----BEGIN ...-----`")
    return content


def _is_this_machine(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
