"""Checking a receipt: every claim of it derived again from source and output.

By the code that made the claims (`proof.py`). Says what differs by name; raises only where there
is nothing to look at.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bitnet_jax.core.errors import BadData, BitnetError, NoInput
from bitnet_jax.core.outputs import os_failure
from bitnet_jax.core.system import usable_cores
from bitnet_jax.formats.checkpoint import Checkpoint, Source
from bitnet_jax.formats.doctor import ERROR, WARNING, Finding
from bitnet_jax.formats.locate import Place, locate
from bitnet_jax.formats.model_files import files_of, is_file_name, stamp
from bitnet_jax.formats.open import open_checkpoint
from bitnet_jax.formats.save import FORMATS
from bitnet_jax.workflows import proof, quant_receipt
from bitnet_jax.workflows.conversion_receipt import parsed, unsealed
from bitnet_jax.workflows.convert import is_worth_telling
from bitnet_jax.workflows.survey import Pass
from bitnet_jax.workflows.wiring import stored_forms, wiring_claims

# What every receipt states: one without them proves nothing.
REQUIRED = frozenset(
    ("source_format", "source_encoding", "source_files", "format", "output_files")
    + ("digest_before", "digest_after", "codes_changed", "scales_changed", "floats_changed")
    + ("contract", "findings")
)
_OF_ITSELF = ("schema", "seal")
_FIX = "get {what} again from where it came from, or convert again"
_MOST_BYTES = 64 << 20


def check_receipt(
    model: str | os.PathLike,
    receipt: str | os.PathLike,
    source: str | os.PathLike,
    *,
    probe: bool = True,
    text: str | os.PathLike | None = None,
    calibration: str | os.PathLike | None = None,
    jobs: int | None = None,
    offline: bool | None = None,
    progress: Any = None,
) -> dict[str, Any]:
    """Derives the claims of `receipt` from `source` and `model`.

    Args:
      probe: run both models, where the receipt says that this was done.
      text, calibration: of a quantization: where the texts lie that its losses were measured on
        and its method read; None: where the receipt's names say, here or beside it.

    Returns:
      ``claims``: ``{"claim", "stated", "found", "ok"}`` each; ``findings``: what differs, in
      words; ``holds``; ``not_derived``: what only the seal covers.

    Raises:
      UsageError: a text was given, and the receipt names none (``receipt.no_text``).
      NoInput: there is no such receipt, source or model; the calibration text of a
        quantization is not here (``receipt.text``): its codes cannot be made again.
    """
    path = Path(receipt)
    stated, fault = _read(path)
    reach: dict[str, Any] = {"offline": offline, "progress": progress}
    work = _Check(stated, jobs or usable_cores() or 1, progress)
    if fault is not None:
        work.found.append(fault)
    texts = quant_receipt.Texts(path.parent, text, calibration)
    texts.check_named(stated)
    places = {"source": locate(source, **reach), "output": locate(model, **reach)}
    after = work.look(work.open("output", places["output"]))
    source_ = work.open("source", places["source"])
    before = work.look(work.quantized(source_, after, texts) if "quantized" in stated else source_)
    if before is not None and after is not None:
        work.compare(proof.claims(before, after))
        if probe and source_ is not None and isinstance(stated.get("wiring"), dict):
            work.compare_wiring(source_.checkpoint)
        if probe and isinstance(stated.get("probe"), dict):
            work.compare_probe(before, after)
        if probe and source_ is not None and "losses" in stated:
            work.compare_losses(source_.checkpoint, after.checkpoint, texts)
    return {
        "receipt": str(receipt),
        "claims": work.claims,
        "not_derived": [
            name
            for name, value in stated.items()
            if value is not None and name not in {*work.derived, *_OF_ITSELF}
        ],
        "holds": not any(finding.severity == ERROR for finding in work.found),
        "findings": [finding.to_json() for finding in work.found],
    }


def _read(path: Path) -> tuple[dict[str, Any], Finding | None]:
    """What the receipt states, and a finding where it was altered."""
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise BadData("receipt.invalid", f"`{path}` is too large for a receipt")
        data = path.read_bytes()
    except OSError as error:
        raise os_failure(error, "read", path) from error
    try:
        return unsealed(data), None
    except BadData as error:
        fix = error.hint or _FIX.format(what="the receipt")
        # What it still says is looked at too: that names what was altered.
        return parsed(data), Finding(error.code, ERROR, None, f"`{path}`: {error.message}", fix)


def rows_of(record: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """The named files of a record; none where an altered one holds something else."""
    rows: Any = record.get(name)
    good = isinstance(rows, list) and all(
        isinstance(row, dict)
        and is_file_name(row.get("name"))
        and {"bytes", "sha256"} <= row.keys()
        for row in rows
    )
    return rows if good else []


@dataclass(frozen=True)
class _Side:
    """A side that could be opened: what it is called, and what is read of it."""

    name: str
    checkpoint: Checkpoint


class _Check:
    def __init__(self, stated: Mapping[str, Any], jobs: int, progress: Any):
        self._stated, self._jobs, self._progress = stated, jobs, progress
        self.claims: list[dict[str, Any]] = []
        self.found: list[Finding] = []

    @property
    def derived(self) -> set[str]:
        """The claims that were looked at."""
        return {row["claim"] for row in self.claims}

    def open(self, side: str, place: Place) -> _Side | None:
        """Opens a side and looks at its files; None where it cannot be, which is a finding."""
        try:
            checkpoint = open_checkpoint(place, check=side == "output")
        except (BadData, NoInput) as error:
            if not place.path.exists():
                raise
            self._files(side, place.path, None)
            self._differs(error.code, f"the {side} cannot be opened: {error.message}", side)
            return None
        self._files(side, checkpoint.source.path, checkpoint)
        source = checkpoint.source
        if side == "output":
            self._claim("format", self._format(source))
        else:  # a writer may know more of its encoding than its file shows
            self._claim("source_format", source.format)
            self._claim("source_encoding", source.encoding)
        return _Side(side, checkpoint)

    def look(self, side: _Side | None) -> Pass | None:
        """Reads a side's tensors; None where one cannot be read, which is a finding."""
        if side is None:
            return None
        done = Pass(side.checkpoint, lambda name: None)
        try:
            done.finish(self._jobs)
        except BadData as error:
            name = getattr(error, "tensor", None)
            what = f"the {side.name} is damaged: {error.message}"
            self._differs(error.code, what, side.name, name)
            return None
        if side.name == "source":
            findings = [finding.to_json() for finding in done.findings()]
            self._claim("findings", findings)
        return done

    def _format(self, source: Source) -> str:
        """What the output is, by the name that the receipt has where both name the same files."""
        stated = self._stated.get("format")
        row = FORMATS.get(stated) if isinstance(stated, str) else None
        return str(stated) if row is not None and row.read_as == source.format else source.format

    def quantized(
        self, source: _Side | None, output: Pass | None, texts: quant_receipt.Texts
    ) -> _Side | None:
        """The source, quantized again as the receipt says; None where it cannot be."""
        if source is None:
            return None
        stated = self._stated["quantized"]
        try:
            model, made = quant_receipt.quantized_again(
                source.checkpoint, stated, texts, self._progress
            )
        except BadData as error:
            of_source = error.code != "receipt.quantized"
            self._differs(error.code, error.message, "source" if of_source else "receipt")
            return None
        exact = self._is_same_machine()
        self._claim("quantized", made.about, None if exact else quant_receipt.figures_alike)
        if output is not None and not exact:
            made, apart = quant_receipt.settled(model, made, output.checkpoint)
            for name, count in apart.items():
                message = f"{count} codes of `{name}` are others than this machine makes"
                fix = "none is needed: kernel or versions are not those that the receipt states"
                self.found.append(Finding("receipt.codes_apart", WARNING, name, message, fix))
        return _Side(source.name, made.checkpoint)

    def _is_same_machine(self) -> bool:
        """True where last bits are those of the machine that the receipt was made on."""
        return self._stated.get("made_by") == proof.made_by()

    def compare_losses(
        self, source: Checkpoint, output: Checkpoint, texts: quant_receipt.Texts
    ) -> None:
        """Measures the losses again, where their text is here."""
        try:
            found = quant_receipt.loss_claims(source, output, self._stated, texts, self._progress)
        except NoInput as error:
            if error.code != "receipt.text":
                raise
            row = Finding(error.code, WARNING, None, error.message, error.hint or "")
            self.found.append(row)
            return
        except BadData as error:
            self._differs(error.code, error.message, "receipt")
            return
        self._claim("text", found["text"])
        self._claim("losses", found["losses"], quant_receipt.losses_alike)

    def _files(self, side: str, path: Path, checkpoint: Checkpoint | None) -> None:
        """Compares the files of a side with those that are stated, one by one.

        Of a source that can be opened, no file may be read that the receipt does not know.
        """
        claim = f"{side}_files"
        stated = {row["name"]: row for row in rows_of(self._stated, claim)}
        if not stated:
            self._missing(claim)
            return
        folder = path if path.is_dir() else path.parent
        paths = {name: folder / name for name in stated}
        if side == "source" and checkpoint is not None:
            paths = files_of(path, checkpoint.source.detail)
        if len(stated) == 1 and not path.is_dir():
            paths = {path.name: path}  # one file may have another name by now
            [row] = stated.values()
            stated = {path.name: {**row, "name": path.name}}
        found = {}
        for name, file in paths.items():
            try:
                found[name] = stamp(file, name)
            except BitnetError as error:
                if not isinstance(error, NoInput):
                    raise
        wrong = [
            _words_of_file(name, stated.get(name), found.get(name))
            for name in sorted(stated.keys() | found.keys())
            if stated.get(name) != found.get(name)
        ]
        self.claims.append(
            {
                "claim": claim,
                "stated": list(stated.values()),
                "found": list(found.values()),
                "ok": not wrong,
            }
        )
        for words in wrong:
            self._differs(f"receipt.{claim}", f"of the {side}, {words}", side)

    def compare(self, found: Mapping[str, Any]) -> None:
        """Compares what was derived from both sides."""
        for claim, value in found.items():
            self._claim(claim, value)

    def compare_probe(self, before: Pass, after: Pass) -> None:
        """Runs both, and compares what that says."""
        progress = self._progress if is_worth_telling(after.checkpoint) else None
        found, _ = proof.probe_claims(before, after, progress)
        equal = self._equal()
        self._claim("probe", found["probe"], equal)
        self._claim("max_logit_difference", found["max_logit_difference"], equal)

    def compare_wiring(self, source: Checkpoint) -> None:
        """Runs the source's own program again, and compares what that says."""
        found = wiring_claims(source, stored_forms(source))
        self._claim("wiring", found.get("wiring"), self._equal())

    def _equal(self) -> Callable[[Any, Any], bool] | None:
        # Other kernels and versions have other last bits; equal results are equal everywhere.
        return None if self._is_same_machine() else _alike

    def _missing(self, claim: str) -> None:
        message = f"the receipt states no `{claim}`, or none that can be read"
        self._differs("receipt.incomplete", message, "receipt")

    def _claim(
        self, claim: str, found: Any, equal: Callable[[Any, Any], bool] | None = None
    ) -> None:
        if claim not in self._stated:
            if claim in REQUIRED:
                self._missing(claim)
            return
        stated = self._stated[claim]
        ok = (equal or (lambda a, b: a == b))(stated, found)
        self.claims.append({"claim": claim, "stated": stated, "found": found, "ok": ok})
        if not ok:
            self._differs(f"receipt.{claim}", _words(claim, stated, found), "receipt")

    def _differs(self, code: str, message: str, what: str, tensor: str | None = None) -> None:
        self.found.append(Finding(code, ERROR, tensor, message, _FIX.format(what=f"the {what}")))


