"""What tests need: tiny models, plain oracles, and the exam that every attention method sits."""

import json
import subprocess
import sys
import unittest
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from fivefold_kernels.decoder.cpu import Scores
from fivefold_kernels.decoder.gpu import Operations, plain_operations
from jaxtyping import Float, Int
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from .attention import AttentionMethod
from .cache import KVCache
from .forward import TreeForward
from .graphs import Recorder
from .kernels import Kernels, Speedup, speed_up
from .models import LanguageModel
from .static import StaticDecoder

GQA = {"num_attention_heads": 4, "num_key_value_heads": 2}
LLAMA_LIKE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "max_position_embeddings": 256,
    **GQA,
}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama", **LLAMA_LIKE},
    "qwen2": {"model_type": "qwen2", **LLAMA_LIKE},
    "qwen3": {"model_type": "qwen3", "head_dim": 8, **LLAMA_LIKE},
    "mistral": {"model_type": "mistral", "sliding_window": 6, **LLAMA_LIKE},
    "gemma2": {
        "model_type": "gemma2",
        "head_dim": 8,
        "sliding_window": 6,
        "query_pre_attn_scalar": 8,
        "attn_logit_softcapping": 0.5,
        **LLAMA_LIKE,
    },
    "gemma3": {
        "model_type": "gemma3_text",
        "head_dim": 8,
        "sliding_window": 6,
        "query_pre_attn_scalar": 8,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        **LLAMA_LIKE,
    },
    "gpt2": {"model_type": "gpt2", "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 256},
    "gpt_neox": {**LLAMA_LIKE, "model_type": "gpt_neox", "num_key_value_heads": None},
    "phi": {"model_type": "phi", **LLAMA_LIKE},
}


def tiny_model(arch: str = "llama", vocab: int = 32, seed: int = 0, **config: Any) -> LanguageModel:
    """Make a tiny random model whose laws are far from uniform.

    Args:
        arch: one of `ARCHITECTURES`.
        vocab: tokens; token 0 is the end of text (no end token when `eos_token_id=None`).
        seed: of the weights.
        config: fields of the model's config that differ.
    """
    special = {"bos_token_id": None, "eos_token_id": 0, "pad_token_id": None}
    known = {name: value for name, value in ARCHITECTURES[arch].items() if value is not None}
    fields: dict[str, Any] = {"vocab_size": vocab, **special, **known, **config}
    made = CONFIG_MAPPING[fields.pop("model_type")](**fields)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        auto: Any = AutoModelForCausalLM
        module: PreTrainedModel = auto.from_config(made, dtype=torch.float32).eval()
        for weight in module.parameters():
            if weight.ndim > 1:  # the usual initialisation gives laws near uniform
                weight.data.normal_(std=2.0 / weight.shape[-1] ** 0.5)
    return LanguageModel.wrap(module, tiny_tokenizer(vocab), f"tiny-{arch}-{vocab}-{seed}")


def tiny_tokenizer(vocab: int) -> PreTrainedTokenizerFast:
    """Make a tokenizer of one token a character: `<eos>`, then letters, then others."""
    letters = [chr(97 + i) if i < 26 else chr(0x100 + i) for i in range(vocab - 1)]
    table = {token: i for i, token in enumerate(["<eos>", *letters])}
    core = Tokenizer(models.WordLevel(table, unk_token=letters[-1]))
    core.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    core.decoder = decoders.Fuse()
    fast: Any = PreTrainedTokenizerFast
    made: PreTrainedTokenizerFast = fast(tokenizer_object=core, eos_token="<eos>")
    return made


