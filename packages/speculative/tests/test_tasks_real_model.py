"""Tasks and the Hugging Face entry on the real 135M-parameter model."""

from importlib import import_module

import pytest
import torch
from fivefold.testing import compose
from fivefold_lm import FullAttention, ModelConfig, Sampler, SamplingConfig, load_model
from fivefold_speculative import fivefold_generate
from fivefold_speculative.choosing import choose
from fivefold_speculative.conversation import Conversation
from fivefold_speculative.engine import Engine

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def model():
    return load_model(ModelConfig())


def test_custom_generate_of_a_padded_batch_is_stocks_own(model):
    texts = ["def add(a, b):\n    return a + b\n\ndef sub(a, b):\n", "The moon is"]
    model.tokenizer.pad_token = model.tokenizer.eos_token
    inputs = model.tokenizer(texts, return_tensors="pt", padding=True, padding_side="left")
    settings = {"max_new_tokens": 20, "do_sample": False, "repetition_penalty": 1.05}
    stock = model.module.generate(**inputs, **settings)
    ours = model.module.generate(
        **inputs, custom_generate=fivefold_generate, draft="prompt_lookup", **settings
    )
    assert ours.tolist() == stock.tolist()


def test_a_second_turn_keeps_the_first_in_the_cache(model):
    sampler = Sampler(SamplingConfig(), vocab_size=model.vocab_size)
    engine = Engine(model, FullAttention(), sampler, choose("drafting", "prompt_lookup").build)
    talk = Conversation(engine, max_new_tokens=16)
    for text in ("Name a river.", "And a mountain?"):
        history = [*talk.messages, {"role": "user", "content": text}]
        assert "".join(talk.answer(text)) == talk.messages[-1]["content"]
        ids = torch.tensor([model.encode(history)])
        stock = model.module.generate(ids, max_new_tokens=16, do_sample=False)
        assert talk.last.token_ids == stock[0, ids.shape[1] :].tolist()
    assert talk.last.num_kept > talk.last.num_prefilled


def test_a_small_audit_of_the_real_model_passes():
    sizes = ["max_new_tokens=8", "prompts=2", "toy_samples=1000", "model_samples=64"]
    run = compose("audit", ["drafting=prompt_lookup", "sampling.top_p=0.9", *sizes])
    assert import_module("fivefold_speculative.audit").run(run.config, run) == 0
    assert len(run.result.rows) == 9
