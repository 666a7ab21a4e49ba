"""Packed linear layers compute what the stock ones compute, and can be undone."""

import pytest
import torch
from fivefold_kernels import Format, cpu_library
from fivefold_kernels.native.library import has_compiler
from fivefold_lm.packed import (
    PackedLinear,
    native_pack,
    pack_linears,
    packed_product,
    stock_products,
)
from torch import nn


@pytest.mark.parametrize("rows", [1, 2, 7, 33])
@pytest.mark.parametrize("bias", [False, True])
def test_product_equals_float64(rows, bias):
    torch.manual_seed(rows)
    layer = nn.Linear(96, 40, bias=bias)
    input = torch.randn(2, rows, 96)
    exact = input.double() @ layer.weight.double().T + (layer.bias.double() if bias else 0.0)
    with torch.inference_mode():
        packed = PackedLinear(layer)(input)
    assert torch.allclose(packed.double(), exact, atol=1e-5)


def test_revert_leaves_the_model_as_it_was():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.Sequential(nn.ReLU(), nn.Linear(8, 3)))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    children = [model[0], model[1][1]]
    handle = pack_linears(model)
    assert isinstance(model[0], PackedLinear)
    assert isinstance(model[1][1], PackedLinear)
    assert model.state_dict().keys() == before.keys()
    handle.revert()
    assert [model[0], model[1][1]] == children
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_bare_matrix_is_packed_too():
    torch.manual_seed(2)
    weight, input = torch.randn(5, 16), torch.randn(3, 16)
    product = packed_product(weight)
    with torch.inference_mode():
        assert torch.allclose(product(input), input @ weight.T, atol=1e-5)


def test_gradients_flow_through_the_stock_path():
    layer = nn.Linear(4, 4)
    packed = PackedLinear(layer)
    packed(torch.ones(1, 4)).sum().backward()
    assert torch.allclose(layer.weight.grad, torch.ones(4, 4))


@pytest.mark.parametrize("shape", [(64, 576), (48, 1536), (300, 96)])
def test_a_row_does_not_depend_on_how_many_are_computed_with_it(shape):
    torch.manual_seed(1)
    packed = PackedLinear(nn.Linear(shape[1], shape[0], bias=False))
    input = torch.randn(64, shape[1])
    with torch.inference_mode():
        whole = packed(input)
        assert all(torch.equal(packed(input[:n]), whole[:n]) for n in range(1, 65))


def test_stock_products_are_those_of_the_unpacked_layer_bit_for_bit():
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(64, 48), nn.Linear(48, 16))
    input = torch.randn(5, 64)
    with torch.inference_mode():
        stock = model(input)
        handle = pack_linears(model)
        with stock_products(model):
            assert torch.equal(model(input), stock)
        model[0].product.packed = torch.zeros(
            1
        )  # what the packed product reads now cannot be multiplied
        with pytest.raises(RuntimeError):
            model(input)
        handle.revert()


@pytest.mark.skipif(not has_compiler(), reason="no C++ compiler")
@pytest.mark.parametrize("format", [Format.I8, Format.Q4, Format.Q8])
def test_stock_products_of_rounded_weights_are_of_the_numbers_that_are_held(format):
    torch.manual_seed(4)
    layer = PackedLinear(nn.Linear(96, 48), native_pack(format, cpu_library()))
    held = layer.product.matrix.rows(torch.arange(48)).double()
    input = torch.randn(2, 3, 96)
    groups = input.double().view(2, 3, 3, 32)
    step = groups.abs().amax(-1, keepdim=True) / 127
    rounded = ((groups / step).round() * step).view(2, 3, 96)
    wanted = rounded @ held.T + layer.bias.double()
    with torch.inference_mode(), stock_products(layer):
        assert torch.allclose(layer(input).double(), wanted, atol=1e-5)
    assert not torch.allclose(held, layer.weight.double(), atol=1e-5)
