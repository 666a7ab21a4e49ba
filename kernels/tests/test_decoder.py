"""A decoder pass in one call equals its reference, and each node's result is its own."""

from dataclasses import replace

import pytest
import torch
from fivefold_kernels import (
    DecoderPass,
    DecoderWeights,
    Format,
    LayerWeights,
    PackedMatrix,
    UnsupportedError,
)
from fivefold_kernels.attention.layout import block_keys, plain_keys
from fivefold_kernels.decoder.reference import decoder_pass

HIDDEN, FFN, HEADS, KV_HEADS, DIM, LAYERS, VOCAB = 96, 160, 6, 2, 16, 2, 75
ROUNDING = {Format.F32: 1e-5, Format.BF16: 0.02, Format.I8: 0.05, Format.Q4: 0.05, Format.Q8: 0.05}
"""Largest error of a hidden state, over the largest of them: rounded inputs may round otherwise."""


def decoder(library, format=Format.F32, *, bias=False, head_norms=False):
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(shape, generator=generator) * shape[-1] ** -0.5

    def packed(out, inputs):
        return PackedMatrix.pack(
            random(out, inputs), format, library, bias=random(out) if bias else None
        )

    def norm(width):
        return 1 + 0.1 * random(width)

    layers = tuple(
        LayerWeights(
            input_norm=norm(HIDDEN),
            post_norm=norm(HIDDEN),
            query=packed(HEADS * DIM, HIDDEN),
            key=packed(KV_HEADS * DIM, HIDDEN),
            value=packed(KV_HEADS * DIM, HIDDEN),
            output=packed(HIDDEN, HEADS * DIM),
            gate=packed(FFN, HIDDEN),
            up=packed(FFN, HIDDEN),
            down=packed(HIDDEN, FFN),
            query_norm=norm(DIM) if head_norms else None,
            key_norm=norm(DIM) if head_norms else None,
        )
        for _ in range(LAYERS)
    )
    head = PackedMatrix.pack(random(VOCAB, HIDDEN), format, library)
    return DecoderWeights(layers, norm(HIDDEN), head, HEADS, KV_HEADS, DIM, 1e-5, DIM**-0.5)


