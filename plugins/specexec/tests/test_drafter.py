"""What a draft model writes into the tree, and what becomes of the text, against plain models."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from fivefold import UserError
from fivefold_lm import FullAttention, RandomStream, Sampler, SamplingConfig
from fivefold_lm.testing import tiny_model
from fivefold_specexec import SpecExecConfig, growth
from fivefold_specexec.drafter import build
from fivefold_speculative import DraftKind, NoCorrection, Request, Session, decode, rule_for
from fivefold_speculative.checks import run_to_end
from fivefold_speculative.drafters.none import PlainDrafter
from fivefold_speculative.toy import ToyDrafts, toy_target
from torch.utils._python_dispatch import TorchDispatchMode

PROMPTS = [[3, 1, 4, 1, 5], [2], [6, 2, 6, 2]]
GREEDY = SamplingConfig()
SAMPLED = SamplingConfig(temperature=1.0, seed=11)
SAMPLERS = {
    "greedy": GREEDY,
    "sampled": SAMPLED,
    "nucleus": SamplingConfig(temperature=0.6, top_p=0.9, seed=5),
    "penalties": SamplingConfig(
        temperature=0.9, top_p=0.8, repetition_penalty=1.3, presence_penalty=0.4, seed=6
    ),
    "greedy with penalties": SamplingConfig(repetition_penalty=1.4, presence_penalty=0.3),
}


def session_of(sampling=GREEDY, *, model=None, noise=0.3, new=14, prompts=PROMPTS, **more):
    model = model or toy_target()
    requests = [Request(list(prompt), new, key=row) for row, prompt in enumerate(prompts)]
    return Session(
        model,
        requests,
        Sampler(sampling, vocab_size=model.vocab_size),
        FullAttention(),
        text=False,
        load_draft=ToyDrafts(model, noise=noise),
        **more,
    )


def steps_of(session, drafter, rule="auto"):
    """Decode; yield the texts before each step, its tree, and its outcome."""
    trees = []
    propose = drafter.propose
    drafter.propose = lambda state: trees.append(propose(state)) or trees[-1]
    texts = [list(text) for text in session.tokens]
    chosen = rule_for(rule, drafter, session.sampler)
    for outcome in decode(session, drafter, chosen, NoCorrection()):
        yield texts, trees[-1], outcome
        texts = [list(text) for text in session.tokens]


def texts_of(session, drafter, rule="auto"):
    return [record.tokens for record in run_to_end(session, drafter, rule)]


def paths_of(tree, row):
    """Return the tokens on the path to every node that exists, the root's left out."""
    paths = {0: ()}
    for node in range(1, tree.num_nodes):
        if bool(tree.valid[row, node]):
            paths[node] = (*paths[int(tree.parents[row, node])], int(tree.tokens[row, node]))
    return paths


class PlainDraft:
    """A draft run over whole texts, without a cache."""

    def __init__(self, session, kind, row, text):
        self.draft = session.load_draft("x", kind)
        self.text, self.inputs = text, None
        if kind == DraftKind.FEATURE_HEAD:
            target = session.model.module.model
            states = target(input_ids=torch.tensor([text]), use_cache=False).last_hidden_state
            if session.records[row].prompt_len == 1:  # its one token is read beside zeros
                states = torch.cat([torch.zeros_like(states[:, :1]), states[:, :-1]], dim=1)
                self.inputs = self.draft.embed(torch.tensor([text]), states)
            else:
                self.inputs = self.draft.embed(torch.tensor([text[1:]]), states[:, :-1])

    def logp(self, path):
        module = self.draft.module
        if self.inputs is None:
            inputs = module.embed_tokens(torch.tensor([[*self.text, *path]]))
            hidden = module(inputs_embeds=inputs, use_cache=False).last_hidden_state[:, -1:]
        else:
            inputs = self.inputs
            hidden = module(inputs_embeds=inputs, use_cache=False).last_hidden_state[:, -1:]
            for token in path:
                own = self.draft.embed(torch.tensor([[token]]), hidden)
                inputs = torch.cat([inputs, own], dim=1)
                hidden = module(inputs_embeds=inputs, use_cache=False).last_hidden_state[:, -1:]
        laws = self.draft.head(hidden)[0, 0].double().log_softmax(-1)
        return dict(zip(self.draft.vocab_ids.tolist(), laws.tolist(), strict=True))

    def best(self, budget):
        """Return the most probable paths, found one at a time."""
        known, waiting, found = {(): 0.0}, {()}, []
        while len(found) < budget:
            path = max(waiting, key=known.__getitem__)
            waiting.remove(path)
            found.append(path)
            for token, logp in self.logp(path).items():
                known[(*path, token)] = known[path] + logp
                waiting.add((*path, token))
        return found


