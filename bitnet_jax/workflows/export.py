"""Exporting a model for another runtime, with proof: digests, and what each step changed.

The files are opened again, checked, and run where ONNX Runtime is installed, before they get
their names. Knows no primitive: `export` writes the graph.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from bitnet_jax.containers.onnx_write import data_name
from bitnet_jax.core import paths
from bitnet_jax.core.errors import BadData, InternalError
from bitnet_jax.core.system import usable_cores
from bitnet_jax.export.decoder import trace_step
from bitnet_jax.export.measure import runtime_name
from bitnet_jax.export.measure_pieces import WrittenDecoder
from bitnet_jax.export.model import Described, describe, write_model
from bitnet_jax.export.profiles import DEFAULT, Profile, profile_of
from bitnet_jax.formats.checkpoint import Checkpoint
from bitnet_jax.formats.model_files import files_of, stamp
from bitnet_jax.formats.open import open_checkpoint
from bitnet_jax.formats.receipts import check_receipt, receipt_path
from bitnet_jax.formats.save import check_not_input
from bitnet_jax.ir.spec import ModelSpec
from bitnet_jax.passes import inline_calls, pipelines
from bitnet_jax.quant.digest import Digest
from bitnet_jax.runtime.stepwise import Forms, Stepwise, narrow_floats
from bitnet_jax.stores.address import require_local
from bitnet_jax.workflows import by_piece as by_piece_rule
from bitnet_jax.workflows import proof
from bitnet_jax.workflows.allowed import check_allow, stop_on
from bitnet_jax.workflows.conversion_receipt import named, sealed
from bitnet_jax.workflows.parity import Parity, compare_logits
from bitnet_jax.workflows.survey import Pass
from bitnet_jax.workflows.wiring import require_wiring, wiring_claims, wiring_warnings

# Rows and tokens of a row. Several short rows: one activation that rounds the other way, where
# two sums differ in a last bit, spoils the tokens after it in its row, and no others.
PROBE = (24, 12)
# How many lengths there are among the rows that a runtime is given.
_LENGTHS = 4
NO_RUNTIME = "ONNX Runtime is not installed: what the file computes was not measured"


def export_model(
    source: str | os.PathLike,
    output: str | os.PathLike,
    *,
    optimize_for: str = DEFAULT,
    allow: Sequence[str] = (),
    probe: bool = True,
    strict: bool = False,
    jobs: int | None = None,
    force: bool = False,
    offline: bool | None = None,
    progress: Any = None,
) -> dict[str, Any]:
    """Writes `source` as an ONNX decoder with its KV cache, and proves what was written.

    Args:
      output: the graph's path; its data are written to that with ``.data`` after it.
      optimize_for: a key of `export.profiles.PROFILES`.
      allow: codes of findings that do not stop it.
      probe: run the model after each step on a few tokens, its weights a layer at a time, and
        compare the logits with ours.
      strict: refuse a file that holds any scale or float otherwise than the source.
      jobs: threads that read tensors; None: one for each processor it may use.
      offline: fetch nothing; None: as HF_HUB_OFFLINE says.

    Returns:
      The record of `model export`. ``passes`` lists the steps, each with
      ``max_logit_difference`` after it, relative to the largest logit; the last is the file,
      whose difference is None where ONNX Runtime is not installed. ``by_piece``: of a file that was
      run in pieces, how each computes from our values. ``seconds``: of writing, checking, probing.

    Raises:
      UsageError: an unknown profile; a family whose function is not exported.
      BadData: the doctor found an error that is not allowed; the source's own graph computes
        something else than its config says (``contract.wiring``), or ONNX Runtime from an exact
        profile, by the parity rules (``contract.logits``).
      InternalError: the file would not hold the same trits and scales, or is no valid ONNX.
      CannotCreate: a file exists, and `force` is false.
    """
    profile = profile_of(optimize_for)
    check_allow(allow)
    require_local(output, "what an export writes", "write it here, and upload both files")
    path = Path(output)
    checkpoint = open_checkpoint(source, offline=offline, progress=progress)
    for file in (path, path.with_name(data_name(path.name))):
        paths.check_output(file, force=force, inputs=(checkpoint.source.path,))
        check_not_input(file, checkpoint.source.path)
    receipt = receipt_path(path, "onnx")
    check_receipt(path, "onnx", force=force)
    jobs = jobs or usable_cores() or 1
    before = Pass(checkpoint, lambda name: None)
    before.finish(jobs)
    findings = before.findings()
    stop_on(findings, allow, checkpoint)
    wiring = wiring_claims(checkpoint, before.forms) if probe else {}
    require_wiring(wiring, str(checkpoint.source.path), str(path))
    described = describe(checkpoint)
    passes = _unmeasured(described)
    source, beside = checkpoint.source, path.with_name(data_name(path.name))
    record: dict[str, Any] = {
        "source": source.to_json(),
        "source_format": source.format,
        "source_encoding": source.encoding,
        "source_files": [
            stamp(file, name) for name, file in files_of(source.path, source.detail).items()
        ],
        "format": "onnx",
        "encoding": profile.name,
        "exact": profile.exact,
        **wiring,
        "probe": None,  # of our own engine on both sides; here the other runtime was measured
        "passes": passes,
        "findings": [finding.to_json() for finding in findings],
        "allowed": sorted(set(allow) & {finding.code for finding in findings}),
        "outputs": [str(path), str(beside)],
        "made_by": proof.made_by(),
        "warnings": [*checkpoint.warnings, *wiring_warnings(wiring, str(source.path))],
    }
    receipted = False

    clock = _Clock()

    def prove(written: Path) -> None:
        clock.done("convert")
        _check(written)
        # By the reader that users have, as any conversion's output.
        after = Pass(open_checkpoint(written), lambda name: None)
        after.finish(jobs)
        _same(before.digest(), after.digest(), checkpoint, path)
        record.update(proof.claims(before, after))
        proof.require_claims(record, str(source.path), str(path), strict=strict)
        clock.done("verify")
        measured: dict[str, Any] = {
            "max_logit_difference": None, "parity": None, "by_piece": None,
            "runtime": runtime_name(),
        }  # fmt: skip
        warnings: list[str] = []
        if probe:
            probed = _Probe(checkpoint, before.forms)
            measured |= probed.measured(written, path, profile)
            warnings = _unmeasured_warnings(measured["runtime"], profile)
            passes[:] = probed.passes(described.packed())
            clock.done("probe")
        record.update(measured)
        record["warnings"] += warnings
        difference = record["max_logit_difference"]
        passes.append({"name": f"onnx ({profile.name})", "max_logit_difference": difference})
        record["output_files"] = [
            stamp(file, name)
            for file, name in ((written, path.name), (written.with_name(beside.name), beside.name))
        ]
        if path.exists():  # killed from here on, the new files lack a receipt
            receipt.unlink(missing_ok=True)
        else:  # killed from here on, the receipt lacks its files: the next run makes all of them
            write_receipt()

    def write_receipt() -> None:
        nonlocal receipted
        with paths.atomic_file(receipt, force=check_receipt(path, "onnx", force=force)) as stream:
            stream.write(sealed(named(record, source, path)))
        receipted = True

    try:
        write_model(checkpoint, described, profile, path, force=force, prove=prove)
    except BaseException:
        if receipted and not path.exists():
            receipt.unlink(missing_ok=True)
        raise
    if not receipted:
        write_receipt()
    return record | {"receipt": str(receipt), "seconds": clock.seconds}


class _Clock:
    """Seconds of each part, one after another."""

    def __init__(self) -> None:
        self._last, self.seconds = time.perf_counter(), dict[str, float]()

    def done(self, part: str) -> None:
        now = time.perf_counter()
        self._last, self.seconds[part] = now, round(now - self._last, 3)


def _unmeasured(described: Described) -> list[dict[str, Any]]:
    steps = pipelines.exported(described.packed())
    return [{"name": step.name, "max_logit_difference": None} for step in steps]


# --------------------------------------------------------------------------------- the proof
def _check(path: Path) -> None:
    """Raises unless ONNX's own checker takes the model, shapes inferred."""
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise InternalError(
            "export.invalid",
            f"the graph is no valid ONNX: {str(error).splitlines()[0]}",
            "this is a bug: please report it",
        ) from error


