"""Sessions: where answers end, what is recorded, how a session stops and goes on."""

from dataclasses import replace
from itertools import chain

import pytest
import torch
from fivefold import Method, UserError
from fivefold_lm import FullAttention, Sampler, SamplingConfig
from fivefold_lm._words import Capability
from fivefold_lm.testing import tiny_model
from fivefold_speculative import (
    DraftKind,
    DraftLoader,
    DraftModel,
    NoCorrection,
    Request,
    Session,
    TreeTopology,
    decode,
    rule_for,
)
from fivefold_speculative.checks import run_to_end
from fivefold_speculative.config import (
    ChainConfig,
    ExpansionConfig,
    FeatureHeadConfig,
    PlainConfig,
)
from fivefold_speculative.drafters import feature_head, model_tree, none
from fivefold_speculative.engine import require
from fivefold_speculative.toy import ToyDrafts, plain_greedy, toy_target

TREE = ExpansionConfig(widths=[3, 2, 1])
PROMPT = [3, 1, 4, 1, 5]


def open_session(requests, model=None, sampling=None, noise=0.0, **options):
    model = model or toy_target()
    sampler = Sampler(sampling or SamplingConfig(), vocab_size=model.vocab_size)
    loader = ToyDrafts(model, noise=noise)
    return Session(model, requests, sampler, FullAttention(), load_draft=loader, **options)


def finish(session, config=TREE):
    build = {PlainConfig: none.build, FeatureHeadConfig: feature_head.build}
    drafter = build.get(type(config), model_tree.build)(config, session)
    return run_to_end(session, drafter, "auto")


def steps(session, config=TREE):
    drafter = model_tree.build(config, session)
    rule = rule_for("auto", drafter, session.sampler)
    return decode(session, drafter, rule, NoCorrection())


def test_an_equal_draft_is_accepted_whole():
    """The draft's cache is right: one wrong slot would cost an acceptance somewhere."""
    for sampling in (SamplingConfig(), SamplingConfig(temperature=1.0, seed=3)):
        session = open_session([Request(PROMPT, 40), Request([2], 40, key=1)], sampling=sampling)
        for record in finish(session, ChainConfig(length=3)):
            assert record.acceptance_histogram == [0, 0, 0, 10]
            assert record.mean_acceptance_length == 4


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 6, 7, 8])
def test_an_answer_is_cut_at_max_new_tokens(length):
    session = open_session([Request(PROMPT, length), Request([2], 8)])
    first, second = finish(session)
    assert first.tokens == plain_greedy(session.model, PROMPT, length)[0]
    assert second.tokens == plain_greedy(session.model, [2], 8)[0]
    assert (first.finish_reason, second.finish_reason) == ("length", "length")
    assert session.cache.lengths.tolist() == [len(row) - 1 for row in session.tokens]


def test_nothing_follows_the_end_of_text_inside_an_accepted_path():
    model = toy_target()
    plain, _ = plain_greedy(model, PROMPT, 12)
    for eos in sorted(set(plain)):
        session = open_session([Request(PROMPT, 12)], replace(model, eos_ids=(eos,)))
        (record,) = finish(session)
        assert record.tokens == plain[: plain.index(eos) + 1]
        assert record.finish_reason == "eos"
        assert session.cache.lengths.tolist() == [len(session.tokens[0]) - 1]


def test_a_stop_text_ends_the_answer_before_itself():
    model = toy_target()
    plain, _ = plain_greedy(model, PROMPT, 16)
    text = model.tokenizer.decode(plain)
    stop = text[5:7]
    session = open_session([Request(PROMPT, 16, stop=("never", stop))])
    said = ""
    for outcome in steps(session):
        said += outcome.text[0]
    (record,) = session.records
    assert record.text == said == text[: text.index(stop)]
    assert record.finish_reason == "stop"
    assert record.tokens == plain[: text.index(stop) + len(stop)]


def test_text_that_may_begin_a_stop_text_is_held_back_and_given_in_the_end():
    model = toy_target()
    plain, _ = plain_greedy(model, PROMPT, 6)
    text = model.tokenizer.decode(plain)
    session = open_session([Request(PROMPT, 6, stop=(text[-2:] + "?",))])
    outcomes = list(steps(session))
    assert "".join(outcome.text[0] for outcome in outcomes) == text
    assert session.records[0].finish_reason == "length"


def test_an_answer_ends_where_the_context_ends():
    model = tiny_model(vocab=8, max_position_embeddings=16, eos_token_id=None)
    model = replace(model, eos_ids=())
    session = open_session([Request(PROMPT, 100), Request([2], 4)], model)
    long, short = finish(session)
    assert long.tokens == plain_greedy(model, PROMPT, 100)[0]
    assert (long.finish_reason, len(long.tokens)) == ("context", 11)
    assert (short.finish_reason, len(short.tokens)) == ("length", 4)


