"""`QuarkClassifier`: the search behind scikit-learn's `fit` and `predict`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
from fivefold import UserError
from fivefold.errors import nearest
from jaxtyping import Float, UInt8
from numpy import ndarray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from ._words import EngineName, Padding, TestKind
from .amplify.optimizer import QuarkOptimizer
from .config import (
    SCHEDULES,
    BudgetConfig,
    CoherentTestConfig,
    QuarkConfig,
    ScheduleConfig,
)
from .engine.optimizer import OptimizationResult
from .engine.problem import Model, Training
from .engine.problems.choosing import model_of
from .engine.samples import Samples
from .groups import MODELS

SCHEMA = 1
BINARIZE = ("none", "mean")
MULTICLASS = ("none", "one_vs_rest")
_NUMBERS: tuple[tuple[type, str, tuple[str, ...]], ...] = (
    (Integral, "give a whole number", ("bits", "L", "m", "k", "max_shots", "block_bits")),
    (Real, "give a number", ("tau", "target_accuracy", "epsilon", "max_queries", "max_seconds")),
)
_PLANNED = ("L", "m", "k", "tau", "target_accuracy")
"""Settings that may be `None`."""
_NAMED_HERE = {
    "kind": "schedule",
    "shots": "max_shots",
    "model_queries": "max_queries",
    "seconds": "max_seconds",
    "optimization.budget": "max_queries",
}
"""What the classifier calls settings of the optimiser; others keep their last word."""


class InputError(UserError, ValueError):
    """Training data that cannot be learnt from; scikit-learn expects a `ValueError`."""


class QuarkClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A classifier with discretised weights, trained by amplitude amplification.

    Features are zeros and ones (see `binarize`), classes two (see `multiclass`).

    Args:
        model: a name (`masked_or`, `perceptron`, `ternary`, `fixed`, `angle`), a `Model`, or a
            function from the number of features to a `Model`.
        bits: of each weight of `fixed` and `angle`.
        test: the coherent test: `chebyshev`, `replicas`, `amplitude_estimate` or `single`.
        L: degree of the filter, odd; `None`: planned.
        m: data copies; `None`: planned.
        tau: accuracy the test looks for; `None`: follows the incumbent.
        schedule: `planner`, `bbht`, `fixed_k` or `optimal_k`.
        k: iterations of `fixed_k`.
        engine: `auto`, `analytic`, `tensor`, `compiled`, `reduced` or `gates`.
        target_accuracy: training accuracy at which the search ends.
        epsilon: accuracy below the best that still counts as near-optimal.
        max_shots: most measurements of the weight register.
        max_queries: most model queries.
        max_seconds: most seconds, each class of `one_vs_rest` its own.
        block_bits: most weight bits in superposition.
        padding: `exact` or `mark`.
        binarize: `none` refuses features other than 0 and 1; `mean` compares each with its mean
            over the training samples.
        multiclass: `none` refuses more than two classes; `one_vs_rest` trains one model a class.
        random_state: seed of the search.
    """

    def __init__(
        self,
        model: str | Model | Callable[[int], Model] = "masked_or",
        *,
        bits: int = 2,
        test: str = "chebyshev",
        L: int | None = None,  # noqa: N803 - the filter's degree, as it is written
        m: int | None = None,
        tau: float | None = None,
        schedule: str = "planner",
        k: int | None = None,
        engine: str = "auto",
        target_accuracy: float | None = None,
        epsilon: float = 0.02,
        max_shots: int = 4096,
        max_queries: float = 1e6,
        max_seconds: float = 120.0,
        block_bits: int = 16,
        padding: str = "exact",
        binarize: str = "none",
        multiclass: str = "none",
        random_state: int | np.random.RandomState | None = 0,
    ) -> None:
        self.model = model
        self.bits = bits
        self.test = test
        self.L = L
        self.m = m
        self.tau = tau
        self.schedule = schedule
        self.k = k
        self.engine = engine
        self.target_accuracy = target_accuracy
        self.epsilon = epsilon
        self.max_shots = max_shots
        self.max_queries = max_queries
        self.max_seconds = max_seconds
        self.block_bits = block_bits
        self.padding = padding
        self.binarize = binarize
        self.multiclass = multiclass
        self.random_state = random_state

    def __sklearn_tags__(self) -> Any:
        """Say to scikit-learn what can be learnt."""
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = self.multiclass == "one_vs_rest"
        tags.classifier_tags.poor_score = True  # a few bits of weights, made for binary features
        return tags

    def fit(
        self,
        X: Any,  # noqa: N803 - scikit-learn's name
        y: Any,
        sample_weight: Any = None,
    ) -> QuarkClassifier:
        """Search the weights that get most training samples right.

        Args:
            X: [sample, feature].
            y: [sample], the classes.
            sample_weight: [sample], what each counts.

        Raises:
            UserError: features, labels or settings that cannot be used; also a `ValueError` where
                the data is at fault.
        """
        self._check_settings()
        with _settings_named_here():
            return self._fit(X, y, sample_weight)

    def _fit(self, X: Any, y: Any, sample_weight: Any) -> QuarkClassifier:  # noqa: N803
        X, y = validate_data(self, X, y)  # noqa: N806
        check_classification_targets(y)
        checked = _check_sample_weight(sample_weight, X, ensure_non_negative=True)
        weights = np.asarray(checked, dtype=np.float64)
        self.classes_, labels = np.unique(y, return_inverse=True)
        self._check_classes()
        self.thresholds_ = X.mean(0) if self.binarize == "mean" else None
        patterns = self._patterns(X)
        random = check_random_state(self.random_state)
        self.results_: list[OptimizationResult] = []
        for label in self._targets():
            training = self._training(patterns, (labels == label).astype(np.uint8), weights)
            config = self._config(int(random.randint(2**31 - 1)))
            self.results_.append(QuarkOptimizer(config).optimize(training))
        self.weights_ = [result.weights for result in self.results_]
        self.train_accuracies_ = [result.train_accuracy for result in self.results_]
        return self

    def predict(self, X: Any) -> ndarray:  # noqa: N803
        """Return the class of each sample.

        Where one model a class was trained, the class whose model says yes; of several, or none,
        the one whose model is most often right with that answer.
        """
        check_is_fitted(self)
        X = validate_data(self, X, reset=False)  # noqa: N806
        yes = self._outputs(self._patterns(X))  # [target, sample]
        if len(self.weights_) == 1:
            return np.asarray(self.classes_[(yes[0] > 0.5).astype(int)])
        trust = np.array(self.train_accuracies_)[:, None]
        belief = yes * trust + (1.0 - yes) * (1.0 - trust)
        return np.asarray(self.classes_[belief.argmax(0)])

    # ---------------------------------------------------------------------------- as a file

    def save(self, path: str | Path) -> None:
        """Write the fitted classifier as JSON.

        Raises:
            UserError: a model that is no name cannot be written down.
        """
        check_is_fitted(self)
        if not isinstance(self.model, str):
            raise UserError(
                "only a model that has a name can be saved",
                setting="model",
                value=type(self.model).__name__,
                remedy=f"use one of {', '.join(MODELS)}",
            )
        seed = self.random_state if isinstance(self.random_state, Integral) else None
        record = {
            "fivefold_quark": SCHEMA,
            "settings": {**self.get_params(deep=False), "random_state": seed},
            "classes": self.classes_.tolist(),
            "weights": ["".join(map(str, reversed(bits))) for bits in self.weights_],
            "train_accuracies": list(self.train_accuracies_),
            "thresholds": None if self.thresholds_ is None else self.thresholds_.tolist(),
            "num_features": self.n_features_in_,
        }
        if hasattr(self, "feature_names_in_"):
            record["feature_names"] = self.feature_names_in_.tolist()
        text = json.dumps(record, indent=1, default=_plain)
        Path(path).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> QuarkClassifier:
        """Read a classifier that `save` wrote.

        Raises:
            UserError: the file is not there, or not such a classifier.
        """
        try:
            record = json.loads(Path(path).read_text(encoding="utf-8"))
            if record["fivefold_quark"] != SCHEMA:
                raise ValueError(f"schema {record['fivefold_quark']!r}, not {SCHEMA}")
            made = cls(**record["settings"])
            made.classes_ = np.array(record["classes"])
            made.n_features_in_ = int(record["num_features"])
            register = made._model().register
            made.weights_ = [
                tuple(int(bit) for bit in register.parse(text)) for text in record["weights"]
            ]
            made.train_accuracies_ = [float(value) for value in record["train_accuracies"]]
            thresholds = record["thresholds"]
            made.thresholds_ = None if thresholds is None else np.array(thresholds, dtype=float)
            if "feature_names" in record:
                made.feature_names_in_ = np.array(record["feature_names"], dtype=object)
            made._check_loaded()
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"cannot read a classifier: {error}",
                setting="path",
                value=str(path),
                remedy="give a file that QuarkClassifier.save wrote",
            ) from error
        return made

    # ------------------------------------------------------------------------------- inside

    def _check_loaded(self) -> None:
        """Refuse parts of a file that do not fit each other.

        Raises:
            ValueError: naming the part.
        """
        self._check_settings()
        width = (self.n_features_in_,)
        if self.classes_.ndim != 1 or len(self.classes_) < 2:
            raise ValueError("classes are not two or more")
        if len(self.weights_) != len(self._targets()):
            raise ValueError(f"{len(self.weights_)} weights of {len(self.classes_)} classes")
        if len(self.train_accuracies_) != len(self.weights_):
            raise ValueError("train_accuracies are not one for each of the weights")
        if (self.thresholds_ is None) != (self.binarize == "none"):
            raise ValueError(f"thresholds do not go with binarize={self.binarize}")
        if self.thresholds_ is not None and (
            self.thresholds_.shape != width or not np.isfinite(self.thresholds_).all()
        ):
            raise ValueError("thresholds are not one number for each feature")
        names = getattr(self, "feature_names_in_", None)
        if names is not None and names.shape != width:
            raise ValueError("feature_names are not one for each feature")

    def _check_settings(self) -> None:
        for kind, remedy, names in _NUMBERS:
            for name in names:
                value = getattr(self, name)
                if not isinstance(value, kind) and not (value is None and name in _PLANNED):
                    raise InputError("no number", setting=name, value=value, remedy=remedy)
        is_model = isinstance(self.model, str) or hasattr(self.model, "predict")
        if not (is_model or callable(self.model)):
            remedy = f"use one of {', '.join(MODELS)}, a Model, or a function that makes one"
            raise InputError("no model", setting="model", value=self.model, remedy=remedy)
        for name, known in (
            ("schedule", SCHEDULES),
            ("padding", tuple(Padding)),
            ("binarize", BINARIZE),
            ("multiclass", MULTICLASS),
        ):
            value = getattr(self, name)
            if value not in known:
                remedy = nearest(str(value), known)
                raise InputError("no such choice", setting=name, value=value, remedy=remedy)

    def _check_classes(self) -> None:
        if len(self.classes_) < 2:
            raise InputError(
                "the training labels hold one class only",
                setting="y",
                remedy="give samples of two classes",
            )
        if len(self.classes_) > 2 and self.multiclass == "none":
            raise InputError(
                "Only binary classification is supported. "
                f"The labels hold {len(self.classes_)} classes",
                setting="y",
                remedy='set multiclass="one_vs_rest"',
            )

    def _targets(self) -> Sequence[int]:
        """Return the classes that a model says yes to."""
        return [1] if len(self.classes_) == 2 else range(len(self.classes_))

    def _patterns(self, features: ndarray) -> UInt8[ndarray, "n feature"]:
        if self.thresholds_ is not None:
            found: UInt8[ndarray, "n feature"] = (features > self.thresholds_).astype(np.uint8)
            return found
        if not np.isin(features, (0, 1)).all():
            raise InputError(
                "features other than 0 and 1 cannot enter a Boolean model",
                setting="X",
                remedy='binarise them, or set binarize="mean"',
            )
        return features.astype(np.uint8)

    def _training(
        self, patterns: UInt8[ndarray, "n feature"], labels: ndarray, weights: ndarray
    ) -> Training:
        """Return the problem; equal samples are one that counts as often."""
        counted = weights > 0
        rows = np.concatenate([patterns[counted], labels[counted, None]], axis=1)
        distinct, place = np.unique(rows, axis=0, return_inverse=True)
        shares = np.bincount(place.ravel(), weights=weights[counted])
        try:
            samples = Samples.of(distinct[:, :-1], distinct[:, -1], shares, setting="y")
        except UserError as error:
            raise InputError(error.problem, setting="y", remedy=error.remedy) from error
        return Training("samples", self._model(), samples, padding=Padding(self.padding))

    def _model(self) -> Model:
        if isinstance(self.model, str):
            return model_of(self.model, self.n_features_in_, self.bits)
        if hasattr(self.model, "predict"):
            found: Model = self.model  # type: ignore[assignment]
            return found
        return self.model(self.n_features_in_)

    def _outputs(self, patterns: UInt8[ndarray, "n feature"]) -> Float[ndarray, "target n"]:
        found: Float[ndarray, "target n"] = self._model().predict(
            np.array(self.weights_, dtype=np.uint8), patterns
        )
        return found

    def _config(self, seed: int) -> QuarkConfig:
        kinds, engines = [str(kind) for kind in TestKind], [str(name) for name in EngineName]
        for name, value, known in (("test", self.test, kinds), ("engine", self.engine, engines)):
            if value not in known:
                remedy = nearest(str(value), known)
                raise UserError(f"unknown {name}", setting=name, value=value, remedy=remedy)
        return QuarkConfig(
            test=CoherentTestConfig(kind=TestKind(self.test), L=self.L, m=self.m, tau=self.tau),
            schedule=ScheduleConfig(kind=self.schedule, k=self.k),
            engine=EngineName(self.engine),
            target_accuracy=self.target_accuracy,
            epsilon=self.epsilon,
            budget=BudgetConfig(self.max_shots, self.max_queries, self.max_seconds),
            block_bits=self.block_bits,
            seed=seed,
        )


@contextmanager
def _settings_named_here() -> Iterator[None]:
    """Let errors of the optimiser name the classifier's setting."""
    try:
        yield
    except InputError:
        raise
    except UserError as error:
        name = _NAMED_HERE.get(error.setting, error.setting.rpartition(".")[2])
        raise error.located(name) from error.__cause__


def _plain(value: Any) -> Any:
    """Return a number of numpy's, as grid searches set them, as Python's own."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")
