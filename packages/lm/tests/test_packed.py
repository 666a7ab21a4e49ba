"""Packed linear layers compute what the stock ones compute, and can be undone."""

import pytest
import torch
from fivefold_lm.packed import (
    PackedLinear,
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
