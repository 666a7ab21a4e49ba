"""The drafter: the exam, planning from what was measured, and planning anew."""

import dataclasses
import json

import pytest
import torch
from fivefold import UserError
from fivefold.testing import compose
from fivefold_lm import FullAttention, Sampler, SamplingConfig
from fivefold_lm.testing import tiny_model
from fivefold_sequoia.config import SequoiaConfig
from fivefold_sequoia.counting import AcceptanceCounts, updated
from fivefold_sequoia.drafter import build
from fivefold_sequoia.planning import plan
from fivefold_sequoia.remembering import planned_once
from fivefold_speculative import (
    AcceptanceVector,
    DraftKind,
    NoCorrection,
    Proposal,
    Request,
    Session,
    TreeTopology,
    decode,
    fivefold_generate,
    measure_acceptance,
    rule_for,
)
from fivefold_speculative.testing import PROMPTS, DrafterSuite
from fivefold_speculative.toy import ToyDrafts, toy_target

FALLBACK = "drafting.acceptance=fallback"


class TestSequoia(DrafterSuite):
    overrides = ("drafting=sequoia", "drafting.nodes=8", FALLBACK)


@pytest.mark.slow
class TestSequoiaAtSize(DrafterSuite):
    """The joint laws once more, with the samples that the specification asks for."""

    overrides = ("drafting=sequoia", "drafting.nodes=8", FALLBACK)
    samples = 100_000


@pytest.mark.slow
class TestSequoiaThatMeasures(DrafterSuite):
    """With what `auto` measures on a toy, other children than draws without replacement too."""

    overrides = ("drafting=sequoia", "drafting.nodes=12", "drafting.proposal=sampled")


@pytest.mark.slow
class TestSequoiaWithAFeatureHead(DrafterSuite):
    overrides = ("drafting=sequoia", "drafting.kind=feature_head", "drafting.nodes=10", FALLBACK)


class TestSequoiaThatPlansAnew(DrafterSuite):
    """Looks after every step, and takes another tree at the smallest loss."""

    overrides = (
        "drafting=sequoia",
        "drafting.nodes=6",
        "drafting.replan_every=1",
        "drafting.replan=1e-9",
        FALLBACK,
    )

    def test_text_does_not_depend_on_batch_mates(self):
        """It may: what mates accepted decides on the tree. Greedy text does not, as ever."""
        run = self.compose()
        together = self.decode(run, self.session(run, PROMPTS, 16))
        for key, prompt in enumerate(PROMPTS):
            alone = self.decode(run, self.session(run, [prompt], 16, first_key=key))
            assert alone == [together[key]]


@pytest.mark.slow
class TestAFeatureHeadThatPlansAnew(TestSequoiaThatPlansAnew):
    overrides = (*TestSequoiaThatPlansAnew.overrides, "drafting.kind=feature_head")


def session_of(prompts=PROMPTS, new=40, temperature=0.0, noise=0.3, **more):
    model = toy_target()
    return Session(
        model,
        [Request(list(prompt), new, key=key) for key, prompt in enumerate(prompts)],
        Sampler(SamplingConfig(temperature=temperature), vocab_size=8),
        FullAttention(),
        text=False,
        load_draft=ToyDrafts(model, noise=noise),
        **more,
    )


def run(session, drafter):
    rule = rule_for("auto", drafter, session.sampler)
    return list(decode(session, drafter, rule, NoCorrection()))


def test_the_tree_is_the_best_for_what_was_measured(tmp_path):
    vector = AcceptanceVector((0.4, 0.3, 0.2))
    vector.write(tmp_path / "v.json")
    config = SequoiaConfig(acceptance=str(tmp_path / "v.json"), nodes=9, levels=4)
    assert build(config, session_of()).topology == plan(vector, 9, 4)


def test_nothing_measured_is_measured_once_and_said_once():
    said = []
    for _ in range(2):
        drafter = build(SequoiaConfig(nodes=8), session_of(say=said.append))
        assert drafter.topology.num_nodes == 8
    assert len(said) == 1
    assert "measuring" in said[0]


def test_a_vector_of_another_pair_is_taken_and_that_is_said_once(tmp_path):
    told = []
    session = session_of(say=told.append)
    vector = measure_acceptance(
        session.model,
        session.load_draft("shipped", DraftKind.INDEPENDENT),
        session.sampler,
        SequoiaConfig().chosen_proposal(session.sampler.greedy),
        3,
        [[1, 2, 3, 4, 5, 6]],
    )
    vector.write(tmp_path / "here.json")
    build(SequoiaConfig(acceptance=str(tmp_path / "here.json"), nodes=8), session)
    assert told == []
    elsewhere = {**vector.measured_on, "target": "another", "draft": "another"}
    dataclasses.replace(vector, measured_on=elsewhere).write(tmp_path / "there.json")
    config = SequoiaConfig(acceptance=str(tmp_path / "there.json"), nodes=8)
    for _ in range(2):
        build(config, session)
    (note,) = told
    assert "measured with another target, draft: " in note
    assert "drafting.acceptance" in note


