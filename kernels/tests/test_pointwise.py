"""Norm, rotary positions and gate equal their references."""

import pytest
import torch
from fivefold_kernels.pointwise import cpu, reference


def numbers(*shape, scale=1.0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))) * scale


@pytest.mark.parametrize("width", [1, 5, 64, 577])
def test_rms_norm_is_the_references(library, width):
    x, weight = numbers(3, width, scale=7.0), numbers(width)
    got = cpu.rms_norm(x, weight, 1e-5, library=library)
    assert torch.allclose(got, reference.rms_norm(x, weight, 1e-5), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dim", [2, 16, 64, 80])
def test_rotation_is_the_references(library, dim):
    x, angles = numbers(4, 3, dim), numbers(4, dim // 2, scale=50.0)
    got = cpu.rotate(x, angles.cos(), angles.sin(), library=library)
    wanted = reference.rotate(x, angles.cos(), angles.sin())
    assert torch.allclose(got, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("count", [1, 16, 33])
@pytest.mark.parametrize("scale", [1.0, 60.0, 1e4])
def test_silu_mul_is_the_references(library, count, scale):
    gate, up = numbers(count, scale=scale), numbers(count + 1)[:-1]
    got = cpu.silu_mul(gate, up, library=library)
    assert torch.allclose(got, reference.silu_mul(gate, up), rtol=1e-5, atol=1e-6)
