"""What the clients of object stores raise, in our words; a row for each service.

Each client has exceptions of its own beside OSError. Knows nothing of files.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from bitnet_jax.core.errors import BitnetError, IOFailure, NoInput, PermissionDenied, Unavailable
from bitnet_jax.stores.address import Address
from bitnet_jax.stores.transfer import Cut


@dataclass(frozen=True)
class Service:
    """A client of an object store.

    Attributes:
      package, extra: what must be installed, and the extra that brings it.
      errors: base classes of what it raises that is no OSError, as ``module:Class``.
      credentials: how a person gives theirs.
    """

    package: str
    extra: str
    errors: tuple[str, ...]
    credentials: str


SERVICES: dict[str, Service] = {
    "gs": Service(
        "gcsfs",
        "gcs",
        (
            "gcsfs.retry:HttpError",
            "google.auth.exceptions:GoogleAuthError",
            "aiohttp:ClientError",
            "builtins:RuntimeError",  # an answer that it has no class for
            "builtins:ValueError",  # "requester pays"
        ),
        "`gcloud auth application-default login`, or GOOGLE_APPLICATION_CREDENTIALS",
    ),
    "s3": Service(
        "s3fs",
        "s3",
        ("botocore.exceptions:BotoCoreError", "aiohttp:ClientError"),
        "AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    ),
}

# By the names of the classes, which only the clients can import.
_DENIED = ("PermissionError", "NoCredentialsError", "PartialCredentialsError", "GoogleAuthError")
# gcsfs says this with a plain OSError.
_DENIED_WORDS = ("Forbidden", "Invalid Credentials", "Anonymous caller")
_MISSING = ("FileNotFoundError", "NotADirectoryError", "IsADirectoryError")
_UNREACHABLE = (
    "EndpointConnectionError",
    "ConnectTimeoutError",
    "ConnectionClosedError",
    "ClientConnectorError",
    "ConnectionError",
    "TimeoutError",
)


@contextmanager
def told(address: Address, *, cuts: bool = False) -> Iterator[None]:
    """Turns a client's errors into ours.

    Args:
      cuts: what may pass is a `Cut`, which is tried again; else it is an error.
    """
    service = SERVICES[address.scheme]
    try:
        yield
    except _classes(service) as error:
        raise _error(error, address, service, cuts) from error


def _classes(service: Service) -> tuple[type[Exception], ...]:
    found: list[type[Exception]] = [OSError]
    for name in service.errors:
        module, _, kind = name.partition(":")
        try:
            found.append(getattr(importlib.import_module(module), kind))
        except ImportError:
            continue  # the client is not installed, so nothing raises its errors
    return tuple(found)


def _error(error: Exception, address: Address, service: Service, cuts: bool) -> BitnetError | Cut:
    names = {kind.__name__ for kind in type(error).__mro__}
    status = str(getattr(error, "code", ""))
    words = f"{type(error).__name__}: {error}".rstrip(": ").splitlines()[0][:300]
    denied = str(error).startswith(_DENIED_WORDS)
    if denied or names & set(_DENIED) or status in ("401", "403"):
        return PermissionDenied(
            "store.denied", f"`{address}` is refused: {words}", service.credentials
        )
    if names & set(_MISSING) or status == "404":
        return NoInput("store.not_found", f"`{address}` does not exist", "check the address")
    if cuts:
        return Cut(words)
    if names & set(_UNREACHABLE):
        return Unavailable(
            "store.unreachable",
            f"`{address}` cannot be reached: {words}",
            "check the network, and the endpoint if you set one",
        )
    return IOFailure("store.failed", f"`{address}`: {words}", "try again in a while")
