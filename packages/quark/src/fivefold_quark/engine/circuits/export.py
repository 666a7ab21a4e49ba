"""The `gates` circuit as OpenQASM 3."""

from __future__ import annotations

from qiskit import qasm3, transpile

from ..coherent import CoherentTest
from ..engines.gates import Gates
from ..problem import Training


def to_qasm3(problem: Training, test: CoherentTest, k: int, layout: str = "auto") -> str:
    """Return the circuit after k iterations, the weights measured into `w`, as OpenQASM 3 text.

    Args:
        problem: samples and a model that can be written as gates.
        test: decides what is good.
        k: iterations.
        layout: how samples sit in qubits.

    Raises:
        UserError: the circuit needs more qubits than can be simulated, or the model has none.
    """
    circuit = Gates(problem, layout=layout).circuit(test, k)
    lowered = transpile(
        circuit, basis_gates=["cx", "ccx", "rz", "ry", "h", "x", "p", "cp"], optimization_level=0
    )
    return str(qasm3.dumps(lowered))
