"""Engines: one distribution, five ways; the invariants of amplification."""

import math

import numpy as np
import pytest
from fivefold import UserError
from fivefold_quark import (
    AmplitudeEstimate,
    Chebyshev,
    Padding,
    Replicas,
    Single,
    Training,
    Weighting,
)
from fivefold_quark.engine.coherent import Damped
from fivefold_quark.engine.engines.analytic import Analytic
from fivefold_quark.engine.engines.choosing import build_engine
from fivefold_quark.engine.engines.gates import Gates
from fivefold_quark.engine.engines.protocol import Amplified
from fivefold_quark.engine.engines.states import Rows, prepare
from fivefold_quark.engine.engines.tensor import Tensor
from fivefold_quark.engine.models.angle import AngleModel
from fivefold_quark.engine.models.boolean import binary_perceptron
from fivefold_quark.engine.models.linear import LinearModel
from fivefold_quark.engine.problem import tabulate
from fivefold_quark.engine.problems.edge import edge3, edge8
from fivefold_quark.engine.problems.images import bundled_digits, tiny
from fivefold_quark.engine.problems.warm_ups import not_and, xor
from scipy.stats import chisquare

DIGITS = bundled_digits()
PROBLEMS = {
    "xor": xor(),
    "not_and": not_and(),
    "edge3": edge3(),
    "edge3_split": edge3(split_seed=4),
    "tiny67": tiny(DIGITS, (6, 7), weighting=Weighting.MULTIPLICITY),
    "tiny67_marked": tiny(DIGITS, (6, 7), padding=Padding.MARK),
    "angle": Training("angle", AngleModel(2, 2), xor().train),
    "ternary": Training("ternary", LinearModel(2), not_and().train),
}
SMALL = ("xor", "not_and", "ternary")
TESTS = {
    "single": Single(),
    "replicas": Replicas(2),
    "two_of_three": Replicas(3, least=2),
    "chebyshev": Chebyshev(5, 0.8),
    "estimate": AmplitudeEstimate(2, 0.8),
    "damped": Damped(Chebyshev(3, 0.5), 0.7),
}
K = 6


def formula(problem, test, last):
    """The master formula, written out here: from accuracies by plain loops over samples."""
    table = tabulate(problem)
    accuracy = [
        sum(p * c for p, c in zip(table.probabilities, row, strict=True)) for row in table.right
    ]
    score = test.score(np.array(accuracy))
    theta = math.asin(math.sqrt(score.sum() / len(score)))
    found, flags = [], []
    for k in range(last + 1):
        g = math.sin((2 * k + 1) * theta) ** 2
        found.append(g * score / score.sum() + (1 - g) * (1 - score) / (1 - score).sum())
        flags.append(g)
    return np.array(found), np.array(flags)


def errors(engine, problem, test, last=K):
    expected, flags = formula(problem, test, last)
    found = engine.run(test, last)
    return max(np.abs(found.probabilities - expected).max(), np.abs(found.flag - flags).max())


@pytest.mark.parametrize("test", TESTS.values(), ids=TESTS)
@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)
def test_tensor_agrees_with_the_formula(problem, test):
    assert errors(Tensor(problem), problem, test) < 1e-9


@pytest.mark.parametrize("test", TESTS.values(), ids=TESTS)
@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)
def test_analytic_agrees_with_the_formula(problem, test):
    assert errors(Analytic(problem), problem, test) < 1e-9


@pytest.mark.parametrize(
    ("name", "test", "last"),
    [
        *((name, test, K) for name in SMALL for test in TESTS),
        ("angle", "replicas", 3),
        ("angle", "chebyshev", K),
        ("angle", "estimate", 3),
        ("edge3", "single", K),
        ("edge3", "chebyshev", K),
        ("edge3_split", "chebyshev", 3),
        ("tiny67", "chebyshev", 3),
        ("tiny67", "damped", 2),
        ("tiny67_marked", "chebyshev", 3),
    ],
)
def test_compiled_agrees_with_the_formula(name, test, last):
    problem = PROBLEMS[name]
    assert errors(build_engine("compiled", problem), problem, TESTS[test], last) < 1e-9


