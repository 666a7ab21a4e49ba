"""Measured acceptance: the estimate against enumeration and decoding, and what is remembered."""

import json

import numpy as np
import pytest
import torch
from fivefold import UserError
from fivefold_lm import Sampler, SamplingConfig
from fivefold_speculative import AcceptanceVector, DraftKind, Proposal
from fivefold_speculative.enumeration import draws, emitted_law, random_laws
from fivefold_speculative.forced import judged, over_words, read
from fivefold_speculative.measuring import (
    measure_acceptance,
    measure_online,
    own_texts,
    remembered_acceptance,
)
from fivefold_speculative.rules import LookupRule, MultiStepRule, WithoutReplacementRule
from fivefold_speculative.toy import ToyDrafts, toy_target

RULES = {
    Proposal.WITHOUT_REPLACEMENT: WithoutReplacementRule(),
    Proposal.SAMPLED: MultiStepRule(),
    Proposal.POINT_MASS: LookupRule(),
}


@pytest.mark.parametrize("lookup", [False, True])
@pytest.mark.parametrize("proposal", list(RULES))
@pytest.mark.parametrize("children", [1, 3])
def test_chances_averaged_over_draws_are_those_of_the_rule_by_enumeration(
    proposal, children, lookup
):
    """Laws with zeros, one-hot, equal and disjoint ones, in the very cases that the rules sit."""
    targets, drafts = random_laws(40, seed=11)
    rule = LookupRule() if lookup else RULES[proposal]
    expected = emitted_law(rule, proposal, children, targets, drafts)[1]
    found = np.zeros(len(targets))
    for case, (target, draft) in enumerate(zip(targets, drafts, strict=True)):
        tuples = draws(proposal, children, draft)
        some = torch.tensor([drawn for drawn, _ in tuples])
        law = torch.tensor(draft).expand(len(some), -1)
        chances = judged(
            over_words(torch.tensor(target).expand(len(some), -1), torch.arange(4)),
            None if lookup or proposal is Proposal.POINT_MASS else law,
            some,
            torch.zeros(len(some), dtype=torch.long),
            proposal,
        )
        weight = np.array([chance for _, chance in tuples])
        found[case] = weight @ chances.stands.sum(1).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-9)


@pytest.mark.parametrize("proposal", [Proposal.WITHOUT_REPLACEMENT, Proposal.SAMPLED])
def test_rank_of_a_written_token_and_chance_to_stand_have_one_joint_law(proposal):
    """Written tokens drawn from the target: ranks come as often as children stand."""
    targets, drafts = random_laws(12, seed=3)
    for target, draft in zip(targets, drafts, strict=True):
        tuples = draws(proposal, 2, draft)
        weight = torch.tensor([[chance for _, chance in tuples]], dtype=torch.float64)
        some = torch.tensor([drawn for drawn, _ in tuples])
        law = over_words(torch.tensor(target).expand(len(some), -1), torch.arange(4))
        came = torch.zeros(1, 3, dtype=torch.float64)
        for written in np.flatnonzero(target):
            chances = judged(
                law,
                torch.tensor(draft).expand(len(some), -1),
                some,
                torch.full((len(some),), int(written)),
                proposal,
            )
            ranks = weight @ chances.rank
            assert float(ranks.sum()) == pytest.approx(1, abs=1e-9)
            came += target[written] * ranks
        stood = weight @ chances.stands
        torch.testing.assert_close(came[:, :2], stood, atol=1e-9, rtol=0)


def test_words_the_draft_lacks_are_one_column_and_nothing_is_lost():
    law = torch.tensor([[0.1, 0.2, 0.3, 0.4]], dtype=torch.float64)
    found = over_words(law, torch.tensor([3, 0]))
    torch.testing.assert_close(found, torch.tensor([[0.4, 0.1, 0.5]], dtype=torch.float64))


@pytest.fixture(scope="module")
def pair():
    model = toy_target()
    return model, ToyDrafts(model, noise=0.5)


def sampler(temperature):
    return Sampler(SamplingConfig(temperature=temperature), vocab_size=8)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("kind", list(DraftKind))
def test_teacher_forced_and_online_agree(pair, temperature, kind):
    """On the target's own text; a star's root follows a token that the target itself drew."""
    model, drafts = pair
    draft = drafts("x", kind)
    proposal = Proposal.WITHOUT_REPLACEMENT if temperature else Proposal.POINT_MASS
    torch.manual_seed(0)
    prompts = torch.randint(8, (64, 6)).tolist()
    chosen = sampler(temperature)
    online = measure_online(model, draft, chosen, proposal, 4, prompts, 40)
    own = [*prompts]
    from fivefold_speculative.drafters.none import PlainDrafter
    from fivefold_speculative.measuring import _session, _steps

    session = _session(model, chosen, own, 40, None)
    for _ in _steps(session, PlainDrafter()):
        pass
    forced = measure_acceptance(
        model, draft, chosen, proposal, 4, session.tokens, starts=[6] * len(own)
    )
    error = np.hypot(online.errors, forced.errors)
    # A star is rooted after every other accepted token, so its contexts are not a fair sample.
    assert np.all(np.abs(np.subtract(online.probs, forced.probs)) < 4 * error + 0.05)
    assert sum(forced.probs) <= 1 + 1e-9