def test_a_planned_tree_is_kept_on_disk_and_a_damaged_one_planned_anew(tmp_path, monkeypatch):
    monkeypatch.setenv("FIVEFOLD_CACHE", str(tmp_path))
    vector = AcceptanceVector((0.5, 0.2))
    first = planned_once(vector, 6, 4)
    (file,) = (tmp_path / "topologies").glob("*.json")
    assert set(json.loads(file.read_text())) == {"schema", "parents"}
    TreeTopology.chain(2).write(file)
    assert planned_once(vector, 6, 4) == TreeTopology.chain(2)  # it is read, not planned
    file.write_text("[")
    assert planned_once(vector, 6, 4) == first
    planned_once(AcceptanceVector((0.5, 0.1)), 6, 4)
    planned_once(vector, 7, 4)
    planned_once(vector, 6, 3)
    assert len(list((tmp_path / "topologies").glob("*.json"))) == 4


def test_a_large_tree_is_announced_before_it_is_planned_and_not_when_it_is_known():
    said = []
    for _ in range(2):
        planned_once(AcceptanceVector((0.5, 0.2)), 1200, 12, say=said.append)
        planned_once(AcceptanceVector((0.5, 0.2)), 30, 12, say=said.append)
    assert said == ["planning a tree of 1200 nodes on 12 levels (once)"]


def test_a_topology_file_takes_the_place_of_planning(tmp_path):
    TreeTopology((-1, 0, 0, 1)).write(tmp_path / "tree.json")
    drafter = build(SequoiaConfig(topology=str(tmp_path / "tree.json")), session_of())
    assert drafter.topology == TreeTopology((-1, 0, 0, 1))
    assert drafter.replanner is None


@pytest.mark.parametrize(
    "settings", [{"nodes": 64}, {"levels": 4}, {"branch": 2}, {"acceptance": "fallback"}]
)
def test_settings_of_planning_beside_a_topology_are_refused_not_ignored(tmp_path, settings):
    TreeTopology((-1, 0, 0, 1)).write(tmp_path / "tree.json")
    (name,) = settings
    with pytest.raises(UserError, match="nothing is planned") as refused:
        SequoiaConfig(topology=str(tmp_path / "tree.json"), **settings)
    assert refused.value.setting == f"drafting.{name}"


def test_children_are_the_best_words_when_greedy_and_never_repeat_else():
    for temperature, proposal in ((0.0, "point_mass"), (1.0, "without_replacement")):
        session = session_of(temperature=temperature)
        drafter = build(SequoiaConfig(acceptance="fallback", nodes=8), session)
        assert drafter.proposal == proposal
        state = session.prefill(False)
        drafter.start(session)
        tree = drafter.propose(state)
        for children in drafter.topology.children:
            tokens = tree.tokens[:, children.start : children.stop].sort().values
            assert bool((tokens[:, 1:] != tokens[:, :-1]).all())


# ------------------------------------------------------------------------ looking while decoding


def test_counts_are_those_of_the_paths_walked_by_hand():
    topology = TreeTopology((-1, 0, 0, 0, 1, 1, 2, 4))
    session = session_of(temperature=1.0)
    config = SequoiaConfig(acceptance="fallback", replan=0.0)
    drafter = build(dataclasses.replace(config, nodes=8), session)
    drafter.inner.reshape(topology)
    counts = AcceptanceCounts(topology, 4, torch.device("cpu"))
    stood, tried = [0] * 4, [0] * 4
    for outcome in run(session, drafter):
        counts.add(outcome, torch.ones(len(outcome.new_tokens), dtype=torch.bool))
        for path, count in zip(
            outcome.accepted.path.tolist(), outcome.accepted.count.tolist(), strict=True
        ):
            for place, node in enumerate(path[:count]):
                for k in range(len(topology.children[node])):
                    tried[k] += 1
                if place + 1 < count:
                    stood[topology.child_index[path[place + 1]]] += 1
    assert counts.read() == (stood, tried)
    assert sum(stood) > 20


def test_a_vector_moves_towards_what_was_counted_and_stays_one():
    vector = AcceptanceVector((0.6, 0.2))
    assert updated(vector, [0, 0], [0, 0]).probs == vector.probs
    assert updated(vector, [900, 0], [10_000, 10_000]).probs == pytest.approx((0.09, 0.0), abs=0.01)
    assert sum(updated(vector, [500, 500], [500, 501]).probs) <= 1 + 1e-9


