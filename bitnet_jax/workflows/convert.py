"""Converting a model, with proof: digests, what changed, the contract, a probe of the logits.

One pass over the source gives the output, the doctor's findings and the digest; one pass over
the output, opened again, all that is said of it, before it gets its name. Knows no format by
name: `formats` reads and writes them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bitnet_jax.core.errors import BadData, BitnetError
from bitnet_jax.core.memory import check_room_to_compile
from bitnet_jax.core.paths import atomic_file
from bitnet_jax.core.system import usable_cores
from bitnet_jax.export.profiles import DEFAULT as DEFAULT_PROFILE
from bitnet_jax.formats.checkpoint import Checkpoint
from bitnet_jax.formats.deliver import Delivery, delivered
from bitnet_jax.formats.doctor import examine
from bitnet_jax.formats.model_files import files_of, stamp
from bitnet_jax.formats.open import open_checkpoint
from bitnet_jax.formats.receipts import check_receipt, receipt_path
from bitnet_jax.formats.save import (
    Saved,
    check_kind,
    check_save,
    format_of,
    save_checkpoint,
)
from bitnet_jax.formats.survey import size
from bitnet_jax.workflows import proof
from bitnet_jax.workflows.allowed import check_allow, stop_on
from bitnet_jax.workflows.conversion_receipt import named, sealed, unsealed
from bitnet_jax.workflows.export import export_model
from bitnet_jax.workflows.export_stablehlo import export_stablehlo
from bitnet_jax.workflows.survey import Pass
from bitnet_jax.workflows.wiring import require_wiring, wiring_claims, wiring_warnings


def convert(
    source: str | os.PathLike,
    output: str | os.PathLike,
    *,
    format: str | None = None,
    encoding: str | None = None,
    allow: Sequence[str] = (),
    probe: bool = True,
    strict: bool = False,
    jobs: int | None = None,
    force: bool = False,
    offline: bool | None = None,
    progress: Any = None,
) -> dict[str, Any]:
    """Converts `source` to `output` and proves what was written.

    Args:
      source, output: paths, or addresses in a store: fetched before, uploaded after.
      format: a key of the formats table; by `output`'s suffix if None.
      encoding: the format's variant; the source's where the format has it.
      allow: codes of findings that do not stop the conversion.
      probe: run both models on a few tokens, side by side, and compare them; before that the
        source's own graph, where it holds one, with what its config says.
      strict: refuse an output that holds any scale or float otherwise than the source.
      jobs: threads that read tensors and turn them; None: one for each processor it may use.
        The output is the same for any number.
      offline: fetch nothing; None: as HF_HUB_OFFLINE says.

    Returns:
      The receipt's claims, and beside them ``receipt`` and ``seconds``.

    Raises:
      UsageError: `allow` names what cannot be passed.
      BadData: the doctor found an error that is not allowed; the contract does not hold
        (``contract.…``), the logits differ, or the source's own graph computes something else
        than its config says (``contract.wiring``).
      InternalError: the output would not hold the same trits (nothing is left behind).
      CannotCreate, IOFailure, …: from writing.
    """
    check_allow(allow)
    reach: dict[str, Any] = {"offline": offline, "progress": progress}
    lowered = LOWERED.get(format_of(Path(output), format))
    if lowered is not None:
        asked: dict[str, Any] = {
            "allow": allow, "probe": probe, "strict": strict, "jobs": jobs, "force": force,
        }  # fmt: skip
        return lowered(source, output, encoding, **asked, **reach)
    with delivered(output, format=format, force=force, **reach) as delivery:
        checkpoint = open_checkpoint(source, **reach)
        return convert_checkpoint(
            checkpoint, delivery, format, encoding, allow, probe, force,
            strict=strict, jobs=jobs, progress=progress,
        )  # fmt: skip


# Formats that are written from a model's program -> how, of an encoding.
LOWERED: dict[str, Callable[..., dict[str, Any]]] = {
    "onnx": lambda source, output, encoding, **asked: export_model(
        source, output, optimize_for=encoding or DEFAULT_PROFILE, **asked
    ),
    "stablehlo": lambda source, output, encoding, **asked: export_stablehlo(
        source, output, encoding=encoding, **asked
    ),
}

Also = Callable[[Checkpoint], Mapping[str, Any]]


def convert_checkpoint(
    checkpoint: Checkpoint,
    delivery: Delivery,
    format: str | None,
    encoding: str | None,
    allow: Sequence[str],
    probe: bool,
    force: bool,
    also: Also = lambda written: {},
    *,
    strict: bool = False,
    jobs: int | None = None,
    progress: Any = None,
) -> dict[str, Any]:
    """As `convert`, for an open checkpoint and where it goes.

    Args:
      also: is given the output opened again, before it has its name; what it returns stands in
        the record and the receipt too.
    """
    threads = jobs or usable_cores() or 1
    return _Conversion(
        checkpoint, delivery, format, encoding, tuple(allow), probe, strict, force, also, threads,
        progress,
    ).run()  # fmt: skip


class _Conversion:
    """One conversion: what was asked for, and what is known so far."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        delivery: Delivery,
        format: str | None,
        encoding: str | None,
        allow: tuple[str, ...],
        probe: bool,
        strict: bool,
        force: bool,
        also: Also,
        jobs: int,
        progress: Any,
    ):
        self.checkpoint, self.delivery, self.output = checkpoint, delivery, delivery.path
        self.format, self.encoding, self.allow, self.force = format, encoding, allow, force
        self.probe, self.strict, self.also = probe, strict, also
        self.jobs, self.progress = jobs, progress
        self.record: dict[str, Any] = {}
        self.seconds: dict[str, float] = {}
        self.receipt = receipt_path(self.output, format)
        self.inside = self.receipt.is_relative_to(self.output)
        self.receipted = self.inside

    def run(self) -> dict[str, Any]:
        """Converts; what fails leaves nothing behind."""
        # What can be refused is refused now, not after minutes of reading.
        if self.probe:
            check_room_to_compile()
        asked: dict[str, Any] = {
            "format": self.format, "encoding": self.encoding, "force": self.force,
        }  # fmt: skip
        check_save(self.checkpoint, self.output, **asked)
        if not self.inside:
            check_receipt(self.output, self.format, force=self.force)
            check_kind(self.receipt, directory=False)
        started = time.perf_counter()
        with _steps(self.progress, "converting", self.checkpoint) as step, self._stamps() as stamps:
            before = Pass(self.checkpoint, step)

            def prove(temporary: Path, saved: Saved) -> None:
                before.finish(self.jobs)
                self.seconds["convert"] = time.perf_counter() - started
                self._prove(before, temporary, saved, stamps)

            try:
                saved = save_checkpoint(
                    before.watched(), self.output, **asked,
                    prove=prove, jobs=self.jobs, digest=before.digest,
                )  # fmt: skip
            except BaseException as error:
                if self.receipted and not self.inside and not self.output.exists():
                    self.receipt.unlink(missing_ok=True)
                if isinstance(error, BadData) and "convert" not in self.seconds:
                    # A tensor that cannot be read: the whole list is worth another pass.
                    stop_on(examine(self.checkpoint), self.allow, self.checkpoint)
                raise
        if not self.receipted:
            self._write_receipt()
        outside = (path for path in saved.outputs if not path.is_relative_to(self.output))
        self.delivery.beside += [*outside, self.receipt]
        seconds = {name: round(value, 3) for name, value in self.seconds.items()}
        return self.record | {"receipt": self.delivery.named(self.receipt), "seconds": seconds}

    @contextmanager
    def _stamps(self) -> Iterator[Callable[[], list[dict[str, Any]]]]:
        """Hashes the source's files beside the work; the block gets what waits for it."""
        files = files_of(self.checkpoint.source.path, self.checkpoint.source.detail)
        if self.jobs == 1:
            yield lambda: [stamp(path, name) for name, path in files.items()]
            return
        with ThreadPoolExecutor(1, thread_name_prefix="files") as pool:
            waiting = [pool.submit(stamp, path, name) for name, path in files.items()]
            try:
                yield lambda: [future.result() for future in waiting]
            finally:
                for future in waiting:
                    future.cancel()

    # ------------------------------------------------------------------ the proof
    def _prove(
        self, before: Pass, temporary: Path, saved: Saved, stamps: Callable[[], list[Any]]
    ) -> None:
        findings = before.findings()
        stop_on(findings, self.allow, self.checkpoint)
        name, output = str(self.checkpoint.source.path), str(self.output)
        wiring = self._wiring(before, name, output) if self.probe else {}
        started = time.perf_counter()
        written = open_checkpoint(temporary)
        with _steps(self.progress, "checking the output", written) as step:
            after = Pass(written, step)
            files = [self._written(temporary, path) for path in saved.outputs]
            with ThreadPoolExecutor(1, thread_name_prefix="files") as pool:
                waiting = [pool.submit(stamp, path) for path in files]
                after.finish(self.jobs)
                output_files = [
                    {**future.result(), "name": path.name}
                    for future, path in zip(waiting, saved.outputs, strict=True)
                ]
        source = self.checkpoint.source
        self.record = {
            "source": source.to_json(),
            "source_format": source.format,
            "source_encoding": source.encoding,
            "source_files": stamps(),
            "format": saved.format,
            "encoding": saved.encoding,
            **proof.claims(before, after),
            **proof.no_probe(),
            **wiring,
            "findings": [finding.to_json() for finding in findings],
            "allowed": sorted(set(self.allow) & {finding.code for finding in findings}),
            "outputs": [self.delivery.named(path) for path in saved.outputs],
            "output_files": output_files,
            "made_by": proof.made_by(),
            "warnings": [
                *self.checkpoint.warnings, *wiring_warnings(wiring, name), *saved.warnings,
            ],
        }  # fmt: skip
        self.record |= self.also(written)
        proof.require_claims(self.record, name, output, strict=self.strict)
        self.seconds["verify"] = time.perf_counter() - started
        if self.probe:
            progress = self.progress if is_worth_telling(written) else None
            told, found = proof.probe_claims(before, after, progress)
            self.seconds["probe"] = found.seconds
            self.record |= told
            proof.require_probe(self.record, found, output)
        if self.inside:  # it gets its place with the folder
            (temporary / self.receipt.name).write_bytes(self._receipt())
        elif self.output.exists():  # killed from here on, the new file lacks a receipt
            self.receipt.unlink(missing_ok=True)
        else:  # killed from here on, the receipt lacks its file: the next run makes both
            self._write_receipt()

    def _wiring(self, before: Pass, name: str, output: str) -> dict[str, Any]:
        started = time.perf_counter()
        found = wiring_claims(self.checkpoint, before.forms)
        if found:
            self.seconds["wiring"] = time.perf_counter() - started
        require_wiring(found, name, output)
        return found

    def _written(self, temporary: Path, path: Path) -> Path:
        """Where an output stands before it has its name."""
        if path == self.output:
            return temporary
        inside = path.is_relative_to(self.output)
        return temporary / path.relative_to(self.output) if inside else temporary.parent / path.name

    def _receipt(self) -> bytes:
        return sealed(named(self.record, self.checkpoint.source, self.output))

    def _write_receipt(self) -> None:
        replaces = check_receipt(self.output, self.format, force=self.force)
        with atomic_file(self.receipt, force=replaces) as stream:
            stream.write(self._receipt())
        self.receipted = True