def test_a_model_with_learned_positions_is_decoded_to_its_last_position():
    model = replace(tiny_model("gpt2", vocab=8, n_positions=16), eos_ids=())
    session = open_session([Request(PROMPT, 100), Request([2], 100)], model)
    for row, record in enumerate(finish(session)):
        assert record.tokens == plain_greedy(model, [PROMPT, [2]][row], 100)[0]


def test_the_cache_setting_bounds_a_row():
    (record,) = finish(open_session([Request(PROMPT, 100)], max_len=9))
    assert (record.finish_reason, len(record.tokens)) == ("context", 4)


@pytest.mark.parametrize(
    ("tokens", "options", "words"),
    [
        ([], {}, "prompt seven is empty"),
        ([1] * 300, {}, "prompt seven has 300 tokens"),
        ([1] * 9, {"max_len": 9}, r"cache\.max_len=9"),
    ],
)
def test_a_prompt_that_does_not_fit_is_refused_by_name(tokens, options, words):
    with pytest.raises(UserError, match=words):
        open_session([Request([1]), Request(tokens, id="seven")], **options)


def test_cancelling_ends_after_the_step_and_keeps_what_is_written():
    session = open_session([Request(PROMPT, 40), Request([2], 3)])
    running = steps(session)
    next(running)
    session.cancel()
    (last,) = running
    assert last.finished[0] == "cancelled"
    first, second = session.records
    assert first.tokens == plain_greedy(session.model, PROMPT, 40)[0][: len(first.tokens)]
    assert first.finish_reason == "cancelled"
    assert second.finish_reason == "length"
    assert session.cache.lengths.tolist() == [len(row) - 1 for row in session.tokens]


def test_closing_the_iterator_cancels():
    session = open_session([Request(PROMPT, 40)])
    running = steps(session)
    outcome = next(running)
    running.close()
    assert session.records[0].finish_reason == "cancelled"
    assert session.records[0].tokens == outcome.new_tokens[0]


def test_outcomes_of_all_steps_are_the_answer():
    session = open_session([Request(PROMPT, 20), Request([2], 7)], noise=0.3)
    outcomes = list(steps(session))
    for row, record in enumerate(session.records):
        assert list(chain.from_iterable(o.new_tokens[row] for o in outcomes)) == record.tokens
        assert "".join(outcome.text[row] for outcome in outcomes) == record.text
        assert [o.finished[row] for o in outcomes if o.finished[row]] == ["length"]


def test_logprobs_are_the_models_own():
    model = toy_target()
    sampling = SamplingConfig(temperature=0.7, top_p=0.9, seed=1)
    session = open_session([Request(PROMPT, 9)], model, sampling, noise=0.3, logprobs=3)
    outcomes = list(steps(session))
    (record,) = session.records
    ids = torch.tensor([session.tokens[0]])
    logits = model.module(input_ids=ids).logits[0].detach()
    laws = logits.log_softmax(-1)[len(PROMPT) - 1 : -1]
    assert [entry.token for entry in record.logprobs] == record.tokens
    for entry, law in zip(record.logprobs, laws, strict=True):
        assert entry.logprob == pytest.approx(float(law[entry.token]), abs=1e-4)
        assert [token for token, _ in entry.top] == law.topk(3).indices.tolist()
        assert entry.top[0][1] == pytest.approx(float(law.max()), abs=1e-4)
    assert list(chain.from_iterable(o.logprobs[0] for o in outcomes)) == record.logprobs


def test_logprobs_without_alternatives_and_none_at_all():
    (record,) = finish(open_session([Request(PROMPT, 3)], logprobs=0))
    assert [entry.top for entry in record.logprobs] == [[], [], []]
    (record,) = finish(open_session([Request(PROMPT, 3)]))
    assert record.logprobs == []


def test_figures_add_up():
    session = open_session([Request(PROMPT, 23), Request([2], 11)], noise=0.4)
    finish(session)
    for record in session.records:
        figures = record.metrics()
        assert figures["num_spec_steps"] == sum(figures["acceptance_histogram"])
        kept = sum(n * steps for n, steps in enumerate(figures["acceptance_histogram"]))
        assert figures["num_accepted_draft_tokens"] == kept
        assert kept + figures["num_spec_steps"] == len(record.tokens)
        assert figures["num_draft_tokens"] == 15 * figures["num_spec_steps"]
        ratio = len(record.tokens) / figures["num_spec_steps"]
        assert figures["mean_acceptance_length"] == pytest.approx(ratio)
    assert set(session.timing.metrics()) == {
        *("t_prefill", "t_draft", "t_target", "t_accept", "t_keep")
    }


