"""Samplers: whatever keeps Qiskit's V2 contract runs our circuits, a simulator or a cloud.

Contract: `run([(circuit, params, shots)])`, and `result()[0].data.<register>` holds the shots. A
circuit is lowered to the sampler's gates first (no V2 sampler does that), once a circuit.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from importlib import import_module
from typing import Any

import numpy as np
from fivefold import UserError, nearest
from jaxtyping import Int
from numpy import ndarray
from qiskit import QuantumCircuit
from qiskit.primitives import BackendSamplerV2, StatevectorSampler
from qiskit.transpiler import PassManager, generate_preset_pass_manager
from qiskit_aer.noise import NoiseModel
from qiskit_aer.primitives import SamplerV2 as AerSampler

from .._words import SAMPLERS
from .noise import BASIS, guard, noise_model

_RUNTIME = (
    ("qiskit_ibm_runtime.executor_sampler", "Sampler"),
    ("qiskit_ibm_runtime", "SamplerV2"),
)
"""Where the cloud's sampler lives, newest first: its name has changed and will again."""
_LEVEL = 1


class BoundSampler:
    """A sampler with what lowers circuits to its gates, and with its noise, if it has any.

    Args:
        sampler: keeps the V2 contract.
        lower: makes a circuit one of the sampler's gates.
        noise: what the lowered circuit must be covered by.
    """

    def __init__(self, sampler: Any, lower: PassManager, noise: NoiseModel | None = None) -> None:
        self.sampler = sampler
        self.noise = noise
        self._lower = lower
        self._lowered: dict[Hashable, QuantumCircuit] = {}

    def shots(
        self, key: Hashable, make: Callable[[], QuantumCircuit], register: str, count: int
    ) -> Int[ndarray, " shot"]:
        """Return what shots of a circuit's register show.

        Args:
            key: what names the circuit; it is built and lowered once.
            make: builds it.
            register: the classical register.
            count: shots, all in one job.
        """
        if key not in self._lowered:
            self._lowered[key] = self.lowered(make())
        done = self.sampler.run([(self._lowered[key], None, count)]).result()
        shown = getattr(done[0].data, register)
        packed = shown.array.reshape(-1, shown.array.shape[-1]).astype(np.int64)
        places = 256 ** np.arange(packed.shape[1], dtype=np.int64)[::-1]
        found: Int[ndarray, " shot"] = packed @ places
        return found

    def lowered(self, circuit: QuantumCircuit) -> QuantumCircuit:
        """Return a circuit of the sampler's gates.

        Raises:
            UserError: the noise does not cover what it holds.
        """
        made = self._lower.run(circuit)
        if self.noise is not None:
            guard(made, self.noise)
        return made


def make_sampler(given: Any = None, noise: Any = None, seed: int = 0) -> BoundSampler:
    """Return what a setting or an object stands for, ready to run our circuits.

    Args:
        given: a name (`aer`, `statevector`, `runtime`), `package.module:factory` (called without
            arguments), a mapping with `_target_`, or an object that keeps the V2 contract.
        noise: settings of noise, a `NoiseModel`, or a backend; of Aer's sampler only.
        seed: of simulated shots.

    Raises:
        UserError: an unknown name, something without the contract, or noise where there is none.
    """
    if noise is not None and given not in (None, "", "aer"):
        raise UserError(
            "noise is simulated by Aer alone",
            setting="optimization.sampler",
            value=str(given),
            remedy="leave the sampler out, or the noise",
        )
    if given in (None, "", "aer"):
        return _aer(noise, seed)
    if given == "statevector":
        return BoundSampler(StatevectorSampler(seed=seed), _manager(basis_gates=list(BASIS)))
    if given == "runtime":
        return _bound(_runtime())
    if isinstance(given, str):
        return _bound(_called(given))
    if isinstance(given, Mapping):
        return _bound(_instantiated(given))
    return _bound(given)


def _aer(noise: Any, seed: int) -> BoundSampler:
    options: dict[str, Any] = {"backend_options": {"max_parallel_threads": 2}}
    model = None
    if noise is not None:
        model = noise_model(noise)
        options["backend_options"] |= {"noise_model": model, "method": "automatic"}
    gates = sorted(set(model.basis_gates) & {*BASIS, "id"}) if model else list(BASIS)
    manager = _manager(basis_gates=gates)
    return BoundSampler(AerSampler(seed=seed, options=options), manager, model)


def _bound(sampler: Any) -> BoundSampler:
    """Wrap a sampler, or a backend, that was made elsewhere."""
    if hasattr(sampler, "target") and not hasattr(sampler, "_backend"):  # a backend
        return BoundSampler(BackendSamplerV2(backend=sampler), _manager(backend=sampler))
    if not callable(getattr(sampler, "run", None)):
        raise UserError(
            f"a {type(sampler).__name__} is no sampler",
            setting="optimization.sampler",
            remedy="give an object with run([(circuit, params, shots)])",
        )
    mode = getattr(sampler, "backend", None) or getattr(sampler, "mode", None)
    backend = mode() if callable(mode) else mode
    if hasattr(backend, "target"):
        return BoundSampler(sampler, _manager(backend=backend))
    return BoundSampler(sampler, _manager(basis_gates=list(BASIS)))


def _runtime() -> Any:
    """Return the cloud's sampler on the account's least busy machine."""
    for module, name in _RUNTIME:
        try:
            kind = getattr(import_module(module), name)
        except (ImportError, AttributeError):
            continue
        service = import_module("qiskit_ibm_runtime").QiskitRuntimeService()
        return kind(mode=service.least_busy(operational=True, simulator=False))
    raise UserError(
        "no runtime is installed",
        setting="optimization.sampler",
        value="runtime",
        remedy="pip install 'fivefold-quark[runtime]'",
    )


def _called(reference: str) -> Any:
    module, _, function = reference.partition(":")
    if not function:
        raise UserError(
            "no such sampler",
            setting="optimization.sampler",
            value=reference,
            remedy=f"{nearest(reference, SAMPLERS)}, or package.module:factory",
        )
    make = _imported(module, function)
    try:
        return make()
    except TypeError as error:
        raise UserError(
            f"{reference} cannot be called: {error}",
            setting="optimization.sampler",
            value=reference,
            remedy="name what can be called without arguments",
        ) from error


def _instantiated(given: Mapping[str, Any]) -> Any:
    """Call what `_target_` names with the other keys, as Hydra does."""
    if "_target_" not in given:
        raise UserError(
            "a sampler without _target_",
            setting="optimization.sampler",
            remedy="name what makes it: {_target_: package.module.factory}",
        )
    module, _, name = str(given["_target_"]).rpartition(".")
    return _imported(module, name)(**{key: given[key] for key in given if key != "_target_"})


def _imported(module: str, name: str) -> Callable[..., Any]:
    try:
        found: Callable[..., Any] = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(
            f"{module}:{name} cannot be imported: {error}",
            setting="optimization.sampler",
            remedy="name what can be called without arguments, as in package.module:factory",
        ) from error
    return found


def _manager(**target: Any) -> PassManager:
    return generate_preset_pass_manager(optimization_level=_LEVEL, seed_transpiler=0, **target)
