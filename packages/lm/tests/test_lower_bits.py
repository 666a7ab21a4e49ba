"""Copies in fewer bits: rounded as said, errors made up for, and never the model itself."""

import gguf
import pytest
import torch
from fivefold import UserError
from fivefold_kernels import cpu_library
from fivefold_kernels.native.library import has_compiler
from fivefold_lm.lower_bits import lower_bits_copy, rounded
from fivefold_lm.testing import tiny_model

TEXTS = [[1, 5, 9, 2, 8, 3], [4, 4, 7, 1, 30], [11, 3, 5, 8, 2, 6], [9, 1, 2, 3]]


def numbers_in(blocks, kind):
    """Read blocks as the library of GGUF files does."""
    data = gguf.dequantize(blocks.numpy(), gguf.GGMLQuantizationType[kind])
    return torch.from_numpy(data.copy())


@pytest.mark.parametrize("bits", range(2, 9))
def test_each_number_is_the_nearest_of_its_group(bits):
    torch.manual_seed(bits)
    weight = torch.randn(6, 64)
    held = numbers_in(*rounded(weight, bits)).view(6, 2, 32)
    groups = weight.view(6, 2, 32)
    low, high = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
    step = (high - low) / (2**bits - 1)
    if bits > 4:
        step = groups.abs().amax(-1, keepdim=True) / (2 ** (bits - 1) - 1)
    assert ((held - groups).abs() <= 0.5 * step + 4e-3 * groups.abs().amax(-1, keepdim=True)).all()
    distinct = [len(group.unique()) for group in held.flatten(0, 1)]
    assert max(distinct) <= 2**bits


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_errors_that_are_made_up_for_change_products_less(bits):
    torch.manual_seed(0)
    inputs = torch.randn(400, 8) @ torch.randn(8, 96) + 0.1 * torch.randn(400, 96)
    weight = torch.randn(16, 96)

    def error(blocks, kind):
        return float((inputs @ (numbers_in(blocks, kind) - weight).T).norm())

    plain = error(*rounded(weight, bits))
    assert error(*rounded(weight, bits, inputs.T @ inputs)) < 0.7 * plain


def test_inputs_that_never_vary_are_no_obstacle():
    weight = torch.randn(4, 32, generator=torch.Generator().manual_seed(1))
    blocks, kind = rounded(weight, 3, torch.zeros(32, 32))
    assert torch.equal(numbers_in(blocks, kind), numbers_in(*rounded(weight, 3)))


@pytest.mark.skipif(not has_compiler(), reason="no C++ compiler")
class TestCopy:
    def test_it_shares_what_is_not_a_matrix_and_answers_nearly_the_same(self):
        model = tiny_model(vocab=32, hidden_size=64, intermediate_size=96)
        copy, report = lower_bits_copy(model, 8, cpu_library(), lambda: TEXTS, lambda _: None)
        assert copy.get_input_embeddings() is model.module.get_input_embeddings()
        assert copy.model.norm is model.module.model.norm
        ids = torch.tensor([TEXTS[0]])
        with torch.no_grad():
            wanted, got = model.module(ids).logits, copy(ids).logits
        assert (got - wanted).std() <= 0.1 * wanted.std()
        assert report.agreement > 0.8
        assert 0 < report.weight_error < 0.01

    def test_fewer_bits_are_smaller_and_coarser(self):
        model = tiny_model(vocab=32, hidden_size=64, intermediate_size=96)
        made = {
            bits: lower_bits_copy(model, bits, cpu_library(), lambda: TEXTS, lambda _: None)[1]
            for bits in (3, 5, 6)
        }
        assert made[3].nbytes < made[6].nbytes
        assert made[3].weight_error > made[5].weight_error > made[6].weight_error

    def test_it_is_made_once(self):
        model, said = tiny_model(vocab=32, hidden_size=64, intermediate_size=96), []
        for _ in range(2):
            lower_bits_copy(model, 5, cpu_library(), lambda: TEXTS, said.append)
        assert len(said) == 1

    def test_a_damaged_copy_is_made_anew(self, cache):
        model, said = tiny_model(vocab=32, hidden_size=64, intermediate_size=96), []
        lower_bits_copy(model, 5, cpu_library(), lambda: TEXTS, said.append)
        (file,) = cache.glob("models/*-5bits-*/blocks.safetensors")
        file.write_bytes(file.read_bytes()[:-9])
        _, report = lower_bits_copy(model, 5, cpu_library(), lambda: TEXTS, said.append)
        assert report.bits == 5
        assert "damaged and made anew" in said[1]

    def test_a_copy_that_would_be_the_model_is_refused_by_name(self):
        model = tiny_model(vocab=32, hidden_size=64, intermediate_size=96)
        for part in model.module.modules():
            if isinstance(part, torch.nn.Linear):
                held = numbers_in(*rounded(part.weight.detach(), 4))
                part.weight.data = held
        with pytest.raises(
            UserError, match=r"is tiny-llama-32-0 itself.*drafting\.bits=5"
        ) as caught:
            lower_bits_copy(model, 4, cpu_library(), lambda: TEXTS, lambda _: None)
        assert "drafting.bits=4" in str(caught.value)
        assert lower_bits_copy(model, 5, cpu_library(), lambda: TEXTS, lambda _: None)[1].bits == 5
