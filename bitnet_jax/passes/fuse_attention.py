"""Pass: rotary positions, the writes into the KV cache and attention as one op.

Needs: a flat Program (`inline_calls`). Does: puts each `attention` over two `cache_write`s,
with the `rotary` of its queries and keys, into one `cached_attention`. Leaves: that op where
all five read the same positions and nobody else reads what is between them, everything else
as it was. Results agree to float32's rounding, not in every bit.
"""

from __future__ import annotations

from typing import Any

from bitnet_jax.ir.graph import Graph, Replacement, replaced
from bitnet_jax.ir.program import Program
from bitnet_jax.ops.cached_attention import cached_attention

NAME = "fuse_attention"


def fuse_attention(program: Program) -> Program:
    """As `program`, with its cached attentions fused."""
    graph = Graph(program.jaxpr.jaxpr)
    found = (_fused(graph, eqn) for eqn in graph.jaxpr.eqns if eqn.primitive.name == "attention")
    replacements = dict(place for place in found if place is not None)
    return program.derived(NAME, replaced(program.jaxpr, replacements))


def _fused(graph: Graph, eqn: Any) -> tuple[int, Replacement] | None:
    q, k, v, positions = eqn.invars
    turn_q = graph.maker(q, "rotary")
    writes = [graph.maker(k, "cache_write"), graph.maker(v, "cache_write")]
    if turn_q is None or None in writes:
        return None
    turn_k = graph.maker(writes[0].invars[1], "rotary")
    if turn_k is None or turn_k.params != turn_q.params:
        return None
    read = [turn_q.invars[1], turn_k.invars[1], *(write.invars[2] for write in writes)]
    own = (q, writes[0].invars[1])
    if any(var is not positions for var in read) or any(len(graph.read_by[v]) > 1 for v in own):
        return None
    # Who else reads a cache with the new rows may do so before this op would have written them.
    later = {Graph.OUTPUT, graph.index(eqn)}
    if not later.issuperset([*graph.read_by[k], *graph.read_by[v]]):
        return None
    inputs = (
        *(turn_q.invars[0], turn_k.invars[0], writes[1].invars[1], positions),
        *(write.invars[0] for write in writes),
    )
    said: dict[str, Any] = turn_q.params | eqn.params
    said.pop("implementation", None)

    def run(*operands: Any) -> tuple[Any, ...]:
        return cached_attention(*operands, **said)

    return graph.index(eqn), Replacement(inputs, (eqn.outvars[0], k, v), run)
