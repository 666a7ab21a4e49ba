"""`QuarkClassifier` among scikit-learn's estimators, and as a file."""

from __future__ import annotations

import json

import numpy as np
import pytest
from fivefold import UserError
from fivefold_quark import QuarkClassifier
from fivefold_quark.engine.models.boolean import line_detectors
from fivefold_quark.engine.problems.edge import ROWS, edge_samples
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Binarizer
from sklearn.utils.estimator_checks import parametrize_with_checks

EDGES = edge_samples()
QUICK = {
    "max_shots": 12,
    "block_bits": 8,
    "test": "replicas",
    "m": 4,
    "schedule": "fixed_k",
    "k": 1,
}

LEFT_OUT: dict[str, str] = {}
"""Checks of scikit-learn that are left out, each with its reason.

The estimator under test compares features with their mean (`binarize="mean"`), since the checks
train on continuous ones, which a Boolean model refuses; what is refused is tested below.
"""


@parametrize_with_checks(
    [QuarkClassifier(binarize="mean", multiclass="one_vs_rest", **QUICK)],
    expected_failed_checks=lambda _: LEFT_OUT,
)
def test_is_an_estimator_of_scikit_learn(estimator, check):
    check(estimator)


def test_learns_the_edges():
    fitted = QuarkClassifier(line_detectors([[line] for line in ROWS]))
    assert fitted.fit(EDGES.features, EDGES.labels).score(EDGES.features, EDGES.labels) == 1.0


def test_works_in_a_pipeline_and_a_grid_search():
    images = EDGES.features * 0.8 + 0.1
    pipeline = make_pipeline(Binarizer(threshold=0.5), QuarkClassifier(max_shots=30))
    grid = GridSearchCV(pipeline, {"quarkclassifier__model": ["masked_or", "perceptron"]}, cv=2)
    grid.fit(images, EDGES.labels)
    assert grid.best_score_ > 0.5
    assert set(grid.predict(images)) <= {0, 1}


def test_classes_keep_their_names():
    names = np.where(EDGES.labels == 1, "row", "none")
    fitted = QuarkClassifier(max_shots=20).fit(EDGES.features, names)
    assert set(fitted.predict(EDGES.features)) <= {"row", "none"}


def test_weights_of_samples_are_repeats():
    repeated = np.repeat(np.arange(512), EDGES.labels + 1)
    weighted = QuarkClassifier(max_shots=30).fit(
        EDGES.features, EDGES.labels, sample_weight=EDGES.labels + 1.0
    )
    plain = QuarkClassifier(max_shots=30).fit(EDGES.features[repeated], EDGES.labels[repeated])
    assert weighted.weights_ == plain.weights_


def test_one_versus_rest_tells_three_classes():
    labels = EDGES.features[:, 0] + EDGES.features[:, 1]
    fitted = QuarkClassifier(multiclass="one_vs_rest", max_shots=60, random_state=1)
    fitted.fit(EDGES.features, labels)
    assert len(fitted.weights_) == 3
    assert fitted.score(EDGES.features, labels) > 0.5


def test_saves_and_loads(tmp_path):
    fitted = QuarkClassifier(max_shots=30).fit(EDGES.features, EDGES.labels)
    fitted.save(tmp_path / "quark.json")
    loaded = QuarkClassifier.load(tmp_path / "quark.json")
    assert np.array_equal(loaded.predict(EDGES.features), fitted.predict(EDGES.features))
    assert loaded.get_params() == clone(fitted).get_params()


def test_a_file_keeps_the_names_of_features_and_numbers_of_numpy(tmp_path):
    fitted = QuarkClassifier(max_shots=np.int64(30), random_state=np.int64(3))
    fitted.fit(EDGES.features, EDGES.labels)
    fitted.feature_names_in_ = np.array([f"pixel{i}" for i in range(9)], dtype=object)
    fitted.save(tmp_path / "quark.json")
    loaded = QuarkClassifier.load(tmp_path / "quark.json")
    assert list(loaded.feature_names_in_) == [f"pixel{i}" for i in range(9)]
    assert (loaded.max_shots, loaded.random_state) == (30, 3)