@pytest.mark.parametrize("kind", ["independent", "feature_head"])
@pytest.mark.parametrize("frontier", [2, 100])
def test_every_tree_is_the_best_by_a_draft_without_a_cache(kind, frontier):
    # Wrong slots, masks or positions, or keys lost when a path is kept, would change some tree.
    session = session_of()
    config = SpecExecConfig(kind=kind, budget=7, frontier=frontier, decay=1.0)
    seen = depth = 0
    with torch.no_grad():
        for texts, tree, outcome in steps_of(session, build(config, session)):
            for row, text in enumerate(texts):
                if outcome.new_tokens[row]:
                    expected = PlainDraft(session, DraftKind(kind), row, text).best(7)
                    assert sorted(paths_of(tree, row).values()) == sorted(expected)
                    depth = max(depth, *map(len, expected))
                    seen += 1
    assert seen > 10
    assert depth > 2


@pytest.mark.parametrize(
    ("arch", "attention"),
    [
        ("llama", "sdpa"),
        ("llama", "eager"),
        ("gemma2", "eager"),
        ("gemma3", "sdpa"),
        ("gemma3", "eager"),
    ],
)
def test_logits_in_the_tree_are_those_of_each_path_alone(arch, attention):
    model = tiny_model(arch, vocab=12, eos_token_id=None)
    model.module.set_attn_implementation(attention)
    session = session_of(SAMPLED, model=model, new=6)
    drafter = build(SpecExecConfig(budget=12), session)
    verify, seen = session.verify, []
    session.verify = lambda tree, state: seen.append(verify(tree, state)) or seen[-1]
    with torch.no_grad():
        for texts, tree, outcome in steps_of(session, drafter):
            for row, text in enumerate(texts):
                if outcome.new_tokens[row]:
                    for node, path in paths_of(tree, row).items():
                        ids = torch.tensor([[*text, *path]])
                        alone = model.module(input_ids=ids, use_cache=False).logits[0, -1]
                        torch.testing.assert_close(
                            seen[-1].logits[row, node], alone, atol=2e-4, rtol=2e-4
                        )


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("noise", [0.0, 0.3, 30.0])
def test_same_seed_gives_the_text_of_plain_sampling_whatever_the_draft(sampler, noise):
    model = toy_target(eos=True)
    plain = texts_of(session_of(SAMPLERS[sampler], model=model, new=20), PlainDrafter())
    session = session_of(SAMPLERS[sampler], model=model, noise=noise, new=20)
    assert texts_of(session, build(SpecExecConfig(budget=12), session)) == plain


@pytest.mark.parametrize("limits", [{"min_logp": -1e-9}, {"branch": 1}, {"max_iters": 1}])
def test_same_seed_gives_the_text_of_plain_sampling_whatever_the_tree(limits):
    plain = texts_of(session_of(SAMPLED), PlainDrafter())
    session = session_of(SAMPLED)
    assert texts_of(session, build(SpecExecConfig(budget=9, **limits), session)) == plain


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("error", [0.01, 1.0])
@pytest.mark.parametrize("kind", ["independent", "feature_head"])
def test_same_seed_gives_the_text_of_plain_sampling_where_noise_is_known(sampler, error, kind):
    model = toy_target(eos=True)
    plain = texts_of(session_of(SAMPLERS[sampler], model=model, new=20), PlainDrafter())
    session = session_of(SAMPLERS[sampler], model=model, new=20)
    config = SpecExecConfig(budget=12, kind=kind, logit_error=error)
    assert texts_of(session, build(config, session)) == plain


