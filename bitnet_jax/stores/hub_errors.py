"""What the hub's client raises, in our words and with our exit codes. Knows nothing of files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bitnet_jax.core.errors import BitnetError, NoInput, PermissionDenied, Unavailable
from bitnet_jax.stores import hub_cache
from bitnet_jax.stores.address import Address
from bitnet_jax.stores.hub_cache import Repo
from bitnet_jax.stores.transfer import Cut

_BUSY = (408, 425, 429, 500, 502, 503, 504)


def timeout() -> float:
    """Seconds without a byte after which a connection counts as cut."""
    try:
        return float(os.environ.get("HF_HUB_DOWNLOAD_TIMEOUT") or 10)
    except ValueError:
        return 10.0


def check_status(response: Any) -> None:
    """Raises for an answer that is no success; `Cut` where asking again may help."""
    from huggingface_hub.utils import hf_raise_for_status

    if response.status_code in _BUSY:
        raise _busy(response)
    if response.status_code >= 400:
        response.read()  # it is streamed, and the client looks into it
    hf_raise_for_status(response)


def _busy(response: Any) -> Cut:
    status, after = response.status_code, response.headers.get("retry-after", "")
    words = "too many requests (429)" if status == 429 else f"the server answered {status}"
    return Cut(words, float(after) if after.isdecimal() else None)


@contextmanager
def told(address: Address, repo: Repo, endpoint: str, *, cuts: bool = False) -> Iterator[None]:
    """Turns the client's errors into ours.

    Args:
      cuts: a broken connection is a `Cut`, which is tried again, as a slow or busy
        server always is.
    """
    import httpx2
    from huggingface_hub import errors

    try:
        yield
    except errors.OfflineModeIsEnabled as error:
        raise Unavailable(
            "hub.offline", f"`{address}`: HF_HUB_OFFLINE was set when Python started", "unset it"
        ) from error
    except errors.HfHubHTTPError as error:
        if error.response.status_code in _BUSY:
            raise _busy(error.response) from error
        raise _of_status(error, address, repo, endpoint) from error
    except httpx2.TransportError as error:
        if cuts or isinstance(error, httpx2.ReadTimeout):
            raise Cut(f"{type(error).__name__}: {error}".rstrip(": ")) from error
        raise Unavailable(
            "hub.unreachable",
            f"`{endpoint}` cannot be reached: {str(error) or type(error).__name__}",
            cached_hint(repo) or "check the network (HF_ENDPOINT, HTTPS_PROXY)",
        ) from error
    except (httpx2.HTTPError, httpx2.InvalidURL, ValueError) as error:
        raise Unavailable(
            "hub.unreachable",
            f"`{endpoint}` does not answer as a hub does: {error}",
            "check HF_ENDPOINT",
        ) from error


def _of_status(error: Any, address: Address, repo: Repo, endpoint: str) -> BitnetError:
    from huggingface_hub import errors

    status = error.response.status_code
    page = f"{endpoint}/{repo.id}"
    if isinstance(error, errors.GatedRepoError):
        return PermissionDenied(
            "hub.gated",
            f"`{repo.id}` is gated: its owner decides who may have it",
            f"ask for access at {page}, and give your token in HF_TOKEN",
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return NoInput(
            "hub.revision_not_found",
            f"`{repo.id}` has no revision `{repo.revision}`",
            f"{page}/refs lists its branches and tags",
        )
    if isinstance(error, errors.RemoteEntryNotFoundError):
        return NoInput(
            "hub.file_not_found", f"`{address}`: the hub lists a file that it does not have"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return NoInput(
            "hub.repo_not_found",
            f"the hub has no model `{repo.id}` that you may see",
            "check the name; if it is private, give a token that may read it in HF_TOKEN",
        )
    if status in (401, 403) or isinstance(error, errors.DisabledRepoError):
        return PermissionDenied(
            "hub.denied",
            f"the hub refuses `{repo.id}` ({status}): {_first_line(error)}",
            "is the token in HF_TOKEN valid, and may it read this repository?",
        )
    return Unavailable(
        "hub.unreachable",
        f"`{endpoint}` answered {status} for `{repo.id}`",
        cached_hint(repo) or "does HF_ENDPOINT lead to a hub?",
    )


def _first_line(error: Any) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (error.server_message or (lines[0] if lines else "")).strip()[:200]


def cached_hint(repo: Repo) -> str | None:
    """How to go on without the network, where that is possible."""
    if hub_cache.snapshot(repo) is None:
        return None
    return f"the local cache has `{repo}`: pass --offline, or the id without hf://"
