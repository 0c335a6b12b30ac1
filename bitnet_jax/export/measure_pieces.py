"""A written decoder run piece by piece by ONNX Runtime: few of its weights in memory at a time.

Each piece of the graph (`export.pieces`) goes through all calls, a prefill and the steps after it,
in a session of its own, which is let go before the next one's. Two runs go side by side: one on
what the pieces before it made, which is what the file computes; and one that is led: given
another's values where it has them, at the borders of layers, so that a code which rounds the other
way spoils one piece and not all after it. Knows no tolerance.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from bitnet_jax.export import pieces
from bitnet_jax.export.builder import reads
from bitnet_jax.export.decoder import past_names, present_names
from bitnet_jax.export.measure import calls_of, no_past, of_rows, row_logits, session
from bitnet_jax.export.pieces import Piece, check_cut, cut, piece_model, weights
from bitnet_jax.ir.borders import falls_in_two
from bitnet_jax.ir.spec import ModelSpec

# Otherwise a session is what users have: without prepacking, say, MatMulNBits computes otherwise.
_FOLDER = "session.model_external_initializers_file_folder_path"
_LOGITS = "logits"
Values = list[dict[str, np.ndarray]]


@dataclass(frozen=True)
class Led:
    """What the run that was given another's values came to.

    Attributes:
      logits: float32 [length, vocab] for each row.
      borders: a value that both have, by the parameter that is read next: ours, theirs;
        float32 [tokens, width].
    """

    logits: list[np.ndarray]
    borders: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)


@dataclass(frozen=True)
class WrittenDecoder:
    """A decoder's file, its weights left where they are.

    Attributes:
      pieces: one where the weights are few: the file itself is run.
    """

    path: Path
    spec: ModelSpec
    model: onnx.ModelProto
    pieces: Sequence[Piece]

    @classmethod
    def open(cls, path: Path, spec: ModelSpec, *, layers: bool = False) -> WrittenDecoder:
        """Reads the graph, and cuts it; with `layers`, even where its weights are few.

        Raises:
          InternalError: the pieces are not the graph (``export.pieces``).
        """
        model = onnx.load(str(path), load_external_data=False)
        carried = dict(zip(past_names(spec), present_names(spec), strict=True))
        found = cut(model, carried, layers=layers)
        check_cut(model, found)
        return cls(path, spec, model, found)

    @cached_property
    def borders(self) -> dict[str, str]:
        """Values that go from a piece to another at which the graph falls in two.

        Each with the parameter that is read next, as `ir.borders` has them of a program: in any
        program of the same model that parameter tells the value.
        """
        over = {name for piece in self.pieces for name in piece.inputs}
        steps = [
            (list(dict.fromkeys([*filter(None, node.input), *sorted(reads(node))])), node.output)
            for piece in self.pieces
            for node in piece.nodes
        ]
        parameters = {name: name for name in weights(self.model)}
        inputs = [item.name for item in self.model.graph.input]
        found = falls_in_two(steps, parameters, inputs, over.__contains__)
        return {value: parameter for parameter, value in found.items()}

    def logits(
        self,
        rows: Sequence[np.ndarray],
        prefill: int,
        lead: Mapping[str, np.ndarray] | None = None,
    ) -> tuple[list[np.ndarray], Led | None]:
        """Logits, as `measure.row_logits`, and what came of the run that was led.

        Args:
          lead: another's values by the parameter that is read next, float32 [rows, length, width],
            for some of `borders`. None: nothing is led, and a file of one piece never is.
        """
        if len(self.pieces) == 1:
            return row_logits(session(self.path), self.spec, rows, prefill), None
        calls = calls_of(rows, prefill)
        runs = [_Run(calls, no_past(self.spec, rows))]
        borders = _Borders(rows, calls, self.borders, lead or {})
        if lead is not None:
            runs.append(_Run(calls, no_past(self.spec, rows), borders))
        for at, piece in enumerate(self.pieces):
            if piece.outputs:  # what nobody reads is not run, as in the whole
                self._run(piece, runs)
            later = {_LOGITS}.union(*(other.inputs for other in self.pieces[at + 1 :]))
            for run in runs:
                run.keep(later)
        found = [of_rows([call.pop(_LOGITS) for call in run.values], rows) for run in runs]
        return found[0], None if lead is None else Led(found[1], borders.found)

    def _run(self, piece: Piece, runs: Sequence[_Run]) -> None:
        slices = self._slices(piece)
        carried = dict(zip(present_names(self.spec), past_names(self.spec), strict=True))
        for rows in slices:
            model = piece_model(self.model, piece, runs[0].known(), rows).SerializeToString()
            folder = {_FOLDER: str(self.path.parent)}
            running = session(model, folder, enable_cpu_mem_arena=False)
            for run in runs:
                before: Mapping[str, np.ndarray] = run.past
                for at, call in enumerate(run.values):
                    known = {**before, **call, **run.led(at, piece, call)}
                    feed = {name: known[name] for name in piece.inputs}
                    made = running.run(list(piece.outputs), feed)
                    found = dict(zip(piece.outputs, made, strict=True))
                    before = {carried[name]: found[name] for name in found if name in carried}
                    if rows is None:
                        call.update(found)
                    else:
                        _put(call, found, rows, slices[-1][1])

    def _slices(self, piece: Piece) -> list[Any]:
        """The rows that a piece is run with, one after another; None where it has no table."""
        if piece.table is None:
            return [None]
        count, width = weights(self.model)[piece.table].dims
        # A runtime holds them widened, turned round and packed, all at once.
        step = max(pieces.PIECE_BYTES // 4 // (4 * width), 1)
        return [(start, min(start + step, count)) for start in range(0, count, step)]


def _put(
    call: dict[str, np.ndarray], found: Mapping[str, np.ndarray], rows: tuple[int, int], count: int
) -> None:
    """Sets the columns that these rows of a table gave."""
    ((name, columns),) = found.items()
    if name not in call:
        call[name] = np.empty((*columns.shape[:-1], count), columns.dtype)
    call[name][..., slice(*rows)] = columns


class _Run:
    """One run: the values of each call so far.

    Attributes:
      past: of the first call.
    """

    def __init__(
        self,
        calls: Sequence[Mapping[str, np.ndarray]],
        past: Mapping[str, np.ndarray],
        borders: _Borders | None = None,
    ):
        self.values: Values = [dict(call) for call in calls]
        self.past = past
        self._borders = borders

    def known(self) -> Values:
        return [{**self.past, **call} for call in self.values]

    def led(
        self, at: int, piece: Piece, call: Mapping[str, np.ndarray]
    ) -> Mapping[str, np.ndarray]:
        """Those of the piece's inputs that are another's."""
        return {} if self._borders is None else self._borders.swap(at, piece.inputs, call)

    def keep(self, names: set[str]) -> None:
        self.values = [{name: call[name] for name in names & call.keys()} for call in self.values]


class _Borders:
    """Another's values, brought into the order of the columns of each call.

    Attributes:
      found: as `Led.borders`.
    """

    def __init__(
        self,
        rows: Sequence[np.ndarray],
        calls: Sequence[Mapping[str, np.ndarray]],
        borders: Mapping[str, str],
        lead: Mapping[str, np.ndarray],
    ):
        self._lead = {name: (met, lead[met]) for name, met in borders.items() if met in lead}
        self._columns = list(_columns(rows, calls))
        self._kept: dict[str, dict[int, tuple[np.ndarray, np.ndarray]]] = {}

    @property
    def found(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        out = {}
        for met, of in self._kept.items():
            ours, theirs = zip(*of.values(), strict=True)
            out[met] = np.concatenate(ours), np.concatenate(theirs)
        return out

    def swap(
        self, at: int, names: Sequence[str], call: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        tokens, is_token = self._columns[at]
        swapped = {}
        for name in names:
            if name not in self._lead:
                continue
            met, values = self._lead[name]
            ours = np.take_along_axis(values, tokens[..., None], axis=1)
            if (ours.shape, ours.dtype) != (call[name].shape, call[name].dtype):
                continue
            swapped[name] = ours
            # Padding's columns hold whatever: nobody looks at them.
            self._kept.setdefault(met, {})[at] = ours[is_token], call[name][is_token]
        return swapped


def _columns(
    rows: Sequence[np.ndarray], calls: Sequence[Mapping[str, np.ndarray]]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Of each call, which token of its row a column holds, and whether it does: [rows, columns].

    Inside, a row's tokens stand before the padding: see `export.decoder`.
    """
    lengths = np.array([len(row) for row in rows])[:, None]
    padding, start = lengths.max() - lengths, 0
    for call in calls:
        columns = np.arange(call["input_ids"].shape[1])
        first = np.maximum(start - padding, 0)
        own = start + len(columns) - np.maximum(start, padding)
        is_token = columns < own
        yield np.where(is_token, first + columns, 0), is_token
        start += len(columns)
