"""Exported functions beside the functions themselves, by ONNX Runtime."""

import jax
import numpy as np
import onnx

from bitnet_jax.export.function import export_onnx
from bitnet_jax.export.measure import session

# Two implementations of exp, of a sum's order: a few roundings of the largest value.
ROUNDINGS = 2**-20


def feeds(running, args):
    """Inputs of a session, by name, from the arguments' leaves in order."""
    leaves, ports = jax.tree.leaves(args), running.get_inputs()
    return {port.name: np.asarray(leaf) for port, leaf in zip(ports, leaves, strict=True)}


def exported(tmp_path, fn, params, *args, sizes=None, profile="portable", **options):
    """A session of the exported function; ONNX's own checker has taken the file."""
    path = tmp_path / "model.onnx"
    export_onnx(fn, params, *(sizes or args), path=path, profile=profile, force=True)
    onnx.checker.check_model(str(path), full_check=True)
    return session(path, **options)


def agrees(tmp_path, fn, params, *args, want=None, tolerance=ROUNDINGS, **options):
    """The file's results are the function's, integers exactly."""
    running = exported(tmp_path, fn, params, *args, **options)
    got = running.run(None, feeds(running, args))
    want = jax.tree.leaves(fn(params, *args) if want is None else want)
    assert len(got) == len(want)
    for result, expected in zip(got, want, strict=True):
        expected = np.asarray(expected)
        assert result.dtype == expected.dtype and result.shape == expected.shape
        if not np.issubdtype(expected.dtype, np.floating):
            np.testing.assert_array_equal(result, expected)
            continue
        finite = np.abs(expected[np.isfinite(expected)]).max(initial=0)
        np.testing.assert_allclose(result, expected, rtol=0, atol=tolerance * finite)
    return running
