"""A packed product equals its reference, and a row does not depend on the rows beside it."""

import numpy as np
import pytest
import torch
from fivefold_kernels import Format, PackedMatrix, UnsupportedError
from fivefold_kernels.linear.reference import linear

SHAPES = [(64, 64), (70, 100), (49, 37), (192, 1536), (1, 3)]
FORMATS = list(Format)
STEP = dict(zip(FORMATS, (0, 2**-8, 1 / 127, 1 / 15, 1 / 127), strict=True))
"""Largest rounding of a weight, as a share of the span of its row or group."""


def matrix(out, inputs, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(out, inputs, generator=generator)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("format", FORMATS, ids=lambda f: f.name)
def test_packed_weights_are_the_given_ones_up_to_the_formats_step(library, format, shape):
    weight = matrix(*shape)
    packed = PackedMatrix.pack(weight, format, library).rows(torch.arange(shape[0]))
    span = weight.amax(1, keepdim=True).clamp(min=0) - weight.amin(1, keepdim=True).clamp(max=0)
    assert ((packed - weight).abs() <= span * STEP[format] * 0.51).all()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("format", FORMATS, ids=lambda f: f.name)
@pytest.mark.parametrize("rows", [1, 2, 7, 33])
def test_product_is_the_references(library, format, shape, rows):
    packed = PackedMatrix.pack(matrix(*shape), format, library, bias=torch.arange(shape[0]) / 3)
    x = matrix(rows, shape[1], seed=1)
    wanted = linear(x, packed.rows(torch.arange(shape[0])), format, packed.bias)
    got = packed.product(x)
    assert (got - wanted).abs().max() <= 1e-5 * wanted.abs().max()


@pytest.mark.parametrize("format", FORMATS, ids=lambda f: f.name)
def test_row_is_bitwise_the_same_alone_and_beside_any_number_of_others(library, format):
    packed = PackedMatrix.pack(matrix(100, 200), format, library)
    x = matrix(64, 200, seed=2)
    alone = torch.cat([packed.product(row[None]) for row in x])
    for rows in range(1, 65):
        assert torch.equal(packed.product(x[:rows]), alone[:rows])


@pytest.mark.parametrize("format", FORMATS, ids=lambda f: f.name)
def test_product_does_not_depend_on_threads(library, format):
    packed = PackedMatrix.pack(matrix(100, 200), format, library)
    x = matrix(5, 200, seed=3)
    one = packed.product(x, threads=1)
    assert all(torch.equal(packed.product(x, threads=n), one) for n in (2, 3, 7))


def blocks_of(kind, out, inputs, seed=0):
    """Make GGUF blocks by the format's own description, and the numbers they stand for."""
    random = np.random.default_rng(seed)
    count = out * inputs // 32
    d = random.uniform(0.01, 0.1, count).astype(np.float16)
    m = random.uniform(-1, 0, count).astype(np.float16)
    if kind == "Q8_0":
        q = random.integers(-127, 128, (count, 32)).astype(np.int8)
        values = d.astype(np.float32)[:, None] * q
        raw = np.concatenate([d.view(np.uint8).reshape(count, 2), q.view(np.uint8)], axis=1)
    else:
        q = random.integers(0, 16, (count, 32)).astype(np.uint8)
        low = m if kind == "Q4_1" else (-8 * d.astype(np.float32)).astype(np.float16)
        values = d.astype(np.float32)[:, None] * q + low.astype(np.float32)[:, None]
        head = [d.view(np.uint8).reshape(count, 2)]
        head += [m.view(np.uint8).reshape(count, 2)] if kind == "Q4_1" else []
        raw = np.concatenate([*head, q[:, :16] | (q[:, 16:] << 4)], axis=1)
    return torch.from_numpy(raw.reshape(out, -1)), torch.from_numpy(values.reshape(out, inputs))


@pytest.mark.parametrize("kind", ["Q4_1", "Q8_0", "Q4_0"])
def test_blocks_of_a_gguf_file_are_packed_without_rounding(library, kind):
    blocks, values = blocks_of(kind, 50, 96)
    packed = PackedMatrix.of_blocks(blocks, kind, library)
    assert torch.allclose(packed.rows(torch.arange(50)), values, rtol=1e-6, atol=1e-6)


def test_what_a_kernel_would_misread_is_refused(library):
    packed = PackedMatrix.pack(matrix(8, 8), Format.F32, library)
    with pytest.raises(UnsupportedError, match=r"\[row, 8\]"):
        packed.product(matrix(2, 9))
    with pytest.raises(UnsupportedError, match="float16"):
        PackedMatrix.pack(matrix(8, 8).half(), Format.F32, library)
    with pytest.raises(UnsupportedError, match="Q6_K"):
        PackedMatrix.of_blocks(torch.zeros(1, 210, dtype=torch.uint8), "Q6_K", library)
    with pytest.raises(IndexError):
        packed.rows(torch.tensor([8]))


def test_transposed_weights_and_strided_rows_are_read_as_they_are(library):
    weight = matrix(24, 40).T
    packed = PackedMatrix.pack(weight, Format.F32, library)
    x = matrix(48, 3, seed=5)[::2].T
    assert torch.allclose(packed.product(x), x @ weight.T, atol=1e-5)