@pytest.mark.parametrize("test", [*TESTS.values(), Replicas(32)], ids=[*TESTS, "replicas32"])
@pytest.mark.parametrize("name", ["xor", "edge3", "ternary", "angle"])
def test_reduced_agrees_with_the_formula(name, test):
    problem = PROBLEMS[name]
    assert errors(build_engine("reduced", problem), problem, test, 3) < 1e-9


@pytest.mark.parametrize(
    ("name", "layout", "test", "last"),
    [
        *(("xor", "registers", test, K) for test in TESTS),
        *(("not_and", "registers", test, 3) for test in ("replicas", "chebyshev", "damped")),
        *(("xor", "fused", test, 3) for test in TESTS),
        ("angle", "registers", "chebyshev", 3),
        ("angle", "registers", "replicas", 2),
        ("angle", "registers", "estimate", 1),
        ("ternary", "fused", "chebyshev", 3),
        ("edge3", "fused", "single", 2),
        pytest.param("edge3", "fused", "chebyshev", 2, marks=pytest.mark.slow),
        pytest.param("edge3", "fused", "single", K, marks=pytest.mark.slow),
        ("tiny67", "fused", "chebyshev", 3),
        ("tiny67_marked", "fused", "single", 2),
    ],
)
def test_gates_agree_with_the_formula(name, layout, test, last):
    problem = PROBLEMS[name]
    engine = Gates(problem, layout=layout)
    assert errors(engine, problem, TESTS[test], last) < 1e-9


@pytest.mark.slow
def test_gates_agree_with_the_formula_in_the_registers_of_the_source():
    for problem, qubits in ((edge3(), 22), (edge3(padding=Padding.MARK), 23)):
        engine = Gates(problem, layout="registers")
        assert engine.num_qubits(Single()) == qubits
        assert errors(engine, problem, Single(), 1) < 1e-9


def test_two_copies_agree_with_a_state_vector_written_by_hand():
    """XOR, m = 2: 64 amplitudes, every operator a dense matrix."""
    hadamard = np.array([[1, 1], [1, -1]]) / math.sqrt(2)
    prepare = hadamard
    for _ in range(5):
        prepare = np.kron(prepare, hadamard)
    states = np.arange(64)
    weights, samples = states & 3, (states >> 2 & 3, states >> 4 & 3)
    parity = np.array([0, 1, 1, 0])
    good = np.ones(64, dtype=bool)
    for sample in samples:
        good &= parity[weights & sample] == parity[sample]
    empty = np.diag(np.where(states == 0, -1.0, 1.0))
    step = -prepare @ empty @ prepare.T @ np.diag(np.where(good, -1.0, 1.0))
    state = prepare[:, 0]
    for k in range(4):
        expected = np.bincount(weights, weights=state**2)
        for name in ("tensor", "compiled", "gates"):
            found = build_engine(name, xor()).run(Replicas(2), 3).probabilities[k]
            assert np.abs(found - expected).max() < 1e-12
        state = step @ state


def walk(engine, test, max_k):
    """Return what `run` returns, with every A and its inverse applied to the state in place.

    One complex array, and no knowledge of A|0> between iterations; for the tests of one data
    register.
    """
    rows = Rows.of(engine.table, 0, len(engine.table.codes))
    phases = test.phases if isinstance(test, Chebyshev) else ()
    start = np.broadcast_to(rows.data, (len(engine.table.codes), rows.data.shape[1]))
    start = start / np.sqrt(len(start))
    state = prepare(test, rows).amplitudes.astype(np.complex128) / np.sqrt(len(start))
    found = []
    for _ in range(max_k + 1):
        found.append(np.abs(state) ** 2)
        np.negative(state, out=state, where=~rows.wrong)
        for beta, alpha in reversed(phases):
            phase_on_data(state, rows, alpha)
            np.multiply(state, np.exp(-1j * beta), out=state, where=rows.wrong)
        state -= 2 * np.vdot(start, state) * start
        np.negative(state, out=state)
        for beta, alpha in phases:
            np.multiply(state, np.exp(1j * beta), out=state, where=rows.wrong)
            phase_on_data(state, rows, -alpha)
    squared = np.stack(found)
    return Amplified(squared.sum(2), (squared * ~rows.wrong).sum((1, 2)))


def phase_on_data(state, rows, angle):
    overlap = (state * rows.data).sum(1, keepdims=True)
    state += (np.exp(1j * angle) - 1) * overlap * rows.data


