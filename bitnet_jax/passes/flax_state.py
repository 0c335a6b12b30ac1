"""`Packed` in Flax's serialization: `flax.serialization.to_bytes(packed)` and back.

The state of packed parameters is, by leaf name, a float array, or codes and scale with the
text of what they are: kind, layout, axes. It is read into packed parameters of the same
function (`from_bytes(packed, data)`), and refused where that text differs.

Knows Flax's registry and nothing of passes. A `.bitnet` file says more, and checks itself.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from flax import serialization

from bitnet_jax.core.errors import BadData
from bitnet_jax.passes.packed import Packed
from bitnet_jax.quant.tensor import QuantTensor

ARRAYS = ("codes", "scale")


def _form(quant: QuantTensor) -> str:
    """What the codes are, as text: every field that is no array."""
    named = {field.name: getattr(quant, field.name) for field in fields(quant)}
    return " ".join(f"{name}={value}" for name, value in named.items() if name not in ARRAYS)


def _quant_state(quant: QuantTensor) -> dict[str, Any]:
    return {"codes": quant.codes, "scale": quant.scale, "form": _form(quant)}


def _restored_quant(quant: QuantTensor, state: Any) -> QuantTensor:
    found = state if isinstance(state, dict) else {}
    if found.get("form") != _form(quant):
        raise BadData(
            "transform.packed_state",
            f"`{serialization.current_path()}` holds {found.get('form', 'no packed weight')}; "
            f"here it is {_form(quant)}",
            "restore into what `pack` gives for the same function and rules",
        )
    out = replace(quant, **{name: found[name] for name in ARRAYS})
    out.verify(serialization.current_path())
    return out


def _packed_state(packed: Packed) -> dict[str, Any]:
    return {name: serialization.to_state_dict(leaf) for name, leaf in packed.leaves.items()}


def _restored(packed: Packed, state: Any) -> Packed:
    found = set(state) if isinstance(state, dict) else set()
    if found != set(packed.leaves):
        raise BadData(
            "transform.packed_state",
            f"the saved packed parameters and these differ in "
            f"{', '.join(f'`{name}`' for name in sorted(found ^ set(packed.leaves))[:5])}",
            "restore into what `pack` gives for the same function and rules",
        )
    leaves = {
        name: serialization.from_state_dict(leaf, state[name], name)
        for name, leaf in packed.leaves.items()
    }
    return replace(packed, leaves=leaves)


serialization.register_serialization_state(QuantTensor, _quant_state, _restored_quant)
serialization.register_serialization_state(Packed, _packed_state, _restored)
