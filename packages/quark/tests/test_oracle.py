"""The oracle and its ledger: what may be asked, and what it costs."""

import numpy as np
import pytest
from fivefold_quark import AmplitudeEstimate, Chebyshev, Oracle, Replicas, Single
from fivefold_quark.engine.engines.choosing import build_engine
from fivefold_quark.engine.ledger import Ledger
from fivefold_quark.engine.problem import tabulate
from fivefold_quark.engine.problems.edge import edge3

EDGE3 = edge3()


def opened(seed=0):
    return Oracle(EDGE3, build_engine("tensor", EDGE3), seed)


@pytest.mark.parametrize(
    "test", [Single(), Replicas(4), Chebyshev(7, 0.9), AmplitudeEstimate(3, 0.8)]
)
@pytest.mark.parametrize("k", [0, 1, 5])
def test_a_shot_costs_the_closed_form(test, k):
    oracle = opened()
    oracle.measure(test, k, 3)
    oracle.measure_flag(test, 5, k)
    spent = oracle.ledger
    assert (spent.shots_weight, spent.shots_theta) == (3, 5)
    assert spent.model_queries == 8 * (2 * k + 1) * test.cost
    assert spent.loader_queries == 8 * (2 * k + 1) * test.loads
    assert spent.circuit_executions == spent.measurements == 8
    assert spent.distinct_circuits == 1
    assert spent.classical_evals == 0


def test_evaluations_are_counted_one_a_sample_and_measured_nothing():
    oracle = opened()
    table = tabulate(EDGE3)
    assert oracle.evaluate(5, [7, 100, 511]).tolist() == table.right[5, [7, 100, 511]].tolist()
    assert oracle.accuracy(5) == pytest.approx(table.accuracies[5], abs=1e-12)
    assert oracle.ledger.classical_evals == 3 + 512
    assert oracle.ledger.measurements == 0
    oracle.draw(10)
    assert oracle.ledger.measurements == 0


def test_queries_of_weights_and_flag_add_up():
    one, other = Ledger(shots_weight=2, model_queries=30), Ledger(classical_evals=5)
    one.add(other)
    assert (one.queries, one.measurements) == (35, 2)
    kept = one.copy()
    one.shots_weight += 1
    assert kept.shots_weight == 2
    assert set(one.as_dict()) == {
        "shots_weight",
        "shots_theta",
        "shots_verify",
        "model_queries",
        "loader_queries",
        "circuit_executions",
        "distinct_circuits",
        "classical_evals",
    }


def test_the_same_seed_measures_the_same_weights():
    shots = [opened(seed).measure(Replicas(4), 1, 30).tolist() for seed in (3, 3, 4)]
    assert shots[0] == shots[1]
    assert shots[0] != shots[2]


def test_the_exact_mean_is_free_and_that_of_the_scores():
    oracle = opened()
    expected = Replicas(4).score(tabulate(EDGE3).accuracies).mean()
    assert oracle.exact_mean(Replicas(4)) == pytest.approx(expected)
    assert oracle.ledger == Ledger()


def test_a_table_that_raises_when_read_does_not_stop_measurements_and_evaluations():
    """Whoever holds an oracle has no other way to the accuracies."""
    engine = build_engine("analytic", EDGE3)
    engine.distribution(Replicas(2), 1)
    oracle = Oracle(EDGE3, engine, 0)
    public = [name for name in dir(oracle) if not name.startswith("_")]
    assert not {"table", "problem", "engine"} & set(public)
    assert np.isin(oracle.measure(Replicas(2), 1, 5), range(8)).all()
