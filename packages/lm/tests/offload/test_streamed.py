"""A streamed model is the resident one, bit for bit, whatever computes and however it is held."""

import gc
import threading

import gguf
import pytest
import torch
from fivefold import UserError
from fivefold_kernels.native.library import has_compiler
from fivefold_lm import FullAttention, TreeForward, load_model, offload_of, self_test
from fivefold_lm.config import ModelConfig
from fivefold_lm.kernels import speedup_of
from fivefold_lm.lower_bits import lower_bits_copy
from fivefold_lm.offload import loading
from fivefold_lm.offload.host_layers import HostLayers
from fivefold_lm.offload.ring import LayerStreamer
from fivefold_lm.offload.streamed import weights_here
from fivefold_lm.testing import ARCHITECTURES, plain_logits, ragged, tiny_model

NATIVE = pytest.mark.skipif(not has_compiler(), reason="no C++ compiler")
SIX = {"num_hidden_layers": 6, "hidden_size": 64, "intermediate_size": 96, "head_dim": 16}
PARENTS = [-1, 0, 0, 1, 1, 2, 3, 5]


def saved(tmp_path, arch="llama", **config):
    """Write a tiny model with its norms away from one, and return its settings."""
    model = tiny_model(arch, vocab=40, **config)
    with torch.random.fork_rng(), torch.no_grad():
        for weight in model.module.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    model.module.save_pretrained(tmp_path / "model")
    model.tokenizer.save_pretrained(tmp_path / "model")
    return {"name": str(tmp_path / "model")}


def streamed(settings, stay=0, say=lambda _: None):
    """Load a model on disk with a budget in which so many layers stay."""
    roomy = load_model(ModelConfig(**settings, offload="disk", memory="1GiB"))
    offload = offload_of(roomy.module)
    size = next(iter(offload.streamer.resident.values())).nbytes
    copies = 2 if settings.get("kernels") == "onednn" else 1
    fixed = offload.about.weight_bytes - offload.streamer.count * size
    budget = fixed + (2 + copies - 1) * size + stay * copies * size
    model = load_model(ModelConfig(**settings, offload="disk", memory=f"{budget}B"), say)
    streamer = offload_of(model.module).streamer
    assert len(streamer.streamed) == streamer.count - stay
    assert len(streamer.buffers) == 2
    return model


def scores(model):
    """Read two ragged prompts, verify a tree twice, keep a path: all logits and hidden states."""
    method = FullAttention()
    forward = TreeForward(model.module, method)
    cache = method.make_cache(model, 2, 64)
    seen = torch.eye(len(PARENTS), dtype=torch.bool)
    for node, parent in enumerate(PARENTS[1:], 1):
        seen[node] |= seen[parent]
    seen = seen.expand(2, -1, -1)
    out = [forward.prefill(cache, *ragged([[3, 5, 7, 9, 2], [4, 4]]), want_logits=True, chunk=2)]
    for _ in range(2):
        nodes = torch.arange(16).view(2, 8) * 3 % 40
        out.append(forward(cache, nodes, seen.sum(-1) - 1, seen, want_hidden=True))
        cache.keep(torch.tensor([[0, 1, 3], [0, 2, 0]]), torch.tensor([3, 2]))
    found = [tensor for rows in out for tensor in (rows.logits, rows.hidden)]
    return [tensor for tensor in found if tensor is not None]


def assert_same(model, settings):
    resident = load_model(ModelConfig(**settings))
    wanted = scores(resident)
    for _ in range(2):  # the second time the first layers were there before
        got = scores(model)
        assert len(got) == len(wanted)
        assert all(torch.equal(a, b) for a, b in zip(got, wanted, strict=True))
    assert model.fingerprint == resident.fingerprint
    assert (model.dtype, model.eos_ids, model.vocab_size, model.context_len) == (
        resident.dtype,
        resident.eos_ids,
        resident.vocab_size,
        resident.context_len,
    )


