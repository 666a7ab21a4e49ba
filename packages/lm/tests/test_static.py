"""Passes in static shapes say what transformers says; recorded ones say the same when replayed.

Without a GPU: a stand-in for CUDA graphs runs what was recorded again over the same buffers, and
the plain operations stand in for Triton's kernels, which `kernels/tests` holds to them.
"""

import pytest
import torch
from fivefold import UserError
from fivefold_kernels import UnsupportedError
from fivefold_kernels.decoder.cpu import Scores
from fivefold_kernels.decoder.gpu import plain_operations
from fivefold_lm import FullAttention, KVCache, ModelConfig, TreeForward, load_model, self_test
from fivefold_lm import kernels as lm_kernels
from fivefold_lm.cache import SPARE, STATIC_BLOCK
from fivefold_lm.graphs import Graphs
from fivefold_lm.kernels import Kernels, choose_gpu_kernels, choose_kernels, speed_up, speedup_of
from fivefold_lm.loading import load
from fivefold_lm.static import SIZES, size_of
from fivefold_lm.testing import Replays, llama_family, random_module, run_statically, tiny_model
from transformers import (
    LlamaModel,
)

FAMILY = llama_family()


def read(module, tokens, chunks, batch=1):
    """Score every token of a text through the engine's own forward, in chunks of these sizes."""
    forward = TreeForward(module, FullAttention())
    cache = KVCache.for_module(module, batch, tokens.shape[1])
    scored = []
    for part in tokens.split(chunks, dim=1):
        nodes = part.shape[1]
        depths = torch.arange(nodes).expand(batch, -1)
        seen = torch.ones(nodes, nodes, dtype=torch.bool).tril().expand(batch, -1, -1)
        scored.append(forward(cache, part, depths, seen, want_hidden=True))
        cache.commit(torch.full((batch,), nodes))
    return torch.cat([r.logits for r in scored], 1), torch.cat([r.hidden for r in scored], 1)


TOKENS = torch.arange(300)[None] * 7 % 60
CHUNKS = [1, 1, 3, 3, 2, 8, 33, 100, 1, 148]


@pytest.mark.parametrize("record", [None, Replays()], ids=["eager", "replayed"])
@pytest.mark.parametrize("config", FAMILY.values(), ids=FAMILY)
def test_logits_and_hidden_states_are_those_of_transformers(config, record):
    module = random_module(config)
    wanted = module(TOKENS, output_hidden_states=True)
    run_statically(module, record)
    logits, hidden = read(module, TOKENS, CHUNKS)
    assert (logits - wanted.logits).abs().max() <= 1e-5 * wanted.logits.abs().max()
    last = wanted.hidden_states[-1]
    assert (hidden - last).abs().max() <= 1e-5 * last.abs().max()


@pytest.mark.parametrize("record", [None, Replays()], ids=["eager", "replayed"])
@pytest.mark.parametrize("arch", ["llama", "qwen3"])
def test_tree_over_ragged_rows_and_a_step_after_compaction_are_the_plain_models(arch, record):
    model = tiny_model(arch)
    run_statically(model.module, record)
    found = self_test(model, FullAttention())
    assert 0 < found.error <= found.tolerance == 2e-3


def test_padding_changes_nothing(monkeypatch):
    module = random_module(FAMILY["qwen3"])
    run_statically(module)
    chunks = [3, 5, 1, 91]
    padded = read(module, TOKENS[:, :100], chunks)
    monkeypatch.setattr("fivefold_lm.static.SIZES", (7, 300))
    wider = read(module, TOKENS[:, :100], chunks)
    monkeypatch.setattr("fivefold_lm.static.size_of", lambda nodes: nodes)
    bare = read(module, TOKENS[:, :100], chunks)
    for got in (padded, wider):
        for ours, wanted in zip(got, bare, strict=True):
            assert (ours - wanted).abs().max() <= 1e-6 * wanted.abs().max()


def test_logits_by_chunks_are_those_of_the_pass():
    module = random_module(FAMILY["qwen3"])
    run_statically(module, Replays())
    forward = TreeForward(module, FullAttention())
    tokens, depths = TOKENS[:, :7], torch.arange(7)[None]
    seen = torch.ones(1, 7, 7, dtype=torch.bool).tril()
    whole = forward(KVCache.for_module(module, 1, 16), tokens, depths, seen).logits
    rows = forward(KVCache.for_module(module, 1, 16), tokens, depths, seen, head_chunk=3)
    found = torch.cat([logits for _, logits in rows.chunks()]).view_as(whole)
    assert (found - whole).abs().max() <= 1e-6 * whole.abs().max()