def llama_family() -> dict[str, PretrainedConfig]:
    """Return configs of the architectures that run in one call a pass, with what varies in them."""
    sizes: dict[str, Any] = {
        "vocab_size": 60,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "head_dim": 16,
        "max_position_embeddings": 4096,
        **GQA,
    }
    scaled = {
        "rope_type": "llama3",
        "rope_theta": 5e5,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    return {
        "llama": LlamaConfig(**sizes),
        "llama with biases": LlamaConfig(**sizes, attention_bias=True, mlp_bias=True),
        "llama with scaled positions": LlamaConfig(**sizes, rope_parameters=scaled),
        "llama with tied embeddings": LlamaConfig(**sizes, tie_word_embeddings=True),
        "mistral": MistralConfig(**sizes, sliding_window=None),
        "qwen2": Qwen2Config(**sizes),
        "qwen3": Qwen3Config(**sizes),
    }


def random_module(config: PretrainedConfig, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """Return a model with random weights, norms and biases away from one and zero."""
    torch.manual_seed(0)
    auto: Any = AutoModelForCausalLM
    module: PreTrainedModel = auto.from_config(config).eval().requires_grad_(False)
    with torch.no_grad():
        for weight in module.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    module.to(dtype)  # type: ignore[arg-type]
    return module


class Replays:
    """Stands in for CUDA graphs where there is no GPU: a replay runs what was recorded again.

    As with graphs, results lie in one place, and each replay overwrites them.
    """

    def __init__(self) -> None:
        self.recorded = self.replayed = 0

    def __call__(self, run: Callable[[], Scores]) -> Callable[[], Scores]:
        """Record a pass."""
        self.recorded += 1
        place = run()

        def replay() -> Scores:
            self.replayed += 1
            for held, fresh in zip(place, run(), strict=True):
                if held is not None and fresh is not None:
                    held.copy_(fresh)
            return place

        return replay


def run_statically(
    module: PreTrainedModel,
    record: Recorder | None = None,
    operations: Operations | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Speedup:
    """Let a model run passes in static shapes, as it would on a GPU, wherever it is.

    Args:
        module: of the Llama family, with full attention.
        record: makes graphs; None: passes run operation by operation.
        operations: what computes; None: the plain ones.
        say: told when passes cannot be recorded.
    """
    operations = operations or plain_operations()
    done = speed_up(module, Kernels(operations.name, None, operations=operations))
    assert done.why_not is None, done.why_not
    done.decoder = StaticDecoder(module, operations, record, say)
    return done


@torch.no_grad()
def plain_logits(module: PreTrainedModel, tokens: list[int]) -> Float[Tensor, "token vocab"]:
    """Score what follows each token by the untouched model, without a cache: the oracle."""
    given = torch.tensor([tokens], device=module.device)
    logits: Tensor = module(input_ids=given, use_cache=False).logits[0].float()
    return logits


def ancestors(parents: list[int]) -> Tensor:
    """Say which nodes each node sees: its ancestors and itself, [node, node]."""
    seen = torch.eye(len(parents), dtype=torch.bool)
    for node, parent in enumerate(parents):
        if parent >= 0:
            seen[node] |= seen[parent]
    return seen


def path_to(node: int, parents: list[int]) -> list[int]:
    """List the nodes from the root to a node."""
    path = [node]
    while parents[path[-1]] >= 0:
        path.append(parents[path[-1]])
    return path[::-1]


def ragged(rows: list[list[int]]) -> tuple[Int[Tensor, "batch token"], Int[Tensor, " batch"]]:
    """Pad rows on the right; return them and their lengths."""
    lengths = torch.tensor([len(row) for row in rows])
    tokens = torch.zeros(len(rows), int(lengths.max()), dtype=torch.long)
    for i, row in enumerate(rows):
        tokens[i, : len(row)] = torch.tensor(row)
    return tokens, lengths


PARENTS = [-1, 0, 0, 1, 1, 2, 3, 6]  # the tree the exam verifies
KEPT = [[0, 1, 3, 6], [0, 2], [0, 1, 4]]  # the path it keeps in each row
PROMPTS = [[5, 9, 2, 7, 3], [4, 8, 1, 6, 2, 9, 9, 3, 7, 5, 1], [11]]


class AttentionSuite:
    """The exam of an attention method: inherit it, say what to build and which module describes it.

    ```python
    class TestMine(AttentionSuite):
        describes = "fivefold_mine"
        def make(self): return build(MineConfig())
    ```
    """

    describes: ClassVar[str]
    """The light module that the wheel's entry point names."""
    arch: ClassVar[str] = "llama"
    """The tiny model it is examined on."""
    tolerance: ClassVar[float] = 2e-5
    """Largest difference of logits in float32 that rounding explains."""

    def make(self) -> AttentionMethod:
        """Build the method under test."""
        raise NotImplementedError

    def test_tree_forward_equals_the_plain_model_on_every_path(self) -> None:
        """A lossless method sees what plain attention sees, node by node and row by row."""
        model, method = self._lossless()
        tree, nodes, _ = verify(model, method, PROMPTS)
        for row, prompt in enumerate(PROMPTS):
            for node in range(len(PARENTS)):
                text = prompt + nodes[row, path_to(node, PARENTS)].tolist()
                self._equal(tree[row, node], plain_logits(model.module, text)[-1])

    def test_cache_after_keep_equals_a_fresh_prefill(self) -> None:
        """Compaction leaves what reading the accepted text afresh would give."""
        model, method = self._lossless()
        _, nodes, cache = verify(model, method, PROMPTS)
        keep(cache, KEPT)
        last = torch.tensor([[3], [4], [5]])
        logits = step(model, method, cache, last)
        for row, prompt in enumerate(PROMPTS):
            text = prompt + nodes[row, KEPT[row]].tolist() + last[row].tolist()
            self._equal(logits[row], plain_logits(model.module, text)[-1])

    def test_a_row_does_not_depend_on_the_rows_beside_it(self) -> None:
        """Batch and padding are of no consequence."""
        model, method = tiny_model(self.arch), self.make()
        together, nodes, _ = verify(model, method, PROMPTS)
        for row, prompt in enumerate(PROMPTS):
            alone, _, _ = verify(model, method, [prompt], nodes[row : row + 1])
            self._equal(together[row], alone[0])

    def test_a_rewound_cache_holds_no_trace_of_what_was_forgotten(self) -> None:
        """Steps after a rewind are the steps of a cache that never went further."""
        model, method = tiny_model(self.arch), self.make()
        last = torch.tensor([[3], [4], [5]])
        _, _, cache = verify(model, method, PROMPTS)
        cache.rewind(cache.lengths)
        expected = step(model, method, cache, last)
        cache.commit(torch.ones_like(cache.lengths))
        step(model, method, cache, last)
        cache.rewind(cache.lengths - 1)
        self._equal(step(model, method, cache, last), expected)

    def test_the_model_is_left_as_it_was(self) -> None:
        """Weights, settings and attention of the model are its own again after a pass."""
        model, method = tiny_model(self.arch), self.make()
        module = model.module
        before = {name: value.clone() for name, value in module.state_dict().items()}
        settings = json.dumps(module.config.to_dict(), default=str)
        attention = module.config._attn_implementation
        verify(model, method, PROMPTS)
        assert module.config._attn_implementation == attention
        assert json.dumps(module.config.to_dict(), default=str) == settings
        assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())

    def test_describing_module_is_light(self) -> None:
        """Help and listing import it without torch."""
        assert_light(self.describes)

    def _lossless(self) -> tuple[LanguageModel, AttentionMethod]:
        method = self.make()
        if not method.lossless:
            raise unittest.SkipTest(f"attention={method.name} is lossy by design")
        return tiny_model(self.arch), method

    def _equal(self, got: Tensor, wanted: Tensor) -> None:
        torch.testing.assert_close(got, wanted, atol=self.tolerance, rtol=self.tolerance)


def verify(
    model: LanguageModel,
    method: AttentionMethod,
    prompts: list[list[int]],
    nodes: Tensor | None = None,
) -> tuple[Tensor, Tensor, KVCache]:
    """Read prompts and verify the tree `PARENTS` after each.

    Returns:
        Logits [batch, node, vocab], the nodes' tokens, and the cache, nodes pending.
    """
    batch = len(prompts)
    if nodes is None:
        source = torch.Generator().manual_seed(1)
        nodes = torch.randint(1, model.vocab_size, (batch, len(PARENTS)), generator=source)
    forward = TreeForward(model.module, method)
    cache = method.make_cache(model, batch, 64)
    forward.prefill(cache, *ragged(prompts), chunk=4)
    seen = ancestors(PARENTS).expand(batch, -1, -1)
    logits = forward(cache, nodes, seen.sum(-1) - 1, seen).logits
    assert logits is not None
    return logits, nodes, cache


def keep(cache: KVCache, paths: list[list[int]]) -> None:
    """Keep a path of pending nodes in each row."""
    cache.keep(*ragged(paths))


def step(
    model: LanguageModel, method: AttentionMethod, cache: KVCache, last: Int[Tensor, "batch 1"]
) -> Float[Tensor, "batch vocab"]:
    """Score what follows one more token in each row; the token stays pending."""
    seen = torch.ones(len(last), 1, 1, dtype=torch.bool)
    logits = TreeForward(model.module, method)(cache, last, torch.zeros_like(last), seen).logits
    assert logits is not None
    return logits[:, 0]


def assert_light(module: str) -> None:
    """Import a module in a fresh interpreter where heavy libraries cannot be imported."""
    heavy = ("torch", "transformers", "jaxtyping", "numpy")
    block = "import sys; sys.modules.update(dict.fromkeys({!r})); import {}"
    ended = subprocess.run(
        [sys.executable, "-c", block.format(heavy, module)], capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