def test_forced_logits_are_those_of_the_plain_models(pair):
    model, drafts = pair
    text = [3, 1, 4, 1, 5, 2, 6, 5, 3, 5]
    head, independent = (drafts("x", DraftKind(k)) for k in ("feature_head", "independent"))
    with torch.no_grad():
        out = model.module(input_ids=torch.tensor([text]), output_hidden_states=True)
        hidden = model.module.model(input_ids=torch.tensor([text])).last_hidden_state
        forced = read(model, head, text)
        torch.testing.assert_close(forced.target, out.logits[0, :-1], atol=1e-5, rtol=0)
        plain = independent.module(input_ids=torch.tensor([text])).last_hidden_state
        alone = read(model, independent, text)
        torch.testing.assert_close(
            alone.draft[0], independent.head(plain)[0, :-1], atol=1e-5, rtol=0
        )
        for root in range(1, 6):
            inputs = head.embed(torch.tensor([text[1 : root + 1]]), hidden[:, :root])
            for depth in range(4):
                if root + depth > len(text) - 2:
                    break
                state = head.module(inputs_embeds=inputs).last_hidden_state[:, -1:]
                found = forced.draft[depth][root + depth - forced.begin[depth]]
                torch.testing.assert_close(found, head.head(state)[0, 0], atol=1e-5, rtol=0)
                token = torch.tensor([[text[root + depth + 1]]])
                inputs = torch.cat([inputs, head.embed(token, state)], 1)


def test_an_equal_draft_always_stands_first(pair):
    model, _ = pair
    draft = ToyDrafts(model, noise=0.0)("x", DraftKind.INDEPENDENT)
    texts = own_texts(model, sampler(1.0), 4, 16)
    found = measure_acceptance(
        model, draft, sampler(1.0), Proposal.WITHOUT_REPLACEMENT, 3, texts.tokens
    )
    assert found.probs[0] == pytest.approx(1, abs=1e-5)


def test_what_was_measured_is_remembered_under_the_hashes_of_both(pair, tmp_path, monkeypatch):
    monkeypatch.setenv("FIVEFOLD_CACHE", str(tmp_path))
    model, drafts = pair
    draft, said = drafts("x", DraftKind.INDEPENDENT), []
    first = remembered_acceptance(
        model, draft, sampler(1.0), Proposal.WITHOUT_REPLACEMENT, 5, say=said.append
    )
    assert len(said) == 1
    assert {"target", "draft", "sampler", "corpus", "date", "proposal"} <= set(first.measured_on)
    assert len(first.errors) == len(first.probs) == 5
    again = remembered_acceptance(
        model, draft, sampler(1.0), Proposal.WITHOUT_REPLACEMENT, 5, say=said.append
    )
    assert again == first
    assert len(said) == 1
    other = drafts("x", DraftKind.FEATURE_HEAD)
    for changed in (
        (other, sampler(1.0), Proposal.WITHOUT_REPLACEMENT),
        (draft, sampler(0.5), Proposal.WITHOUT_REPLACEMENT),
        (draft, sampler(1.0), Proposal.SAMPLED),
    ):
        remembered_acceptance(model, *changed, 5, say=said.append)
    assert len(said) == 4


def test_a_damaged_memory_is_measured_anew(pair, tmp_path, monkeypatch):
    monkeypatch.setenv("FIVEFOLD_CACHE", str(tmp_path))
    model, drafts = pair
    arguments = (drafts("x", DraftKind.INDEPENDENT), sampler(0.0), Proposal.POINT_MASS, 3)
    first = remembered_acceptance(model, *arguments)
    (file,) = (tmp_path / "acceptance").glob("*.json")
    file.write_text(json.dumps({"probs": [2.0]}))
    assert remembered_acceptance(model, *arguments) == first
    assert AcceptanceVector.read(file) == first


def test_no_text_to_measure_on_is_refused(pair):
    model, drafts = pair
    with pytest.raises(UserError, match=r"no text is long enough"):
        measure_acceptance(
            model,
            drafts("x", DraftKind.INDEPENDENT),
            sampler(0.0),
            Proposal.POINT_MASS,
            3,
            [[1, 2]],
        )
