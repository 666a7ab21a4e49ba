"""SpecExec on the real 135M-parameter model with its shipped drafts, on the fast runtime."""

import pytest
from fivefold_lm import FullAttention, ModelConfig, Sampler, SamplingConfig, load_model
from fivefold_specexec import SpecExecConfig
from fivefold_specexec.drafter import build
from fivefold_speculative import Request, Session
from fivefold_speculative.checks import run_to_end
from fivefold_speculative.drafters.none import PlainDrafter

pytestmark = [pytest.mark.model, pytest.mark.slow]
PROMPTS = (
    "def fibonacci(n):\n",
    "Why is the sky blue?",
    "List ten fruits, one a line, then list them again backwards. " * 3,
)


@pytest.fixture(scope="module")
def model():
    return load_model(ModelConfig())


def texts_of(model, sampling, config=None):
    requests = [Request(model.encode(text), 24, key=row) for row, text in enumerate(PROMPTS)]
    sampler = Sampler(sampling, vocab_size=model.vocab_size)
    session = Session(model, requests, sampler, FullAttention(), text=False)
    drafter = PlainDrafter() if config is None else build(config, session)
    return [record.tokens for record in run_to_end(session, drafter, "auto")]


@pytest.mark.parametrize(
    "sampling",
    [
        SamplingConfig(),
        SamplingConfig(temperature=0.6, top_p=0.9, seed=7),
        SamplingConfig(temperature=1.0, repetition_penalty=1.1, seed=8),
    ],
    ids=["greedy", "nucleus", "penalty"],
)
@pytest.mark.parametrize("kind", ["independent", "feature_head"])
@pytest.mark.parametrize("chunk", [0, 16])
def test_text_is_plain_decodings_with_the_same_seed(model, sampling, kind, chunk):
    config = SpecExecConfig(kind=kind, budget=24, lm_head_chunk=chunk)
    assert texts_of(model, sampling, config) == texts_of(model, sampling)
