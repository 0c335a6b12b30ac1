"""What one pass over a checkpoint's tensors tells, whoever reads them.

A survey watches: a writer reads the tensors, in whatever order and from whatever threads, and
the survey takes digest, checksums and forms on the way, so that nothing is read for them again.
Knows no format.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import xxhash

from bitnet_jax.core.ordered import in_order
from bitnet_jax.formats.checkpoint import Checkpoint, TensorEntry
from bitnet_jax.quant.digest import Digest, DigestBuilder, PlainCodes
from bitnet_jax.quant.tensor import TERNARY, QuantTensor


class Observer(Protocol):
    """Who looks at the tensors that pass by; called from any thread."""

    def see(self, name: str, value: Any) -> None:
        """A whole tensor."""

    def begin(self, name: str) -> Callable[[np.ndarray | None], None]:
        """A float matrix begins: what is called with its pieces, and with None at its end."""


# Codes that came before their turn in the digest may take so many bytes; beyond that the digest
# is taken by another pass.
_MOST_AHEAD = 256 << 20
# What reading a ternary weight takes at its most: packed twice, and a byte for the trit.
_BYTES_PER_TRIT = 2
_ROOM = 128 << 20


@dataclass(frozen=True)
class Seen:
    """What is kept of one tensor.

    Attributes:
      shape, dtype: what it stands for, and its float dtype or the kind of its codes.
      values: XXH3-128 of its values: of the trits in their plain order, or of the floats' bytes.
      scales: of a packed tensor, that of its float32 scales.
    """

    shape: tuple[int, ...]
    dtype: str
    values: str
    scales: str | None = None


@dataclass
class Survey:
    """A pass over `checkpoint`.

    Attributes:
      observers: called with each tensor's name and value, once, from any thread.
      seen: by name, what is kept of each tensor that passed.
    """

    checkpoint: Checkpoint
    observers: Sequence[Observer] = ()
    seen: dict[str, Seen] = field(default_factory=dict)

    def __post_init__(self) -> None:
        entries = self.checkpoint.entries
        self._order = [name for name in _ascending(entries) if entries[name].ternary]
        self._turn, self._held = 0, 0
        self._waiting: dict[str, PlainCodes] = {}
        self._builder: DigestBuilder | None = DigestBuilder()
        self._state, self._hashing = threading.Lock(), threading.Lock()
        self._begun: set[str] = set()

    # ------------------------------------------------------------------ watching
    def watched(self) -> Checkpoint:
        """The checkpoint, whose tensors are seen when they are read."""
        entries = {name: self._watch(entry) for name, entry in self.checkpoint.entries.items()}
        return replace(self.checkpoint, entries=entries)

    def _watch(self, entry: TensorEntry) -> TensorEntry:
        def read() -> Any:
            value = entry.read()
            self.see(entry.name, value)
            return value

        def parts(rows: int) -> Iterator[np.ndarray]:
            return self.see_parts(entry.name, self.checkpoint.parts(entry.name, rows))

        return replace(entry, read=read, parts=parts if entry.parts is not None else None)

    def _begins(self, name: str) -> bool:
        """True for the first who comes with a tensor."""
        with self._state:
            if name in self._begun:
                return False
            self._begun.add(name)
            return True

    def see(self, name: str, value: Any) -> None:
        """Takes what is to be known of a tensor, unless it has passed before."""
        if not self._begins(name):
            return
        for observer in self.observers:
            observer.see(name, value)
        if isinstance(value, QuantTensor):
            plain = PlainCodes.of(value)
            seen = Seen(tuple(value.shape), value.kind, _hash(plain.codes), _hash(_scales(value)))
            if value.kind == TERNARY:
                self._digest(name, plain)
        else:
            array = np.asarray(value)
            seen = Seen(array.shape, str(array.dtype), _hash(array))
        with self._state:
            self.seen[name] = seen

    def see_parts(self, name: str, parts: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        """`parts` of a float matrix, each looked at before it is handed on."""
        if not self._begins(name):
            yield from parts
            return
        watching = [observer.begin(name) for observer in self.observers]
        digest, dtype = xxhash.xxh3_128(), self.checkpoint.entries[name].dtype
        for part in parts:
            for watch in watching:
                watch(part)
            digest.update(memoryview(np.ascontiguousarray(part).reshape(-1).view(np.uint8)))
            dtype = str(part.dtype)
            yield part
        for watch in watching:
            watch(None)
        shape = self.checkpoint.entries[name].shape
        with self._state:
            self.seen[name] = Seen(shape, dtype, digest.hexdigest())

    def _digest(self, name: str, plain: PlainCodes) -> None:
        """Adds a tensor to the digest when its turn has come: names must ascend."""
        with self._state:
            if self._builder is None:
                return
            self._waiting[name] = plain
            self._held += len(plain.codes)
        # One thread hashes at a time; who comes meanwhile leaves what it has for that one.
        while self._hashing.acquire(blocking=False):
            try:
                while (due := self._due()) is not None:
                    builder, name, plain = due
                    builder.add_plain(name, plain)
            finally:
                self._hashing.release()
            with self._state:
                if self._builder is None or not self._is_due():
                    break
        with self._state:
            if self._held > _MOST_AHEAD:
                self._builder = None
                self._waiting.clear()
                self._held = 0

    def _is_due(self) -> bool:
        return self._turn < len(self._order) and self._order[self._turn] in self._waiting

    def _due(self) -> tuple[DigestBuilder, str, PlainCodes] | None:
        with self._state:
            if self._builder is None or not self._is_due():
                return None
            name = self._order[self._turn]
            self._turn += 1
            plain = self._waiting.pop(name)
            self._held -= len(plain.codes)
            return self._builder, name, plain

    # ------------------------------------------------------------------ what is left
    def read_rest(self, jobs: int) -> None:
        """Reads the tensors that have not passed by."""
        entries = self.watched().entries
        names = [name for name in _ascending(entries) if name not in self._begun]

        def read(name: str) -> None:
            if is_large(entries[name]):
                for _ in pieces(entries[name]):
                    pass
            else:
                entries[name].read()

        for _ in each(self.checkpoint, names, read, jobs):
            pass

    @cached_property
    def digest(self) -> Digest:
        """The digests, once all was read; if tensors came in another order, by reading again."""
        if self._builder is None or self._turn < len(self._order):
            return self.checkpoint.digest()
        return self._builder.result()


def each(
    checkpoint: Checkpoint, names: Sequence[str], work: Callable[[str], Any], jobs: int
) -> Iterator[Any]:
    """``work(name)`` for tensors of a checkpoint, in order, by `jobs` threads, in bounded memory.

    Under way are at most so many of the costliest as there are threads, and one whose result is
    being taken; together no more than twice what the largest tensor would take read whole (but
    128 MB may always be).
    """
    entries = [checkpoint.entries[name] for name in names]
    costs = dict(zip(names, map(cost, entries), strict=True))
    wanted = (jobs + 1) * max(costs.values(), default=0)
    room = max(_ROOM, min(wanted, 2 * max(map(size, entries), default=0)))
    return in_order(work, names, jobs=jobs, cost=costs.__getitem__, room=room)


# A float matrix from this size on passes in pieces of this size, where its format can give them.
_PIECE = 16 << 20


def is_large(entry: TensorEntry) -> bool:
    """True for a float matrix that should be read by `pieces`."""
    return not entry.ternary and entry.parts is not None and (
        len(entry.shape) == 2 and size(entry) > 2 * _PIECE
    )  # fmt: skip


def pieces(entry: TensorEntry) -> Iterator[np.ndarray]:
    """A large float matrix, some rows at a time; each piece is good until the next."""
    assert entry.parts is not None
    return entry.parts(max(_PIECE * entry.shape[0] // size(entry), 1))


def cost(entry: TensorEntry) -> int:
    """Bytes that a tensor takes while it is read and turned into another form, about."""
    return 2 * _PIECE if is_large(entry) else size(entry)


def size(entry: TensorEntry) -> int:
    """As `cost`, of a tensor that is read whole."""
    count = int(np.prod(entry.shape, dtype=object))
    return count * (_BYTES_PER_TRIT if entry.ternary else _itemsize(entry.dtype))


def _itemsize(dtype: str) -> int:
    return {"float64": 8, "float32": 4}.get(dtype, 2)


def _ascending(names: Any) -> list[str]:
    return sorted(names, key=str.encode)


def _scales(value: QuantTensor) -> np.ndarray:
    return np.ascontiguousarray(value.scale, "<f4")


def _hash(data: Any) -> str:
    if isinstance(data, np.ndarray):
        data = memoryview(np.ascontiguousarray(data).reshape(-1).view(np.uint8))
    return xxhash.xxh3_128_hexdigest(data)
