"""`model.generate(custom_generate=fivefold_generate)` returns what stock `generate` returns."""

import pytest
import torch
from fivefold import UserError
from fivefold_lm.testing import tiny_model
from fivefold_speculative.draft_model import DraftLoader
from fivefold_speculative.hf import FivefoldOutput, _sampler, fivefold_generate
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)
from transformers.generation.streamers import BaseStreamer

MODEL = tiny_model(vocab=16)
NOISY = tiny_model(vocab=16, seed=0)
with torch.no_grad():
    torch.manual_seed(1)
    for weight in NOISY.module.parameters():
        weight.add_(0.2 * torch.randn_like(weight) * weight.std())

PADDED = torch.tensor([[0, 0, 3, 5, 7], [2, 9, 4, 4, 11]])
MASK = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
ONE = torch.tensor([[3, 5, 7, 3, 5]])
DRAFTS = {
    "nothing": {},
    "look-up": {"draft": "prompt_lookup"},
    "look-up with settings": {"draft": {"prompt_lookup": {"num_tokens": 2}}},
    "a model": {"draft": NOISY.module},
    "a planner": {"draft": NOISY.module, "drafting": "auto"},
    "a tree": {"draft": NOISY.module, "drafting": {"expansion": {"widths": [2, 2]}}},
}


class Seen(BaseStreamer):
    """Keeps what it is given."""

    def __init__(self):
        self.given, self.has_ended = [], False

    def put(self, value):
        self.given.append(value.tolist())

    def end(self):
        self.has_ended = True


class NeverAgain(LogitsProcessor):
    """Forbids the token two places back: depends on the path, not only on the prompt."""

    def __call__(self, input_ids, scores):
        return scores.scatter(1, input_ids[:, -2:-1], float("-inf"))


class Until(StoppingCriteria):
    """Ends a row that holds a token."""

    def __init__(self, token):
        self.token = token

    def __call__(self, input_ids, scores, **kwargs):
        return (input_ids[:, 5:] == self.token).any(1)


def both(inputs, draft, **settings):
    """Return stock's sequences and ours."""
    stock = MODEL.module.generate(inputs, **settings)
    ours = MODEL.module.generate(inputs, custom_generate=fivefold_generate, **draft, **settings)
    return stock, ours


@pytest.mark.parametrize("draft", DRAFTS.values(), ids=DRAFTS)
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2},
        {"logits_processor": LogitsProcessorList([NeverAgain()])},
        {"stopping_criteria": StoppingCriteriaList([Until(6)])},
        {"min_new_tokens": 6, "num_return_sequences": 1},
    ],
    ids=["plain", "penalties", "a processor", "a criterion", "a least length"],
)
def test_greedy_text_of_a_padded_batch_is_stocks_own(draft, settings):
    stock, ours = both(PADDED, draft, attention_mask=MASK, max_new_tokens=16, **settings)
    assert ours.tolist() == stock.tolist()


@pytest.mark.parametrize("draft", DRAFTS.values(), ids=DRAFTS)
def test_without_an_end_token_all_rows_go_on_until_the_last_has_met_the_criterion(draft):
    criteria = StoppingCriteriaList([Until(6)])
    stock, ours = both(
        PADDED,
        draft,
        attention_mask=MASK,
        max_new_tokens=24,
        eos_token_id=-1,
        pad_token_id=0,
        stopping_criteria=criteria,
    )
    assert ours.tolist() == stock.tolist()


@pytest.mark.parametrize("key", ["streamer", "fivefold_streamer"])
@pytest.mark.parametrize("inputs", [{"inputs": ONE}, {"inputs": PADDED, "attention_mask": MASK}])
def test_a_streamer_sees_prompt_and_columns_in_order(key, inputs):
    stock, ours = Seen(), Seen()
    MODEL.module.generate(**inputs, max_new_tokens=12, streamer=stock)
    settings = {"custom_generate": fivefold_generate, "draft": "prompt_lookup", key: ours}
    MODEL.module.generate(**inputs, max_new_tokens=12, **settings)
    assert ours.given == stock.given
    assert ours.has_ended


