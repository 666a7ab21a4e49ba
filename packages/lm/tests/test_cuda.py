"""A model on a GPU: recorded passes by Triton's kernels, and layers streamed from the host."""

import pytest
import torch
from fivefold_kernels.decoder.gpu import triton_operations
from fivefold_lm import FullAttention, KVCache, ModelConfig, TreeForward, load_model, offload_of
from fivefold_lm.kernels import speedup_of
from fivefold_lm.static import cuda_recorder
from fivefold_lm.testing import llama_family, ragged, random_module, run_statically, tiny_model

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
FAMILY = llama_family()
TOKENS = torch.arange(300)[None] * 7 % 60
CHUNKS = [1, 1, 3, 3, 2, 8, 33, 100, 1, 148]


def fast(module):
    """Let a module run as a user's does; say when a pass could not be recorded."""
    module.to("cuda")
    return run_statically(module, cuda_recorder(module), triton_operations(), pytest.fail)


def read(module, tokens, chunks):
    """Score every token of a text through the engine's own forward, in chunks of these sizes."""
    forward, device = TreeForward(module, FullAttention()), module.device
    cache = KVCache.for_module(module, 1, tokens.shape[1])
    scored = []
    for part in tokens.to(device).split(chunks, dim=1):
        nodes = part.shape[1]
        depths = torch.arange(nodes, device=device)[None]
        seen = torch.ones(1, nodes, nodes, dtype=torch.bool, device=device).tril()
        scored.append(forward(cache, part, depths, seen).logits)
        cache.commit(torch.full((1,), nodes, device=device))
    return torch.cat(scored, 1)


@pytest.mark.parametrize("config", FAMILY.values(), ids=FAMILY)
def test_logits_are_those_of_transformers(config):
    module = random_module(config).to("cuda")
    wanted = module(TOKENS.to("cuda")).logits
    decoder = fast(module).decoder
    got = read(module, TOKENS, CHUNKS)
    assert (got - wanted).abs().max() <= 1e-5 * wanted.abs().max()
    assert len(decoder.graphs) > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_logits_have_the_same_bits_however_a_text_is_cut(dtype):
    module = random_module(FAMILY["qwen3"], dtype)
    fast(module)
    text = TOKENS[:, :140]
    alone = read(module, text, [1] * 140)
    for chunks in ([140], [64, 64, 12], [3] * 46 + [2], [9, 1, 120, 10]):
        assert torch.equal(read(module, text, chunks), alone)


def test_model_on_a_gpu_runs_tritons_kernels_by_itself(model_folder):
    said = []
    model = load_model(ModelConfig(name=str(model_folder), device="cuda"), said.append)
    assert speedup_of(model.module).kernels.name == "triton"
    assert not any("slower" in line for line in said)


def scores(model):
    """Read two ragged prompts, verify a tree twice, keep a path: all logits."""
    method, device = FullAttention(), model.device
    forward = TreeForward(model.module, method)
    cache = method.make_cache(model, 2, 64)
    seen = torch.ones(8, 8, dtype=torch.bool, device=device).tril()
    seen[4:, 1:4] = False
    seen = seen.expand(2, -1, -1)
    tokens, lengths = ragged([[3, 5, 7, 9, 2], [4, 4]])
    given = tokens.to(device), lengths.to(device)
    found = [forward.prefill(cache, *given, want_logits=True, chunk=2).logits]
    for _ in range(3):
        nodes = torch.arange(16, device=device).view(2, 8) * 3 % 40
        found.append(forward(cache, nodes, seen.sum(-1) - 1, seen).logits)
        kept = torch.tensor([[0, 1, 2], [0, 4, 0]], device=device)
        cache.keep(kept, torch.tensor([3, 2], device=device))
    return found


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("stay", [0, 3])
def test_layers_streamed_from_the_host_are_bitwise_the_resident_ones(tmp_path, dtype, stay):
    model = tiny_model(vocab=40, num_hidden_layers=6, hidden_size=64, intermediate_size=96)
    model.module.save_pretrained(tmp_path)
    model.tokenizer.save_pretrained(tmp_path)
    settings = {"name": str(tmp_path), "dtype": dtype, "device": "cuda", "kernels": "torch"}
    wanted = scores(load_model(ModelConfig(**settings)))
    roomy = offload_of(load_model(ModelConfig(**settings, offload="host", memory="1GiB")).module)
    size = next(iter(roomy.streamer.resident.values())).nbytes
    budget = roomy.about.weight_bytes - (roomy.streamer.count - 2 - stay) * size
    settings |= {"offload": "host", "memory": f"{budget}B"}
    streamed = load_model(ModelConfig(**settings))
    offload = offload_of(streamed.module)
    assert len(offload.streamer.streamed) == 6 - stay
    assert offload.about.reads == "pinned"
    for _ in range(3):  # from the second time on the first layers were there before
        for got, right in zip(scores(streamed), wanted, strict=True):
            assert torch.equal(got, right)
    assert offload.done().nbytes >= 3 * 4 * (6 - stay) * size
