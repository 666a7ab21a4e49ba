"""What a CPU kernel would misread is refused: it reads plain memory, and nobody else looks."""

from dataclasses import replace

import jaxtyping
import pytest
import torch
from fivefold_kernels import DecoderPass, DecoderWeights, LayerWeights, PackedMatrix, cpu_library
from fivefold_kernels.attention.cpu import move_slots, tree_attention
from fivefold_kernels.attention.layout import block_keys
from fivefold_kernels.errors import UnsupportedError
from fivefold_kernels.linear.reference import Format
from fivefold_kernels.native.library import has_compiler
from fivefold_kernels.native.machine import runs_here
from fivefold_kernels.pointwise.cpu import rms_norm, rotate, silu_mul

pytestmark = pytest.mark.skipif(not has_compiler(), reason="no C++ compiler")
BUILDS = runs_here()


@pytest.fixture
def one(folder, monkeypatch):
    """Any build; nothing else refuses before it does."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    return cpu_library(BUILDS[0], folder)


def floats(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def pack(library, outs=16, ins=32, **options):
    return PackedMatrix.pack(floats(outs, ins), Format.F32, library, **options)


META = torch.empty(2, 32, device="meta")
INDEX = torch.tensor([[0, 1]])


@pytest.mark.parametrize(
    "call",
    [
        lambda lib: pack(lib, bias=floats(1)),
        lambda lib: pack(lib).with_bias(floats(17)),
        lambda lib: PackedMatrix.pack(floats(4, 0), Format.Q4, lib),
        lambda lib: PackedMatrix.pack(floats(4, 32), 99, lib),
        lambda lib: PackedMatrix.pack(floats(4, 32) / 0, Format.I8, lib),
        lambda lib: PackedMatrix.of_blocks(floats(4, 20), "Q4_1", lib),
        lambda lib: PackedMatrix.of_blocks(torch.empty(4, 20, dtype=torch.uint8)[0], "Q4_1", lib),
        lambda lib: PackedMatrix.of_blocks(META.to(torch.uint8), "Q4_1", lib),
        lambda lib: pack(lib).rows(torch.tensor([1.7])),
        lambda lib: pack(lib).product(floats(2, 32).to(torch.complex64)),
        lambda lib: pack(lib).product(META),
        lambda lib: pack(lib).product(floats(2, 32), threads=0),
        lambda lib: pack(lib).product(floats(2, 32), threads=100_000),
        lambda lib: rms_norm(floats(2, 8), floats(7), 1e-5, library=lib),
        lambda lib: rms_norm(floats(8), floats(8), 1e-5, library=lib),
        lambda lib: rms_norm(META, floats(32), 1e-5, library=lib),
        lambda lib: rotate(floats(2, 1, 8), floats(2, 3), floats(2, 4), library=lib),
        lambda lib: silu_mul(floats(2, 8), floats(2, 7), library=lib),
        lambda lib: silu_mul(META, META, library=lib),
        lambda lib: move_slots(floats(1, 1, 1, 4, 8), INDEX, INDEX + 3, lib),
        lambda lib: move_slots(floats(1, 1, 1, 4, 8), INDEX, INDEX - 1, lib),
        lambda lib: move_slots(floats(1, 1, 1, 4, 8), INDEX, INDEX[:, :1], lib),
        lambda lib: move_slots(floats(1, 1, 1, 8, 4).mT, INDEX, INDEX, lib),
    ],
)
def test_arguments_that_would_be_misread(one, call):
    with pytest.raises(UnsupportedError):
        call(one)


ATTENTION = {
    "query": floats(2, 3, 2, 64),
    "key": block_keys(floats(2, 1, 32, 64)),
    "value": floats(2, 1, 32, 64),
    "lengths": torch.tensor([4, 5]),
    "visible": torch.ones(2, 3, 3, dtype=torch.bool).tril(),
}


@pytest.mark.parametrize(
    "wrong",
    [
        {"lengths": torch.tensor([4])},
        {"lengths": torch.tensor([4.0, 5.0])},
        {"lengths": torch.tensor([4, 30])},
        {"query": floats(2, 3, 2, 64).long()},
        {"query": floats(6, 2, 64)},
        {"query": torch.empty(2, 3, 2, 64, device="meta")},
        {"visible": torch.ones(2, 3, dtype=torch.bool)},
        {"visible": torch.ones(2, 3, 3, dtype=torch.bool, device="meta")},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_attention_refuses_what_it_would_misread(one, wrong):
    assert tree_attention(**ATTENTION, scale=1.0, library=one).isfinite().all()
    with pytest.raises(UnsupportedError):
        tree_attention(**(ATTENTION | wrong), scale=1.0, library=one)


HIDDEN, FFN, DIM = 64, 96, 64


def decoder(library, **changed):
    sizes = {"query": (DIM, HIDDEN), "key": (DIM, HIDDEN), "value": (DIM, HIDDEN)}
    sizes |= {"output": (HIDDEN, DIM), "gate": (FFN, HIDDEN), "up": (FFN, HIDDEN)}
    sizes |= {"down": (HIDDEN, FFN)}
    parts = {name: pack(library, *size) for name, size in sizes.items()}
    parts |= {"input_norm": torch.ones(HIDDEN), "post_norm": torch.ones(HIDDEN)}
    layer = LayerWeights(**(parts | changed))
    return DecoderWeights((layer,), torch.ones(HIDDEN), None, 1, 1, DIM, 1e-5, 1.0)


def arguments(nodes=2, pending=2):
    return {
        "inputs": floats(1, nodes, HIDDEN),
        "cosine": floats(1, nodes, DIM // 2),
        "sine": floats(1, nodes, DIM // 2),
        "lengths": torch.tensor([3]),
        "visible": torch.ones(1, nodes, pending, dtype=torch.bool),
        "keys": block_keys(floats(1, 1, 1, 16, DIM)[0])[None],
        "values": floats(1, 1, 1, 16, DIM),
    }


@pytest.mark.parametrize(
    "change",
    [
        lambda lib: {"up": pack(lib, FFN + 32, HIDDEN)},
        lambda lib: {"input_norm": torch.ones(HIDDEN - 1)},
        lambda lib: {"post_norm": torch.ones(HIDDEN, dtype=torch.bfloat16)},
    ],
)
def test_a_pass_refuses_weights_that_it_would_misread(one, change):
    with pytest.raises(UnsupportedError):
        DecoderPass(decoder(one, **change(one)), one)
    with pytest.raises(UnsupportedError, match="without layers"):
        DecoderPass(replace(decoder(one), layers=()), one)


@pytest.mark.skipif(len(BUILDS) < 2, reason="one build runs here")
def test_a_pass_refuses_matrices_of_another_build(one, folder):
    with pytest.raises(UnsupportedError, match="another build"):
        DecoderPass(decoder(one), cpu_library(BUILDS[1], folder))


@pytest.mark.parametrize(
    "wrong",
    [
        arguments(nodes=3, pending=2),
        arguments() | {"cosine": torch.empty(1, 2, DIM // 2, device="meta")},
        arguments() | {"lengths": torch.tensor([3.0])},
        arguments() | {"inputs": floats(2, HIDDEN)},
        arguments() | {"inputs": floats(1, 0, HIDDEN)},
    ],
)
def test_a_pass_refuses_what_it_would_misread(one, wrong):
    run = DecoderPass(decoder(one), one)
    assert run(**arguments()).hidden.isfinite().all()
    with pytest.raises(UnsupportedError):
        run(**wrong)


def test_threads_of_python_may_share_a_pass(one):
    from concurrent.futures import ThreadPoolExecutor

    run, given = DecoderPass(decoder(one), one), arguments()
    wanted = run(**given).hidden
    with ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(run, **{**given, "keys": given["keys"].clone()}) for _ in range(200)]
        assert all(torch.equal(call.result().hidden, wanted) for call in calls)