def _same(before: Digest, after: Digest, checkpoint: Checkpoint, path: Path) -> None:
    """Raises unless the digests before and after are equal."""
    if after != before:  # scales are float32 in every profile: they cannot change either
        raise InternalError(
            "export.digest_changed",
            f"`{path}` would hold other trits or scales than `{checkpoint.source.path}`: "
            f"{after} != {before}; it was not written",
            "this is a bug: please report it",
        )


def _unmeasured_warnings(runtime: str | None, profile: Profile) -> list[str]:
    if runtime is not None:
        return []
    return [NO_RUNTIME + ("" if profile.exact else f"; profile `{profile.name}` is not exact")]


def probe_tokens(spec: ModelSpec) -> np.ndarray:
    """The tokens that an export is probed with: int32 [rows, length], the same at every call."""
    rows, length = PROBE[0], min(PROBE[1], spec.max_positions)
    return np.random.default_rng(0).integers(0, spec.vocab_size, (rows, length)).astype(np.int32)


class _Probe:
    """A few tokens; what our engine, each step of the pipeline and the other runtime make of them.

    A layer's weights are held at a time, as in the probe of any conversion.
    """

    def __init__(self, checkpoint: Checkpoint, forms: Forms):
        self._checkpoint, self._forms = checkpoint, forms
        self._spec, self._tokens = checkpoint.spec, probe_tokens(checkpoint.spec)

    @cached_property
    def _ours(self) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Our logits of the tokens, and our engine's states at its borders."""
        narrow = narrow_floats(self._forms)
        return Stepwise(self._checkpoint, self._forms, narrow, self._tokens).run_borders()

    def measured(self, written: Path, path: Path, profile: Profile) -> dict[str, Any]:
        """What ONNX Runtime, if it is here, computes from the file, compared with our engine.

        Raises:
          BadData: not the same, by the parity rules, where the profile is exact
            (``contract.logits``).
        """
        name = runtime_name()
        if name is None:
            return {}
        parity, by_piece = self._beside(WrittenDecoder.open(written, self._spec), profile)
        if profile.exact and by_piece is None and not parity.holds:
            # In few layers, too, a code may round otherwise in most tokens.
            decoder = WrittenDecoder.open(written, self._spec, layers=True)
            parity, by_piece = self._beside(decoder, profile)
        holds, words = parity.holds, parity.words()
        if by_piece is not None:
            holds = holds or by_piece["holds"]
            words += by_piece_rule.words(by_piece)
        if profile.exact and not holds:
            raise BadData(
                "contract.logits",
                f"`{path}` does not compute in {name} what the source computes here: the logits "
                f"differ ({words}); it was not written",
                "this is a bug of the export or of that version: please report it; --no-probe "
                "writes the file all the same",
            )
        return {
            "max_logit_difference": parity.max_logit_difference,
            "parity": asdict(parity) | {"holds": parity.holds},
            "by_piece": by_piece,
        }

    def _beside(
        self, decoder: WrittenDecoder, profile: Profile
    ) -> tuple[Parity, dict[str, Any] | None]:
        """The file's logits beside ours; and each piece's, where there are several of an exact one.

        Rows are cut to different lengths: a file's batches are padded.
        """
        leads = profile.exact and len(decoder.pieces) > 1
        expected, states = self._ours
        length = self._tokens.shape[1]
        rows = [row[: max(length - at % _LENGTHS, 1)] for at, row in enumerate(self._tokens)]
        ours = np.concatenate([expected[at, : len(row)] for at, row in enumerate(rows)])
        found, other = decoder.logits(rows, length // 2, states if leads else None)
        parity = compare_logits(ours, np.concatenate(found))
        if other is None:
            return parity, None
        led = by_piece_rule.judged(ours, np.concatenate(other.logits), other.borders)
        return parity, {"pieces": len(decoder.pieces), **led}

    def passes(self, packed: Any) -> list[dict[str, Any]]:
        """Each step of the pipeline, with the largest difference of a logit after it."""
        reference, _ = self._ours
        rows, length = self._tokens.shape
        program = trace_step(self._spec, packed, (rows, length, 0))
        empty = np.zeros((rows, self._spec.num_kv_heads, 0, self._spec.head_dim), np.float32)
        past = [(empty, empty)] * self._spec.num_layers
        positions = np.broadcast_to(np.arange(length, dtype=np.int32), (rows, length))
        inputs = (self._tokens, np.ones_like(positions), positions, past)
        seen: dict[str, float] = {}
        found = []
        for step in pipelines.exported(packed):
            program = pipelines.run_pipeline(program, [step])
            # A run by operations has no calls: a step that only inlines them leaves the same one.
            flat = inline_calls.inline_calls(program)
            text = str(flat.jaxpr)
            if text not in seen:
                run = Stepwise(
                    self._checkpoint, self._forms, frozenset(), self._tokens, other=(flat, inputs)
                )
                seen[text] = compare_logits(reference, run.run()).max_logit_difference
            found.append({"name": step.name, "max_logit_difference": seen[text]})
        return found
