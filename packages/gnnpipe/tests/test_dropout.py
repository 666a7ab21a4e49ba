"""The mask of a vertex is the same wherever, whenever and beside whatever it is computed."""

from __future__ import annotations

import math

import pytest
import torch
from fivefold_gnnpipe.engine.dropout import dropout_key, keep_mask, keyed_dropout


@pytest.mark.parametrize("width", [1, 7, 64])
def test_mask_of_a_vertex_depends_on_no_other_vertex(width):
    key, everyone = dropout_key(3, 1, 4), torch.arange(1000)
    whole = keep_mask(width, 0.4, key, everyone)
    some = torch.randperm(1000)[:137]
    assert torch.equal(keep_mask(width, 0.4, key, some), whole[some])


@pytest.mark.parametrize("p", [0.05, 0.2, 0.5, 0.9])
def test_share_dropped_is_p_in_every_column(p):
    count = 100_000
    kept = keep_mask(32, p, dropout_key(0, 0, 1), torch.arange(count)).double().mean(0)
    bound = 5 * math.sqrt(p * (1 - p) / count)
    assert float((kept - (1 - p)).abs().max()) < bound + 2**-16


def test_columns_vertices_epochs_and_layers_are_uncorrelated():
    count, p = 50_000, 0.3
    keys = [dropout_key(1, 0, 1), dropout_key(1, 1, 1), dropout_key(1, 0, 2), dropout_key(2, 0, 1)]
    masks = [keep_mask(16, p, key, torch.arange(count)).double() - (1 - p) for key in keys]
    variance, bound = p * (1 - p), 5.5 / math.sqrt(count)
    within = masks[0].T @ masks[0] / count / variance - torch.eye(16)
    assert float(within.abs().max()) < bound
    for other in masks[1:]:
        assert float((masks[0].T @ other).abs().max()) / count / variance < bound
    shifted = (masks[0][1:] * masks[0][:-1]).mean(0) / variance  # one vertex and the next
    assert float(shifted.abs().max()) < bound


def test_values_are_scaled_so_that_their_mean_stays():
    values = torch.ones(20_000, 8, dtype=torch.float64)
    dropped = keyed_dropout(values, 0.25, 7, torch.arange(20_000))
    assert set(dropped.unique().tolist()) == {0.0, 1 / 0.75}
    assert float(dropped.mean()) == pytest.approx(1.0, abs=0.01)


def test_gradient_is_that_of_the_mask():
    values = torch.randn(50, 6, requires_grad=True)
    dropped = keyed_dropout(values, 0.5, 7, torch.arange(50))
    dropped.sum().backward()
    assert torch.equal(values.grad, (dropped != 0) * 2.0)


def test_what_needs_no_gradient_is_masked_block_by_block_to_the_same_numbers():
    values, vertices = torch.randn(9000, 64), torch.randperm(9000)
    expected = values * keep_mask(64, 0.3, 11, vertices) * (1 / 0.7)
    torch.testing.assert_close(keyed_dropout(values, 0.3, 11, vertices), expected)
    assert keyed_dropout(values[:0], 0.3, 11, vertices[:0]).shape == (0, 64)


def test_nothing_dropped_is_the_tensor_itself():
    values = torch.randn(3, 3)
    assert keyed_dropout(values, 0.0, 7, torch.arange(3)) is values
