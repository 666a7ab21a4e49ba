"""A cache folder of its own for every test, and a tiny model as a GGUF file and as a folder."""

import gguf
import pytest
from fivefold_lm.testing import tiny_model

WORDS = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
VOCAB = 40


@pytest.fixture(autouse=True)
def cache(request, tmp_path, monkeypatch):
    """The user cache of this test; a test of the real model keeps the user's own."""
    if "model" not in request.keywords:
        monkeypatch.setenv("FIVEFOLD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def tied_model():
    return tiny_model("llama", vocab=VOCAB, tie_word_embeddings=True)


@pytest.fixture(scope="session")
def model_folder(tied_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tied_model.module.save_pretrained(folder)
    tied_model.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def gguf_path(tied_model, tmp_path_factory):
    return write_gguf(tied_model, tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.fixture(scope="session", name="write_gguf")
def _write_gguf():
    return write_gguf


def write_gguf(tied_model, path, kind=None, architecture="llama"):
    """The same weights as llama.cpp writes them: rows of q and k in its order of rotary pairs.

    With a kind, matrices are written in such blocks.
    """
    config = tied_model.module.config
    writer = gguf.GGUFWriter(str(path), architecture)
    writer.add_context_length(64)
    writer.add_vocab_size(VOCAB)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    letters = [chr(97 + i) for i in range(26)] + [chr(256 + i) for i in range(VOCAB - 28)]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(["<eos>", *letters, "ab"])
    writer.add_token_types([3] + [1] * (VOCAB - 1))
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(0)
    for name, weight in tied_model.module.model.state_dict().items():
        if "q_proj" in name:
            weight = unpaired(weight, config.num_attention_heads)
        elif "k_proj" in name:
            weight = unpaired(weight, config.num_key_value_heads)
        numbers = weight.contiguous().numpy()
        if kind is None or numbers.ndim == 1:
            writer.add_tensor(gguf_name(name), numbers)
            continue
        blocks = gguf.quantize(numbers, kind)
        writer.add_tensor(gguf_name(name), blocks, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def unpaired(weight, heads):
    rows, columns = weight.shape
    return weight.view(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def gguf_name(name):
    if name == "embed_tokens.weight":
        return "token_embd.weight"
    if name == "norm.weight":
        return "output_norm.weight"
    _, layer, part = name.split(".", 2)
    return f"blk.{layer}.{WORDS[part.removesuffix('.weight')]}.weight"