# Below this, all is over before anybody has read what is going on.
_TOLD_FROM = 512 << 20


def is_worth_telling(checkpoint: Checkpoint) -> bool:
    """True of a model large enough for its reading to be seen."""
    return sum(size(entry) for entry in checkpoint.entries.values()) >= _TOLD_FROM


@contextmanager
def _steps(progress: Any, label: str, checkpoint: Checkpoint) -> Iterator[Callable[[str], None]]:
    """Counts tensors and bytes as they are read; the block gets what is told each name."""
    if progress is None or not is_worth_telling(checkpoint):
        yield lambda name: None
        return
    entries, done = checkpoint.entries, 0
    with progress.task(label, len(entries), "tensors") as task:

        def step(name: str) -> None:
            nonlocal done
            done += size(entries[name])
            task.update(1, megabytes=done // 1_000_000)
            if task.done == len(entries):
                task.finish()  # what follows has a task of its own

        yield step


def converted(
    source: str | os.PathLike,
    output: str | os.PathLike,
    *,
    format: str | None = None,
    encoding: str | None = None,
    allow: Sequence[str] = (),
    probe: bool = True,
    strict: bool = False,
    offline: bool | None = None,
) -> dict[str, Any] | None:
    """Returns the record of this conversion if it was made before and still holds, else None.

    It holds while the receipt is whole, says no less than is asked for now, and the files of
    source and output are those that it states, to the byte. An output in a store is never looked
    for: it would have to be fetched.

    Raises:
      NoInput, BadData, …: the source cannot be opened.
    """
    output = Path(output)
    receipt = receipt_path(output, format)
    try:
        record = unsealed(receipt.read_bytes())
        asked = (format_of(output, format), encoding or record["encoding"])
        if asked != (record["format"], record["encoding"]):
            return None
        weaker = not set(record["allowed"]) <= set(allow) or (strict and proof.changed(record))
        measured = [record, *record.get("passes", ())]
        unprobed = all(row["max_logit_difference"] is None for row in measured)
        if weaker or (probe and unprobed):
            return None
        names = [str(name) for name in record["outputs"]]
        stated = record["source_files"], record["output_files"]
    except (OSError, BadData, TypeError, KeyError):
        return None  # no receipt of ours
    checkpoint = open_checkpoint(source, offline=offline)
    if named({"source": checkpoint.source.to_json()}, checkpoint.source, output)["source"] != (
        record.get("source")
    ):
        return None
    folder = output if output.is_dir() else output.parent
    outputs = [output if name == output.name else folder / name for name in names]
    files = files_of(checkpoint.source.path, checkpoint.source.detail)
    try:
        found = (
            [stamp(path, name) for name, path in files.items()],
            [stamp(path) for path in outputs],
        )
    except BitnetError:
        return None
    if found != stated:
        return None
    told = {"source": checkpoint.source.to_json(), "outputs": [str(path) for path in outputs]}
    return {**record, **told, "receipt": str(receipt)}
