"""`bench_regression`: did it get slower, from two records of `bench_run`.

A row is slower when the interval of the ratio of its medians lies below one: as it is, and
beside what the machine itself reached in each run (memory for a decode, arithmetic or memory
for a prefill, whichever bounds it). So neither chance nor a slow day is a regression. Runs that
cannot be compared are refused. Knows nothing of how a run is measured.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bitnet_jax.bench.machine import unlike
from bitnet_jax.bench.run import SCHEMA
from bitnet_jax.core.errors import BadData, BitnetError, NoInput, shown
from bitnet_jax.core.outputs import os_failure
from bitnet_jax.stats.ratios import FEWEST, ratio_of_medians

# The chance that a run which changed nothing is called slower, over all rows of it.
ERROR = 0.05
_LARGEST = 64 << 20
_AGAIN = "make both anew: bitnet bench run MODEL --export-json FILE"


def bench_regression(
    baseline: str | os.PathLike | Mapping[str, Any],
    current: str | os.PathLike | Mapping[str, Any],
) -> dict[str, Any]:
    """Compares two records of `bench_run`: files, or the records.

    Returns:
      `passed`, and a row in `comparisons` for each phase and batch.

    Raises:
      NoInput: there is no such file.
      BadData: a file is no such record, or the two are not of one machine, model and settings.
    """
    one, other = _record(baseline, "baseline"), _record(current, "current")
    _check_alike(one, other)
    pairs = list(zip(one["results"], other["results"], strict=True))
    confidence = 1 - ERROR / max(len(pairs), 1)
    comparisons = [_compare(a, b, one, other, confidence) for a, b in pairs]
    slower = [row["name"] for row in comparisons if not row["passed"]]
    return {
        "schema": "bench-regression/1",
        "baseline": _name(baseline),
        "current": _name(current),
        "passed": not slower,
        "slower": slower,
        "confidence": confidence,
        "comparisons": comparisons,
        "versions": {"baseline": _versions(one), "current": _versions(other)},
        "warnings": _warnings(one, other, comparisons),
    }


def _name(source: Any) -> str | None:
    return None if isinstance(source, Mapping) else os.fspath(source)


def _versions(record: Mapping[str, Any]) -> Any:
    return record["machine"].get("versions")


# ------------------------------------------------------------------ reading
def _record(source: str | os.PathLike | Mapping[str, Any], what: str) -> Mapping[str, Any]:
    data = source if isinstance(source, Mapping) else _read(Path(source))
    named = f"{what} `{source}`" if not isinstance(source, Mapping) else what
    if data.get("command") == "bench run" and isinstance(data.get("data"), Mapping):
        if not data.get("ok"):
            raise BadData("bench.record", f"{named} is the record of a run that failed", _AGAIN)
        data = data["data"]  # the envelope of --json
    if data.get("schema") != SCHEMA:
        raise BadData(
            "bench.schema",
            f"{named} has schema {shown(data.get('schema'))}, not `{SCHEMA}`",
            _AGAIN,
        )
    fault = _fault(data)
    if fault:
        raise BadData("bench.record", f"{named}: {fault}", _AGAIN)
    return data


def _read(path: Path) -> Mapping[str, Any]:
    try:
        if path.stat().st_size > _LARGEST:
            raise BadData("bench.record", f"`{path}` is too large for a record", _AGAIN)
        data = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise NoInput("io.not_found", f"`{path}` does not exist", _AGAIN) from error
    except OSError as error:
        raise os_failure(error, "read", path) from error
    except (ValueError, RecursionError) as error:
        raise BadData(
            "bench.record", f"`{path}` is no JSON: {shown(str(error))}", _AGAIN
        ) from error
    if not isinstance(data, dict):
        raise BadData("bench.record", f"`{path}` holds no record", _AGAIN)
    return data


def _fault(data: Mapping[str, Any]) -> str | None:
    """What a record lacks, in words; a file may be anybody's."""
    for name, kind in (("machine", Mapping), ("settings", Mapping), ("results", list)):
        if not isinstance(data.get(name), kind):
            return f"`{name}` is missing"
    if not data["results"]:
        return "`results` is empty"
    for number, row in enumerate(data["results"]):
        if not isinstance(row, Mapping) or not isinstance(row.get("tokens_per_second"), Mapping):
            return f"result {number} is no row"
        values = row["tokens_per_second"].get("values")
        if not isinstance(values, list) or not all(_positive(value) for value in values):
            return f"result {number} has no values"
        if len(values) < FEWEST:
            return (
                f"result {number} was measured {len(values)} times: too few to decide anything "
                f"(--count {FEWEST} or more, or leave it out)"
            )
    return None


