"""Distillation: the corpus in batches, step by step; a layer; the optimiser's settings.

The loop, the loss and the checkpoints are `fivefold_mst_train`'s.
"""

import itertools
import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from check import EXCLUDED
from fivefold_mst_train import OptimizerConfig
from fivefold_mst_train.engine.config import OptimizerKind, Schedule
from jaxtyping import Float, Int
from safetensors.torch import load_file
from text import Role
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaModel

ROLE_WEIGHTS = {Role.GIVEN: 0.0, Role.USER: 0.3, Role.GREEDY: 1.0, Role.SAMPLED: 0.7}
"""Weight of the loss by the role of the token that is predicted."""
HELD_OUT = 40
"""One row in so many is kept for validation."""
TARGET = "HuggingFaceTB/SmolLM2-135M-Instruct"
DATA = "questions and answers written by the target itself, and its answers to Python stubs"


@dataclass
class Batch:
    """Rows of similar length, padded on the right."""

    tokens: Int[Tensor, "row token"]
    features: Float[Tensor, "row token hidden"]
    """The target's last hidden states after the final norm; of size 0 where none are wanted."""
    words: Int[Tensor, "row token kept"]
    """Indices into the draft's words of the target's likeliest successors; 0 where not kept."""
    probs: Float[Tensor, "row token kept"]
    """Their probabilities, 0 where the word is not kept."""
    weights: Float[Tensor, "row token"]
    """Weight of the prediction of each token's successor, 0 on padding."""
    best: Int[Tensor, "row token"]
    """The target's likeliest successor among the draft's words; -1 when it is not among them."""

    @property
    def num_tokens(self) -> int:
        """Tokens that are predicted."""
        return int((self.weights > 0).sum())


class Corpus:
    """Text and features of all shards, in memory.

    Args:
        text: folder of the text shards.
        features: folder of the feature shards; shards without features are left out.
        vocab_size: size of the target's vocabulary.
        num_words: size of the draft's, until `use_words` says otherwise.
        with_hidden: whether batches carry the target's hidden states.
    """

    def __init__(
        self, text: Path, features: Path, vocab_size: int, num_words: int, with_hidden: bool
    ) -> None:
        shards = sorted(features.glob("features_*.safetensors"))
        texts = [load_file(text / path.name.replace("features_", "text_")) for path in shards]
        found = [load_file(path) for path in shards]
        self.tokens = torch.cat([shard["tokens"] for shard in texts]).long()
        self.lengths = torch.cat([shard["lengths"] for shard in texts]).tolist()
        self.starts = [0, *torch.tensor(self.lengths).cumsum(0).tolist()]
        hidden = [shard.pop("hidden") for shard in found]
        self.with_hidden = with_hidden
        self.hidden = torch.cat(hidden) if with_hidden else torch.zeros(0, 0, 0)
        self.top_ids = torch.cat([shard["top_ids"] for shard in found])
        logits = torch.cat([shard["top_logits"] for shard in found]).float()
        rest = torch.cat([shard["logsumexp"] for shard in found])
        self.top_probs = (logits - rest.unsqueeze(1)).exp_().to(torch.float16)
        roles = torch.cat([shard["roles"] for shard in texts])
        by_role = torch.tensor([ROLE_WEIGHTS[role] for role in Role])
        self.weights = by_role[roles.long()].roll(-1)
        self.weights[torch.tensor(self.starts[1:]) - 1] = 0.0
        self.counts = self.expected_counts(vocab_size)
        self.use_words(self.counts.argsort(descending=True, stable=True)[:num_words])
        refused = json.loads((text / EXCLUDED).read_text())
        firsts = [0, *torch.tensor([len(shard["lengths"]) for shard in texts]).cumsum(0).tolist()]
        left_out = {
            firsts[index] + row
            for index, path in enumerate(shards)
            for row in refused.get(path.name.replace("features_", "text_"), [])
        }
        rows = [row for row in range(len(self.lengths)) if row not in left_out]
        self.train_rows = [row for row in rows if row % HELD_OUT]
        self.held_out_rows = [row for row in rows if not row % HELD_OUT]

    def expected_counts(self, vocab_size: int) -> Float[Tensor, " vocab"]:
        """Return how often the target expects each word where a prediction has weight.

        Expected counts tell rare words apart better than the words drawn.
        """
        weights = self.top_probs.float() * (self.weights > 0).unsqueeze(1)
        return torch.bincount(
            self.top_ids.flatten().long(), weights=weights.flatten(), minlength=vocab_size
        )

    def use_words(self, vocab_ids: Int[Tensor, " word"]) -> None:
        """Take these words as the draft's vocabulary."""
        self.vocab_ids = vocab_ids
        self.word_of = torch.full_like(self.counts, -1, dtype=torch.long)
        self.word_of[vocab_ids] = torch.arange(vocab_ids.numel())
        self.coverage = float(self.counts[vocab_ids].sum() / self.counts.sum())

    def groups(self, rows: list[int], budget: int, rng: random.Random) -> list[list[int]]:
        """Return every row once, rows of similar length together, at most `budget` tokens each."""
        jitter = {row: self.lengths[row] + rng.random() * 24 for row in rows}
        groups: list[list[int]] = [[]]
        for row in sorted(rows, key=lambda row: -jitter[row]):
            width = max(self.lengths[r] for r in [*groups[-1], row])
            if (len(groups[-1]) + 1) * width > budget:
                groups.append([])
            groups[-1].append(row)
        rng.shuffle(groups)
        return [group for group in groups if group]

    def held_out(self, rows: list[int], budget: int, device: str) -> list[Batch]:
        """Return the given rows as batches, in the same order every time."""
        return [self.batch(group, device) for group in self.groups(rows, budget, random.Random(0))]

    def batch(self, rows: list[int], device: str) -> Batch:
        """Return the given rows, padded."""
        width = max(self.lengths[row] for row in rows)
        places = torch.zeros(len(rows), width, dtype=torch.long)
        inside = torch.zeros(len(rows), width, dtype=torch.bool)
        for place, row in enumerate(rows):
            length = self.lengths[row]
            places[place, :length] = torch.arange(self.starts[row], self.starts[row] + length)
            inside[place, :length] = True
        words = self.word_of[self.top_ids[places].long()]
        return Batch(
            tokens=self.tokens[places].to(device),
            features=(self.hidden[places] if self.with_hidden else self.hidden).to(device),
            words=words.clamp(min=0).to(device),
            probs=(self.top_probs[places].float() * (words >= 0)).to(device),
            weights=(self.weights[places] * inside).to(device),
            best=words[..., 0].to(device),
        )