@pytest.mark.parametrize("test", [Single(), Chebyshev(5, 0.8)], ids=["single", "chebyshev"])
@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)
def test_tensor_agrees_with_the_walk_that_undoes_every_preparation(problem, test):
    engine = Tensor(problem)
    one, other = engine.run(test, K), walk(engine, test, K)
    assert np.abs(one.probabilities - other.probabilities).max() < 1e-9
    assert np.abs(one.flag - other.flag).max() < 1e-9


@pytest.mark.parametrize("test", TESTS.values(), ids=TESTS)
@pytest.mark.parametrize("name", ["xor", "edge3", "tiny67", "angle"])
def test_flag_of_each_weight_is_its_score(name, test):
    """At k = 0 the weights are uniform, so P(flag | w) needs the amplitudes themselves."""
    from fivefold_quark.engine.engines.states import Rows, prepare

    table = tabulate(PROBLEMS[name])
    made = prepare(test, Rows.of(table, 0, len(table.codes)))
    flags = (np.abs(made.amplitudes) ** 2 * made.good).sum(1)
    counted = np.array([row @ table.probabilities for row in table.right])
    assert flags == pytest.approx(test.score(counted), abs=1e-9)
    assert (np.abs(made.amplitudes) ** 2).sum(1) == pytest.approx(np.ones(len(flags)))


def test_flag_follows_the_sine_past_its_top():
    problem, test = PROBLEMS["tiny67"], Chebyshev(9, 0.9)
    found = Tensor(problem).run(test, 10).flag
    theta = math.asin(math.sqrt(found[0]))
    assert found == pytest.approx([math.sin((2 * k + 1) * theta) ** 2 for k in range(11)])
    assert found.argmax() < 10


def test_flipping_the_sign_of_alpha_alone_is_caught(monkeypatch):
    """The wrong filter is plausible, and far from the formula."""
    problem = edge3()
    test = Chebyshev(3, 1 / math.cosh(math.acosh(2) / 3) ** 2)  # delta = 0.5
    assert test.delta == pytest.approx(0.5)
    right = test.phases
    table = {
        "alpha": [(beta, -alpha) for beta, alpha in right],
        "beta": [(-beta, alpha) for beta, alpha in right],
        "both": [(-beta, -alpha) for beta, alpha in right],
    }
    found = {}
    for name, phases in table.items():
        broken = Chebyshev(3, test.tau)
        broken.__dict__["phases"] = tuple(phases)
        found[name] = errors(Tensor(problem), problem, broken, 3)
        assert errors(build_engine("compiled", problem), problem, broken, 3) == pytest.approx(
            found[name], abs=1e-9
        )
    assert found["alpha"] > 0.5
    assert found["beta"] > 0.5
    assert found["both"] < 1e-9  # a complex conjugate changes nothing


def test_leaving_the_data_out_of_the_reflection_is_caught():
    """Reflecting about the weights alone is not amplification; the walk with that bug disagrees."""
    problem = edge3()
    table = tabulate(problem)
    state = np.sqrt(np.outer(np.full(8, 1 / 8), table.probabilities))
    state = np.where(table.right, -state, state)
    state = 2 * state.mean(0) - state  # 2|u><u| - 1 on the weights only
    expected, _ = formula(problem, Single(), 1)
    assert np.abs((state**2).sum(1) - expected[1]).max() > 0.01


def test_twice_the_data_changes_nothing():
    problem = PROBLEMS["tiny67"]
    twice = np.tile(np.arange(len(problem.train)), 2)
    doubled = Training("doubled", problem.model, problem.train.take(twice))
    test = Chebyshev(9, 0.9)
    one, other = Tensor(problem).run(test, 5), Tensor(doubled).run(test, 5)
    assert np.abs(one.probabilities - other.probabilities).max() < 1e-12
    shots = [
        build_engine("tensor", p).sample(test, 3, 50, np.random.default_rng(1))
        for p in (problem, doubled)
    ]
    assert (shots[0] == shots[1]).all()


def test_the_order_of_samples_changes_nothing():
    problem = PROBLEMS["tiny67"]
    order = np.random.default_rng(0).permutation(len(problem.train))
    shuffled = Training("shuffled", problem.model, problem.train.take(order))
    for name in ("tensor", "compiled"):
        found = [build_engine(name, p).run(Chebyshev(5, 0.9), 2) for p in (problem, shuffled)]
        assert np.abs(found[0].probabilities - found[1].probabilities).max() < 1e-12


