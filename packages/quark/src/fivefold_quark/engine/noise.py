"""Noise of a simulated quantum computer, and the guard against circuits that it does not cover."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fivefold import UserError
from qiskit import QuantumCircuit
from qiskit_aer.noise import (
    NoiseModel,
    ReadoutError,
    depolarizing_error,
    thermal_relaxation_error,
)

if TYPE_CHECKING:
    from qiskit.providers import BackendV2

BASIS = ("cx", "rz", "sx", "x")
"""Gates that a noisy circuit is lowered to: noise attaches to the names of gates."""
_VIRTUAL = frozenset({"rz"})
"""Gates done in software, which have no noise on hardware either."""
_NO_GATES = frozenset({"measure", "barrier", "delay", "reset"})


@dataclass(frozen=True)
class Noise:
    """What goes wrong, by probability or by time.

    Times are in nanoseconds. `t1` and `t2` at 0 leave relaxation out.
    """

    depolarizing_1q: float = 0.0
    """After `sx` and `x`."""
    depolarizing_2q: float = 0.0
    """After `cx`."""
    readout: float = 0.0
    """A measured bit is read wrongly."""
    t1: float = 0.0
    """Relaxation time."""
    t2: float = 0.0
    """Dephasing time, at most twice `t1`."""
    gate_1q: float = 35.0
    """Duration of a one-qubit gate."""
    gate_2q: float = 300.0
    """Duration of a two-qubit gate."""

    @classmethod
    def of(cls, settings: object) -> Noise:
        """Return noise from anything that has fields of these names."""
        if isinstance(settings, cls):
            return settings
        names = cls.__dataclass_fields__
        return cls(**{name: getattr(settings, name) for name in names if hasattr(settings, name)})


def noise_model(settings: object) -> NoiseModel:
    """Return Aer's noise model of settings, or of a backend's calibration.

    Args:
        settings: a `NoiseModel` (returned as it is), a backend, or the fields of `Noise`.

    Raises:
        UserError: times that no qubit can have.
    """
    if isinstance(settings, NoiseModel):
        return settings
    if hasattr(settings, "target"):
        backend: BackendV2 = settings
        return NoiseModel.from_backend(backend)
    noise = Noise.of(settings)
    model = NoiseModel(basis_gates=list(BASIS))
    if noise.t1 and not 0 < noise.t2 <= 2 * noise.t1:
        raise UserError(
            f"a dephasing time of {noise.t2} with a relaxation time of {noise.t1}",
            setting="optimization.noise.t2",
            remedy="give more than 0 and at most twice t1",
        )
    one = depolarizing_error(noise.depolarizing_1q, 1)
    two = depolarizing_error(noise.depolarizing_2q, 2)
    if noise.t1:
        one = one.compose(thermal_relaxation_error(noise.t1, noise.t2, noise.gate_1q))
        relaxed = thermal_relaxation_error(noise.t1, noise.t2, noise.gate_2q)
        two = two.compose(relaxed.expand(relaxed))
    model.add_all_qubit_quantum_error(one, ["sx", "x"])
    model.add_all_qubit_quantum_error(two, ["cx"])
    if noise.readout:
        right = 1 - noise.readout
        error = ReadoutError([[right, noise.readout], [noise.readout, right]])
        model.add_all_qubit_readout_error(error)
    return model


def guard(circuit: QuantumCircuit, model: NoiseModel) -> None:
    """Refuse a circuit that holds gates without noise: it would run as if it were perfect.

    A native `mcx` under a model of `cx` noise is simulated free of noise, whatever it would cost.

    Raises:
        UserError: naming the gates.
    """
    covered = set(model.noise_instructions) | _VIRTUAL | _NO_GATES
    # a perfect model covers its own basis: nothing goes wrong there on purpose
    covered |= set(model.basis_gates) if model.is_ideal() else set()
    bare = sorted(set(circuit.count_ops()) - covered - _silent(model))
    if bare:
        raise UserError(
            f"the noise model covers no {', '.join(bare)}: these gates would run without noise",
            setting="optimization.noise",
            remedy=f"lower the circuit to {', '.join(BASIS)} first",
        )


def _silent(model: NoiseModel) -> set[str]:
    """Return gates of our basis whose error probability was set to nothing."""
    return set(BASIS) & set(model.basis_gates)
