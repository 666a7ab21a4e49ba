"""Circuits: reversible logic, clean ancillas, counted calls, export."""

import itertools
import math

import numpy as np
import pytest
from fivefold import UserError
from fivefold_quark import AmplitudeEstimate, Chebyshev, Padding, Replicas, Single, Training
from fivefold_quark.engine.circuits.amplification import prepare
from fivefold_quark.engine.circuits.export import to_qasm3
from fivefold_quark.engine.circuits.logic import Logic, Scratch, ancillas_of, monomials
from fivefold_quark.engine.coherent import Damped
from fivefold_quark.engine.engines.gates import Gates
from fivefold_quark.engine.models.angle import AngleModel
from fivefold_quark.engine.models.boolean import BooleanModel, masked_or
from fivefold_quark.engine.models.expression import And, AtLeast, Feature, Not, Or, Weight, Xor
from fivefold_quark.engine.problems.edge import edge3, edge8, every_pattern
from fivefold_quark.engine.problems.images import bundled_digits, tiny
from fivefold_quark.engine.problems.warm_ups import not_and, xor
from fivefold_quark.engine.weights import WeightRegister
from qiskit import QuantumCircuit, qasm3, transpile
from qiskit.quantum_info import Statevector
from qiskit_aer import AerSimulator

W, X = [Weight(i) for i in range(3)], [Feature(i) for i in range(3)]
FORMULAS = {
    "literal": X[1],
    "not": Not(W[0]),
    "and": And((W[0], X[0], Not(X[1]))),
    "or_of_literals": Or((W[0], X[0], Not(X[1]), W[2])),
    "or_unfolded": Or((And((W[0], X[0])), And((Not(W[0]), X[1])), And((W[1], X[2])))),
    "or_with_ancillas": Or(tuple(And((W[i], X[j])) for i, j in ((0, 0), (1, 1), (2, 2), (0, 2)))),
    "xor": Xor((And((W[0], X[0])), Or((X[1], W[1])), W[2])),
    "threshold": AtLeast(2, (W[0] ^ X[0], And((W[1], X[1])), X[2], W[2])),
    "nested": And((Or((W[0], X[0])), Not(Xor((W[1], X[1]))), AtLeast(1, (X[2], W[2])))),
}


def truth(expression, values):
    """Evaluate a formula by plain recursion."""
    parts = [truth(part, values) for part in expression.parts]
    match expression:
        case Weight():
            return values[expression.index]
        case Feature():
            return values[3 + expression.index]
        case Not():
            return not parts[0]
        case And():
            return all(parts)
        case Or():
            return any(parts)
        case Xor():
            return sum(parts) % 2 == 1
        case AtLeast():
            return sum(parts) >= expression.least


def permuted(circuit, bits):
    """Follow one basis state through gates that flip a target where all controls are 1."""
    for gate in circuit.data:
        assert gate.operation.name in ("x", "cx", "ccx", "mcx")
        *controls, target = [circuit.find_bit(qubit).index for qubit in gate.qubits]
        bits ^= all(bits >> control & 1 for control in controls) << target
    return bits


def final_state(circuit):
    """Return the state vector; Aer takes gates of many controls as they are."""
    circuit = circuit.copy()
    circuit.save_statevector()
    simulator = AerSimulator(method="statevector")
    made = transpile(circuit, simulator, optimization_level=0)
    return np.asarray(simulator.run(made).result().get_statevector())


@pytest.mark.parametrize("formula", FORMULAS.values(), ids=FORMULAS)
def test_a_formula_is_evaluated_as_its_definition_says(formula):
    model = BooleanModel(WeightRegister.of_bits(3), 3, formula)
    found = model.predict(every_pattern(3), every_pattern(3))
    for w, x in itertools.product(range(8), range(8)):
        values = [*map(bool, every_pattern(3)[w]), *map(bool, every_pattern(3)[x])]
        assert bool(found[w, x]) == bool(truth(formula, values))


@pytest.mark.parametrize("formula", FORMULAS.values(), ids=FORMULAS)
def test_a_formula_as_gates_flips_its_target_and_cleans_its_ancillas(formula):
    ancillas = ancillas_of(formula, 3, 3)
    size = 7 + ancillas
    circuit = QuantumCircuit(size)
    Logic(circuit, range(3), range(3, 6), Scratch(range(7, size))).flip(formula, 6)
    for bits in range(128):
        values = [bool(bits >> q & 1) for q in range(6)]
        assert permuted(circuit, bits) == bits ^ (bool(truth(formula, values)) << 6)


def test_few_terms_need_no_ancilla():
    assert ancillas_of(FORMULAS["or_unfolded"], 3, 3) == 0
    assert ancillas_of(FORMULAS["or_with_ancillas"], 3, 3) == 4
    assert ancillas_of(edge3().expression, 3, 9) == 8


@pytest.mark.parametrize("seed", range(4))
def test_normal_form_is_the_function(seed):
    values = np.random.default_rng(seed).integers(0, 2, 32).astype(bool)
    products = monomials(values)
    for state in range(32):
        assert sum(state & p == p for p in products) % 2 == values[state]