def test_samples_of_one_prompt_are_independent_and_follow_torchs_seed():
    def sample(seed):
        torch.manual_seed(seed)
        return MODEL.module.generate(
            ONE,
            custom_generate=fivefold_generate,
            draft=NOISY.module,
            do_sample=True,
            temperature=1.5,
            num_return_sequences=4,
            max_new_tokens=8,
        ).tolist()

    assert len({tuple(row) for row in sample(1)}) > 1
    assert sample(1) == sample(1)
    assert sample(1) != sample(2)


@pytest.mark.parametrize("draft", [DRAFTS["look-up"], DRAFTS["a tree"]], ids=["look-up", "a tree"])
def test_sampled_text_has_the_law_of_stocks_processors(draft):
    count, settings = 3000, {"temperature": 1.3, "top_k": 5, "do_sample": True}
    torch.manual_seed(7)
    drawn = MODEL.module.generate(
        ONE,
        custom_generate=fivefold_generate,
        max_new_tokens=2,
        num_return_sequences=count,
        **draft,
        **settings,
    )
    seen = torch.zeros(16, 16).index_put_(
        (drawn[:, 5], drawn[:, 6] if drawn.shape[1] > 6 else drawn[:, 5]),
        torch.ones(count),
        accumulate=True,
    )
    expected = torch.zeros(16, 16)
    with torch.no_grad():
        first = _law(MODEL.module(ONE).logits[0, -1], settings)
        for token in first.nonzero()[:, 0].tolist():
            after = torch.cat([ONE, torch.tensor([[token]])], 1)
            second = _law(MODEL.module(after).logits[0, -1], settings)
            if token == 0:  # the end token, then padding
                second = torch.eye(16)[0]
            expected[token] = first[token] * second
    possible = expected > 0
    assert not seen[~possible].any()
    statistic = ((seen - count * expected)[possible] ** 2 / (count * expected[possible])).sum()
    degrees = int(possible.sum()) - 1
    assert statistic < degrees + 6 * (2 * degrees) ** 0.5 + 20


def _law(logits, settings):
    scores = logits / settings["temperature"]
    return scores.masked_fill(scores < scores.topk(settings["top_k"]).values[-1], -1e9).softmax(-1)


def test_a_draft_may_be_a_folder(folders):
    model = tiny_model(vocab=24).module
    settings = {"max_new_tokens": 12, "return_dict_in_generate": True}
    stock = model.generate(ONE, **settings)
    ours = model.generate(
        ONE, custom_generate=fivefold_generate, draft=str(folders / "draft"), **settings
    )
    assert ours.sequences.tolist() == stock.sequences.tolist()
    assert ours.acceptance[0]["num_draft_tokens"] > 0


def test_a_planner_loads_a_draft_once(folders, monkeypatch):
    loaded = []
    load = DraftLoader.load_model
    monkeypatch.setattr(
        DraftLoader, "load_model", lambda self, name: loaded.append(name) or load(self, name)
    )
    model = tiny_model(vocab=24).module
    settings = {"max_new_tokens": 12, "custom_generate": fivefold_generate}
    ours = model.generate(ONE, drafting="auto", draft=str(folders / "draft"), **settings)
    assert ours.tolist() == model.generate(ONE, max_new_tokens=12).tolist()
    assert loaded == [str(folders / "draft")]


