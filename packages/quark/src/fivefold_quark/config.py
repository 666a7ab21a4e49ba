"""Settings of the optimisers: `optimization.*`. Light: no numpy."""

from __future__ import annotations

from dataclasses import dataclass, field

from fivefold import UserError
from fivefold.errors import nearest

from ._words import EngineName, TestKind

PRESETS = ("none", "paper")
SCHEDULES = ("planner", "bbht", "fixed_k", "optimal_k")
RULES = ("best", "mode")
VERIFICATIONS = ("racing", "full")
LAYOUTS = ("auto", "registers", "fused")
THETA_SOURCES = ("auto", "exact", "sampled")
PAPER_COPIES = 8
"""Data copies of the paper's preset: the source's experiments have one and two, too weak a test
for most tasks."""


def _above_zero(value: int | float, setting: str, what: str) -> None:
    if not value > 0:
        raise UserError(f"no {what}", setting=setting, value=value, remedy="give more than 0")


def check_seed(value: int, setting: str = "seed") -> None:
    """Refuse a seed that numpy cannot take.

    Raises:
        UserError: it is negative.
    """
    if value < 0:
        raise UserError("a seed below 0", setting=setting, value=value, remedy="give 0 or more")


def _one_of(value: str, choices: tuple[str, ...], setting: str) -> None:
    if value not in choices:
        raise UserError(
            "no such choice", setting=setting, value=value, remedy=nearest(value, choices)
        )


def _probability(value: int | float, setting: str) -> None:
    if not 0.0 < value < 1.0:
        raise UserError("not a probability", setting=setting, value=value, remedy="between 0 and 1")


@dataclass
class BudgetConfig:
    """What a search may spend; at the end the best weights so far are kept."""

    shots: int = 4096
    """Most measurements of the weight register; of draws, for the classical methods."""
    model_queries: float = 1e6
    """Most model queries inside circuits (U_M and its inverse)."""
    seconds: float = 120.0
    """Most seconds."""

    def __post_init__(self) -> None:
        _above_zero(self.shots, "shots", "measurement in the budget")
        _above_zero(self.model_queries, "model_queries", "model query in the budget")
        _above_zero(self.seconds, "seconds", "second in the budget")


@dataclass
class CoherentTestConfig:
    """How a weight's accuracy becomes the amplitude of its flag."""

    kind: TestKind = TestKind.CHEBYSHEV
    """`chebyshev` (polynomial filter, one data register), `replicas` (m data copies, the paper's),
    `amplitude_estimate` (where the best accuracy is far from 1) or `single` (too weak to help)."""
    L: int | None = None  # the filter's degree, as the literature writes it
    """Degree of the filter, odd; null: the schedule chooses."""
    m: int | None = None
    """Data copies; null: the schedule chooses."""
    least: int = 0
    """Copies of m that must be right, for noisy labels; 0: all."""
    t: int | None = None
    """Bits of the amplitude estimate; null: the schedule chooses."""
    tau: float | None = None
    """Accuracy that the test looks for; null: it follows the incumbent."""


@dataclass
class ScheduleConfig:
    """Which test and how many iterations each shot runs, and when the search ends."""

    kind: str = field(default="planner", metadata={"choices": SCHEDULES})
    """`planner` (the best expected gain for its cost), `bbht` (k at random below a growing bound),
    `fixed_k` (the paper's: one test, one k), `optimal_k` (k* of the test at each incumbent)."""
    k: int | None = None
    """Iterations of `fixed_k`; null: k*."""
    exact_k: bool = False
    """Let an ancilla lower the flag by just so much that k iterations end on the good branch with
    certainty; for `fixed_k` and `optimal_k`, whose theta is known or measured."""
    growth: float = 1.2
    """Factor of `bbht`'s bound after a failure."""
    first: int = 8
    """Uniform draws (k = 0) with which a planner begins."""
    shot_cost: float | None = None
    """What one measurement costs beside its queries, in model queries; null: 400, or a full
    verification where that is more."""
    patience: int = 6
    """Rounds of 12 shots without a better weight after which the search ends; the planner ends by
    `confidence` before."""
    confidence: float = 0.95
    """Probability with which the planner, when it ends, has missed no weight that is better by
    `optimization.epsilon`."""
    result: str = field(default="best", metadata={"choices": RULES})
    """`best` (the most accurate candidate) or `mode` (the most frequent one: a plain histogram)."""

    def __post_init__(self) -> None:
        _one_of(self.kind, SCHEDULES, "kind")
        _one_of(self.result, RULES, "result")
        _probability(self.confidence, "confidence")
        _above_zero(self.patience, "patience", "patience")
        _above_zero(self.first, "first", "first draw")
        if self.k is not None and self.k < 0:
            raise UserError("fewer than no iterations", setting="k", remedy="give 0 or more")
        if self.exact_k and self.kind not in ("fixed_k", "optimal_k"):
            raise UserError(
                "only a schedule that knows theta can be exact",
                setting="exact_k",
                value=self.exact_k,
                remedy="set schedule.kind=optimal_k",
            )
        if self.shot_cost is not None and self.shot_cost < 0.0:
            raise UserError("a price below nothing", setting="shot_cost", remedy="give 0 or more")
        if self.growth <= 1.0:
            raise UserError("the bound must grow", setting="growth", remedy="give more than 1")


