"""Tiled functions: gradients by finite differences, dropout, autocast, sums, forwards counted."""

import pytest
import torch
from fivefold_mst_train import tiled
from fivefold_mst_train.mst.sums import GradientSums
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.checkpoint import checkpoint


def mlp(inside=6, width=10, dtype=torch.float64, dropout=0.0):
    torch.manual_seed(0)
    layers = [nn.Linear(inside, width), nn.GELU(), nn.Dropout(dropout), nn.Linear(width, inside)]
    return nn.Sequential(*layers).to(dtype)


def numbers(*shape, dtype=torch.float64, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def plain_gradients(module, x, upstream):
    x = x.detach().requires_grad_()
    y = module(x)
    found = torch.autograd.grad(y, (x, *module.parameters()), upstream)
    return y.detach(), found


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 4), st.integers(1, 9), st.integers(1, 40), st.booleans())
def test_result_and_gradients_are_those_of_the_function(rows, tokens, tile, save_first):
    module, x = mlp(), numbers(rows, tokens, 6)
    upstream = numbers(rows, tokens, 6, seed=2)
    wanted, gradients = plain_gradients(module, x, upstream)
    x.requires_grad_()
    y = tiled(module, x, list(module.parameters()), tile, save_first=save_first)
    got = torch.autograd.grad(y, (x, *module.parameters()), upstream)
    torch.testing.assert_close(y.detach(), wanted, rtol=1e-13, atol=1e-13)
    for one, other in zip(got, gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("save_first", [True, False])
def test_gradients_by_finite_differences(save_first):
    module = mlp(3, 4)
    x = numbers(5, 3).requires_grad_()

    def function(x, *parameters):
        named = dict(zip((n for n, _ in module.named_parameters()), parameters, strict=True))

        def rows(part):
            return torch.func.functional_call(module, named, (part,))

        return tiled(rows, x, parameters, 2, save_first=save_first)

    assert torch.autograd.gradcheck(function, (x, *module.parameters()))


def test_frozen_parameters_get_no_gradient_and_x_still_does():
    """As under LoRA."""
    module, x = mlp(), numbers(7, 6)
    module[0].requires_grad_(False)
    wanted = torch.autograd.grad(module(x.requires_grad_()).sum(), x)[0]
    tiled(module, x, list(module.parameters()), 3).sum().backward()
    torch.testing.assert_close(x.grad, wanted, rtol=1e-12, atol=1e-12)
    assert module[0].weight.grad is None
    assert module[3].weight.grad is not None


def test_nothing_to_train_keeps_nothing():
    module, x = mlp().requires_grad_(False), numbers(7, 6)
    y = tiled(module, x, list(module.parameters()), 3)
    assert not y.requires_grad
    torch.testing.assert_close(y, module(x))


def test_no_rows_at_all():
    module = mlp()
    assert tiled(module, numbers(0, 6), list(module.parameters()), 3).shape == (0, 6)


def test_dropout_is_drawn_again_in_backward():
    """Gradients are those of the masks that forward drew: finite differences of one draw."""
    module, x = mlp(dropout=0.5), numbers(9, 6).requires_grad_()
    torch.manual_seed(3)
    y = tiled(module, x, list(module.parameters()), 4, draws_numbers=True)
    after = torch.rand(1)
    y.sum().backward()
    torch.manual_seed(3)
    parts = torch.cat([module(part) for part in x.detach().split(4)])
    assert torch.equal(after, torch.rand(1)), "forward draws as often as the plain module"
    torch.testing.assert_close(y.detach(), parts)
    torch.manual_seed(3)
    leaf = x.detach().requires_grad_()
    wanted = torch.autograd.grad(torch.cat([module(part) for part in leaf.split(4)]).sum(), leaf)[0]
    torch.testing.assert_close(x.grad, wanted, rtol=1e-12, atol=1e-12)


def test_backward_leaves_the_generator_where_it_was():
    module, x = mlp(dropout=0.5), numbers(9, 6).requires_grad_()
    y = tiled(module, x, list(module.parameters()), 4, draws_numbers=True)
    before = torch.get_rng_state()
    y.sum().backward()
    assert torch.equal(torch.get_rng_state(), before)


def test_autocast_of_forward_holds_in_backward():
    module, x = mlp(dtype=torch.float32), numbers(8, 6, dtype=torch.float32).requires_grad_()
    seen = []
    module[1].register_forward_hook(lambda _, given, __: seen.append(given[0].dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = tiled(module, x, list(module.parameters()), 3)
    y.float().sum().backward()
    assert set(seen) == {torch.bfloat16}
    assert all(each.grad.dtype == torch.float32 for each in module.parameters())
    leaf = x.detach().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        wanted = module(leaf)
    torch.testing.assert_close(y, wanted)


def test_cast_weights_of_an_outer_autocast_still_get_gradients():
    """The cache of cast weights holds copies made without a graph."""
    module, x = mlp(dtype=torch.float32), numbers(8, 6, dtype=torch.float32).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with torch.no_grad():
            module(x)
        tiled(module, x, list(module.parameters()), 3).float().sum().backward()
    assert all(each.grad is not None and each.grad.any() for each in module.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_gradients_are_summed_in_float32(dtype):
    """A bfloat16 sum is rounded at every tile (axolotl 2865); ours once."""
    module = mlp(8, 16, dtype)
    x, upstream = numbers(512, 8, dtype=dtype), numbers(512, 8, dtype=dtype, seed=2)
    exact = mlp(8, 16).to(torch.float64)
    exact.load_state_dict({k: v.double() for k, v in module.state_dict().items()})
    _, wanted = plain_gradients(exact, x.double(), upstream.double())
    errors = {}
    for in_float32 in (True, False):
        leaf = x.detach().requires_grad_()
        y = tiled(module, leaf, list(module.parameters()), 4, in_float32=in_float32)
        got = torch.autograd.grad(y, list(module.parameters()), upstream)
        errors[in_float32] = float((got[0].double() - wanted[1]).norm() / wanted[1].norm())
    assert errors[True] < errors[False] / 2


def test_sums_of_products_are_products_of_all_rows():
    weight = torch.zeros(3, 4, dtype=torch.float64)
    left, right = numbers(20, 3), numbers(20, 4, seed=2)
    sums = GradientSums([weight], True)
    for part in range(0, 20, 6):
        sums.add_product(0, left[part : part + 6], right[part : part + 6])
    torch.testing.assert_close(sums.take()[0], left.T @ right, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(("save_first", "forwards"), [(True, 2), (False, 3)])
def test_forwards_under_a_checkpoint(save_first, forwards):
    """Invariant 6: saving first lets the replay stop before the tiles."""
    module, rows = mlp(), []
    module[0].register_forward_pre_hook(lambda _, given: rows.append(len(given[0])))

    def layer(x):
        made = torch.tanh(x)
        return x + tiled(module, made, list(module.parameters()), 4, save_first=save_first)

    x = numbers(10, 6).requires_grad_()
    checkpoint(layer, x, use_reentrant=False).sum().backward()
    assert sum(rows) == forwards * 10


def test_each_parameter_is_accumulated_once():
    """Invariant 7, where DDP, ZeRO and optimizers in backward listen."""
    module, fired = mlp(), []
    for name, each in module.named_parameters():
        each.register_post_accumulate_grad_hook(lambda _, name=name: fired.append(name))
    tiled(module, numbers(11, 6).requires_grad_(), list(module.parameters()), 2).sum().backward()
    assert sorted(fired) == sorted(name for name, _ in module.named_parameters())


def test_no_tile_is_empty():
    seen = []

    def rows(part):
        seen.append(len(part))
        return part * 2

    tiled(rows, numbers(8, 6), [], 4)
    assert seen == [4, 4]
