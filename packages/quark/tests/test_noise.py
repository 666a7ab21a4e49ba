"""Noise and samplers: degradation, the guard, whatever keeps the V2 contract."""

import sys
from types import ModuleType

import numpy as np
import pytest
from fivefold import UserError
from fivefold_quark import Chebyshev, Replicas
from fivefold_quark.config import NoiseConfig
from fivefold_quark.engine.engines.gates import Gates
from fivefold_quark.engine.noise import BASIS, Noise, guard, noise_model
from fivefold_quark.engine.problems.warm_ups import not_and, xor
from fivefold_quark.engine.samplers import make_sampler
from qiskit import QuantumCircuit, transpile
from qiskit.primitives import StatevectorSampler
from qiskit.providers.fake_provider import GenericBackendV2
from qiskit_aer import AerSimulator
from qiskit_aer.noise import NoiseModel
from scipy.stats import chisquare

TWO = Replicas(2)
RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize("sampler", ["statevector", "aer", StatevectorSampler(seed=3)])
def test_a_sampler_draws_from_the_law_of_the_circuit(sampler):
    problem = xor()
    engine = Gates(problem, sampler=sampler, seed=1)
    shots = engine.sample(TWO, 1, 2000, RANDOM)
    expected = 2000 * Gates(problem).run(TWO, 1).probabilities[1]
    assert chisquare(np.bincount(shots, minlength=4), expected).pvalue > 1e-4


def test_a_sampler_s_flag_is_up_as_often_as_the_formula_says():
    engine = Gates(xor(), sampler="statevector", seed=2)
    expected = Gates(xor()).run(TWO, 1).flag[1]
    assert engine.sample_flag(TWO, 1, 2000, RANDOM) / 2000 == pytest.approx(expected, abs=0.05)


def test_a_circuit_is_built_and_lowered_once():
    engine = Gates(xor(), sampler="statevector")
    for _ in range(3):
        engine.sample(TWO, 1, 5, RANDOM)
    assert list(engine.sampler._lowered) == [("w", TWO, 1)]


@pytest.mark.parametrize(
    ("problem", "test"), [(xor(), TWO), (not_and(), Chebyshev(3, 0.5))], ids=["xor", "not_and"]
)
def test_noise_pulls_the_best_weight_towards_a_coin_flip(problem, test):
    ideal = float(Gates(problem).run(test, 1).probabilities[1, 3])
    found = []
    for error in (0.0, 5e-2):
        noise = Noise(depolarizing_1q=error / 10, depolarizing_2q=error)
        engine = Gates(problem, noise=noise, seed=7)
        found.append(float(np.mean(engine.sample(test, 1, 400, RANDOM) == 3)))
    assert found[0] == pytest.approx(ideal, abs=0.1)
    assert found[1] < found[0] - 0.05
    assert found[1] == pytest.approx(0.25, abs=0.1)


def test_a_native_gate_under_noise_of_two_qubit_gates_is_refused():
    """It would run as if it were perfect."""
    model = noise_model(Noise(depolarizing_1q=1e-3, depolarizing_2q=1e-2))
    circuit = QuantumCircuit(4)
    circuit.h(range(4))
    circuit.mcx([0, 1, 2], 3)
    with pytest.raises(UserError, match=r"covers no h, mcx.*lower the circuit to cx, rz, sx, x"):
        guard(circuit, model)
    guard(transpile(circuit, basis_gates=list(BASIS)), model)


def test_what_the_guard_refuses_would_indeed_run_without_noise():
    noise = noise_model(Noise(depolarizing_1q=0.2, depolarizing_2q=0.3))
    circuit = QuantumCircuit(4)
    circuit.mcx([0, 1, 2], 3)
    circuit.measure_all()
    simulator = AerSimulator(noise_model=noise, basis_gates=[*BASIS, "mcx"], seed_simulator=1)
    bare = simulator.run(circuit, shots=300).result().get_counts()
    lowered = transpile(circuit, basis_gates=list(BASIS), optimization_level=0)
    noisy = simulator.run(lowered, shots=300).result().get_counts()
    assert bare == {"0000": 300}
    assert noisy.get("0000", 0) < 200


def test_lowered_circuits_hold_modelled_gates_alone():
    engine = Gates(xor(), noise=Noise(depolarizing_1q=1e-4, depolarizing_2q=1e-3))
    lowered = engine.sampler.lowered(engine.circuit(TWO, 1))
    assert set(lowered.count_ops()) <= {*BASIS, "measure"}
    assert 150 < lowered.count_ops()["cx"] < 800


