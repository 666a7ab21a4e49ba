"""The exam, sat by every optimiser of this package."""

import pytest
from fivefold_quark.testing import OptimizerSuite


class TestQuark(OptimizerSuite):
    overrides = ("optimization=quark", "optimization.engine=analytic")
    counts_every_evaluation = False


@pytest.mark.slow
class TestQuarkOnTheDefaultEngine(OptimizerSuite):
    overrides = ("optimization=quark",)
    counts_every_evaluation = False


class TestQuarkOfThePaper(OptimizerSuite):
    overrides = ("optimization=quark", "optimization.preset=paper")
    counts_every_evaluation = False


class TestRandom(OptimizerSuite):
    overrides = ("optimization=random", "optimization.confidence=0.999")


class TestExhaustive(OptimizerSuite):
    overrides = ("optimization=exhaustive",)


@pytest.mark.slow
class TestParameterShift(OptimizerSuite):
    overrides = ("optimization=parameter_shift", "optimization.shots=0")
    seeds = (0,)