def test_a_tree_that_yields_less_than_planned_is_planned_anew(tmp_path):
    """The file says that first children always stand; this draft is hardly ever right."""
    AcceptanceVector((0.96, 0.02, 0.01)).write(tmp_path / "v.json")
    config = SequoiaConfig(acceptance=str(tmp_path / "v.json"), nodes=8, replan_every=5)
    session = session_of(new=120, noise=3.0)
    drafter = build(config, session)
    before = drafter.topology
    assert before == TreeTopology.chain(7)
    run(session, drafter)
    assert drafter.topology != before
    assert drafter.topology.num_nodes == 8
    assert max(drafter.topology.widths) > 1


def test_a_tree_that_yields_what_was_planned_stays(tmp_path):
    config = SequoiaConfig(nodes=8, replan_every=5, replan=0.3)
    session = session_of(new=120)
    drafter = build(config, session)
    before = drafter.topology
    run(session, drafter)
    assert drafter.topology == before


# -------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    "settings",
    [
        {"nodes": 0},
        {"nodes": 1},
        {"nodes": 5000},
        {"levels": 1},
        {"branch": 0},
        {"width": 0},
        {"kind": "x"},
        {"measure": "x"},
        {"replan": 1.0},
        {"replan_every": 0},
        {"acceptance": ""},
    ],
)
def test_settings_that_mean_nothing_are_refused_by_name(settings):
    (name,) = settings
    with pytest.raises(UserError) as refused:
        SequoiaConfig(**settings)
    assert refused.value.setting == f"drafting.{name}"
    assert refused.value.remedy


def test_a_vector_that_sums_above_one_is_refused(tmp_path):
    (tmp_path / "v.json").write_text('{"probs": [0.8, 0.4]}')
    with pytest.raises(UserError, match=r"sum to 1\.200") as refused:
        build(SequoiaConfig(acceptance=str(tmp_path / "v.json")), session_of())
    assert refused.value.setting == "drafting.acceptance"


def test_a_tree_larger_than_context_or_cache_is_refused():
    config = SequoiaConfig(acceptance="fallback", nodes=300, levels=40)
    with pytest.raises(UserError, match="300 nodes, and the context holds 256 tokens") as refused:
        build(config, session_of())
    assert refused.value.setting == "drafting.nodes"
    config = SequoiaConfig(acceptance="fallback", nodes=80, levels=20)
    with pytest.raises(UserError, match="80 nodes, and the cache holds 64 tokens") as refused:
        build(config, session_of(max_len=64))
    assert "cache.max_len" in refused.value.remedy


def test_more_children_than_the_draft_has_words_are_refused_by_the_file_that_named_them(tmp_path):
    TreeTopology.expansion([9]).write(tmp_path / "tree.json")
    with pytest.raises(UserError, match="a node has 9 children") as refused:
        build(SequoiaConfig(topology=str(tmp_path / "tree.json")), session_of())
    assert refused.value.setting == "drafting.topology"


def test_the_command_line_takes_numbers_and_null():
    chosen = compose("generate", ["drafting=sequoia", "drafting.nodes=64", "drafting.levels=null"])
    settings = chosen.settings("drafting")
    assert (settings.nodes, settings.levels) == (64, None)
    assert settings.proposals(True) == {Proposal.POINT_MASS}
    assert settings.proposals(False) == {Proposal.WITHOUT_REPLACEMENT}


def test_inside_generate_of_transformers_the_text_is_its_own():
    """No tokenizer reaches us there: a usual vector is taken, and nothing is measured."""
    target, draft = tiny_model(vocab=24, eos_token_id=None), tiny_model(vocab=24, seed=1)
    ids = torch.tensor([[3, 1, 4, 1, 5]])
    stock = target.module.generate(ids, max_new_tokens=12, do_sample=False, pad_token_id=0)
    ours = target.module.generate(
        ids,
        max_new_tokens=12,
        do_sample=False,
        pad_token_id=0,
        custom_generate=fivefold_generate,
        draft=draft.module,
        drafting={"sequoia": {"nodes": 8}},
    )
    assert ours.tolist() == stock.tolist()


@pytest.mark.parametrize("field", ["acceptance", "topology"])
def test_a_file_that_is_not_there_is_refused_before_a_model_is_loaded(field):
    with pytest.raises(UserError, match="cannot be read") as refused:
        compose("generate", ["drafting=sequoia", f"drafting.{field}=nowhere.json"])
    assert f"drafting.{field}" in str(refused.value)
