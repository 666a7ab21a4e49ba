"""Train the independent draft on the target's text and stored logits."""

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
from fivefold_speculative.drafts.independent import (
    KIND,
    IndependentDraft,
    load_independent,
    save_independent,
)
from fivefold_speculative.drafts.weights import DraftCard, read_card
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, LlamaForCausalLM


class Learner(nn.Module):
    """An independent draft in training.

    Args:
        draft: the draft.
    """

    def __init__(self, draft: IndependentDraft) -> None:
        super().__init__()
        self.draft = draft
        draft.model.embed_tokens.requires_grad_(False)
        table = draft.model.embed_tokens.weight.detach().bfloat16()
        self.register_buffer("rows", draft.words.rows.bfloat16(), persistent=False)
        self.register_buffer("table", table, persistent=False)

    def hidden(self, tokens: Int[Tensor, "row token"]) -> Float[Tensor, "row token hidden"]:
        """Return the last hidden states."""
        model = self.draft.model
        turn = rotary(model, tokens.shape[1], first=0)
        with torch.autocast(self.rows.device.type, torch.bfloat16):
            hidden = self.table[tokens]
            for layer in model.layers:
                hidden = run_layer(layer, hidden, turn, [])
            return norm(hidden, model.norm)

    def loss(self, batch: Batch, done: float = 0.0) -> Tensor:
        """Return the mean loss of a batch; it is the same at every share of the run."""
        chosen = batch.weights > 0
        weights = batch.weights[chosen]
        hidden = self.hidden(batch.tokens)[chosen]
        words, probs = batch.words[chosen], batch.probs[chosen]
        summed = soft_cross_entropy(hidden, self.rows, words, probs, weights)
        return summed / weights.sum()

    @torch.inference_mode()
    def agreement(self, batches: list[Batch]) -> float:
        """Return the share of held-out greedy tokens the draft proposes first."""
        hits = count = 0
        for batch in batches:
            chosen = batch.weights == 1.0
            hidden, best = self.hidden(batch.tokens)[chosen], batch.best[chosen]
            for part, true in zip(hidden.split(512), best.split(512), strict=True):
                hits += int((F.linear(part, self.rows).argmax(-1) == true).sum())
            count += best.numel()
        return hits / max(1, count)


def new_draft(target: LlamaForCausalLM, corpus: Corpus, num_layers: int) -> IndependentDraft:
    """Return an untrained draft whose first logits are of the target's size."""
    draft = IndependentDraft(llama_fields(target.config, num_layers), corpus.vocab_ids, target)
    with torch.no_grad():
        draft.model.norm.weight.copy_(0.5 * target.model.norm.weight)
        for layer in draft.model.layers:
            for projection in (layer.self_attn.o_proj, layer.mlp.down_proj):
                projection.weight.mul_(0.2)
    return draft


def main() -> None:
    """Train for the given minutes and write the draft file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", required=True, help="folder or hub id of the target model")
    parser.add_argument("--text", type=Path, required=True, help="folder of the text shards")
    parser.add_argument("--features", type=Path, required=True, help="folder of the features")
    parser.add_argument("--out", type=Path, required=True, help="draft file to write")
    parser.add_argument("--start", type=Path, help="draft file to start from")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--words", type=int, default=10240, help="size of the draft's vocabulary")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--rate", type=float, default=4e-3)
    parser.add_argument("--budget", type=int, default=4096, help="tokens of a batch")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(options.threads)
    torch.manual_seed(12)

    target = AutoModelForCausalLM.from_pretrained(options.target).to(options.device)
    vocab_size = target.config.vocab_size
    corpus = Corpus(options.text, options.features, vocab_size, options.words, with_hidden=False)
    if options.start:
        draft = load_independent(options.start, target).train()
        corpus.use_words(draft.vocab_ids.cpu())
        seen_before = read_card(options.start).tokens_seen
    else:
        draft, seen_before = new_draft(target, corpus, options.layers), 0
    learner = Learner(draft)
    progress = train_module(
        learner,
        learner.loss,
        Walk(corpus, options.budget, options.device),
        optimizer(options.rate),
        Budget(minutes=options.minutes),
        options.out.with_suffix(".checkpoints"),
    )
    held_out = corpus.held_out(corpus.held_out_rows, options.budget, options.device)
    agreement = learner.agreement(held_out)
    logging.info("greedy agreement: %.3f", agreement)
    card = DraftCard(
        kind=KIND,
        target=TARGET,
        config=llama_fields(draft.model.config, draft.model.config.num_hidden_layers),
        vocab_size=draft.vocab_ids.numel(),
        tokens_seen=seen_before + progress.tokens,
        recipe="recipes/smollm2_drafts",
        data=DATA,
        measured={"agreement_1": round(agreement, 4)},
    )
    save_independent(draft, options.out, card)


if __name__ == "__main__":
    main()
