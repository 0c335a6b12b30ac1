from __future__ import annotations

import logging

import pytest

from bitnet_jax.core.errors import Unavailable, UsageError
from bitnet_jax.ops import select as selection
from bitnet_jax.ops.native import library as native
from bitnet_jax.ops.select import select

STATUS = native.status()
needs_kernels = pytest.mark.skipif(not STATUS.available, reason=f"no C++ kernels: {STATUS.reason}")


@pytest.fixture
def no_kernels(monkeypatch):
    """A machine without a compiler, and without BITNET_ISA."""
    monkeypatch.setattr(selection, "_said", set())
    monkeypatch.delenv("BITNET_ISA", raising=False)
    status = native.Status(False, None, None, None, (), "no C++ compiler", "install g++")
    monkeypatch.setattr(native, "status", lambda: status)


def test_auto_without_kernels_takes_xla_and_says_so_once(no_kernels, caplog):
    with caplog.at_level(logging.WARNING):
        choices = [select("ternary_matmul", "cpu") for _ in range(3)]
    assert {choice.implementation for choice in choices} == {"xla"}
    assert "no C++ compiler" in choices[0].reason
    assert len(caplog.records) == 1


def test_native_by_name_without_kernels_raises_with_the_way_to_mend_it(no_kernels):
    with pytest.raises(Unavailable) as caught:
        select("ternary_matmul", "cpu", "native")
    assert caught.value.hint == "install g++"


def test_native_by_name_on_a_gpu_raises():
    with pytest.raises(Unavailable, match="on cuda"):
        select("ternary_matmul", "cuda", "native")


def test_a_gpu_takes_xla():
    choice = select("ternary_matmul", "cuda")
    assert (choice.implementation, choice.reason) == ("xla", "the fastest here")


@needs_kernels
def test_the_choice_names_the_instruction_set():
    choice = select("ternary_matmul", "cpu")
    assert (choice.implementation, choice.detail) == ("native", native.status().isa)


@needs_kernels
def test_a_forced_instruction_set_that_is_missing_raises_under_auto_too(monkeypatch):
    # No processor has both NEON and AVX.
    isa = next(isa for isa in native.KNOWN_ISAS if isa not in native.status().usable_isas)
    monkeypatch.setenv("BITNET_ISA", isa)
    for requested in (None, "native"):
        with pytest.raises(Unavailable, match="lacks it"):
            select("ternary_matmul", "cpu", requested)


@needs_kernels
def test_an_instruction_set_that_does_not_exist_is_a_usage_error(monkeypatch):
    monkeypatch.setenv("BITNET_ISA", "avx3")
    with pytest.raises(UsageError, match="avx3"):
        select("ternary_matmul", "cpu")


def test_unknown_op_and_implementation_are_usage_errors():
    with pytest.raises(UsageError, match="no op"):
        select("ternary_matmull", "cpu")
    with pytest.raises(UsageError) as caught:
        select("ternary_matmul", "cpu", "nativ")
    assert "native" in caught.value.hint