def _alike(stated: Any, found: Any) -> bool:
    if isinstance(stated, dict):
        names = ("holds", "max_logit_difference")
        return isinstance(found, dict) and all(
            _alike(stated.get(name), found.get(name)) for name in names
        )
    return (stated == 0) == (found == 0)


def _words_of_file(name: str, stated: Mapping[str, Any] | None, found: Any) -> str:
    if found is None:
        return f"`{name}` is missing"
    if stated is None:
        return f"`{name}` is read, and the receipt does not know it"
    if stated["bytes"] != found["bytes"]:
        return f"`{name}` has {found['bytes']} bytes; the receipt states {stated['bytes']}"
    return (
        f"`{name}` was altered: its SHA-256 is {found['sha256']}, the receipt states "
        f"{stated['sha256']}"
    )


def _words(claim: str, stated: Any, found: Any) -> str:
    """Where two values differ, by name, no longer than it must be."""
    rows = list(_differences(claim, stated, found))
    text = "; ".join(rows[:3]) + (f"; and {len(rows) - 3} more" if len(rows) > 3 else "")
    return f"the receipt's claim does not hold: {text}"


def _differences(where: str, stated: Any, found: Any) -> Iterable[str]:
    if isinstance(stated, dict) and isinstance(found, dict):
        for key in sorted(stated.keys() | found.keys()):
            if stated.get(key) != found.get(key):
                yield from _differences(f"{where}.{key}", stated.get(key), found.get(key))
    elif isinstance(stated, list) and isinstance(found, list):
        keyed = [
            {str(row.get("check") or row.get("name") or row.get("code")): row for row in rows
             if isinstance(row, dict)}
            for rows in (stated, found)
        ]  # fmt: skip
        if all(len(rows) == len(of) for rows, of in zip((stated, found), keyed, strict=True)):
            yield from _differences(where, *keyed)
        else:
            yield f"{where}: {len(stated)} rows are stated, {len(found)} found, and they differ"
    else:
        yield f"{where} is stated as {_short(stated)} and is {_short(found)}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:80] + "…"