@pytest.mark.parametrize("sampler", ["sampled", "nucleus"])
def test_a_draft_that_is_the_target_stands_to_the_end_of_its_chain_where_noise_is_known(sampler):
    session = session_of(SAMPLERS[sampler], noise=0.0, new=14, prompts=PROMPTS[:1])
    drafter = build(SpecExecConfig(budget=8, logit_error=0.001), session)
    counts = [int(outcome.accepted.count[0]) for *_, outcome in steps_of(session, drafter)]
    assert counts[0] == 8  # seven drafted, and the one that follows


def test_a_budget_larger_than_the_cache_or_the_context_is_refused():
    with pytest.raises(UserError, match="33 nodes, and the cache holds 32 tokens") as caught:
        build(SpecExecConfig(budget=33), session_of(max_len=32))
    assert caught.value.setting == "drafting.budget"
    assert "cache.max_len" in caught.value.remedy
    build(SpecExecConfig(budget=32), session_of(max_len=32))
    with pytest.raises(UserError, match="the context holds 256 tokens"):
        build(SpecExecConfig(budget=257), session_of())


def test_the_drafts_cache_has_room_for_what_can_be_run_and_no_more():
    few = build(SpecExecConfig(budget=6), session_of())
    many = build(SpecExecConfig(budget=6, max_iters=10**6), session_of())
    assert many._room() == few._room()


def test_fixed_shapes_give_the_same_texts(monkeypatch):
    monkeypatch.setattr(growth, "asking_is_free", lambda device: False)
    for sampling in (GREEDY, SAMPLED):
        for kind in ("independent", "feature_head"):
            plain = texts_of(session_of(sampling), PlainDrafter())
            session = session_of(sampling)
            config = SpecExecConfig(kind=kind, budget=9, frontier=4, max_iters=6)
            assert texts_of(session, build(config, session)) == plain


def test_growing_a_tree_uses_no_noise(monkeypatch):
    session = session_of(SAMPLED)
    drafter = build(SpecExecConfig(budget=9), session)
    propose, uniform = drafter.propose, RandomStream.uniform

    def forbidden(*args, **kwargs):
        raise AssertionError("drafting drew a random number")

    def silent(state):
        with monkeypatch.context() as patch:
            patch.setattr(RandomStream, "uniform", forbidden)
            return propose(state)

    drafter.propose = silent
    before = torch.get_rng_state()
    assert all(texts_of(session, drafter))
    assert torch.equal(torch.get_rng_state(), before)
    assert RandomStream.uniform is uniform


