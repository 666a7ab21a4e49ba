"""A copy of the target in fewer bits is a draft as any other: alone, and merged with one."""

import pytest
from fivefold_kernels.native.library import has_compiler
from fivefold_lm import FullAttention, ModelConfig, Sampler, SamplingConfig, load_model
from fivefold_lm.testing import tiny_model
from fivefold_specinfer.config import SpecInferConfig
from fivefold_specinfer.drafter import build
from fivefold_speculative import Request, Session
from fivefold_speculative.checks import run_to_end
from fivefold_speculative.drafters.none import PlainDrafter

pytestmark = pytest.mark.skipif(not has_compiler(), reason="no C++ compiler")
PROMPTS = [[1, 5, 9, 2], [4, 4, 7]]


@pytest.fixture
def target(tmp_path, monkeypatch):
    """Return a tiny target on our CPU kernels, its folder of copies its own."""
    monkeypatch.setenv("FIVEFOLD_CACHE", str(tmp_path / "cache"))
    model = tiny_model(vocab=32, hidden_size=64, intermediate_size=96)
    model.module.save_pretrained(tmp_path / "target")
    model.tokenizer.save_pretrained(tmp_path / "target")
    return load_model(ModelConfig(name=str(tmp_path / "target")))


def session_of(model):
    requests = [Request(prompt, 12, key=key) for key, prompt in enumerate(PROMPTS)]
    sampler = Sampler(SamplingConfig(), vocab_size=model.vocab_size)
    return Session(model, requests, sampler, FullAttention(), text=False)


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"draft": "quantised", "bits": 5}, ["quantised:5"]),
        (
            {"drafts": ["quantised", {"draft": "quantised", "temperature": 2.0}]},
            ["quantised:6"] * 2,
        ),
    ],
)
def test_a_copy_in_fewer_bits_drafts(target, settings, names):
    plain = [record.tokens for record in run_to_end(session_of(target), PlainDrafter(), "auto")]
    session, asked = session_of(target), []
    load = session.load_draft

    def noted(name, kind):
        asked.append(name)
        return load(name, kind)

    session.load_draft = noted
    drafter = build(SpecInferConfig(widths=[2, 1, 1], **settings), session)
    records = run_to_end(session, drafter, "auto")
    assert [record.tokens for record in records] == plain
    assert asked == names
    assert sum(record.num_accepted_draft_tokens for record in records) > 4