class Text:
    """A batch being decoded: a cache, and passes over nodes in it."""

    def __init__(self, run, batch=1, slots=304, dtype=torch.float32):
        self.run, self.lengths = run, torch.zeros(batch, dtype=torch.long)
        self.values = torch.zeros((LAYERS, batch, KV_HEADS, slots, DIM), dtype=dtype)
        self.keys = self.values.clone() if run is None else block_keys(self.values)

    def arguments(self, inputs, visible):
        depths = visible.sum(-1) - 1
        positions = (self.lengths[:, None] + depths)[..., None]
        angles = positions * 1e4 ** (-torch.arange(DIM // 2) / (DIM // 2))
        return inputs, angles.cos(), angles.sin(), self.lengths, visible, self.keys, self.values

    def __call__(self, inputs, visible, **options):
        return self.run(*self.arguments(inputs, visible), **options)


def embedded(batch, nodes, seed=0):
    return torch.randn(batch, nodes, HIDDEN, generator=torch.Generator().manual_seed(seed))


def chain(nodes, batch=1):
    return torch.ones(nodes, nodes, dtype=torch.bool).tril().expand(batch, -1, -1)


def tree(parents, batch=1):
    seen = torch.eye(len(parents), dtype=torch.bool)
    for node, parent in enumerate(parents):
        if parent >= 0:
            seen[node] |= seen[parent]
    return seen.expand(batch, -1, -1)


@pytest.mark.parametrize("format", list(Format), ids=lambda f: f.name)
@pytest.mark.parametrize("odd", [{}, {"bias": True}, {"head_norms": True}], ids=str)
def test_pass_is_the_references(library, format, odd):
    weights = decoder(library, format, **odd)
    fast, slow = Text(DecoderPass(weights, library), batch=2), Text(None, batch=2)
    for nodes, visible in ((40, chain(40, 2)), (7, tree([-1, 0, 0, 1, 2, 2, 5], 2))):
        inputs = embedded(2, nodes)
        wanted = decoder_pass(weights, *slow.arguments(inputs, visible))
        got = fast(inputs, visible)
        assert (got.hidden - wanted).abs().max() <= ROUNDING[format] * wanted.abs().max()
        for text in (fast, slow):
            text.lengths = text.lengths + torch.tensor([nodes - 3, nodes - 5]).clamp(min=1)
    for mine, other in ((plain_keys(fast.keys), slow.keys), (fast.values, slow.values)):
        assert (mine - other).abs().max() <= ROUNDING[format] * other.abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("format", list(Format), ids=lambda f: f.name)
def test_token_decoded_alone_and_verified_among_n_has_the_same_logits_bitwise(
    library, format, dtype
):
    run = DecoderPass(decoder(library, format), library)
    inputs = embedded(1, 64)
    alone, scored = Text(run, dtype=dtype), []
    for node in range(64):
        scored.append(alone(inputs[:, node : node + 1], chain(1)).logits)
        alone.lengths = alone.lengths + 1
    plain = torch.cat(scored, dim=1)
    for nodes in (1, 2, 3, 5, 8, 13, 16, 31, 32, 33, 64):
        together = Text(run, dtype=dtype)(inputs[:, :nodes], chain(nodes))
        assert torch.equal(together.logits, plain[:, :nodes])


def test_logits_do_not_depend_on_the_batch_or_on_threads(library):
    run = DecoderPass(decoder(library, Format.Q4), library)
    inputs, visible = embedded(3, 9), tree([-1, 0, 0, 1, 1, 2, 3, 3, 7], 3)
    text = Text(run, batch=3)
    text.lengths = torch.tensor([0, 100, 130])
    generator = torch.Generator().manual_seed(3)
    for store in (text.keys, text.values):
        store.copy_(torch.randn(store.shape, generator=generator))
    together = text(inputs, visible, threads=1).logits
    for threads in (2, 3, 5):
        assert torch.equal(text(inputs, visible, threads=threads).logits, together)
    for row in range(3):
        one = Text(run)
        one.lengths = text.lengths[row : row + 1]
        one.keys = text.keys[:, row : row + 1].clone()
        one.values = text.values[:, row : row + 1].clone()
        assert torch.equal(one(inputs[row : row + 1], visible[:1]).logits[0], together[row])


def test_time_of_the_stages_adds_up(library):
    seconds = [0.0] * 9
    text = Text(DecoderPass(decoder(library), library))
    text(embedded(1, 4), chain(4), seconds=seconds)
    assert all(spent > 0 for spent in seconds)
    assert sum(seconds) < 5


def test_pass_without_logits_has_none_and_the_same_hidden_states(library):
    run = DecoderPass(decoder(library), library)
    full = Text(run)(embedded(1, 3), chain(3))
    part = Text(run)(embedded(1, 3), chain(3), want_logits=False)
    assert part.logits is None
    assert torch.equal(part.hidden, full.hidden)


def test_what_the_pass_would_misread_is_refused(library):
    run = DecoderPass(decoder(library), library)
    text = Text(run, slots=16)
    with pytest.raises(UnsupportedError, match="17 slots are used of a cache that has 16"):
        text(embedded(1, 17), chain(17))
    with pytest.raises(UnsupportedError, match="inputs"):
        text(embedded(1, 2)[..., :-1], chain(2))
    text.values = text.values.transpose(2, 3).contiguous().transpose(2, 3)
    with pytest.raises(UnsupportedError, match="in one piece"):
        text(embedded(1, 2), chain(2))
    text.keys, text.values = text.keys[:1], text.values[:1]
    with pytest.raises(UnsupportedError, match="this decoder takes"):
        text(embedded(1, 2), chain(2))


@pytest.mark.parametrize("threads", [1, 2])
def test_a_pass_in_spans_with_layers_exchanged_in_between_is_the_same_bitwise(library, threads):
    weights = decoder(library, bias=True)
    whole = DecoderPass(weights, library)
    text = Text(whole, batch=2)
    inputs, visible = embedded(2, 7), tree([-1, 0, 0, 1, 2, 2, 5], 2)
    wanted = text(inputs, visible, threads=threads)
    first_only = replace(weights, layers=weights.layers[:1] * LAYERS)  # the others come later
    run = DecoderPass(first_only, library)
    prepared = [run.prepared(layer) for layer in weights.layers]

    def spans():
        for layer in range(LAYERS):
            run.exchange(layer, prepared[layer])
            yield layer, layer + 1
            run.exchange(layer, prepared[0])  # its memory may hold anything from here on

    again = Text(run, batch=2)
    for _ in range(2):
        got = again(inputs, visible, threads=threads, spans=spans())
        assert torch.equal(got.hidden, wanted.hidden)
        assert torch.equal(got.logits, wanted.logits)
    assert torch.equal(again.keys, text.keys)
    assert torch.equal(again.values, text.values)


@pytest.mark.parametrize("spans", [[(0, 1)], [(1, LAYERS)], [(0, 1), (0, LAYERS)], []])
def test_layers_left_out_or_run_twice_are_found_out(library, spans):
    run = DecoderPass(decoder(library), library)
    if LAYERS == 1 and spans == [(0, 1)]:
        pytest.skip("that is all of them")
    with pytest.raises(AssertionError, match="layers"):
        Text(run)(embedded(1, 2), chain(2), spans=iter(spans))