def test_accepted_tokens_of_a_perfect_draft_are_the_sum_of_the_trees_probabilities():
    rows, gaps = 200, []
    session = session_of(SAMPLED, noise=0.0, new=40, prompts=[PROMPTS[0]] * rows)
    drafter = build(SpecExecConfig(budget=10, decay=1.0), session)
    grown, tree = [], growth.Growth.tree

    def watched(self):
        grown.append(self.scores.exp().sum(1) - 1)  # the root is no accepted token
        return tree(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(growth.Growth, "tree", watched)
        for _, _, outcome in steps_of(session, drafter):
            accepted = outcome.accepted.count - 1
            gaps.append((accepted - grown[-1])[outcome.accepted.count > 0])
    gap = torch.cat(gaps)  # of each step, given its past: mean 0 if the law is right
    assert len(gap) > 2000
    assert abs(float(gap.mean())) < 4 * float(gap.std()) / len(gap) ** 0.5


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("chunk", [1, 5, 1000])
def test_drawing_inside_chunks_gives_the_same_text(sampler, chunk):
    texts = []
    for nodes in (0, chunk):
        session = session_of(SAMPLERS[sampler])
        config = SpecExecConfig(budget=9, lm_head_chunk=nodes)
        texts.append(texts_of(session, build(config, session), "lookup"))
    assert texts[0] == texts[1]


@pytest.mark.parametrize("rule", ["point_mass", "auto"])
def test_chunks_serve_every_rule_and_recorded_probabilities(rule):
    answers = []
    for nodes in (0, 4):
        session = session_of(SAMPLED, logprobs=2)
        config = SpecExecConfig(budget=9, lm_head_chunk=nodes)
        run_to_end(session, build(config, session), rule)
        answers.append(session.records)
    for whole, chunked in zip(*answers, strict=True):
        assert whole.tokens == chunked.tokens
        for one, other in zip(whole.logprobs, chunked.logprobs, strict=True):
            assert one.logprob == pytest.approx(other.logprob, abs=1e-5)


class _Largest(TorchDispatchMode):
    """Notes the most rows of the vocabulary's size that any operation made anew."""

    def __init__(self, module):
        super().__init__()
        self.vocab, self.rows = module.config.vocab_size, 0
        self.weights = {weight.untyped_storage().data_ptr() for weight in module.parameters()}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for made in out if isinstance(out, tuple | list) else [out]:
            if isinstance(made, torch.Tensor) and self._is_made_of_logits(made):
                self.rows = max(self.rows, made.numel() // self.vocab)
        return out

    def _is_made_of_logits(self, made):
        is_weight = made.untyped_storage().data_ptr() in self.weights  # transposed
        return made.ndim > 1 and made.shape[-1] == self.vocab and not is_weight


@pytest.mark.parametrize("sampler", ["greedy", "sampled", "nucleus"])
@pytest.mark.parametrize("chunk", [0, 4])
def test_no_tensor_is_larger_than_a_chunk_of_logits(sampler, chunk):
    model = tiny_model("llama", vocab=53, eos_token_id=None)
    session = session_of(SAMPLERS[sampler], model=model, new=8)
    drafter = build(SpecExecConfig(budget=20, lm_head_chunk=chunk), session)
    largest = _Largest(model.module)
    verify, rule = session.verify, rule_for("lookup", drafter, session.sampler)
    accept = rule.accept

    def watched(call):
        def run(*args):
            with largest:
                return call(*args)

        return run

    session.verify, rule.accept = watched(verify), watched(accept)
    for _ in decode(session, drafter, rule, NoCorrection()):
        pass
    assert largest.rows == (4 if chunk else 3 * 20)


def test_loading_of_the_target_begins_before_the_draft_runs():
    session, order = session_of(), []
    drafter = build(SpecExecConfig(budget=5), session)
    run = drafter._run
    session.prefetch_target = lambda: order.append("prefetch")
    drafter._run = lambda *args: order.append("draft") or run(*args)
    texts_of(session, drafter)
    steps = "".join(word[0] for word in order).split("p")
    assert steps[0] == ""
    assert all(step and set(step) == {"d"} for step in steps[1:])


def test_a_key_of_zeros_is_a_key():
    # Where the length of a cache is told by its zeros, a token whose keys are zero is lost.
    model = toy_target()
    module = copy.deepcopy(model.module)
    for layer in module.model.layers:
        layer.self_attn.k_proj.weight.data.zero_()
    model = replace(model, module=module)
    plain = texts_of(session_of(model=model), PlainDrafter())
    session = session_of(model=model, noise=0.1)
    assert texts_of(session, build(SpecExecConfig(budget=9), session)) == plain


@pytest.mark.parametrize(("p", "kept"), [(0.9, 5), (0.6, 3)])
def test_nucleus_keeps_the_most_probable_tokens(p, kept):
    law = torch.tensor([[0.30, 0.25, 0.20, 0.10, 0.08, 0.04, 0.03]])
    sampler = Sampler(SamplingConfig(temperature=1.0, top_p=p), vocab_size=7)
    cut = sampler.law(law.log())
    expected = law.clone()
    expected[:, kept:] = 0
    torch.testing.assert_close(cut, expected / expected.sum())


def test_the_first_token_is_drawn_like_every_other_and_may_end_the_text():
    model = toy_target(eos=True)
    prompts = [[3, 1]] * 300
    plain = texts_of(session_of(SAMPLED, model=model, prompts=prompts, new=4), PlainDrafter())
    session = session_of(SAMPLED, model=model, prompts=prompts, new=4)
    found = texts_of(session, build(SpecExecConfig(budget=6), session))
    assert found == plain
    firsts = {text[0] for text in found}
    assert 0 in firsts, "the end of the text is not forbidden"
    assert len(firsts) > 2, "nor is the first token an argmax"