def test_padding_has_room_in_every_cache():
    assert all(size_of(nodes) - nodes < SPARE for nodes in range(1, SIZES[-1] + 2))


def test_bare_decoder_runs_without_an_output_layer():
    torch.manual_seed(0)
    module = LlamaModel(FAMILY["llama"]).eval().requires_grad_(False)
    tokens = TOKENS[:, :20]
    wanted = module(tokens).last_hidden_state
    run_statically(module, Replays())
    cache = KVCache.for_module(module, 1, 20)
    forward = TreeForward(module, FullAttention())
    rows = forward.prefill(cache, tokens, torch.tensor([20]), want_hidden=True)
    assert rows.logits is None
    assert (rows.hidden - wanted).abs().max() <= 1e-5 * wanted.abs().max()


def test_shape_is_recorded_once_and_long_passes_never():
    module, record = random_module(FAMILY["llama"]), Replays()
    decoder = run_statically(module, record).decoder
    read(module, TOKENS, [1, 1, 3, 4, 3, 288])
    assert (record.recorded, record.replayed) == (2, 5)  # of 1 and of 4 nodes; 288 go without
    assert len(decoder.graphs) == 2


def test_results_are_not_overwritten_by_the_next_pass():
    module = random_module(FAMILY["llama"])
    run_statically(module, Replays())
    forward, cache = TreeForward(module, FullAttention()), KVCache.for_module(module, 1, 8)
    one = torch.ones(1, 1, 1, dtype=torch.bool)
    first = forward(cache, torch.tensor([[5]]), torch.tensor([[0]]), one, want_hidden=True)
    kept = first.logits.clone(), first.hidden.clone()
    cache.rewind(torch.tensor([0]))
    forward(cache, torch.tensor([[6]]), torch.tensor([[0]]), one, want_hidden=True)
    assert torch.equal(first.logits, kept[0])
    assert torch.equal(first.hidden, kept[1])


def test_keys_and_values_stay_where_they_are_as_a_text_grows():
    module = random_module(FAMILY["llama"])
    decoder = run_statically(module).decoder
    cache = KVCache.for_module(module, 1, 1500)
    w, forward, places = decoder.weights, TreeForward(module, FullAttention()), set()
    for _ in range(6):
        forward.prefill(cache, TOKENS[:, :240], torch.tensor([240]))
        planes = cache.static_planes(w.kv_heads, w.dim, torch.float32)
        places.add(tuple(each.data_ptr() for each in planes))
    assert len(places) == 1
    with pytest.raises(ValueError, match="max_len=1500"):
        forward.prefill(cache, TOKENS[:, :240], torch.tensor([240]))


def test_caches_of_one_shape_do_not_take_each_others_graphs():
    module, depth = random_module(FAMILY["llama"]), torch.tensor([[0]])
    wanted = module(TOKENS[:, :2]).logits[:, 1]
    run_statically(module, Replays())
    forward, one = TreeForward(module, FullAttention()), torch.ones(1, 1, 1, dtype=torch.bool)
    caches = [KVCache.for_module(module, 1, 8) for _ in range(2)]
    for cache, first in zip(caches, (TOKENS[:, :1], TOKENS[:, 5:6]), strict=True):
        forward(cache, first, depth, one)
        cache.commit(torch.tensor([1]))
    logits = forward(caches[0], TOKENS[:, 1:2], depth, one).logits[:, 0]
    assert (logits - wanted).abs().max() <= 1e-5 * wanted.abs().max()


def test_cache_that_may_grow_within_its_spare_room_stays_where_it_is():
    module = random_module(FAMILY["llama"])
    cache = KVCache.for_module(module, 1, 100)
    before = cache.static_planes(2, 16, torch.float32)[0].data_ptr()
    cache.max_len = STATIC_BLOCK - SPARE
    assert cache.static_planes(2, 16, torch.float32)[0].data_ptr() == before
    cache.max_len += 1
    assert cache.static_planes(2, 16, torch.float32)[0].shape[3] == 2 * STATIC_BLOCK


