"""The audit passes what is lossless and catches every seeded bug at its default sample sizes."""

from importlib import import_module

import numpy as np
import pytest
from fivefold.testing import compose
from fivefold_kernels.native.library import has_compiler
from fivefold_lm.packed import NativeProduct
from fivefold_speculative.checks import chi_square_check, pooled
from fivefold_speculative.testing import SEEDED_BUGS, planted
from hypothesis import given
from hypothesis import strategies as st

task = import_module("fivefold_speculative.audit")
QUICK = ["max_new_tokens=12", "prompts=2"]  # the sample sizes stay the default ones
SMALL = ["toy_samples=1000", "model_samples=100"]
TREE = ["drafting=expansion", "drafting.widths=[3,2]"]
CAUGHT_WITH = {
    "noise_reused": TREE,
    "topk_as_sampled": TREE,
    "dropped_duplicates": [*TREE, "drafting.proposal=sampled"],
    "inverted_top_p": ["drafting=prompt_lookup"],
    "boolean_mask": TREE,
}


@pytest.fixture
def audit(folders, cache):
    """Return a function that runs the task and returns its status and its failed checks."""

    def call(*overrides):
        settings = [f"model={folders / 'target'}", *QUICK, *overrides]
        if "drafting=expansion" in overrides:
            settings.append(f"drafting.draft={folders / 'draft'}")
        run = compose("audit", settings)
        status = task.run(run.config, run)
        rows = run.result.rows
        assert all({"check", "passed", "statistic", "threshold"} <= set(row) for row in rows)
        return status, [row["check"] for row in rows if not row["passed"]]

    return call


@pytest.mark.parametrize(
    "overrides",
    [
        ["drafting=prompt_lookup", "sampling.temperature=1.0", "sampling.top_k=6"],
        [*TREE, "sampling.temperature=1.0", "sampling.repetition_penalty=1.3"],
        [*TREE, "drafting.proposal=sampled", "sampling.temperature=0.9", "sampling.top_p=0.8"],
        ["drafting=expansion", "drafting.widths=[12]", "sampling.min_p=0.1", "toy_samples=3000"],
    ],
    ids=["look-up and top-k", "tree and penalty", "sampled and top-p", "a wide tree"],
)
def test_a_lossless_method_passes_under_every_sampler(audit, overrides):
    assert audit(*overrides) == (0, [])


@pytest.mark.parametrize("bug", SEEDED_BUGS)
def test_a_seeded_bug_is_caught_at_the_default_sample_sizes(audit, bug):
    with planted(bug):
        status, failed = audit(*CAUGHT_WITH[bug])
    assert status == 1
    assert failed


def test_a_mismatch_shows_where_and_how_close_the_two_best_logits_were(
    folders, cache, monkeypatch, capsys
):
    real = task.plain_greedy
    monkeypatch.setattr(task, "plain_greedy", lambda *args: ([5, *real(*args)[0][1:]], []))
    run = compose("audit", [f"model={folders / 'target'}", *QUICK, *SMALL])
    assert task.run(run.config, run) == 1
    (row,) = [row for row in run.result.rows if "prompt 2 alone" in row["check"]]
    assert not row["passed"]
    assert "gap of the two best logits" in row["detail"]
    assert "FAILED" in capsys.readouterr().err


def test_the_same_seed_gives_the_same_statistics(folders, cache):
    def statistics():
        run = compose("audit", [f"model={folders / 'target'}", *QUICK, *SMALL])
        task.run(run.config, run)
        return [(row["check"], row["statistic"]) for row in run.result.rows]

    assert statistics() == statistics()


@pytest.mark.parametrize("rarest", [1e-5, 1e-3])
def test_a_rare_cell_that_comes_up_once_is_no_fault(rarest):
    """Pooled alone, a cell of 0.01 expected samples would fail one audit in a hundred."""
    law = np.array([0.5 - rarest / 2, 0.5 - rarest / 2, rarest])
    counts = np.array([499.0, 500.0, 1.0])
    assert chi_square_check("rare", counts, law, 1e-6).passed


def test_rare_cells_together_still_show_a_law_that_is_wrong():
    law = np.array([0.9, *[0.1 / 50] * 50])
    counts = np.array([800.0, *[4.0] * 50])
    assert not chi_square_check("rare", counts, law, 1e-6).passed


@given(st.lists(st.floats(0, 20), min_size=1, max_size=12))
def test_pooled_cells_keep_their_sums_and_reach_five_samples(expected):
    expected = np.array(expected)
    seen, wanted = pooled(np.arange(len(expected)) + 1.0, expected)
    assert wanted.sum() == pytest.approx(expected.sum())
    assert seen.sum() == (np.arange(len(expected)) + 1.0)[expected > 0].sum()
    assert len(wanted) <= 1 or (wanted >= 5 - 1e-9).all()


@pytest.mark.skipif(not has_compiler(), reason="no C++ compiler")
class TestRoundedWeights:
    def test_they_are_audited_against_plain_products_of_the_same_numbers(self, audit):
        assert audit("model.weights=int4", "drafting=prompt_lookup", *SMALL) == (0, [])

    def test_a_pass_that_is_wrong_for_plain_and_drafted_text_alike_is_caught(
        self, audit, monkeypatch
    ):
        """Both texts are equal then: only the reference tells."""
        right = NativeProduct.__call__
        monkeypatch.setattr(NativeProduct, "__call__", lambda self, rows: -right(self, rows))
        status, failed = audit("model.weights=int8", "drafting=prompt_lookup", *SMALL)
        assert status == 1
        assert "plain text is the reference's, up to rounding" in failed
        assert "logits after every step equal a fresh pass" in failed
        assert not any("greedy text" in check for check in failed)


def test_stock_products_are_named_where_they_may_explain_a_gap(folders, cache, monkeypatch):
    real = task.plain_greedy
    monkeypatch.setattr(task, "plain_greedy", lambda *args: ([5, *real(*args)[0][1:]], []))
    settings = [f"model={folders / 'target'}", "model.kernels=torch", *QUICK, *SMALL]
    run = compose("audit", settings)
    assert task.run(run.config, run) == 1
    assert any("stock products" in row["detail"] for row in run.result.rows)
