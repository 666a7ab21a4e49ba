"""Train the feature head on stored features, unrolled on its own hidden states."""

import argparse
import logging
from pathlib import Path

import torch
from distil import (
    DATA,
    TARGET,
    Batch,
    Corpus,
    Walk,
    llama_fields,
    norm,
    optimizer,
    rotary,
    run_layer,
)
from fivefold_mst_train import Budget, soft_cross_entropy, train_module
from fivefold_speculative.drafts.feature_head import (
    KIND,
    FeatureHead,
    load_feature_head,
    save_feature_head,
)
from fivefold_speculative.drafts.weights import DraftCard, read_card
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, LlamaForCausalLM

STEP_DECAY = 0.8
"""Weight of each unrolled step over the one before."""
LATE = 0.5
"""Share of the time after which the last step is unrolled too; before, more text is read."""


class Unrolled(nn.Module):
    """A feature head in training: its inputs brought to unit size, its steps unrolled.

    Args:
        head: the feature head; its `fc` holds the weights for inputs of unit size while training.
        scales: root mean square of the embeddings and of the features.
        dtype: dtype of the frozen tables.
    """

    def __init__(
        self,
        head: FeatureHead,
        scales: tuple[float, float],
        dtype: torch.dtype = torch.bfloat16,
    ) -> None:
        super().__init__()
        self.head, self.scales = head, scales
        head.model.embed_tokens.requires_grad_(False)
        self.register_buffer("rows", head.words.rows.to(dtype), persistent=False)
        table = head.model.embed_tokens.weight.detach().to(dtype) / scales[0]
        self.register_buffer("table", table, persistent=False)

    def fold(self, inverse: bool = False) -> None:
        """Put the inputs' scales into `fc` (the shipped form), or take them out again."""
        with torch.no_grad():
            size = self.head.fc.weight.shape[0]
            for columns, scale in zip(self.head.fc.weight.split(size, 1), self.scales, strict=True):
                columns.mul_(scale if inverse else 1 / scale)

    def steps(
        self,
        tokens: Int[Tensor, "row token"],
        features: Float[Tensor, "row token hidden"],
        num_steps: int,
    ) -> list[Float[Tensor, "row entry hidden"]]:
        """Return the hidden states of each step.

        Entry p - 1 belongs to the token at p; in step s it is valid from p = s + 1 on.
        """
        model = self.head.model
        embedded = self.table[tokens[:, 1:]]
        features = (features[:, :-1].float() / self.scales[1]).to(self.table.dtype)
        width = embedded.shape[1]
        turn = rotary(model, width, first=1)
        memory: list[tuple[Tensor, Tensor]] = []
        found: list[Tensor] = []
        for _ in range(num_steps):
            joined = self.head.fc(torch.cat([embedded, features], dim=-1))
            hidden = norm(run_layer(model.layers[0], joined, turn, memory), model.norm)
            found.append(hidden)
            features = F.pad(hidden[:, :-1], (0, 0, 1, 0)) / self.scales[1]
        return found

    def loss(self, batch: Batch, num_steps: int) -> Tensor:
        """Return the mean loss of a batch over all steps."""
        total = torch.zeros((), device=self.rows.device)
        with torch.autocast(self.rows.device.type, torch.bfloat16):
            outputs = self.steps(batch.tokens, batch.features, num_steps)
        for step, hidden in enumerate(outputs):
            weights = batch.weights[:, 1 + step :]
            chosen = weights > 0
            part = (batch.words[:, 1 + step :][chosen], batch.probs[:, 1 + step :][chosen])
            summed = soft_cross_entropy(hidden[:, step:][chosen], self.rows, *part, weights[chosen])
            total = total + STEP_DECAY**step * summed / weights.sum()
        return total

    @torch.inference_mode()
    def agreement(self, batches: list[Batch], num_steps: int) -> list[float]:
        """Return the share of held-out greedy tokens the head proposes first, by depth."""
        hits, count = [0] * num_steps, [0] * num_steps
        for batch in batches:
            with torch.autocast(self.rows.device.type, torch.bfloat16):
                outputs = self.steps(batch.tokens, batch.features, num_steps)
            for step, hidden in enumerate(outputs):
                chosen = batch.weights[:, 1 + step :] == 1.0
                for part, best in zip(
                    hidden[:, step:][chosen].split(512),
                    batch.best[:, 1 + step :][chosen].split(512),
                    strict=True,
                ):
                    hits[step] += int((F.linear(part, self.rows).argmax(-1) == best).sum())
                    count[step] += best.numel()
        return [hit / max(1, n) for hit, n in zip(hits, count, strict=True)]


