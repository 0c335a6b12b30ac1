"""The function that StableHLO programs were lowered from, run by jax here, and led.

In the calls that the programs are run in, on their tensors. Led, each border of the function
(`ir.borders`) gives what was computed there and goes on with another's value, so that a code which
rounds the other way spoils one piece and not all after it. Knows no tolerance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.extend.core as jec
import numpy as np

from bitnet_jax.containers.native import NativeFile
from bitnet_jax.export.decoder import Pairs
from bitnet_jax.export.stablehlo import Sizes, packed_of, program_of
from bitnet_jax.export.stablehlo_run import Programs, calls_of
from bitnet_jax.ir.borders import borders
from bitnet_jax.ir.interpreter import bind
from bitnet_jax.ir.program import Program

Borders = dict[str, tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Function:
    """What the programs of a folder say they are, traced again.

    Attributes:
      programs: of the folder; their tensors and sizes are used, the programs are not.
      weights: its tensors' file.
    """

    programs: Programs
    weights: NativeFile

    def logits(self, tokens: np.ndarray, prefill: int, capacity: int) -> np.ndarray:
        """As `Programs.logits`, of the function."""
        return self._run(tokens, prefill, capacity, {})[0]

    def led(
        self, tokens: np.ndarray, prefill: int, capacity: int, lead: Mapping[str, np.ndarray]
    ) -> tuple[np.ndarray, Borders]:
        """Its logits, given another's values; and what both have at each border: theirs, its own.

        Args:
          lead: float32 [batch, length, width], by the parameter that is read next; those that the
            function has no border for are left out.

        Returns:
          float32 [batch, length, vocab], and pairs [batch, length, width].
        """
        return self._run(tokens, prefill, capacity, lead)

    def _run(
        self, tokens: np.ndarray, prefill: int, capacity: int, lead: Mapping[str, np.ndarray]
    ) -> tuple[np.ndarray, Borders]:
        cache = self.programs.empty(len(tokens), capacity)
        steps: dict[int, _Step] = {}
        logits, own = [], list[dict[str, np.ndarray]]()
        for call in calls_of(tokens, prefill):
            batch, length = call.ids.shape
            if length not in steps:
                sizes = Sizes(batch, length, capacity)
                program = program_of(self.programs.spec, self.weights, sizes)
                steps[length] = _Step(self.weights, program, call.ids.size, tuple(lead))
            given = {name: lead[name][:, call.columns] for name in steps[length].leads}
            inputs = call.ids, call.positions, cache
            found, cache, met = steps[length].run(self.programs.tensors, *inputs, given)
            logits.append(np.asarray(found))
            own.append({name: np.asarray(value) for name, value in met.items()})
        shared = sorted(set(own[0]).intersection(*own))
        values = {name: np.concatenate([met[name] for met in own], axis=1) for name in shared}
        return np.concatenate(logits, axis=1), {name: (lead[name], values[name]) for name in shared}


@dataclass(frozen=True)
class _Step:
    """The function for one shape of ids, compiled."""

    weights: NativeFile
    program: Program
    tokens: int
    wanted: Sequence[str]

    @cached_property
    def leads(self) -> dict[str, Any]:
        """The variables that are given, by the parameter that is read next."""
        found = borders(self.program, self.tokens)
        return {name: found[name] for name in self.wanted if name in found}

    @cached_property
    def run(self) -> Any:
        """``run(tensors, tokens, positions, cache, given) -> (logits, cache, met)``, compiled."""
        return jax.jit(self._run)

    def _run(
        self, tensors: Any, tokens: Any, positions: Any, cache: Pairs, given: Mapping[str, Any]
    ) -> tuple[Any, Pairs, dict[str, Any]]:
        params = self.program.params_tree.flatten_up_to(packed_of(self.weights, tensors))
        inputs = self.program.inputs_tree.flatten_up_to((tokens, positions, cache))
        closed, names = self.program.jaxpr, {var: name for name, var in self.leads.items()}
        jaxpr, met = closed.jaxpr, dict[str, Any]()
        env: dict[Any, Any] = dict(zip(jaxpr.constvars, closed.consts, strict=True))
        env.update(zip(jaxpr.invars, [*params, *inputs], strict=True))

        def read(atom: Any) -> Any:
            return atom.val if isinstance(atom, jec.Literal) else env[atom]

        for eqn in jaxpr.eqns:
            for var, value in zip(eqn.outvars, bind(eqn, list(map(read, eqn.invars))), strict=True):
                env[var] = value
                if var in names:
                    own = given[names[var]]
                    met[names[var]] = value.reshape(own.shape)
                    env[var] = own.reshape(value.shape)
        logits, after = self.program.out_tree.unflatten(map(read, jaxpr.outvars))
        return logits, after, met
