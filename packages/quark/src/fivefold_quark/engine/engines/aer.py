"""What `compiled` and `gates` share: circuits on Aer, every k saved on the way."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cache

import numpy as np
import psutil
from fivefold import UserError
from qiskit import QuantumCircuit, transpile
from qiskit_aer import AerSimulator

from ..circuits.amplification import Parts, amplified
from ..coherent import CoherentTest
from .protocol import Amplified, Footprint
from .sampling import Simulated

BYTES = 16
"""Of one amplitude in double precision; planned twice, for sampling and fusion."""
_THREADS = 2


@dataclass
class Built:
    """A circuit ready to run, and what it took to make it."""

    circuit: QuantumCircuit
    seconds: float
    """Building and transpiling."""


class AerEngine(Simulated):
    """Runs amplification as a circuit on Aer's state vector; `parts` says out of what."""

    most_qubits = 28
    """Qubits that this engine takes."""
    advice = "choose engine=tensor, or fewer weights or samples"

    def parts_for(self, test: CoherentTest) -> tuple[Parts, CoherentTest]:
        """Return what a test's circuit is made of, and the test as those parts unroll it."""
        raise NotImplementedError

    def num_qubits(self, test: CoherentTest) -> int:
        """Return the size of a test's circuit."""
        raise NotImplementedError

    def footprint(self, test: CoherentTest) -> Footprint:
        """Return qubits and bytes: 16 x 2^n, twice."""
        qubits = self.num_qubits(test)
        memory = 2 * BYTES * 2**qubits + self.table_bytes
        fits = qubits <= self.most_qubits and memory <= psutil.virtual_memory().available
        return Footprint(qubits, memory, fits, self.advice)

    def check(self, test: CoherentTest) -> None:
        """Refuse what does not fit, before it is built.

        Raises:
            UserError: with the numbers and what to change.
        """
        found = self.footprint(test)
        if not found.fits:
            raise UserError(
                f"the circuit needs {found.qubits} qubits / {readable(found.memory)}",
                setting="optimization.engine",
                value=self.name,
                remedy=found.advice,
            )

    def build(self, test: CoherentTest, max_k: int) -> Built:
        """Return the circuit that saves the distribution after each k = 0 .. max_k.

        Level 0 keeps mcx, mcphase, diagonal and unitary as they are: Aer runs them natively.
        """
        self.check(test)
        begin = time.perf_counter()
        parts, unrolled = self.parts_for(test)
        qubits = [*range(parts.num_weights), *parts.flag(unrolled)[0]]

        def save(circuit: QuantumCircuit, k: int) -> None:
            circuit.save_probabilities(qubits, label=f"k{k}")

        circuit = amplified(parts, unrolled, max_k, after=save)
        made = transpile(circuit, _simulator(), optimization_level=0)
        return Built(made, time.perf_counter() - begin)

    def execute(self, test: CoherentTest, built: Built, max_k: int) -> Amplified:
        """Run a built circuit and read every k off."""
        data = _simulator().run(built.circuit, shots=1).result().data()
        parts, unrolled = self.parts_for(test)
        shown, good = parts.flag(unrolled)
        shape = (2 ** len(shown), 2**parts.num_weights)
        found = np.stack([np.asarray(data[f"k{k}"]).reshape(shape) for k in range(max_k + 1)])
        flag = (found * np.broadcast_to(good, shape[::-1]).T).sum((1, 2))
        return Amplified(found.sum(1)[:, self.table.codes], flag)

    def run(self, test: CoherentTest, max_k: int) -> Amplified:
        """Return the distributions for k = 0 .. max_k.

        Raises:
            UserError: the circuit does not fit.
        """
        return self.execute(test, self.build(test, max_k), max_k)


def readable(size: int | float) -> str:
    """Return bytes as people read them."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if size < 1024:
            return f"{size:.3g} {unit}"
        size /= 1024
    return f"{size:.3g} PiB"


@cache
def _simulator() -> AerSimulator:
    return AerSimulator(method="statevector", max_parallel_threads=_THREADS)