def new_head(target: LlamaForCausalLM, corpus: Corpus, intermediate_size: int) -> FeatureHead:
    """Return an untrained head that begins by passing the feature on."""
    config = llama_fields(target.config, num_layers=1) | {"intermediate_size": intermediate_size}
    head = FeatureHead(config, corpus.vocab_ids, target)
    size = target.config.hidden_size
    with torch.no_grad():
        head.model.norm.weight.copy_(target.model.norm.weight)
        head.fc.weight.normal_(std=0.5 * (2 * size) ** -0.5)
        head.fc.weight[:, size:] += torch.eye(size)
        for projection in (
            head.model.layers[0].self_attn.o_proj,
            head.model.layers[0].mlp.down_proj,
        ):
            projection.weight.mul_(0.2)
    return head


def main() -> None:
    """Train for the given minutes and write the draft file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", required=True, help="folder or hub id of the target model")
    parser.add_argument("--text", type=Path, required=True, help="folder of the text shards")
    parser.add_argument("--features", type=Path, required=True, help="folder of the features")
    parser.add_argument("--out", type=Path, required=True, help="draft file to write")
    parser.add_argument("--start", type=Path, help="draft file to start from")
    parser.add_argument("--minutes", type=float, default=40)
    parser.add_argument("--words", type=int, default=10240, help="size of the draft's vocabulary")
    parser.add_argument("--intermediate-size", type=int, default=1536)
    parser.add_argument("--steps", type=int, default=3, help="unrolled steps, in the second half")
    parser.add_argument("--rate", type=float, default=4e-3)
    parser.add_argument("--budget", type=int, default=4096, help="tokens of a batch")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(options.threads)
    torch.manual_seed(11)

    target = AutoModelForCausalLM.from_pretrained(options.target).to(options.device)
    vocab_size = target.config.vocab_size
    corpus = Corpus(options.text, options.features, vocab_size, options.words, with_hidden=True)
    logging.info(
        "%d rows, %d tokens, %d words cover %.2f %%",
        len(corpus.lengths),
        corpus.tokens.numel(),
        options.words,
        100 * corpus.coverage,
    )
    scales = (
        float(target.model.embed_tokens.weight.detach().square().mean().sqrt()),
        float(corpus.hidden[:65536].float().square().mean().sqrt()),
    )
    if options.start:
        head = load_feature_head(options.start, target).train()
        corpus.use_words(head.vocab_ids.cpu())
        seen_before = read_card(options.start).tokens_seen
    else:
        head, seen_before = new_head(target, corpus, options.intermediate_size), 0
    unrolled = Unrolled(head, scales)
    if options.start:
        unrolled.fold(inverse=True)

    def loss(batch: Batch, done: float) -> Tensor:
        return unrolled.loss(batch, options.steps if done >= LATE else max(1, options.steps - 1))

    progress = train_module(
        unrolled,
        loss,
        Walk(corpus, options.budget, options.device),
        optimizer(options.rate),
        Budget(minutes=options.minutes),
        options.out.with_suffix(".checkpoints"),
    )
    held_out = corpus.held_out(corpus.held_out_rows, options.budget, options.device)
    agreement = unrolled.agreement(held_out, 5)
    logging.info("greedy agreement by depth: %s", " ".join(f"{x:.3f}" for x in agreement))
    unrolled.fold()
    card = DraftCard(
        kind=KIND,
        target=TARGET,
        config=llama_fields(head.model.config, num_layers=1),
        vocab_size=head.vocab_ids.numel(),
        tokens_seen=seen_before + progress.tokens,
        recipe="recipes/smollm2_drafts",
        data=DATA,
        measured={f"agreement_{depth}": round(x, 4) for depth, x in enumerate(agreement, 1)},
    )
    save_feature_head(head, options.out, card)


if __name__ == "__main__":
    main()
