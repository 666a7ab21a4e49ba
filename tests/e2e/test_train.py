"""What training leaves is what decoding takes."""

import pytest


@pytest.fixture
def text(tmp_path):
    """Some text of the tiny model's characters."""
    folder = tmp_path / "text"
    folder.mkdir()
    (folder / "a.txt").write_text("the quick brown fox jumps over the lazy dog " * 60)
    return folder


def trained(fivefold, tiny, text, *words):
    """Run `fivefold train` on the tiny model and return its last checkpoint."""
    given = (f"model={tiny}", f"data={text}", "seq_len=32", "steps=4", *words)
    ended = fivefold("train", *given)
    assert ended.status == 0, ended.err
    (step,) = (ended.folder / "checkpoints").iterdir()
    return step


def test_a_checkpoint_is_a_model_that_generates(fivefold, tiny, text):
    step = trained(fivefold, tiny, text, "training=mst", "optimizer.lr=1e-2")
    words = ("prompt=ab", "max_new_tokens=6")
    after = fivefold("generate", *words, f"model={step}")
    assert after.status == 0, after.err
    (row,) = after.result["rows"]
    assert len(row["token_ids"]) == 6


def test_a_distilled_draft_drafts(fivefold, tiny, text):
    """As a draft file and as a folder; the text stays the target's."""
    words = ("objective=distill", f"teacher={tiny}", "distill.layers=1", "distill.words=40")
    step = trained(fivefold, tiny, text, *words)
    prompt = ("prompt=the quick", f"model={tiny}", "max_new_tokens=12")
    plain = fivefold("generate", *prompt).result["rows"][0]["token_ids"]
    for draft in (step / "draft.safetensors", step):
        drafted = fivefold("generate", *prompt, "drafting=chain", f"drafting.draft={draft}")
        assert drafted.status == 0, drafted.err
        assert drafted.result["rows"][0]["token_ids"] == plain
        assert drafted.result["figures"]["draft_acceptance_rate"] is not None