def test_longer_cache_is_recorded_anew_and_says_the_same():
    module, record = random_module(FAMILY["llama"]), Replays()
    wanted = module(TOKENS[:, :8]).logits
    decoder = run_statically(module, record).decoder
    forward, cache = TreeForward(module, FullAttention()), KVCache.for_module(module, 1, 1000)
    depths, seen = torch.arange(4)[None], torch.ones(1, 4, 4, dtype=torch.bool).tril()
    forward(cache, TOKENS[:, :4], depths, seen)
    cache.commit(torch.tensor([4]))
    cache.max_len = 2000  # angles of more positions are computed, so that all graphs are forgotten
    logits = forward(cache, TOKENS[:, 4:8], depths, seen).logits
    assert (logits - wanted[:, 4:]).abs().max() <= 1e-5 * wanted.abs().max()
    assert record.recorded == 2
    assert len(decoder.graphs) == 1


def test_graphs_used_longest_ago_are_forgotten():
    record = Replays()
    graphs = Graphs(record, most=2)

    def run(key):
        def body(held):
            return Scores(held[0] + 1, None)

        found = graphs.run(key, [torch.ones(1, 1, 2)], body)
        assert found.hidden.tolist() == [[[2, 2]]]

    for key, recorded in [("a", 1), ("b", 2), ("a", 2), ("c", 3), ("a", 3), ("b", 4)]:
        run(key)
        assert record.recorded == recorded
    assert len(graphs) == 2


def test_passes_that_cannot_be_recorded_run_all_the_same_and_one_line_says_so():
    def refuse(run):
        raise RuntimeError("operation not permitted when stream is capturing\nmore of it")

    module, said = random_module(FAMILY["llama"]), []
    wanted = module(TOKENS[:, :9]).logits
    run_statically(module, refuse, say=said.append)
    logits, _ = read(module, TOKENS[:, :9], [4, 4, 1])
    assert (logits - wanted).abs().max() <= 1e-5 * wanted.abs().max()
    assert len(said) == 1
    assert "slower" in said[0]
    assert "not permitted" in said[0]
    assert "\n" not in said[0]


def test_module_is_left_as_it_is():
    module = random_module(FAMILY["llama"])
    before = {name: (id(part), type(part)) for name, part in module.named_modules()}
    weights = [weight.data_ptr() for weight in module.parameters()]
    done = run_statically(module)
    assert TreeForward(module, FullAttention()).native is done.decoder
    read(module, TOKENS[:, :4], [4])
    done.revert()
    assert speedup_of(module) is None
    assert {name: (id(part), type(part)) for name, part in module.named_modules()} == before
    assert [weight.data_ptr() for weight in module.parameters()] == weights


def test_other_families_run_layer_by_layer_and_say_why():
    model = tiny_model("gemma3")
    done = speed_up(model.module, Kernels("plain", None, operations=plain_operations()))
    assert done.decoder is None
    assert "none of llama" in done.why_not
    assert self_test(model, FullAttention()).passed


CUDA, XPU = torch.device("cuda"), torch.device("xpu")


def test_triton_serves_cuda_and_whoever_asks_for_what_does_not_run_is_told_what_does(monkeypatch):
    monkeypatch.setattr(lm_kernels, "triton_operations", plain_operations)
    assert choose_gpu_kernels("auto", CUDA).name == "triton"
    assert choose_gpu_kernels("triton", CUDA).operations is not None
    assert choose_gpu_kernels("torch", CUDA) is None
    assert choose_gpu_kernels("auto", XPU) is None
    for name in ("onednn", "avx2"):
        with pytest.raises(UserError, match=rf"model\.kernels={name}.*auto, triton, torch"):
            choose_gpu_kernels(name, CUDA)
    with pytest.raises(UserError, match=r"not on xpu \(model\.kernels=triton"):
        choose_gpu_kernels("triton", XPU)
    with pytest.raises(UserError, match=r"run on a GPU.*model\.device=cuda"):
        choose_kernels("triton", "float", torch.float32)


def test_without_triton_a_gpu_runs_torch_and_one_line_says_so(monkeypatch):
    def missing():
        raise UnsupportedError("no Triton; install it")

    monkeypatch.setattr(lm_kernels, "triton_operations", missing)
    said = []
    assert choose_gpu_kernels("auto", CUDA, said.append) is None
    assert said == ["slower kernels are used: no Triton; install it"]
    with pytest.raises(UserError, match=r"install it \(model\.kernels=triton\)"):
        choose_gpu_kernels("triton", CUDA)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_triton_on_a_cpu_is_refused_when_a_model_is_loaded(model_folder, dtype):
    with pytest.raises(UserError, match="Triton's kernels run on a GPU"):
        load_model(ModelConfig(name=str(model_folder), kernels="triton", dtype=dtype))
    assert load(ModelConfig(name=str(model_folder), kernels="torch"), print).module is not None