@dataclass(frozen=True)
class OneBatch:
    """What one step trains on."""

    batches: list[Batch]
    num_labels: int
    num_tokens: int


class Walk:
    """The training rows of a corpus, epoch after epoch: the same step gives the same batch.

    Args:
        corpus: the corpus.
        budget: most tokens of a batch.
        device: where batches go.
    """

    SEED = 1000

    def __init__(self, corpus: Corpus, budget: int, device: str) -> None:
        self.corpus, self.budget, self.device = corpus, budget, device
        self.epochs: list[list[list[int]]] = []

    def step(self, step: int) -> OneBatch:
        """Return the data of a step, counted from 0."""
        assert self.corpus.train_rows, "nothing to train on"
        before = 0
        for epoch in itertools.count():
            if epoch == len(self.epochs):
                rng = random.Random(self.SEED + epoch)
                rows = self.corpus.train_rows
                self.epochs.append(self.corpus.groups(rows, self.budget, rng))
            if step < before + len(self.epochs[epoch]):
                break
            before += len(self.epochs[epoch])
        batch = self.corpus.batch(self.epochs[epoch][step - before], self.device)
        return OneBatch([batch], batch.num_tokens, batch.num_tokens)


def optimizer(rate: float) -> OptimizerConfig:
    """Return Muon for matrices, AdamW for vectors, a short warm-up, the rate run out to zero."""
    return OptimizerConfig(
        name=OptimizerKind.MUON,
        lr=rate,
        weight_decay=0.05,
        beta2=0.98,
        clip=0.0,
        schedule=Schedule.COSINE,
        warmup=0.03,
    )