@NATIVE
@pytest.mark.parametrize("stay", [0, 1, 3])
@pytest.mark.parametrize("weights", ["float", "int8", "int4"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_native_passes_are_bitwise_those_of_the_resident_model(tmp_path, dtype, weights, stay):
    settings = saved(tmp_path, **SIX) | {"dtype": dtype, "weights": weights}
    model = streamed(settings, stay)
    assert speedup_of(model.module).decoder is not None
    assert_same(model, settings)


@NATIVE
@pytest.mark.parametrize(
    ("arch", "config"),
    [
        ("llama", {"tie_word_embeddings": True}),
        ("llama", {"attention_bias": True, "mlp_bias": True}),
        ("qwen2", {}),
        ("qwen3", {"tie_word_embeddings": True}),
    ],
)
@pytest.mark.parametrize("weights", ["float", "int8"])
def test_members_of_the_family_with_biases_and_ties(tmp_path, arch, config, weights):
    settings = saved(tmp_path, arch, **config, **SIX) | {"dtype": "bfloat16", "weights": weights}
    model = streamed(settings, 1)
    assert speedup_of(model.module).decoder is not None
    assert_same(model, settings)


@pytest.mark.parametrize("kernels", [pytest.param("auto", marks=NATIVE), "onednn", "torch"])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_family_runs_layer_by_layer_or_natively_with_the_same_bits(tmp_path, arch, kernels):
    settings = saved(tmp_path, arch) | {"kernels": kernels}
    assert_same(streamed(settings), settings)


def test_float16_and_onednn_in_bfloat16(tmp_path):
    folder = saved(tmp_path, **SIX)
    for settings in ({"dtype": "float16"}, {"dtype": "bfloat16", "kernels": "onednn"}):
        assert_same(streamed(folder | settings, 2), folder | settings)


@NATIVE
@pytest.mark.parametrize("kind", ["Q4_1", "Q8_0", "Q4_0"])
def test_blocks_of_a_file_are_streamed_as_they_are(tmp_path, kind, request):
    write = request.getfixturevalue("write_gguf")
    wide = tiny_model("llama", vocab=40, tie_word_embeddings=True, **SIX)
    path = write(wide, tmp_path / "blocks.gguf", getattr(gguf.GGMLQuantizationType, kind))
    settings = {"name": str(path), "weights": "file"}
    model = streamed(settings, 1)
    assert speedup_of(model.module).decoder is not None
    assert_same(model, settings)


@NATIVE
@pytest.mark.parametrize("arch", ["llama", "gemma3"])
def test_the_self_test_runs_streamed_and_its_plain_pass_is_right(tmp_path, arch):
    settings = saved(tmp_path, arch)
    model = streamed(settings)
    assert self_test(model, FullAttention()).passed
    tokens = [1, 5, 3, 9, 2]
    wanted = plain_logits(load_model(ModelConfig(**settings, kernels="torch")).module, tokens)
    assert torch.allclose(plain_logits(model.module, tokens), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kernels", [pytest.param("auto", marks=NATIVE), "onednn", "torch"])
def test_weights_are_in_a_layer_only_while_it_runs(tmp_path, kernels):
    model = streamed(saved(tmp_path) | {"kernels": kernels})
    scores(model)
    layer = model.module.model.layers[1]
    if kernels == "torch":
        assert layer.mlp.up_proj.weight.device.type == "meta"
    else:
        with pytest.raises(RuntimeError, match="its weights are here only while it runs"):
            layer.mlp.up_proj(torch.ones(1, 32))


@pytest.mark.parametrize("kernels", [pytest.param("auto", marks=NATIVE), "torch"])
def test_a_pass_that_breaks_off_is_followed_by_a_right_one(tmp_path, kernels, monkeypatch):
    settings = saved(tmp_path, **SIX) | {"kernels": kernels}
    model = streamed(settings, 1)
    right = LayerStreamer.acquire

    def acquire(self, layer):
        if layer == 3:
            raise KeyboardInterrupt
        return right(self, layer)

    for _ in range(2):
        monkeypatch.setattr(LayerStreamer, "acquire", acquire)
        with pytest.raises(KeyboardInterrupt):
            scores(model)
        monkeypatch.setattr(LayerStreamer, "acquire", right)
        assert_same(model, settings)


def test_a_model_that_skips_a_layer_is_found_out(tmp_path):
    model = streamed(saved(tmp_path, **SIX) | {"kernels": "torch"})
    del model.module.model.layers[2]
    with pytest.raises(RuntimeError, match="layer 3 runs where layer 2 should"):
        scores(model)


@pytest.mark.parametrize("kernels", [pytest.param("auto", marks=NATIVE), "onednn", "torch"])
def test_a_layers_weights_can_be_looked_at_between_passes(tmp_path, kernels):
    settings = saved(tmp_path, **SIX) | {"kernels": kernels}
    model, resident = streamed(settings, 1), load_model(ModelConfig(**settings))
    for mine, other in zip(model.module.model.layers, resident.module.model.layers, strict=True):
        with weights_here(model.module, mine.mlp.up_proj):
            assert torch.equal(mine.mlp.up_proj.weight, other.mlp.up_proj.weight)
            assert torch.equal(mine.self_attn.q_proj.weight, other.self_attn.q_proj.weight)
    assert_same(model, settings)
    with weights_here(resident.module, resident.module.model.layers[0]):
        pass


@NATIVE
def test_a_copy_in_fewer_bits_is_made_of_a_streamed_model_as_of_the_resident_one(tmp_path):
    settings = saved(tmp_path, **SIX)
    texts = [[1, 2, 3, 4, 5, 6], [7, 8, 9, 1], [3, 3, 1], [5, 1]]
    reports, logits = [], []
    for name, model in (
        ("streamed", streamed(settings, 1)),
        ("resident", load_model(ModelConfig(**settings))),
    ):
        model.name = name  # else the second would be found in the cache
        library = speedup_of(model.module).kernels.library
        copy, report = lower_bits_copy(model, 3, library, lambda: texts, lambda _: None)
        reports.append(report)
        logits.append(plain_logits(copy, [1, 5, 3]))
    assert reports[0] == reports[1]
    assert torch.equal(*logits)


def test_prefetch_begins_to_read_and_does_nothing_for_a_resident_model(tmp_path):
    settings = saved(tmp_path, **SIX) | {"kernels": "torch"}
    TreeForward(load_model(ModelConfig(**settings)).module, FullAttention()).prefetch()
    model = streamed(settings)
    offload = offload_of(model.module)
    before = offload.done().nbytes
    forward = TreeForward(model.module, FullAttention())
    for _ in range(2):
        forward.prefetch()
    offload.streamer.begin()
    offload.streamer.acquire(0)
    offload.streamer.release(0)
    offload.streamer.acquire(1)
    assert offload.done().nbytes - before >= 2 * offload.streamer.buffers[0].nbytes


def test_the_reader_ends_with_the_model(tmp_path):
    gc.collect()
    before = threading.active_count()
    model = streamed(saved(tmp_path))
    scores(model)
    del model
    gc.collect()
    assert threading.active_count() <= before


def test_what_is_streamed_is_said_and_counted(tmp_path):
    said = []
    model = streamed(saved(tmp_path, **SIX), 2, said.append)
    assert any("4 of 6 layers are streamed from disk" in line for line in said)
    scores(model)
    offload = offload_of(model.module)
    assert offload.environment()["offload_streamed_layers"] == 4
    assert offload.environment()["offload_reads"] in ("direct", "dropped", "cached")
    figures = offload.figures()
    assert figures["stream_bytes_per_pass"] == 4 * offload.streamer.buffers[0].nbytes
    assert figures["stream_rate"] > 0
    assert figures["t_stream"] > 0


def test_reads_are_held_to_a_rate(tmp_path):
    settings = saved(tmp_path, **SIX)
    model = streamed(settings)
    offload = offload_of(model.module)
    rate = offload.bytes_per_pass / 0.1 / 1e6
    slow = load_model(
        ModelConfig(
            **settings, offload="disk", memory=f"{offload.about.weight_bytes}B", disk_rate=rate
        )
    )
    scores(slow)
    assert offload_of(slow.module).figures()["stream_rate"] <= rate * 1e6 * 1.01


def test_all_that_fits_stays(tmp_path):
    said = []
    settings = saved(tmp_path, **SIX)
    model = load_model(ModelConfig(**settings, offload="disk"), said.append)
    assert offload_of(model.module).streamer.streamed == frozenset()
    assert any("all 6 layers fit" in line for line in said)
    assert_same(model, settings)


def test_layers_in_host_memory_stream_with_the_same_ring(tmp_path, monkeypatch):
    """What an accelerator would do, with copies from host memory to host memory."""
    settings = saved(tmp_path, **SIX) | {"kernels": "torch"}
    budget = offload_of(streamed(settings, 1).module).about.weight_bytes

    def unpinned(size):
        raise RuntimeError("no driver\nmore")

    monkeypatch.setattr(loading, "pinned", unpinned)
    monkeypatch.setattr(loading, "require_device", lambda *_: None)
    monkeypatch.setattr("fivefold_lm.loading.require_device", lambda *_: None)
    said = []
    host = ModelConfig(**settings, offload="host", memory=f"{budget}B")
    model = load_model(host, said.append)
    offload = offload_of(model.module)
    assert len(offload.streamer.streamed) == 5
    assert isinstance(offload.streamer._layers, HostLayers)
    assert sum("cannot be pinned" in line for line in said) == 1
    assert any("of host memory are needed for layers" in line for line in said)
    assert offload.environment()["offload_reads"] == "pageable"
    assert_same(model, settings)


# Bad input.


def refusal(say=lambda _: None, **settings):
    with pytest.raises(UserError) as caught:
        load_model(ModelConfig(**settings), say)
    line = str(caught.value)
    assert "\n" not in line
    return line


def test_a_budget_too_small_is_refused_with_the_numbers(tmp_path):
    line = refusal(**saved(tmp_path), offload="disk", memory="8KiB")
    assert line.startswith("8.0KiB are too little: embeddings, norms and output layer take ")
    assert "2 buffers of a layer" in line
    assert "(model.memory=8KiB); give " in line
    enough = line.split("give ")[1].split(" or more")[0]
    load_model(ModelConfig(name=str(tmp_path / "model"), offload="disk", memory=enough))


def test_devices_and_families_that_do_not_stream_are_refused(tmp_path):
    settings = saved(tmp_path)
    assert refusal(**settings, offload="host") == (
        "a model on the CPU lies in host memory anyway (model.offload=host); "
        "set model.offload=disk, or choose another model.device (it is cpu)"
    )
    with pytest.raises(UserError, match="from disk to the CPU only"):
        loading.require_device(ModelConfig(offload="disk"), torch.device("cuda:0"))
    loading.require_device(ModelConfig(offload="host"), torch.device("cuda:0"))


def test_an_unknown_family_is_refused_with_those_that_are_known(tmp_path):
    settings = saved(tmp_path, "llama", model_type="olmo2")
    line = refusal(**settings, offload="disk")
    assert line.startswith("layers of olmo2 are not streamed; those of llama, mistral, qwen2")
    assert "set model.offload=none" in line