@dataclass
class VerifyConfig:
    """How measured candidates are evaluated on the training samples."""

    kind: str = field(default="racing", metadata={"choices": VERIFICATIONS})
    """`racing` (dropped as soon as it cannot beat the incumbent) or `full`."""
    confidence: float = 0.999
    """Probability that a race does not drop a candidate which is better."""

    def __post_init__(self) -> None:
        _one_of(self.kind, VERIFICATIONS, "kind")
        _probability(self.confidence, "confidence")


@dataclass
class ThetaConfig:
    """Where the mean score, sin^2(theta), comes from."""

    source: str = field(default="auto", metadata={"choices": THETA_SOURCES})
    """`auto` (the planner learns it from its candidates; the other schedules sample it), `exact`
    (a simulator's privilege) or `sampled` (shots that measure the flag)."""
    shots: int = 256
    """Shots a test where it is sampled."""

    def __post_init__(self) -> None:
        _one_of(self.source, THETA_SOURCES, "source")
        _above_zero(self.shots, "shots", "shots to sample with")


@dataclass
class NoiseConfig:
    """Noise of a simulated quantum computer; with any, the circuit runs gate by gate."""

    depolarizing_1q: float = 0.0
    """Probability of a depolarising error after a one-qubit gate."""
    depolarizing_2q: float = 0.0
    """Probability of a depolarising error after a two-qubit gate."""
    readout: float = 0.0
    """Probability that a measured bit is read wrongly."""
    t1: float = 0.0
    """Relaxation time in nanoseconds, gates taking 35 (one qubit) and 300 (two); 0: none."""
    t2: float = 0.0
    """Dephasing time in nanoseconds, at most twice `t1`."""

    def __post_init__(self) -> None:
        for name in ("depolarizing_1q", "depolarizing_2q", "readout"):
            value = getattr(self, name)
            if not 0.0 <= value < 1.0:
                raise UserError("not a probability", setting=name, value=value, remedy="0 to 1")
        if self.t1 < 0.0:
            raise UserError("no time", setting="t1", value=self.t1, remedy="give 0 (none) or more")
        if (self.t1 or self.t2) and not 0.0 < self.t2 <= 2.0 * self.t1:
            remedy = "give t2 above 0, at most twice t1"
            raise UserError("times no qubit has", setting="t2", value=self.t2, remedy=remedy)

    @property
    def is_any(self) -> bool:
        """Whether there is any noise."""
        return bool(self.depolarizing_1q or self.depolarizing_2q or self.readout or self.t1)