def test_there_is_one_copy_to_the_host_a_step(monkeypatch):
    session = open_session([Request(PROMPT, 20)], noise=0.3, logprobs=2)
    copies = []
    right = torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda x: (copies.append(1), right(x))[1])
    monkeypatch.setattr(torch.Tensor, "item", lambda x: pytest.fail("waits for the device"))
    outcomes = list(steps(session))
    assert len(copies) == len(outcomes)


@pytest.mark.parametrize("config", [PlainConfig(), TREE, FeatureHeadConfig(widths=[2, 1])])
def test_a_conversation_keeps_what_its_turns_share(config):
    model = toy_target()
    session = open_session([Request(PROMPT, 6), Request([2], 9)], model)
    build = {PlainConfig: none.build, FeatureHeadConfig: feature_head.build}
    drafter = build.get(type(config), model_tree.build)(config, session)
    run_to_end(session, drafter, "auto")
    before = session.tokens
    prompts = [[*before[0], 7, 7], [*before[1][:4], 1]]
    session.extend(prompts, 12)
    assert session.reused == [len(before[0]) - 1, 3]
    assert session.records[0].prompt_len == len(prompts[0])
    for prompt, record in zip(prompts, run_to_end(session, drafter, "auto"), strict=True):
        assert record.tokens == plain_greedy(model, prompt, 12)[0]


def test_a_feature_head_of_the_target_itself_reads_true_features():
    """Positions and features line up: a head that is exact for true features is always right."""
    model = toy_target()
    decoder, head = model.module.model, model.module.get_output_embeddings()
    seen = []

    def embed(tokens, features):
        seen.append(features.clone())
        return decoder.embed_tokens(tokens)

    draft = DraftModel(decoder, head, embed, None, 8, 256, "self")
    sampler = Sampler(SamplingConfig(), vocab_size=8)
    session = Session(
        model,
        [Request(PROMPT, 12), Request([6, 2], 12)],
        sampler,
        FullAttention(),
        load_draft=lambda name, kind: draft,
    )
    drafter = feature_head.build(FeatureHeadConfig(widths=[1]), session)
    rule, true = rule_for("auto", drafter, sampler), 0
    for outcome in decode(session, drafter, rule, NoCorrection()):
        features = seen.pop()
        for row, count in enumerate(drafter._num_late.tolist()):
            if session.records[row].finish_reason:
                continue
            text = torch.tensor([session.tokens[row]])
            states = decoder(input_ids=text).last_hidden_state[0]
            for place in range(count):
                at = len(session.tokens[row]) - count + place
                torch.testing.assert_close(
                    drafter._features[row, place], states[at - 1], atol=1e-4, rtol=1e-4
                )
                assert int(drafter._late[row, place]) == session.tokens[row][at]
                true += 1
        assert outcome.hidden.shape[-1] == features.shape[-1]
    assert true >= 20


# Drafts.


def test_a_draft_of_another_vocabulary_is_refused():
    with pytest.raises(UserError, match=r"12 and 8 tokens\) \(drafting\.draft=tiny"):
        DraftModel.of(tiny_model(vocab=12), toy_target())


def test_a_draft_with_padded_logits_is_cut_to_the_targets():
    target = toy_target()
    draft = replace(tiny_model(vocab=12), tokenizer=target.tokenizer)
    made = DraftModel.of(draft, target)
    assert made.num_words == 8
    assert made.logits(torch.zeros(1, 1, 12), None).shape[-1] == 8


@pytest.mark.parametrize("kind", DraftKind)
def test_no_shipped_draft_for_this_target_is_said(kind):
    with pytest.raises(UserError, match=r"drafting\.draft=shipped"):
        DraftLoader(toy_target())("shipped", kind)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("missing.safetensors", DraftKind.INDEPENDENT),
        ("missing.safetensors", DraftKind.FEATURE_HEAD),
        ("some/model", DraftKind.FEATURE_HEAD),
        ("./no_such_folder", DraftKind.INDEPENDENT),
    ],
)
def test_a_draft_that_cannot_be_read_is_refused(name, kind):
    with pytest.raises(UserError, match=r"drafting\.draft="):
        DraftLoader(toy_target())(name, kind)


def test_a_draft_that_does_not_exist_is_answered_with_what_a_draft_may_be():
    with pytest.raises(UserError) as caught:
        DraftLoader(toy_target())("./no_such_folder", DraftKind.INDEPENDENT)
    assert "set drafting.draft=shipped, a draft file or a local folder" in caught.value.remedy
    assert "smollm2" not in str(caught.value)


