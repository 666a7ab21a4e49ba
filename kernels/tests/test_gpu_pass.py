"""Products, norms and whole passes in Triton equal their references; a row's bits are its own.

On a GPU where there is one, else interpreted.
"""

import itertools
import os
import subprocess
import sys

import jaxtyping
import pytest
import torch
from fivefold_kernels import DecoderWeights, FloatMatrix, LayerWeights, UnsupportedError
from fivefold_kernels.decoder.gpu import plain_operations, static_pass, triton_operations
from fivefold_kernels.linear import gpu as linear
from fivefold_kernels.linear import reference as plain_linear
from fivefold_kernels.pointwise import gpu as pointwise
from fivefold_kernels.pointwise import reference as plain_pointwise
from torch.utils._python_dispatch import TorchDispatchMode

pytest.importorskip("triton")
DEVICE = torch.accelerator.current_accelerator() or torch.device("cpu")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
ROUNDING = {torch.float32: 1e-6, torch.bfloat16: 2**-7, torch.float16: 2**-10}


def numbers(*shape, seed=0, dtype=torch.float32):
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return drawn.to(DEVICE, dtype)


def difference(got, wanted):
    """Largest difference, over the largest number."""
    return float((got.float() - wanted.float()).abs().max() / wanted.float().abs().max())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("rows", "ins", "outs"), [(1, 96, 33), (17, 130, 16), (66, 64, 8195)])
@pytest.mark.parametrize("terms", [False, True])
def test_product_is_the_references(dtype, rows, ins, outs, terms):
    x, weight = numbers(rows, ins, dtype=dtype), numbers(outs, ins, seed=1, dtype=dtype)
    bias = numbers(outs, seed=2, dtype=dtype) if terms else None
    add = numbers(rows, outs, seed=3) if terms else None
    got = linear.float_linear(x, weight, bias, add)
    assert got.dtype is torch.float32
    assert difference(got, plain_linear.float_linear(x, weight, bias, add)) <= 2e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_row_of_a_product_has_the_same_bits_beside_any_number_of_others(dtype):
    x, weight = numbers(70, 200, dtype=dtype), numbers(50, 200, seed=1, dtype=dtype)
    together = linear.float_linear(x, weight)
    for rows in (1, 2, 8, 16, 17, 33, 64, 65, 66):
        assert torch.equal(linear.float_linear(x[:rows], weight), together[:rows])
        last = linear.float_linear(x[-rows:], weight)
        assert torch.equal(last, together[-rows:])


@pytest.mark.skipif(DEVICE.type == "cpu", reason="no GPU")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("outs", "ins"), [(8200, 1000), (2048, 4096), (96, 14_336)])
def test_tiles_of_all_shapes_have_the_same_bits(dtype, outs, ins):
    """Tensor cores decide it: the interpreter would not see a difference."""
    x, weight = numbers(257, ins, dtype=dtype), numbers(outs, ins, seed=1, dtype=dtype)
    other, add = numbers(outs, ins, seed=2, dtype=dtype), numbers(257, outs, seed=3)
    calls = (
        lambda some, more: linear.float_linear(some, weight, None, more),
        lambda some, _: torch.cat(linear.three_linears(some, [weight, other, other], [None] * 3)),
        lambda some, _: linear.gated_linear(some, weight, other),
    )
    for number, call in enumerate(calls):
        for rows in (1, 5, 16, 17, 64, 65, 200):
            got, together = call(x[:rows], add[:rows]), call(x, add)
            if number == 1:  # three products one below the other
                got, together = got.view(3, rows, -1), together.view(3, 257, -1)[:, :rows]
            assert torch.equal(got, together[:rows] if number != 1 else together)