@dataclass
class QuarkConfig:
    """Settings of `optimization=quark`."""

    preset: str = field(default="none", metadata={"choices": PRESETS})
    """`paper`: m data copies, one k for all shots, a padded and marked data register; what is set
    beside it wins."""
    test: CoherentTestConfig = field(default_factory=CoherentTestConfig)
    """The coherent test."""
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    """Tests, iterations and the end."""
    engine: EngineName = EngineName.AUTO
    """`auto`, `analytic`, `tensor`, `compiled`, `reduced` or `gates` (full circuits; only these go
    to hardware)."""
    target_accuracy: float | None = None
    """Training accuracy at which the search ends."""
    epsilon: float = 0.02
    """Accuracy below the best that still counts as near-optimal."""
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    """What the search may spend."""
    verify: VerifyConfig = field(default_factory=VerifyConfig)
    """Verification of candidates."""
    theta: ThetaConfig = field(default_factory=ThetaConfig)
    """Where theta comes from."""
    layout: str = field(default="auto", metadata={"choices": LAYOUTS})
    """How `engine=gates` holds samples: `registers` (features, label and mark in qubits, the model
    as its formula), `fused` (the address alone, the model holds the samples), or `auto`."""
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    """Noise model, for `engine=gates`."""
    sampler: str = ""
    """What runs the circuits of `engine=gates`: nothing (Aer), `statevector`, `aer`, `runtime`, or
    `package.module:factory` of a V2 sampler."""
    block_bits: int = 16
    """Most weight bits in superposition; longer registers train in blocks."""
    seed: int = 0
    """Seed of all random numbers."""

    def __post_init__(self) -> None:
        _one_of(self.preset, PRESETS, "preset")
        _one_of(self.layout, LAYOUTS, "layout")
        check_seed(self.seed)
        if not 1 <= self.block_bits <= 24:
            raise UserError(
                "a block of weights that no simulator holds",
                setting="block_bits",
                remedy="give 1 to 24",
            )
        if not 0.0 <= self.epsilon < 1.0:
            raise UserError("not an accuracy", setting="epsilon", remedy="give 0 to 1")
        if self.target_accuracy is not None and not 0.0 < self.target_accuracy <= 1.0:
            raise UserError("not an accuracy", setting="target_accuracy", remedy="give 0 to 1")
        if self.preset == "paper":
            self._take_the_papers()

    def _take_the_papers(self) -> None:
        """Replace what stands at its default by the paper's way."""
        if self.test.kind is TestKind.CHEBYSHEV:
            self.test.kind = TestKind.REPLICAS
        if self.test.kind is TestKind.REPLICAS and self.test.m is None:
            self.test.m = PAPER_COPIES
        if self.schedule.kind == "planner":
            self.schedule.kind = "fixed_k"


@dataclass
class RandomConfig:
    """Settings of `optimization=random`."""

    replacement: bool = False
    """Draw with replacement: the same weights may come again."""
    racing: bool = True
    """Drop a candidate as soon as it cannot beat the best so far; otherwise evaluate each in
    full."""
    racing_at_first_mistake: bool = False
    """Drop a candidate at its first mistake: sound only where some weights make none."""
    confidence: float = 0.95
    """Part of all weights after which the search ends."""
    target_accuracy: float | None = None
    """Training accuracy at which the search ends; 1 always ends it."""
    budget: BudgetConfig = field(default_factory=lambda: BudgetConfig(shots=2**20))
    """What the search may spend."""
    seed: int = 0
    """Seed of all random numbers."""

    def __post_init__(self) -> None:
        _probability(self.confidence, "confidence")
        check_seed(self.seed)


@dataclass
class ExhaustiveConfig:
    """Settings of `optimization=exhaustive`."""

    max_bits: int = 22
    """Most weight bits that are enumerated."""
    seed: int = 0
    """Not used: nothing is random."""

    def __post_init__(self) -> None:
        _above_zero(self.max_bits, "max_bits", "weight bits")


@dataclass
class ParameterShiftConfig:
    """Settings of `optimization=parameter_shift`."""

    shots: int = 64
    """Shots an evaluation of the circuit; 0: exact expectation values."""
    steps: int = 80
    """Gradient steps a start."""
    restarts: int = 20
    """Most starts, from random angles."""
    learning_rate: float = 0.3
    """Of Adam."""
    target_accuracy: float | None = None
    """Training accuracy at which the search ends; 1 always ends it."""
    seconds: float = 120.0
    """Most seconds."""
    seed: int = 0
    """Seed of all random numbers."""

    def __post_init__(self) -> None:
        _above_zero(self.steps, "steps", "steps")
        _above_zero(self.restarts, "restarts", "start")
        _above_zero(self.learning_rate, "learning_rate", "step size")
        _above_zero(self.seconds, "seconds", "seconds to spend")
        if self.shots < 0:
            raise UserError("fewer than no shots", setting="shots", remedy="give 0 or more")
        check_seed(self.seed)
