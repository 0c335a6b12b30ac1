"""Which stores there are: a scheme, and the file that knows it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from bitnet_jax.core.errors import NoInput, UsageError, did_you_mean
from bitnet_jax.stores import hub, hub_cache, objects, objects_errors
from bitnet_jax.stores.address import Address
from bitnet_jax.stores.store import Reach, Remote, Store

STORES: dict[str, Store] = {
    "hf": Store(hub.PACKAGE, hub.EXTRA, hub.open_hub),
    **{
        scheme: Store(service.package, service.extra, objects.open_objects, writable=True)
        for scheme, service in objects_errors.SERVICES.items()
    },
}


def store_of(address: Address) -> Store:
    """The row of an address.

    Raises:
      UsageError: its scheme is in no row (code ``store.scheme``).
    """
    if address.scheme not in STORES:
        page, _, repo = address.rest.partition("/")
        if page == "huggingface.co" and hub_cache.parse_repo(repo):
            raise UsageError(
                "store.scheme", f"`{address}` is a page of the hub", f"write hf://{repo}"
            )
        raise UsageError(
            "store.scheme",
            f"`{address}`: there is no store `{address.scheme}://`",
            did_you_mean(address.scheme, STORES) + "; or download it, and give its path",
        )
    return STORES[address.scheme]


def bring(address: Address, keep: Callable[[str], bool], reach: Reach) -> Path:
    """Fetches a file, or the files of a folder whose names `keep` takes; returns its path."""
    remote = look_up(address, reach)
    names = [remote.target] if remote.target else [*filter(keep, remote.listing())]
    if not names:
        raise NoInput(
            "store.not_found", f"`{address}` holds nothing of the kind that is looked for"
        )
    return remote.fetch(names) / remote.target


def look_up(address: Address, reach: Reach) -> Remote:
    """Looks an address up in its store; see `store.Remote`."""
    return store_of(address).open(address, reach)