def test_a_tile_fits_into_the_memory_of_a_smaller_gpu():
    """By rows and weights of all stages, in bytes; the programs of three kinds of GPUs."""
    cases = itertools.product(linear.TILES, (1, 17, 64, 65, 1000), (2, 4), (False, True))
    for outs, rows, itemsize, is_gated in cases:
        shape = linear.tile_of(rows, outs, itemsize, is_gated)
        for room in (None, 232_448, 166_912, 101_376, 65_536):
            tile = linear.tile_of(rows, outs, itemsize, is_gated, room)
            held = (tile.rows + (1 + is_gated) * tile.outs) * tile.ins * tile.stages * itemsize
            assert held <= (room or 163_840)
            assert tile._replace(stages=shape.stages) == shape  # and so the bits


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("rows", [1, 18])
def test_three_products_and_a_gated_one_are_the_references(dtype, biased, rows):
    x, sizes = numbers(rows, 130, dtype=dtype), (33, 16, 5)
    weights = [numbers(size, 130, seed=n, dtype=dtype) for n, size in enumerate(sizes)]
    biases = [numbers(size, seed=n, dtype=dtype) if biased else None
              for n, size in enumerate(sizes, 5)]  # fmt: skip
    biases[1] = None
    got = linear.three_linears(x, weights, biases)
    wanted = plain_linear.three_linears(x, weights, biases)
    for ours, theirs in zip(got, wanted, strict=True):
        assert difference(ours, theirs) <= 2e-6
    gates = numbers(40, 130, seed=8, dtype=dtype), numbers(40, 130, seed=9, dtype=dtype)
    added = (numbers(40, seed=10, dtype=dtype), None) if biased else (None, None)
    ours = linear.gated_linear(x, *gates, *added)
    assert ours.dtype is dtype
    theirs = plain_linear.gated_linear(x, *gates, *added)
    assert difference(ours, theirs) <= 2 * ROUNDING[dtype]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_norm_is_the_references(dtype):
    x, weight = numbers(5, 70), 1 + numbers(70, seed=1)
    got = pointwise.rms_norm(x, weight, 1e-5, dtype)
    assert got.dtype is dtype
    assert difference(got, plain_pointwise.rms_norm(x, weight, 1e-5)) <= ROUNDING[dtype]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rotated_keys_and_values_go_to_their_slots_and_nowhere_else(dtype):
    batch, heads, kv_heads, dim, slots = 2, 4, 2, 24, 9
    given = [numbers(6, count, dim, seed=n) for n, count in enumerate((heads, kv_heads, kv_heads))]
    angles = numbers(6, dim // 2, seed=4)
    where = torch.tensor([[0, 8, 3], [7, 2, 1]], device=DEVICE)
    caches = [[numbers(batch, kv_heads, slots, dim, seed=5, dtype=dtype) for _ in range(2)]
              for _ in range(2)]  # fmt: skip
    got, wanted = (
        each.rotate_and_store(*given, angles.cos(), angles.sin(), where, *cache)
        for each, cache in zip((pointwise, plain_pointwise), caches, strict=True)
    )
    assert got.dtype is dtype
    assert difference(got, wanted) <= ROUNDING[dtype]
    for ours, theirs in zip(*caches, strict=True):
        assert difference(ours, theirs) <= ROUNDING[dtype]


HIDDEN, FFN, HEADS, KV_HEADS, DIM, VOCAB, SLOTS = 48, 80, 4, 2, 16, 40, 40


def decoder(dtype):
    def matrix(outs, ins, seed):
        return FloatMatrix(numbers(outs, ins, seed=seed, dtype=dtype) * ins**-0.5)

    def norm(width, seed):
        return 1 + 0.1 * numbers(width, seed=seed)

    layers = tuple(
        LayerWeights(
            norm(HIDDEN, 1),
            norm(HIDDEN, 2),
            matrix(HEADS * DIM, HIDDEN, 3),
            matrix(KV_HEADS * DIM, HIDDEN, 4),
            matrix(KV_HEADS * DIM, HIDDEN, 5),
            matrix(HIDDEN, HEADS * DIM, 6),
            matrix(FFN, HIDDEN, 7),
            matrix(FFN, HIDDEN, 8),
            matrix(HIDDEN, FFN, 9),
            norm(DIM, 10),
            norm(DIM, 11),
        )
        for _ in range(2)
    )
    head = matrix(VOCAB, HIDDEN, 12)
    return DecoderWeights(layers, norm(HIDDEN, 13), head, HEADS, KV_HEADS, DIM, 1e-5, DIM**-0.5)


def passed(dtype, operations, length, some, visible):
    """Logits of some of 8 nodes after a prefix, whatever the cache holds beyond."""
    planes = [numbers(2, 1, KV_HEADS, SLOTS, DIM, seed=n, dtype=dtype) for n in (20, 21)]
    positions = torch.arange(8, device=DEVICE)[None] + length
    angles = positions[:, some, None] / 10 ** torch.arange(DIM // 2, device=DEVICE)
    inputs = numbers(1, 8, HIDDEN, seed=22)[:, some]
    lengths = torch.tensor([length], device=DEVICE)
    slots = positions[:, some]
    return static_pass(
        decoder(dtype), operations, inputs, angles.cos(), angles.sin(), lengths, visible, slots,
        *planes,
    )  # fmt: skip


def chain(nodes):
    return torch.ones(1, nodes, nodes, dtype=torch.bool, device=DEVICE).tril()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_pass_in_triton_is_the_plain_one(dtype):
    ours, plain = (
        passed(dtype, each, 20, slice(0, 8), chain(8))
        for each in (triton_operations(), plain_operations())
    )
    tolerance = 1e-5 if dtype is torch.float32 else 0.05
    assert difference(ours.logits, plain.logits) <= tolerance
    assert difference(ours.hidden, plain.hidden) <= tolerance


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_node_of_a_pass_has_the_same_bits_beside_any_number_of_others(dtype):
    operations = triton_operations()
    together = passed(dtype, operations, 20, slice(0, 8), chain(8))
    for nodes in (1, 3, 7):
        some = passed(dtype, operations, 20, slice(0, nodes), chain(nodes))
        assert torch.equal(some.logits, together.logits[:, :nodes])
        assert torch.equal(some.hidden, together.hidden[:, :nodes])


class Calls(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(function.name())
        return function(*args, **kwargs or {})


def test_pass_never_waits_for_the_device():
    with Calls() as few:
        passed(torch.float32, triton_operations(), 0, slice(0, 3), chain(3))
    with Calls() as many:
        passed(torch.float32, triton_operations(), 20, slice(0, 3), chain(3))
    assert few.names == many.names
    assert not [name for name in few.names if "_local_scalar_dense" in name or "nonzero" in name]


def test_kernels_compile_for_a_gpu(tmp_path):
    """Without one: to machine code, in a process where Triton does not interpret."""
    pytest.importorskip("triton.backends.nvidia")
    code = """
import torch, triton, triton.language as tl
from triton.backends.compiler import GPUTarget
from fivefold_kernels.linear import gpu, gpu_kernels as products
from fivefold_kernels.pointwise import gpu_kernels as between

def build(kernel, types, fixed, **options):
    types = types | dict.fromkeys(fixed, "constexpr")
    signature = {name: types[name] for name in kernel.arg_names}
    source = triton.compiler.ASTSource(kernel, signature, fixed)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)

for capability in (80, 90):
    lines = [2048, 8192, 1024, 8192, 5120, 2048]
    for numbers, of in ((torch.bfloat16, "bf16"), (torch.float32, "fp32")):
        for rows in (1, 64, 256):
            names = [f"{kind}{n}" for kind in ("weight", "bias") for n in ("", 0, 1, 2)]
            types = dict.fromkeys(("x", "gate", "up", *names), f"*{of}") | {"rows": "i32"}
            types |= dict.fromkeys(("add", "out", "out0", "out1", "out2"), "*fp32")
            outs = lines.pop()
            one = dict(outs=outs, has_bias=False, has_add=True)
            three = dict(outs0=outs // 2, outs1=outs // 4, outs2=outs // 4)
            three |= {f"has_bias{n}": False for n in range(3)}
            gated = dict(outs=outs, has_gate_bias=False, has_up_bias=False)
            for kernel, fixed in ((products.multiply, one), (products.multiply_three, three),
                                  (products.multiply_gated, gated)):
                is_gated = kernel is products.multiply_gated
                if is_gated:
                    types |= dict.fromkeys(("gate_bias", "up_bias", "out"), f"*{of}")
                tile = gpu.tile_of(rows, outs, numbers.itemsize, is_gated)
                fixed |= dict(numbers=getattr(tl, str(numbers)[6:]), tile_rows=tile.rows,
                              tile_outs=tile.outs, tile_ins=tile.ins, ins=4096)
                options = dict(num_warps=tile.warps, num_stages=tile.stages, enable_fp_fusion=True)
                made = build(kernel, types, fixed, **options)
                assert len(made.asm["cubin"]) > 1000
                assert "tf32" not in made.asm["ptx"]
                assert made.metadata.shared <= 163 * 1024
        types = dict.fromkeys(("x", "weight"), "*fp32") | {"out": f"*{of}", "eps": "fp32"}
        build(between.norm_row, types, dict(dim=576, width=1024))
        types = dict.fromkeys(("query", "key", "value", "cosine", "sine"), "*fp32")
        types |= dict.fromkeys(("keys", "values", "out"), f"*{of}") | {"slots": "*i64"}
        types |= dict.fromkeys(("nodes", "batch_stride", "head_stride", "slot_stride"), "i32")
        build(between.rotate_and_store, types, dict(heads=9, kv_heads=3, half=32, width=32))
"""
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_what_the_kernels_would_misread_is_refused(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # else it refuses them first
    x, weight = numbers(2, 16), numbers(4, 16)
    for given, said in (
        ((x.double(), weight), "must be float32, bfloat16 or float16"),
        ((x.half(), weight), "the kernel takes one"),
        ((x, weight.T.contiguous().T), "must be contiguous"),
        ((x[:, :8].contiguous(), weight), "rows of 8 numbers"),
        ((x, weight, numbers(3)), "for 4 outputs"),
        ((x, weight, None, numbers(2, 4).half()), "must be float32"),
    ):
        with pytest.raises(UnsupportedError, match=said):
            linear.float_linear(*given)
    with pytest.raises(UnsupportedError, match="and up"):
        linear.gated_linear(x, weight, numbers(5, 16))
    with pytest.raises(UnsupportedError, match="rows of 8 numbers"):
        linear.three_linears(x[:, :8].contiguous(), [weight] * 3, [None] * 3)
    with pytest.raises(UnsupportedError, match="2 matrices and 3 biases"):
        linear.three_linears(x, [weight] * 2, [None] * 3)
    keys, flat = numbers(1, 2, 8, 16), numbers(1, 2, 8)
    with pytest.raises(UnsupportedError, match="cache"):
        pointwise.rotate_and_store(
            numbers(1, 4, 8), flat, flat, flat[:, 0, :4].contiguous(), flat[:, 1, :4].contiguous(),
            torch.zeros(1, 1, dtype=torch.long, device=DEVICE), keys, keys,
        )  # fmt: skip


def test_machine_without_triton_is_told_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "fivefold_kernels.linear.gpu_kernels", None)
    with pytest.raises(UnsupportedError, match="pip install 'fivefold-kernels"):
        triton_operations()
