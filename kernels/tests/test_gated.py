"""The backward of a gated MLP's middle in Triton is that of autograd in float64, and in place.

On a GPU where there is one, else interpreted.
"""

import pytest
import torch
from fivefold_kernels import UnsupportedError
from fivefold_kernels.gated import gpu, reference

pytest.importorskip("triton")
DEVICE = torch.accelerator.current_accelerator() or torch.device("cpu")
ROUNDING = {torch.float32: 2e-6, torch.bfloat16: 2**-7, torch.float16: 2**-10}


def numbers(shape, seed, dtype):
    source = torch.Generator().manual_seed(seed)
    return (2 * torch.randn(shape, generator=source)).to(DEVICE, dtype)


@pytest.mark.parametrize("activation", gpu.ACTIVATIONS)
@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
@pytest.mark.parametrize("shape", [(1, 1), (7, 33), (3, 1025)], ids=str)
def test_gradients_are_those_of_autograd(activation, dtype, shape):
    gate, up, grad = (numbers(shape, seed, dtype) for seed in range(3))
    wanted = reference.act_mul_backward(gate, up, grad, activation)
    got = gpu.act_mul_backward(gate.clone(), up.clone(), grad.clone(), activation)
    for one, other in zip(got, wanted, strict=True):
        scale = max(1.0, float(other.abs().max()))
        assert float((one.float() - other.float()).abs().max()) <= ROUNDING[dtype] * scale


def test_results_take_the_places_of_what_was_given():
    given = [numbers((5, 8), seed, torch.float32) for seed in range(3)]
    got = gpu.act_mul_backward(*given, "silu")
    assert {each.data_ptr() for each in got} == {each.data_ptr() for each in given}


@pytest.mark.parametrize("activation", reference.ACTIVATIONS)
def test_reference_differentiates_its_own_product(activation):
    """By central differences, away from the kink of relu."""
    gate, up, grad = (numbers((4, 6), seed, torch.float64) for seed in range(3))
    act, step = reference.ACTIVATIONS[activation], 1e-6
    _, of_gate, of_up = reference.act_mul_backward(gate, up, grad, activation)
    slope = (act(gate + step) - act(gate - step)) / (2 * step)
    torch.testing.assert_close(of_gate, grad * up * slope, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(of_up, grad * act(gate), rtol=1e-12, atol=1e-12)


def test_what_the_kernel_cannot_do_is_refused():
    gate, up, grad = (numbers((4, 6), seed, torch.float32) for seed in range(3))
    with pytest.raises(UnsupportedError, match="mish"):
        gpu.act_mul_backward(gate, up, grad, "mish")
    with pytest.raises((UnsupportedError, TypeError)):  # by its annotations, where they run
        gpu.act_mul_backward(gate, up[:2], grad, "silu")
    with pytest.raises(UnsupportedError, match="contiguous"):
        gpu.act_mul_backward(gate.T, up.T, grad.T, "silu")