def test_a_model_output_holds_the_sequences_and_the_acceptance():
    stock = MODEL.module.generate(ONE, max_new_tokens=8)
    output = MODEL.module.generate(
        ONE,
        custom_generate=fivefold_generate,
        draft=MODEL.module,
        max_new_tokens=8,
        return_dict_in_generate=True,
    )
    assert isinstance(output, FivefoldOutput)
    assert output.sequences.tolist() == stock.tolist()
    assert output.acceptance[0]["mean_acceptance_length"] > 1


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"num_beams": 2}, "beam"),
        ({"assistant_model": MODEL.module}, "draft="),
        ({"output_scores": True, "return_dict_in_generate": True}, "output_scores"),
        ({"draft": tiny_model(vocab=8).module}, "vocabular"),
        ({"drafting": "no_such"}, "no such drafting method"),
        ({"draft": "./nowhere"}, r"no such file or folder \(draft=./nowhere\); set draft=shipped"),
        ({"draft": "prompt_lookup", "rule": "multi_step"}, "rule=multi_step"),
    ],
)
def test_what_this_loop_does_not_do_is_refused_with_a_way_out(settings, named):
    with pytest.raises(UserError, match=named):
        MODEL.module.generate(ONE, custom_generate=fivefold_generate, max_new_tokens=4, **settings)


def test_processors_that_number_the_rows_are_given_the_right_number():
    def allowed(row, ids):
        return [1 + row, 4 + row, 9]

    settings = {"attention_mask": MASK, "max_new_tokens": 9, "prefix_allowed_tokens_fn": allowed}
    stock, ours = both(PADDED, {"draft": "prompt_lookup"}, **settings)
    assert ours.tolist() == stock.tolist()


def test_processors_with_a_memory_are_refused():
    guided = {"guidance_scale": 2.0, "max_new_tokens": 4}
    with pytest.raises(UserError, match="ClassifierFreeGuidance"):
        MODEL.module.generate(ONE, custom_generate=fivefold_generate, **guided)


def test_positions_of_the_mask_are_taken_and_others_refused():
    positions = (MASK.cumsum(-1) - 1).clamp(min=0)
    settings = {"attention_mask": MASK, "max_new_tokens": 8, "do_sample": False}
    stock = MODEL.module.generate(PADDED, position_ids=positions, **settings)
    settings["custom_generate"] = fivefold_generate
    assert torch.equal(MODEL.module.generate(PADDED, position_ids=positions, **settings), stock)
    with pytest.raises(UserError, match="position_ids"):
        MODEL.module.generate(PADDED, position_ids=positions + 3, **settings)


def test_prompts_padded_on_the_right_are_refused():
    with pytest.raises(UserError, match="padding_side"):
        MODEL.module.generate(
            PADDED.flip(1),
            attention_mask=MASK.flip(1),
            custom_generate=fivefold_generate,
            max_new_tokens=4,
        )


def test_an_input_that_the_loop_would_not_read_is_refused():
    class WithPictures(type(MODEL.module)):
        def prepare_inputs_for_generation(self, *arguments, pixel_values=None, **options):
            return super().prepare_inputs_for_generation(*arguments, **options)

        def forward(self, *arguments, pixel_values=None, **options):
            return super().forward(*arguments, **options)

    module = WithPictures(MODEL.module.config)
    with pytest.raises(UserError, match="pixel_values"):
        module.generate(
            ONE, custom_generate=fivefold_generate, pixel_values=torch.ones(1), max_new_tokens=2
        )


def test_a_draft_follows_the_temperature_and_cuts_that_generate_was_told():
    config = GenerationConfig(do_sample=True, temperature=0.3, top_k=5, top_p=0.8)
    sampler = _sampler(MODEL, config, LogitsProcessorList(), ONE)
    drafts = sampler.draft_config
    assert (drafts.temperature, drafts.top_k, drafts.top_p) == (0.3, 5, 0.8)
    assert sampler.config.temperature == 1.0


def test_a_model_given_as_a_feature_head_is_refused():
    with pytest.raises(UserError, match="feature head"):
        MODEL.module.generate(
            ONE,
            custom_generate=fivefold_generate,
            draft=NOISY.module,
            drafting="feature_head",
            max_new_tokens=2,
        )