SOME = [0, 7, 56, 448, 511, 100, 300, 73, 146, 292, 273, 84]
"""Images of edge3, some with a full line."""
CASES = {
    "xor": (xor(), Replicas(2), "registers"),
    "xor_marked": (xor(Padding.MARK), Single(), "registers"),
    "xor_filter": (xor(), Chebyshev(3, 0.5), "registers"),
    "xor_estimate": (xor(), AmplitudeEstimate(2, 0.8), "fused"),
    "xor_damped": (xor(), Damped(Single(), 0.6), "fused"),
    "not_and": (not_and(), Chebyshev(5, 0.9), "registers"),
    "angle": (Training("angle", AngleModel(2, 1), xor().train), Chebyshev(3, 0.5), "registers"),
    "edge3": (
        Training("edge", edge3().model, edge3().train.take(SOME)),
        Chebyshev(3, 0.5),
        "fused",
    ),
    "addressed": (Training("or", masked_or(2), xor().train.take([0, 1, 3])), Single(), "registers"),
    "addressed_marked": (
        Training("or", masked_or(2), xor().train.take([0, 1, 3]), padding=Padding.MARK),
        Chebyshev(3, 0.5),
        "registers",
    ),
}


@pytest.mark.parametrize(("problem", "test", "layout"), CASES.values(), ids=CASES)
def test_preparation_and_its_inverse_return_every_qubit_to_zero(problem, test, layout):
    parts, unrolled = Gates(problem, layout=layout).parts_for(test)
    circuit = parts.blank(unrolled)
    prepare(circuit, parts, unrolled, inverse=False)
    prepare(circuit, parts, unrolled, inverse=True)
    assert abs(final_state(circuit)[0]) == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize(("problem", "test", "layout"), CASES.values(), ids=CASES)
def test_amplitude_stays_where_the_formula_has_it(problem, test, layout):
    """Small circuits of every layout, against the state that `tensor` computes."""
    from fivefold_quark.engine.engines.tensor import Tensor

    one = Gates(problem, layout=layout).run(test, 2)
    other = Tensor(problem).run(test, 2)
    assert np.abs(one.probabilities - other.probabilities).max() < 1e-9
    assert np.abs(one.flag - other.flag).max() < 1e-9


def test_ancillas_are_zero_after_the_model_is_undone():
    parts, test = Gates(edge3(), layout="registers").parts_for(Single())
    marginal = parts.blank(test)
    prepare(marginal, parts, test, inverse=False)
    # The eight detectors sit after the three weights; every gate on them comes in pairs.
    touched = [q for gate in marginal.data for q in map(marginal.find_bit, gate.qubits)]
    counts = [sum(q.index == ancilla for q in touched) for ancilla in range(3, 11)]
    assert all(count > 0 for count in counts)
    assert parts.layout.ancillas == 8


@pytest.mark.parametrize("k", [0, 1, 2, 3])
@pytest.mark.parametrize("test", [Single(), Replicas(2), Chebyshev(5, 0.8)])
def test_model_calls_of_the_circuit_are_those_that_the_ledger_charges(test, k):
    for layout in ("registers", "fused"):
        engine = Gates(xor(), layout=layout)
        assert engine.model_calls(test, k) == (2 * k + 1) * test.cost


def test_an_estimate_needs_no_more_model_calls_than_are_charged():
    """Ours saves the one that prepares: the estimate has read the answer already."""
    test = AmplitudeEstimate(3, 0.8)
    assert Gates(xor()).model_calls(test, 1) == 3 * (test.cost - 1)


def test_qubits_of_the_source_s_layouts():
    assert Gates(xor()).num_qubits(Replicas(2)) == 10
    assert Gates(not_and()).num_qubits(Replicas(2)) == 10
    assert Gates(edge3(), layout="registers").num_qubits(Single()) == 22
    assert Gates(edge3(padding=Padding.MARK), layout="registers").num_qubits(Single()) == 23
    fused = Gates(tiny(bundled_digits(), (6, 7)))
    assert (fused.layout, fused.num_qubits(Single())) == ("fused", 16)
    assert Gates(edge8()).layout == "fused"


@pytest.mark.parametrize("name", ["xor", "angle", "addressed"])
def test_exported_text_is_the_circuit(name):
    problem, test, layout = CASES[name]
    text = to_qasm3(problem, test, 1, layout)
    assert text.startswith("OPENQASM 3")
    assert "bit[" in text
    assert " w;" in text
    pytest.importorskip("qiskit_qasm3_import")
    read = qasm3.loads(text)
    weights = problem.register.num_bits
    read.remove_final_measurements()
    found = Statevector(read).probabilities(range(weights))
    expected = Gates(problem, layout=layout).run(test, 1).probabilities[1]
    assert np.abs(found - expected).max() < 1e-6


def test_a_threshold_over_many_copies_is_refused_with_the_way_out():
    with pytest.raises(UserError, match=r"patterns of right copies.*tensor"):
        Gates(xor()).parts_for(Replicas(8, least=4))[0].flip_good(
            QuantumCircuit(40), Replicas(8, least=4)
        )


def test_an_unknown_layout_is_refused():
    with pytest.raises(UserError, match=r"layout.*registers"):
        Gates(xor(), layout="round")


def test_controlled_rotations_of_an_angle_model_add_up():
    model = AngleModel(1, 3)
    turns = [turn.angle for turn in model.rotations if turn.feature is None]
    assert sum(turns) == pytest.approx(2 * math.pi * 7 / 8)
