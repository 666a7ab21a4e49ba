"""The loss of parts adds up to the loss of the graph, and scores count what they say."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from fivefold_gnnpipe.engine.loss import node_loss, num_terms
from fivefold_gnnpipe.engine.metrics import BestEpoch, Scores, accuracy, micro_f1
from fivefold_gnnpipe.testing import tiny_graph
from sklearn.metrics import f1_score


@pytest.mark.parametrize("multilabel", [False, True])
def test_loss_of_the_graph_is_torchs_mean(multilabel):
    data = tiny_graph(multilabel=multilabel)
    logits = torch.randn(40, 3, dtype=torch.float64)
    counted = data.train_mask & data.labels_known
    whole = node_loss(logits, data.y, data.train_mask, num_terms(data))
    if multilabel:
        expected = F.binary_cross_entropy_with_logits(logits[counted], data.y[counted].double())
    else:
        expected = F.cross_entropy(logits[counted], data.y[counted])
    assert float(whole) == pytest.approx(float(expected), abs=1e-14)


@pytest.mark.parametrize("multilabel", [False, True])
def test_losses_of_chunks_add_up_with_empty_chunks_among_them(multilabel):
    data = tiny_graph(multilabel=multilabel)
    logits = torch.randn(40, 3, dtype=torch.float64)
    total = num_terms(data)
    unlabelled = (~data.train_mask).nonzero()[:, 0]
    labelled = data.train_mask.nonzero()[:, 0]
    chunks = [unlabelled[:5], labelled[:2], unlabelled[5:], labelled[2:]]
    losses = [node_loss(logits[c], data.y[c], data.train_mask[c], total) for c in chunks]
    assert float(losses[0]) == 0.0
    whole = node_loss(logits, data.y, data.train_mask, total)
    assert float(sum(losses)) == pytest.approx(float(whole), abs=1e-14)


def test_chunk_without_labels_has_a_gradient_of_zero():
    logits = torch.randn(4, 3, requires_grad=True)
    node_loss(logits, torch.tensor([-1, -1, 0, 1]), torch.tensor([1, 1, 0, 0]).bool(), 9).backward()
    assert torch.equal(logits.grad, torch.zeros(4, 3))


def test_scores_are_those_of_scikit_learn():
    data, logits = tiny_graph(multilabel=True), torch.randn(40, 3)
    mask = data.val_mask
    expected = f1_score(data.y[mask].numpy(), (logits[mask] > 0).numpy(), average="micro")
    assert micro_f1(logits, data.y, mask) == pytest.approx(expected)
    single = tiny_graph()
    known = single.test_mask & single.labels_known
    right = (logits.argmax(1) == single.y)[known].float().mean()
    assert accuracy(logits, single.y, known) == pytest.approx(float(right))
    assert accuracy(logits, single.y, torch.zeros(40, dtype=torch.bool)) is None


def test_best_epoch_is_the_first_of_the_highest_validation_scores():
    best = BestEpoch()
    taken = [best.offer(e, Scores(None, v, None)) for e, v in enumerate([0.5, 0.7, 0.7, 0.6], 1)]
    assert taken == [True, True, False, False]
    assert best.epoch == 2
