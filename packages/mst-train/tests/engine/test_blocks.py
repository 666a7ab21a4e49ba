"""Packing loses no prediction; labels are shifted; steps are the same whenever they are asked."""

from itertools import pairwise

import pytest
import torch
from fivefold import UserError
from fivefold_lm.testing import tiny_model
from fivefold_mst_train.engine.data.blocks import IGNORED, Blocks, held_out
from fivefold_mst_train.engine.data.order import Order
from fivefold_mst_train.engine.data.tokens import Tokens
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

DOCUMENTS = st.lists(
    st.lists(st.tuples(st.integers(1, 50), st.booleans()), min_size=1, max_size=9),
    min_size=1,
    max_size=6,
)


def tokens_of(documents):
    return Tokens.of(([t for t, _ in each], [learnt for _, learnt in each]) for each in documents)


def counted(length, seed=0, learnt=None):
    ids = torch.randint(1, 60, (length,), generator=torch.Generator().manual_seed(seed)).int()
    starts = torch.zeros(length, dtype=torch.bool)
    starts[0] = True
    return Tokens(ids, torch.ones(length, dtype=torch.bool) if learnt is None else learnt, starts)


@given(DOCUMENTS, st.integers(2, 7), st.booleans())
@settings(max_examples=200, deadline=None)
def test_labels_are_the_next_tokens_that_are_learnt(documents, seq_len, mask):
    flat = [
        (token, learnt, place == 0)
        for each in documents
        for place, (token, learnt) in enumerate(each)
    ]
    wanted = []
    for first in range(0, (len(flat) - 1) // seq_len * seq_len, seq_len):
        row = [
            IGNORED if not learnt or (mask and begins) else token
            for token, learnt, begins in flat[first + 1 : first + seq_len + 1]
        ]
        if any(label != IGNORED for label in row):
            wanted.append(([token for token, _, _ in flat[first : first + seq_len]], row))
    if not wanted:
        with pytest.raises(UserError):
            Blocks(tokens_of(documents), seq_len, mask)
        return
    blocks = Blocks(tokens_of(documents), seq_len, mask)
    batch = blocks.batch(range(len(blocks)))
    assert batch.input_ids.tolist() == [ids for ids, _ in wanted]
    assert batch.labels.tolist() == [labels for _, labels in wanted]
    assert blocks.num_labels == [sum(x != IGNORED for x in labels) for _, labels in wanted]


@given(DOCUMENTS, st.integers(2, 7))
@settings(max_examples=100, deadline=None)
def test_positions_begin_anew_in_every_document_and_block(documents, seq_len):
    everything = [[(token, True) for token, _ in each] for each in documents]
    places = [place for each in everything for place in range(len(each))]
    count = (len(places) - 1) // seq_len
    if not count:
        return
    try:
        blocks = Blocks(tokens_of(everything), seq_len, mask_documents=True)
    except UserError:  # documents of one token predict nothing
        return
    batch = blocks.batch(range(len(blocks)))
    for row, first in zip(batch.position_ids, blocks.kept * seq_len, strict=True):
        own = places[int(first) : int(first) + seq_len]
        wanted = [min(place, index) for index, place in enumerate(own)]
        assert row.tolist() == wanted


def test_documents_that_are_kept_apart_are_trained_as_if_alone():
    """The oracle is each document by itself, in float64."""
    model = tiny_model(vocab=64, eos_token_id=None).module.double()
    source = torch.Generator().manual_seed(3)
    documents = [torch.randint(1, 60, (n,), generator=source).tolist() for n in (7, 12, 5, 9)]
    tokens = Tokens.of((each, [True] * len(each)) for each in documents)
    batch = Blocks(tokens, len(tokens) - 1, mask_documents=True).batch([0])
    inputs = batch.on(torch.device("cpu"))
    packed = model(**inputs, num_items_in_batch=torch.tensor(1), use_cache=False).loss
    alone = torch.zeros((), dtype=torch.float64)
    for each in documents:
        ids = torch.tensor([each])
        logits = model(input_ids=ids, use_cache=False).logits[0, :-1]
        alone += F.cross_entropy(logits, ids[0, 1:], reduction="sum")
    assert float(packed.detach()) == pytest.approx(float(alone.detach()), rel=1e-6)  # it is float32


def test_blocks_without_anything_to_learn_are_left_out():
    learnt = torch.zeros(41, dtype=torch.bool)
    learnt[25] = True
    blocks = Blocks(counted(41, learnt=learnt), 10)
    assert blocks.kept.tolist() == [2]
    assert blocks.num_labels == [1]


def test_data_of_which_nothing_is_learnt_are_refused():
    with pytest.raises(UserError, match="every label is ignored"):
        Blocks(counted(41, learnt=torch.zeros(41, dtype=torch.bool)), 10)


def test_too_few_tokens_for_one_block_are_refused_with_the_longest_that_fits():
    with pytest.raises(UserError, match=r"20 tokens of data fill no block.*seq_len=19 or less"):
        Blocks(counted(20), 20)


@pytest.mark.parametrize(
    ("count", "share"), [(2, 0.05), (10, 0.5), (100, 0.05), (37, 0.3), (5, 0.9)]
)
def test_held_out_blocks_are_apart_from_the_others_and_spread(count, share):
    train, out = held_out(count, share)
    assert sorted(train + out) == list(range(count))
    assert train
    assert len(out) == min(count - 1, max(1, round(count * share)))
    gaps = [b - a for a, b in pairwise(out)]
    assert not gaps or max(gaps) - min(gaps) <= 1


def test_nothing_is_held_out_of_one_block():
    assert held_out(1, 0.5) == ([0], [])


@given(
    st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(1, 9), st.integers(0, 30)
)
@settings(max_examples=60, deadline=None)
def test_processes_together_see_what_one_process_would(size, batch, accumulate, blocks, step):
    data = Blocks(counted(blocks * 4 + 1), 4)
    chosen = range(len(data))
    alone = Order(data, chosen, batch * size, accumulate, seed=5).step(step)
    parts = [
        Order(data, chosen, batch, accumulate, 5, rank, size).step(step) for rank in range(size)
    ]
    for micro in range(accumulate):
        together = torch.cat([part.batches[micro].input_ids for part in parts])
        assert torch.equal(together, alone.batches[micro].input_ids)
    assert {part.num_labels for part in parts} == {alone.num_labels}
    counts = sum(b.num_labels for part in parts for b in part.batches)
    assert counts == alone.num_labels


def test_an_epoch_shows_every_block_once_and_the_next_one_in_another_order():
    data = Blocks(counted(81), 4)
    order = Order(data, range(20), seed=1)
    shown = [order.step(step).batches[0].input_ids[0].tolist() for step in range(40)]
    every = sorted(data.batch([block]).input_ids[0].tolist() for block in range(20))
    assert sorted(shown[:20]) == every == sorted(shown[20:])
    assert shown[:20] != shown[20:]


def test_a_step_asked_out_of_turn_is_the_same():
    data = Blocks(counted(81), 4)
    walked = Order(data, range(20), 3, seed=2)
    steps = [walked.step(step).batches[0].input_ids for step in range(15)]
    for step in (14, 3, 9, 0):
        fresh = Order(data, range(20), 3, seed=2)
        assert torch.equal(fresh.step(step).batches[0].input_ids, steps[step])
        assert torch.equal(walked.step(step).batches[0].input_ids, steps[step])
