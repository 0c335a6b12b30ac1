"""Exporting a model as StableHLO programs, with proof: digests, contract, what they compute.

The folder is opened again by jax alone, and run, before it gets its name. Knows no primitive:
`export.stablehlo` lowers the programs.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import numpy as np

from bitnet_jax.containers.native import NativeFile, open_native
from bitnet_jax.core.errors import BadData
from bitnet_jax.core.memory import check_room_to_compile
from bitnet_jax.core.system import usable_cores
from bitnet_jax.export.stablehlo import write_folder
from bitnet_jax.export.stablehlo_led import Function
from bitnet_jax.export.stablehlo_run import Programs, check_programs, open_stablehlo
from bitnet_jax.formats.checkpoint import Checkpoint
from bitnet_jax.formats.model_files import files_of, stamp
from bitnet_jax.formats.open import open_checkpoint
from bitnet_jax.formats.receipts import receipt_path
from bitnet_jax.formats.save import check_save
from bitnet_jax.formats.stablehlo import WEIGHTS
from bitnet_jax.runtime.model import Model
from bitnet_jax.runtime.stepwise import Forms, Stepwise, narrow_floats
from bitnet_jax.stores.address import require_local
from bitnet_jax.workflows import by_piece as by_piece_rule
from bitnet_jax.workflows import proof
from bitnet_jax.workflows.allowed import check_allow, stop_on
from bitnet_jax.workflows.conversion_receipt import named, sealed
from bitnet_jax.workflows.export import probe_tokens
from bitnet_jax.workflows.parity import compare_logits
from bitnet_jax.workflows.survey import Pass
from bitnet_jax.workflows.wiring import require_wiring, wiring_claims, wiring_warnings

FORMAT = "stablehlo"


def export_stablehlo(
    source: str | os.PathLike,
    output: str | os.PathLike,
    *,
    encoding: str | None = None,
    allow: Sequence[str] = (),
    probe: bool = True,
    strict: bool = False,
    jobs: int | None = None,
    force: bool = False,
    offline: bool | None = None,
    progress: Any = None,
) -> dict[str, Any]:
    """Writes `source` as a folder of StableHLO programs over a `.bitnet` file.

    Args:
      output: the folder.
      encoding: of the weights, as `.bitnet` files have them.
      allow: codes of findings that do not stop it.
      probe: run the programs on a few tokens, prefilled and step by step, and compare the logits
        with ours; the whole model is in memory for that.
      strict: refuse a folder that holds any scale or float otherwise than the source.
      jobs: threads that read tensors; None: one for each processor it may use.
      offline: fetch nothing; None: as HF_HUB_OFFLINE says.

    Returns:
      The record of a conversion; ``parity`` is what the probe found, None without it;
      ``by_piece`` what each piece computes from our values, where ``parity`` does not hold.

    Raises:
      UsageError: an unknown encoding; a family whose function is not exported.
      BadData: the doctor found an error that is not allowed; the contract does not hold, or the
        logits differ by more than the parity rules have it (``contract.logits``).
      CannotCreate: the folder exists, and `force` is false.
    """
    check_allow(allow)
    require_local(output, "what an export writes", "write it here, and upload the folder")
    path = Path(output)
    check_room_to_compile()
    checkpoint = open_checkpoint(source, offline=offline, progress=progress)
    check_save(checkpoint, path, format=FORMAT, encoding=encoding, force=force)
    threads = jobs or usable_cores() or 1
    before = Pass(checkpoint, lambda name: None)
    record: dict[str, Any] = {}

    def prove(folder: Path) -> None:
        before.finish(threads)
        findings = before.findings()
        stop_on(findings, allow, checkpoint)
        check_programs(folder)
        after = Pass(open_checkpoint(folder, check=True), lambda name: None)
        after.finish(threads)
        name = str(checkpoint.source.path)
        wiring = wiring_claims(checkpoint, before.forms) if probe else {}
        require_wiring(wiring, name, str(path))
        record.update(_described(checkpoint, after.checkpoint, folder, path))
        record["warnings"] += wiring_warnings(wiring, name)
        record.update(wiring | proof.claims(before, after))
        record["findings"] = [finding.to_json() for finding in findings]
        record["allowed"] = sorted(set(allow) & {finding.code for finding in findings})
        proof.require_claims(record, name, str(path), strict=strict)
        record.update(_measured(checkpoint, before.forms, folder, path) if probe else _unmeasured())
        receipt = sealed(named(record, checkpoint.source, path))
        (folder / receipt_path(path, FORMAT).name).write_bytes(receipt)

    write_folder(before.watched(), path, encoding, force=force, jobs=threads, prove=prove)
    return record | {"receipt": str(receipt_path(path, FORMAT))}


def _described(
    checkpoint: Checkpoint, written: Checkpoint, folder: Path, path: Path
) -> dict[str, Any]:
    source, files = checkpoint.source, files_of(folder, written.source.detail)
    return {
        "source": source.to_json(),
        "source_format": source.format,
        "source_encoding": source.encoding,
        "source_files": [
            stamp(file, name) for name, file in files_of(source.path, source.detail).items()
        ],
        "format": FORMAT,
        "encoding": written.source.encoding,
        "outputs": [str(path / name) for name in files],
        "output_files": [stamp(file, name) for name, file in files.items()],
        "made_by": proof.made_by(),
        "warnings": list(checkpoint.warnings),
        "probe": None,  # of our own engine on both sides; here jax alone was measured
    }


def _unmeasured() -> dict[str, Any]:
    return dict.fromkeys(("max_logit_difference", "parity", "by_piece", "runtime"))


def _measured(checkpoint: Checkpoint, forms: Forms, folder: Path, path: Path) -> dict[str, Any]:
    """What the programs compute, compared with our engine.

    Raises:
      BadData: not the same, by the parity rules, neither as a whole nor piece by piece
        (``contract.logits``).
    """
    tokens = probe_tokens(checkpoint.spec)
    length = tokens.shape[1]
    programs = open_stablehlo(folder)
    # Not the length itself: that entries beyond it are never attended to is seen too.
    logits = programs.logits(tokens, length // 2, length + 3)
    parity = compare_logits(Model(checkpoint).logits(tokens), logits)
    by_piece, words = None, parity.words()
    if not parity.holds:
        run = Stepwise(checkpoint, forms, narrow_floats(forms), tokens).run_borders()
        by_piece = _by_piece(programs, open_native(folder / WEIGHTS), tokens, logits, *run)
        words += by_piece_rule.words(by_piece)
        if not by_piece["same_bits"]:
            words += (
                "; and the programs do not give the bits of their function, jitted: "
                f"{by_piece['from_function']:.3g} in the median"
            )
    if not (parity.holds or (by_piece is not None and by_piece["holds"])):
        raise BadData(
            "contract.logits",
            f"`{path}` does not compute what the source computes: the logits differ ({words}); it "
            "was not written",
            "this is a bug of the export: please report it; --no-probe writes it all the same",
        )
    return {
        "max_logit_difference": parity.max_logit_difference,
        "parity": asdict(parity) | {"holds": parity.holds},
        "by_piece": by_piece,
        "runtime": f"jax {jax.__version__}",
    }


def _by_piece(
    programs: Programs,
    weights: NativeFile,
    tokens: np.ndarray,
    logits: np.ndarray,
    expected: np.ndarray,
    states: dict[str, np.ndarray],
) -> dict[str, Any]:
    """The programs beside the function that they were lowered from; that, led, beside our engine.

    A program cannot be led: it is one function, and has no borders any more.

    Args:
      logits: of the programs.
      expected: our engine's.
      states: our engine's, at its borders.
    """
    function, length = Function(programs, weights), tokens.shape[1]
    sizes = length // 2, length + 3
    jitted = function.logits(tokens, *sizes)
    same = compare_logits(jitted, logits)
    found, borders = function.led(tokens, *sizes, states)
    led = by_piece_rule.judged(expected, found, borders)
    return {
        "pieces": len(borders) + 1,
        **led,
        "holds": led["holds"] and same.holds,
        "same_bits": bool(np.array_equal(jitted, logits)),
        "from_function": same.median_logit_difference,
    }