@pytest.mark.parametrize(
    ("part", "value", "said"),
    [
        ("classes", [False], "classes are not two"),
        ("classes", None, "classes are not two"),
        ("classes", [0, 1, 2], "1 weights of 3 classes"),
        ("weights", [], "0 weights of 2 classes"),
        ("train_accuracies", [], "train_accuracies"),
        ("thresholds", None, "thresholds do not go"),
        ("thresholds", [0.5], "one number for each feature"),
        ("thresholds", [None] * 9, "one number for each feature"),
        ("feature_names", ["a"], "feature_names"),
        ("settings", {"binarize": "median"}, "binarize=median"),
    ],
)
def test_a_file_whose_parts_do_not_fit_is_refused(tmp_path, part, value, said):
    file = tmp_path / "quark.json"
    QuarkClassifier(max_shots=20, binarize="mean").fit(EDGES.features, EDGES.labels).save(file)
    file.write_text(json.dumps({**json.loads(file.read_text()), part: value}))
    with pytest.raises(UserError, match=said):
        QuarkClassifier.load(file)


def test_weights_of_samples_below_zero_are_refused():
    with pytest.raises(ValueError, match="Negative"):
        QuarkClassifier().fit(EDGES.features, EDGES.labels, np.where(EDGES.labels == 1, 1, -1))


@pytest.mark.parametrize("text", ["", "{}", '{"fivefold_quark": 9}', "[1, 2]"])
def test_a_file_that_is_no_classifier_is_refused(tmp_path, text):
    (tmp_path / "wrong.json").write_text(text)
    with pytest.raises(UserError, match="cannot read a classifier"):
        QuarkClassifier.load(tmp_path / "wrong.json")


def test_a_model_without_a_name_is_not_saved(tmp_path):
    fitted = QuarkClassifier(line_detectors([[line] for line in ROWS]), max_shots=20)
    fitted.fit(EDGES.features, EDGES.labels)
    with pytest.raises(UserError, match="has a name"):
        fitted.save(tmp_path / "quark.json")


@pytest.mark.parametrize(
    ("features", "labels", "said"),
    [
        (EDGES.features * 0.5, EDGES.labels, "features other than 0 and 1"),
        (EDGES.features, np.arange(512) % 3, "one_vs_rest"),
        (EDGES.features, np.zeros(512), "one class only"),
        (np.where(EDGES.features == 1, np.nan, 0.0), EDGES.labels, "NaN"),
        (EDGES.features[:0], EDGES.labels[:0], "minimum of 1 is required"),
    ],
)
def test_data_that_cannot_be_learnt_from_is_refused(features, labels, said):
    with pytest.raises(ValueError, match=said):
        QuarkClassifier().fit(features, labels)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"engine": "tensro"}, "unknown engine.*tensor"),
        ({"test": "chebychev"}, "unknown test.*chebyshev"),
        ({"max_shots": 0}, r"measurement in the budget \(max_shots=0\)"),
        ({"max_shots": "10"}, r"no number \(max_shots=10\)"),
        ({"max_shots": None}, r"no number \(max_shots=null\)"),
        ({"test": "replicas", "m": 2.5}, r"no number \(m=2\.5\); give a whole number"),
        ({"target_accuracy": "high"}, "target_accuracy=high"),
        ({"L": 4}, r"even degree 4 \(L\)"),
        ({"schedule": "plan"}, r"schedule=plan.*planner"),
        ({"padding": "mar"}, r"padding=mar.*mark"),
        ({"model": 3}, r"no model \(model=3\)"),
        ({"model": "masked"}, "masked_or"),
        ({"block_bits": 40}, "no simulator holds"),
        ({"binarize": "median"}, "mean"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(settings, said):
    with pytest.raises(UserError, match=said):
        QuarkClassifier(**settings).fit(EDGES.features, EDGES.labels)