def test_sampled_weights_have_the_law_of_the_formula():
    problem, test = edge3(), Replicas(4)
    expected, flags = formula(problem, test, 1)
    for name in ("tensor", "analytic"):
        engine = build_engine(name, problem)
        shots = engine.sample(test, 1, 20_000, np.random.default_rng(5))
        seen = np.bincount(shots, minlength=8)
        assert chisquare(seen, 20_000 * expected[1]).pvalue > 1e-4
        again = engine.sample(test, 1, 20_000, np.random.default_rng(5))
        assert (shots == again).all()
        up = engine.sample_flag(test, 1, 20_000, np.random.default_rng(6))
        assert abs(up / 20_000 - flags[1]) < 0.02


def test_a_model_of_torch_modules_kind_needs_no_circuit():
    """Whatever answers `evaluate_batch` is a problem; only `gates` asks for more."""

    class Threshold:
        name = "threshold"
        register = binary_perceptron(4).register
        probabilities = np.full(3, 1 / 3)

        def evaluate_batch(self, weights, indices):
            return (weights.sum(1)[:, None] > np.arange(3)[indices]).astype(np.float64)

    problem = Threshold()
    for name in ("analytic", "tensor", "compiled", "reduced"):
        assert errors(build_engine(name, problem), problem, Replicas(2), 2) < 1e-9
    with pytest.raises(UserError, match=r"has no circuit.*engine=tensor"):
        build_engine("gates", problem)


@pytest.mark.parametrize("name", ["tensor", "compiled"])
def test_what_an_engine_keeps_between_tests_is_bounded(name, monkeypatch):
    """A planner asks for hundreds of tests; distributions and diagonals are not all kept."""
    monkeypatch.setattr("fivefold_quark.engine.engines.sampling._KEPT_BYTES", 2000)
    monkeypatch.setattr("fivefold_quark.engine.circuits.diagonals._KEPT_ENTRIES", 5000)
    engine, reference = build_engine(name, edge3()), Analytic(edge3())
    for tau in np.linspace(0.5, 0.95, 12):
        test = Chebyshev(5, float(tau))
        expected = reference.distribution(test, 1)
        assert np.abs(engine.distribution(test, 1) - expected).max() < 1e-9
    kept = sum(found.probabilities.nbytes for found in engine._kept.values())
    assert kept <= 2000
    if name == "compiled":
        assert engine._parts._entries() <= 5000


def test_footprints_are_known_before_anything_is_built():
    big = Training("big", binary_perceptron(21), _random_samples(21, 100))
    for name, qubits in (("compiled", 28), ("reduced", 22), ("gates", 29)):
        engine = build_engine(name, big)
        footprint = engine.footprint(Single())
        assert (footprint.qubits, footprint.fits) == (qubits, False)
        with pytest.raises(UserError, match=rf"{qubits} qubits / .*B .*engine={name}.*tensor"):
            engine.run(Single(), 1)
        assert "table" not in engine.__dict__


def test_the_source_s_register_layout_of_tiny67_is_refused_with_its_numbers():
    problem = tiny(DIGITS, (6, 7), padding=Padding.MARK)
    engine = Gates(problem, layout="registers")
    assert engine.num_qubits(Single()) > 28
    with pytest.raises(UserError, match=r"qubits / .*iB.*fused"):
        engine.run(Single(), 0)
    assert Gates(problem).layout == "fused"


def test_auto_is_tensor_as_long_as_the_table_is_of_a_size():
    assert build_engine("auto", edge8()).name == "tensor"
    big = Training("big", binary_perceptron(22), _random_samples(22, 100))
    with pytest.raises(UserError, match=r"block_bits.*choose an engine"):
        build_engine("auto", big)
    with pytest.raises(UserError, match=r"array|memory|GiB|worth"):
        build_engine("tensor", big).run(Single(), 1)
    with pytest.raises(UserError, match=r"no such engine.*tensor"):
        build_engine("tenso", edge8())


def _random_samples(features, count):
    from fivefold_quark import Samples

    random = np.random.default_rng(0)
    return Samples.of(random.integers(0, 2, (count, features)), np.arange(count) % 2)