def attend(
    query: Float[Tensor, "row head token dim"], memory: list[tuple[Tensor, Tensor]]
) -> Float[Tensor, "row head token dim"]:
    """Attend in an unrolled step: to the target's features, then to the draft's own.

    In step s (from 0) the token at p sees step 0's keys up to p - s, and of each later step i its
    one key at p - (s - i). Written out, since that is three times as fast as masking all keys.

    Args:
        query: queries of the newest step.
        memory: keys and values of every step, the newest last.
    """
    step, (rows, heads, width, dim) = len(memory) - 1, query.shape
    key, value = memory[0]
    places = torch.arange(width, device=query.device)
    hidden = places.unsqueeze(0) > places.unsqueeze(1) - step
    mask = torch.zeros(width, width, dtype=query.dtype, device=query.device)
    mask = mask.masked_fill_(hidden, -1e4).expand(rows * heads, -1, -1)
    scores = torch.baddbmm(mask, query.flatten(0, 1), key.flatten(0, 1).mT, alpha=dim**-0.5).view(
        rows, heads, width, width
    )
    later = [
        tuple(F.pad(part, (0, 0, back, 0))[:, :, :width] for part in memory[step - back])
        for back in range(step)
    ]
    own = [(query * key).sum(-1, keepdim=True) * dim**-0.5 for key, _ in later]
    weights = torch.cat([scores, *own], dim=-1).softmax(-1).to(query.dtype)
    seen = weights[..., :width] @ value
    for place, (_, value) in enumerate(later):
        seen = seen + weights[..., width + place, None] * value
    return seen


def run_layer(
    layer: LlamaDecoderLayer,
    hidden: Float[Tensor, "row token hidden"],
    turn: tuple[Tensor, Tensor],
    memory: list[tuple[Tensor, Tensor]],
) -> Float[Tensor, "row token hidden"]:
    """Run a decoder layer over all tokens.

    Args:
        layer: the layer.
        hidden: its input.
        turn: cosine and sine of the rotary embedding.
        memory: keys and values of the earlier unrolled steps; this step's are added.
    """
    attention, (count, width, _) = layer.self_attn, hidden.shape
    normed = norm(hidden, layer.input_layernorm)
    query, key, value = (
        projection(normed).view(count, width, -1, attention.head_dim).transpose(1, 2)
        for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    query, key = turned(query, turn), turned(key, turn)
    groups = attention.num_key_value_groups
    memory.append((key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)))
    seen = attend(query, memory)
    hidden = hidden + attention.o_proj(seen.transpose(1, 2).reshape(count, width, -1))
    normed = norm(hidden, layer.post_attention_layernorm)
    mlp = layer.mlp
    return hidden + mlp.down_proj(F.silu(mlp.gate_proj(normed)) * mlp.up_proj(normed))


def turned(heads: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """Apply the rotary embedding to `[row, head, token, dim]`."""
    cos, sin = (part.to(heads.dtype) for part in turn)
    first, second = heads.chunk(2, dim=-1)
    return heads * cos + torch.cat([-second, first], dim=-1) * sin


def norm(hidden: Tensor, module: nn.Module) -> Tensor:
    """Apply a root-mean-square norm; the statistics are kept in float32."""
    weight = module.weight
    scale = hidden.float().square().mean(-1, keepdim=True).add(module.variance_epsilon).rsqrt()
    return hidden * scale.to(hidden.dtype) * weight.to(hidden.dtype)


def rotary(model: LlamaModel, width: int, first: int) -> tuple[Tensor, Tensor]:
    """Return cosine and sine for positions `first` … `first + width - 1`."""
    positions = torch.arange(first, first + width, device=model.norm.weight.device)
    cos, sin = model.rotary_emb(model.norm.weight, positions.unsqueeze(0))
    return cos.unsqueeze(1), sin.unsqueeze(1)


def llama_fields(config: Any, num_layers: int) -> dict[str, Any]:
    """Return the fields of a draft's configuration: the target's, with fewer layers."""
    names = (
        "vocab_size hidden_size intermediate_size num_attention_heads num_key_value_heads"
        " head_dim rms_norm_eps max_position_embeddings rope_parameters"
    )
    fields = {name: getattr(config, name) for name in names.split()} | {
        "num_hidden_layers": num_layers
    }
    return json.loads(json.dumps(fields))  # type: ignore[no-any-return]
