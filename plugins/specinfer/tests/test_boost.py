"""The boost-tuning recipe: what is marked and dropped, and two draft files that can be merged."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from fivefold_lm import FullAttention, Sampler, SamplingConfig
from fivefold_lm.testing import tiny_model
from fivefold_specinfer.config import SpecInferConfig
from fivefold_specinfer.drafter import build
from fivefold_speculative import DraftLoader, NoCorrection, Request, Session, decode
from fivefold_speculative.rules import rule_for
from fivefold_speculative.toy import plain_greedy
from safetensors.torch import save_file

pytest.importorskip("fivefold_mst_train")  # the recipe trains by its loop

RECIPE = Path(__file__).parents[3] / "recipes" / "specinfer_boost"
VOCAB = 48


@pytest.fixture(scope="module")
def boost():
    """Return the recipe's module; what it imports by plain names is forgotten afterwards."""
    before, path = set(sys.modules), list(sys.path)
    sys.path.insert(0, str(RECIPE))
    import boost as made

    yield made
    sys.path[:] = path
    for name in set(sys.modules) - before:
        file = getattr(sys.modules[name], "__file__", None) or ""
        if "/recipes/" in file:
            del sys.modules[name]


def corpus_of(lengths, top, weights):
    starts = [0, *torch.tensor(lengths).cumsum(0).tolist()]
    return SimpleNamespace(
        lengths=lengths,
        starts=starts,
        top_ids=torch.tensor(top)[:, None],
        weights=torch.tensor(weights),
        word_of=torch.tensor([0, 1, 2, -1]),
        train_rows=list(range(len(lengths))),
    )


@pytest.mark.parametrize(
    ("match", "expected"),
    [(1, [0, 1, 1, 0, 1, 0, 1]), (2, [0, 1, 0, 0, 1, 0, 1]), (3, [0, 0, 0, 0, 1, 0, 1])],
)
def test_a_sample_is_matched_when_so_many_places_agree(boost, match, expected):
    """Past a text's end all agree; a word the draft lacks, and a place without weight, never do."""
    corpus = corpus_of([5, 2], [0, 1, 2, 3, 1, 0, 2], [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0])
    best = torch.tensor([2, 1, 2, 0, 1, 1, 2])
    assert boost.matched(best, corpus, match).int().tolist() == expected
    corpus.weights[1] = 0
    assert not boost.matched(best, corpus, match)[1]


def test_dropped_samples_lose_their_weight_and_empty_rows_are_left_out(boost):
    corpus = corpus_of([2, 2], [0, 0, 0, 0], [1.0, 0.0, 0.5, 1.0])
    told = boost.drop(corpus, torch.tensor([True, False, True, False]), kept_weight=0.0)
    assert corpus.weights.tolist() == [0, 0, 0, 1]
    assert corpus.train_rows == [1]
    assert told == {"samples": 3, "matched_share": 0.6667, "samples_left": 1}
    kept = corpus_of([1], [0], [1.0])
    boost.drop(kept, torch.tensor([True]), kept_weight=0.25)
    assert kept.weights.tolist() == [0.25]
    assert kept.train_rows == [0]


def written(folder, model):
    """Write a tiny target, its own text and what it expects there, as the loop stores them."""
    for name in ("target", "text", "features"):
        (folder / name).mkdir()
    model.module.save_pretrained(folder / "target")
    torch.manual_seed(0)
    rows = [[int(t) for t in torch.randint(1, VOCAB, (3,))] for _ in range(60)]
    texts = [row + plain_greedy(model, row, 12)[0] for row in rows]
    lengths = [len(text) for text in texts]
    roles = [role for length in lengths for role in [0, 0, 0, *[2] * (length - 3)]]
    with torch.no_grad():
        logits = torch.cat(
            [model.module(input_ids=torch.tensor([text])).logits[0] for text in texts]
        )
    top = logits.topk(16)
    save_file(
        {
            "tokens": torch.tensor([t for text in texts for t in text], dtype=torch.int32),
            "roles": torch.tensor(roles, dtype=torch.uint8),
            "lengths": torch.tensor(lengths, dtype=torch.int32),
        },
        folder / "text" / "text_0000.safetensors",
    )
    save_file(
        {
            "hidden": torch.zeros(len(logits), 1, dtype=torch.float16),
            "top_logits": top.values.half(),
            "top_ids": top.indices.int(),
            "logsumexp": logits.logsumexp(-1),
        },
        folder / "features" / "features_0000.safetensors",
    )
    (folder / "text" / "excluded.json").write_text("{}")


def test_both_files_load_as_drafts_that_are_merged(boost, tmp_path, monkeypatch):
    model = tiny_model(vocab=VOCAB, eos_token_id=None)
    written(tmp_path, model)
    command = ["boost.py", "--target", str(tmp_path / "target"), "--out", str(tmp_path)]
    command += ["--text", str(tmp_path / "text"), "--features", str(tmp_path / "features")]
    command += ["--minutes", "0.02", "--words", "20", "--layers", "1", "--threads", "1"]
    monkeypatch.setattr(sys, "argv", command)
    boost.main()
    drafts = [str(tmp_path / name) for name in boost.DRAFTS]
    session = Session(
        model,
        [Request([5, 9, 2], 20)],
        Sampler(SamplingConfig(), vocab_size=VOCAB),
        FullAttention(),
        text=False,
        load_draft=DraftLoader(model),
    )
    drafter = build(SpecInferConfig(widths=[2, 1, 1], drafts=drafts), session)
    for _ in decode(session, drafter, rule_for("auto", drafter, session.sampler), NoCorrection()):
        pass
    assert session.records[0].tokens == plain_greedy(model, [5, 9, 2], 20)[0]
    assert [member.draft.num_words for member in drafter.members] == [20, 20]
    assert (tmp_path / boost.MARKED).exists()


def test_a_draft_is_given_other_words_without_training(boost, tmp_path):
    """Its output rows are the target's own; the layers stay."""
    model = tiny_model(vocab=VOCAB, eos_token_id=None)
    words = torch.tensor([7, 3, 11])
    config = boost.llama_fields(model.module.config, 1)
    before = boost.IndependentDraft(config, torch.tensor([1, 2]), model.module)
    card = boost.DraftCard(boost.KIND, "tiny", config, vocab_size=2)
    boost.save_independent(before, tmp_path / "start.safetensors", card)
    corpus = SimpleNamespace()
    corpus.use_words = lambda ids: setattr(corpus, "vocab_ids", ids)
    after = boost.begin(tmp_path / "start.safetensors", model.module, corpus, 1, words)
    assert after.vocab_ids.tolist() == words.tolist()
    hidden = torch.randn(2, 32)
    rows = model.module.get_output_embeddings().weight[words]
    torch.testing.assert_close(after.head(hidden), hidden @ rows.T)
    weights = dict(after.model.layers.named_parameters())
    for name, weight in before.model.layers.named_parameters():
        torch.testing.assert_close(weights[name], weight, atol=1e-3, rtol=1e-3)