def test_a_draft_of_another_target_is_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, tmp_path / "draft.safetensors")
    with pytest.raises(UserError, match="the draft does not fit"):
        DraftLoader(toy_target())(str(tmp_path / "draft.safetensors"), DraftKind.INDEPENDENT)


def test_a_draft_with_a_short_context_is_refused():
    session = open_session([Request(PROMPT, 40)])
    short = replace(session.load_draft("x", DraftKind.INDEPENDENT), context_len=20)
    session.load_draft = lambda name, kind: short
    with pytest.raises(UserError, match="the draft reads 20 tokens"):
        finish(session)


def test_more_children_than_words_are_refused():
    with pytest.raises(UserError, match="9 children"):
        finish(open_session([Request(PROMPT, 4)]), ExpansionConfig(widths=[9]))


def test_a_model_without_tree_attention_runs_chains_and_refuses_trees():
    model = toy_target()
    model = replace(
        model,
        capabilities=model.capabilities - {Capability.TREE_ATTENTION},
        why_not={Capability.TREE_ATTENTION: "it is recurrent"},
    )
    session = open_session([Request(PROMPT, 4)], model)
    session.require(TreeTopology.chain(3), "drafting")
    finish(session, ExpansionConfig(widths=[1, 1]))
    with pytest.raises(UserError, match=r"it is recurrent.*drafting=chain"):
        session.require(TreeTopology.expansion([2]), "drafting")


def test_a_static_tree_is_read_from_its_file(tmp_path):
    TreeTopology((-1, 0, 0, 0, 1, 1, 3, 4, 7)).write(tmp_path / "tree.json")
    config = ExpansionConfig(topology=str(tmp_path / "tree.json"))
    for sampling in (SamplingConfig(), SamplingConfig(temperature=1.0)):
        session = open_session([Request(PROMPT, 30), Request([2], 30, key=1)], sampling=sampling)
        for row, record in enumerate(finish(session, config)):
            assert record.mean_acceptance_length > 2
            if sampling.temperature == 0:
                expected, _ = plain_greedy(session.model, [PROMPT, [2]][row], 30)
                assert record.tokens == expected


@pytest.mark.parametrize("config", [PlainConfig(), TREE, FeatureHeadConfig(widths=[2, 1])])
def test_a_session_that_goes_on_before_it_has_decoded_reads_the_whole_prompt(config):
    """What two prompts share counts as read only if it was read."""
    session = open_session([Request(PROMPT, 6), Request([2, 3], 6, key=1)])
    longer = [[*PROMPT, 2, 6], [2, 3, 5, 5]]
    session.extend(longer)
    session.extend(longer)
    found = [record.tokens for record in finish(session, config)]
    assert found == [plain_greedy(session.model, prompt, 6)[0] for prompt in longer]


def test_more_alternatives_than_the_vocabulary_has_are_all_of_it():
    session = open_session([Request(PROMPT, 3)], logprobs=100)
    (record,) = finish(session)
    assert [len(entry.top) for entry in record.logprobs] == [session.model.vocab_size] * 3


def test_a_model_that_lacks_what_a_method_says_it_needs_is_refused_with_the_reason():
    """A third party's method need not ask the session itself."""
    lacking = Capability.TREE_ATTENTION
    model = replace(
        toy_target(),
        capabilities=frozenset(Capability) - {lacking},
        why_not={lacking: "toys are recurrent"},
    )
    require(model, Method("plain", object, "a:b", "", needs=frozenset({"task:generate"})))
    with pytest.raises(UserError, match=r"no tree-attention: toys are recurrent"):
        require(model, Method("tree", object, "a:b", "", needs=frozenset({lacking})))


@pytest.mark.parametrize("rule", ["lookup", "without_replacement", "auto"])
@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_an_output_layer_run_by_chunks_changes_no_text(rule, penalty):
    sampling = SamplingConfig(temperature=0.9, top_p=0.9, repetition_penalty=penalty, seed=2)
    texts = []
    for chunk in (0, 3):
        requests = [Request(PROMPT, 20), Request([2], 12, key=1)]
        session = open_session(requests, sampling=sampling, noise=0.3, logprobs=1)
        session.chunk_head(chunk)
        drafter = model_tree.build(TREE, session)
        texts.append([record.tokens for record in run_to_end(session, drafter, rule)])
    assert texts[0] == texts[1]


def test_features_of_a_head_are_the_same_when_the_output_layer_is_run_by_chunks():
    texts = []
    for chunk in (0, 2):
        session = open_session([Request(PROMPT, 20), Request([2], 12, key=1)], noise=0.3)
        session.chunk_head(chunk)
        finish(session, FeatureHeadConfig(widths=[2, 1]))
        texts.append([(record.tokens, record.acceptance_histogram) for record in session.records])
    assert texts[0] == texts[1]