def _positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e30


# ------------------------------------------------------------------ comparing
# What records of before do not say, as it was then.
_LATER = {"settings": {"kv": "float32"}}


def _check_alike(one: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    different = unlike(one["machine"], other["machine"])
    if different:
        raise _apart("bench.machines_differ", "are not of one machine", different)
    for name, code, words in (
        ("architecture", "bench.models_differ", "are not of models of one shape"),
        ("settings", "bench.settings_differ", "were not made with one setting"),
    ):
        a, b = (_LATER.get(name, {}) | (record.get(name) or {}) for record in (one, other))
        different = [f"{key}: {a.get(key)} and {b.get(key)}" for key in a if a[key] != b.get(key)]
        if different or set(a) != set(b):
            raise _apart(code, words, different or ["their fields"])
    keys = ("phase", "batch", "tokens")
    rows = [[[row.get(key) for key in keys] for row in r["results"]] for r in (one, other)]
    if rows[0] != rows[1]:
        raise _apart("bench.settings_differ", "do not have the same rows", [])


def _apart(code: str, words: str, different: Sequence[str]) -> BitnetError:
    detail = f": {'; '.join(different)}" if different else ""
    return BadData(code, f"the two records {words}{detail}", "compare what was measured alike")


def _compare(
    a: Mapping[str, Any],
    b: Mapping[str, Any],
    one: Mapping[str, Any],
    other: Mapping[str, Any],
    confidence: float,
) -> dict[str, Any]:
    before, after = a["tokens_per_second"]["values"], b["tokens_per_second"]["values"]
    ratio = ratio_of_medians(after, before, confidence=confidence)
    scale = "int8_peak" if (a.get("int8_share") or 0) > (a.get("bandwidth_share") or 0) else None
    scales = [_scale(record, scale or "bandwidth") for record in (one, other)]
    beside = None
    if all(len(values) >= FEWEST for values in scales):
        beside = ratio_of_medians(
            after,
            before,
            scale_above=scales[1],
            scale_below=scales[0],
            confidence=confidence,
        )
    slower = ratio.below and (beside is None or beside.below)
    verdict = "slower" if slower else "faster" if ratio.above else "no difference seen"
    if ratio.below and not slower:
        verdict = "slower, as the machine is"
    name = f"{a['phase']}, batch {a['batch']}"
    return {
        "name": name,
        "code": "bench.regression",
        "passed": not slower,
        "verdict": verdict,
        "message": f"{verdict}: {ratio.value:.3f} times the baseline's tokens per second, between "
        f"{ratio.low:.3f} and {ratio.high:.3f}",
        "phase": a["phase"],
        "batch": a["batch"],
        "baseline": a["tokens_per_second"]["median"],
        "current": b["tokens_per_second"]["median"],
        "ratio": ratio.value,
        "ratio_interval": [ratio.low, ratio.high],
        "beside": scale or "bandwidth",
        "beside_ratio": None if beside is None else beside.value,
        "beside_interval": None if beside is None else [beside.low, beside.high],
        "kernels": [a.get("kernel"), b.get("kernel")],
    }


def _scale(record: Mapping[str, Any], name: str) -> list[float]:
    values = (record.get(name) or {}).get("values")
    ok = isinstance(values, list) and all(_positive(value) for value in values)
    return list(values) if ok and values else []


def _warnings(
    one: Mapping[str, Any], other: Mapping[str, Any], comparisons: Sequence[Mapping[str, Any]]
) -> list[str]:
    found = []
    for what, record in (("baseline", one), ("current run", other)):
        load, cores = record["machine"].get("load_average"), record["machine"].get("cores")
        if isinstance(load, int | float) and isinstance(cores, int) and load > cores / 2:
            found.append(f"the {what} shared its machine: {load:.1f} processes wanted to run")
    for row in comparisons:
        if row["kernels"][0] != row["kernels"][1]:
            found.append(f"{row['name']}: kernel {row['kernels'][1]}, was {row['kernels'][0]}")
    return found
