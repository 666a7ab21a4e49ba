"""Mini-sequences on a GPU: the same loss and gradients, by Triton's kernel and by others' heads."""

import importlib.util

import pytest
import torch
from fivefold_lm.testing import tiny_model
from fivefold_mst_train import apply_mst
from fivefold_mst_train._words import HeadImpl, Kernel, Offload
from fivefold_mst_train.config import (
    BlockConfig,
    CheckpointConfig,
    HeadConfig,
    MlpConfig,
    MstConfig,
)
from fivefold_mst_train.testing import gradients, training_batch, worst_error

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
VOCAB = 96
HEADS = [HeadImpl.EAGER]
HEADS += [HeadImpl.TORCH] if hasattr(torch.nn, "LinearCrossEntropyOptions") else []
HEADS += [HeadImpl.LIGER] if importlib.util.find_spec("liger_kernel") else []


def model(dtype=torch.float32):
    sizes = {"hidden_size": 64, "intermediate_size": 160, "max_position_embeddings": 4096}
    made = tiny_model("llama", VOCAB, eos_token_id=None, **sizes).module
    return made.to("cuda", dtype).train()


def batch(tokens=65):
    made = training_batch(VOCAB, tokens=tokens)
    return {name: value.to("cuda") for name, value in made.items()}


def step(module, given):
    """Return the loss and leave gradients."""
    loss = module(**given, use_cache=False).loss
    loss.backward()
    return loss.detach()


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("kernel", [Kernel.TORCH, Kernel.TRITON])
@pytest.mark.parametrize("block", [False, True])
@pytest.mark.parametrize("offload", [Offload.NONE, Offload.CPU])
def test_loss_and_gradients_are_those_of_the_plain_model(head, kernel, block, offload):
    got, wanted, given = model(), model(), batch()
    config = MstConfig(
        mlp=MlpConfig(tile_tokens=16, kernel=kernel),
        head=HeadConfig(chunk_tokens=24, impl=head),
        block=BlockConfig(block),
        checkpoint=CheckpointConfig(True, offload),
    )
    expected = step(wanted, given)
    with apply_mst(got, config):
        loss = step(got, given)
    torch.testing.assert_close(loss, expected, rtol=2e-6, atol=2e-6)
    assert worst_error(gradients(got), gradients(wanted)) < 1e-5


@pytest.mark.parametrize("kernel", [Kernel.TORCH, Kernel.TRITON])
def test_bfloat16_is_as_near_to_float32_as_plain_bfloat16_is(kernel):
    exact, plain, got, given = model(), model(torch.bfloat16), model(torch.bfloat16), batch()
    for module in (exact, plain):
        step(module, given)
    config = MstConfig(mlp=MlpConfig(tile_tokens=16, kernel=kernel))
    with apply_mst(got, config):
        step(got, given)
    right = gradients(exact)
    errors = [
        worst_error({name: grad.float() for name, grad in gradients(each).items()}, right)
        for each in (plain, got)
    ]
    assert errors[1] <= max(1.5 * errors[0], 2**-7)


def test_peak_memory_is_a_fraction_of_the_plain_models():
    peaks, given = [], batch(2048)
    for config in (
        None,
        MstConfig(mlp=MlpConfig(tile_tokens=64), head=HeadConfig(chunk_tokens=64)),
    ):
        module = model()
        step(module, batch())
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        if config is None:
            step(module, given)
        else:
            with apply_mst(module, config):
                step(module, given)
        peaks.append(torch.cuda.max_memory_allocated() - before)
        del module
    assert peaks[1] < peaks[0] / 3