def test_readout_errors_alone_flip_measured_bits():
    engine = Gates(xor(), noise=NoiseConfig(readout=0.5))
    shots = engine.sample(TWO, 1, 2000, RANDOM)
    assert chisquare(np.bincount(shots, minlength=4)).pvalue > 1e-4


def test_relaxation_decays_towards_zero():
    slow, fast = Noise(t1=1e9, t2=1e9), Noise(t1=2000.0, t2=2000.0)
    found = []
    for noise in (slow, fast):
        made = make_sampler(noise=noise, seed=1)
        circuit = QuantumCircuit(1, 1)
        circuit.x(0)
        circuit.add_register(QuantumCircuit(0, 1).cregs[0]) if not circuit.cregs else None
        circuit.barrier()
        for _ in range(20):
            circuit.sx(0)
            circuit.sx(0)
            circuit.barrier()
        circuit.measure(0, 0)
        shots = made.shots("x", lambda made=circuit: made, "c", 1000)
        found.append(shots.mean())
    assert found[0] == pytest.approx(1.0, abs=0.02)
    assert found[1] < 0.9
    with pytest.raises(UserError, match="at most twice t1"):
        noise_model(Noise(t1=10.0, t2=30.0))


@pytest.mark.parametrize(("setting", "times"), [("t1", (-5.0, 1.0)), ("t2", (10.0, 30.0))])
def test_times_that_no_qubit_has_are_refused_by_their_setting(setting, times):
    with pytest.raises(UserError) as refused:
        NoiseConfig(t1=times[0], t2=times[1])
    assert refused.value.setting == setting


def test_noise_can_be_that_of_a_backend():
    backend = GenericBackendV2(12, seed=3)
    assert isinstance(noise_model(backend), NoiseModel)
    made = make_sampler(backend, seed=1)
    circuit = Gates(xor()).circuit(TWO, 0)
    shots = made.shots("k0", lambda: circuit, "w", 200)
    assert shots.shape == (200,)
    assert set(shots) <= {0, 1, 2, 3}


def test_a_factory_is_named_by_module_and_function(monkeypatch):
    module = ModuleType("their_cloud")
    module.sampler = lambda **options: StatevectorSampler(**options)
    monkeypatch.setitem(sys.modules, "their_cloud", module)
    for given in ("their_cloud:sampler", {"_target_": "their_cloud.sampler", "seed": 4}):
        engine = Gates(xor(), sampler=given)
        assert len(engine.sample(TWO, 1, 20, RANDOM)) == 20


def test_the_newest_name_of_the_cloud_s_sampler_is_tried_first(monkeypatch):
    """Its class has moved before; neither name stands anywhere but in the factory's list."""
    package, newer = ModuleType("qiskit_ibm_runtime"), ModuleType("newer")

    class Service:
        def least_busy(self, **_):
            return GenericBackendV2(6, seed=1)

    class Sampler:
        def __init__(self, mode):
            self.mode = mode
            self.run = StatevectorSampler(seed=1).run

    package.QiskitRuntimeService = Service
    monkeypatch.setitem(sys.modules, "qiskit_ibm_runtime", package)
    for place, name in ((package, "SamplerV2"), (newer, "Sampler")):
        setattr(place, name, Sampler)
        made = make_sampler("runtime")
        assert isinstance(made.sampler, Sampler)
        assert len(made.shots("k", lambda: Gates(xor()).circuit(Replicas(1), 0), "w", 9)) == 9
        monkeypatch.setitem(sys.modules, "qiskit_ibm_runtime.executor_sampler", newer)


@pytest.mark.parametrize(
    ("given", "noise", "said"),
    [
        ("statevektor", None, "no such sampler.*statevector"),
        ("no.such.module:it", None, "cannot be imported"),
        ({"seed": 1}, None, "_target_"),
        (object(), None, "no sampler"),
        ("statevector", NoiseConfig(readout=0.1), "Aer alone"),
    ],
)
def test_what_is_no_sampler_is_refused(given, noise, said):
    with pytest.raises(UserError, match=said):
        make_sampler(given, noise)


def test_a_missing_runtime_names_its_extra(monkeypatch):
    for module in ("qiskit_ibm_runtime", "qiskit_ibm_runtime.executor_sampler"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=r"runtime is installed.*fivefold-quark"):
        make_sampler("runtime")
