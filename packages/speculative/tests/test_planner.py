"""The planner chooses what promises most, or nothing; the drafter it makes stays lossless."""

import json
from dataclasses import replace
from importlib import import_module

import pytest
from fivefold import Method, UserError
from fivefold.cache import cache_folder
from fivefold.testing import compose
from fivefold_speculative import Candidate, TokenTree
from fivefold_speculative import session as session_module
from fivefold_speculative.config import AutoConfig
from fivefold_speculative.planner import machine, plans, task, trials
from fivefold_speculative.planner.drafter import build
from fivefold_speculative.planner.machine import MachineProfile
from fivefold_speculative.planner.offers import Offer
from fivefold_speculative.planner.plans import make_plan
from fivefold_speculative.task_configs import check_pair
from fivefold_speculative.testing import PROMPTS, DrafterSuite, SwitchingSuite

PLAIN = Offer("none", {}, 1, 1.0, 0.010)


class TestSwitching(SwitchingSuite):
    overrides = ["drafting=chain", "drafting.length=3"]

    def test_it_does_switch(self):
        run = self.compose("sampling.temperature=1.0")
        session = self.session(run, PROMPTS, 60)
        drafter, kinds = self.drafter(run, session), set()
        right = drafter.propose

        def propose(state):
            tree: TokenTree = right(state)
            kinds.add(tree.num_nodes)
            return tree

        drafter.propose = propose
        from fivefold_speculative.checks import run_to_end

        run_to_end(session, drafter, "auto")
        assert kinds == {4, 1}


class TestSwitchingWithoutReplacement(SwitchingSuite):
    overrides = ["drafting=expansion", "drafting.widths=[2,1]"]


class TestChoice(DrafterSuite):
    """`drafting=auto` itself on the toy: whatever it plans, it is the target's text."""

    overrides = ["drafting=auto", "drafting.methods=[chain]", "drafting.trials=0"]
    samples = 5_000


def planned(monkeypatch, session, found, **settings):
    monkeypatch.setattr(MachineProfile, "plain", 0.010)
    monkeypatch.setattr(plans, "_candidates", lambda method, *_: found.get(method.name, []))
    return make_plan(session, AutoConfig(**settings))[0]


@pytest.fixture
def session():
    suite = TestSwitching()
    return suite.session(suite.compose(), [[3, 1, 4, 1, 5]], 8)


def test_the_best_rate_is_chosen_among_all_methods(monkeypatch, session):
    found = {
        "chain": [Candidate({"length": 2}, 1.8, 0.012, 3), Candidate({"length": 4}, 2.2, 0.020, 5)],
        "expansion": [Candidate({"widths": [2]}, 2.0, 0.012, 3)],
    }
    plan = planned(monkeypatch, session, found, trials=0)
    assert (plan.best.method, plan.best.settings) == ("expansion", {"widths": [2]})
    assert plan.ratio(plan.best) == pytest.approx(2.0 / 0.012 * 0.010)
    only = planned(monkeypatch, session, found, methods=["chain"], trials=0)
    assert (only.best.method, only.best.settings) == ("chain", {"length": 2})


def test_what_does_not_promise_more_than_the_margin_is_not_chosen(monkeypatch, session):
    found = {"chain": [Candidate({"length": 1}, 1.2, 0.0118, 2)]}
    assert planned(monkeypatch, session, found, margin=0.03, trials=0).best.method == "none"
    assert planned(monkeypatch, session, found, margin=0.01, trials=0).best.method == "chain"


FOUND = {
    "chain": [Candidate({"length": n}, 2.0 + n / 10, 0.012, n + 1) for n in (1, 2, 3)],
    "expansion": [Candidate({"widths": [2]}, 1.9, 0.012, 3)],
    "feature_head": [Candidate({}, 0.5, 0.012, 5)],
}


def tried(monkeypatch, seen):
    """Let trials see given tokens and seconds of a step, by label; the rest is real."""
    monkeypatch.setattr(trials, "PreTrainedTokenizerBase", type(None))
    asked = []

    def decoded(session, offer, one, rounds, tokens):
        asked.append(offer.label)
        found = seen[offer.label]
        if isinstance(found, Exception):
            raise found
        return found[one] if isinstance(found, list) else found

    monkeypatch.setattr(trials, "_decoded", decoded)
    return asked


def test_what_is_fastest_in_trials_is_chosen_whatever_was_predicted(monkeypatch, session):
    seen = {
        "none": (1.0, 0.010),
        "chain (length=3)": [(2.0, 0.018), (2.0, 0.001), *[(2.0, 0.018)] * 4],  # the clock
        "chain (length=2)": (2.0, 0.017),
        "expansion (widths=[2])": (1.9, 0.014),
        "prompt_lookup": (1.0, 0.011),
    }
    asked = tried(monkeypatch, seen)
    found = FOUND | {"prompt_lookup": [Candidate({}, 1.8, 0.012, 2)]}
    plan = planned(monkeypatch, session, found)
    assert plan.best.label == "expansion (widths=[2])"
    assert plan.tried[plan.chosen] == pytest.approx(1.9 / 0.014 * 0.010)
    assert plan.best.tokens_a_step == pytest.approx(1.9)
    assert plan.best.seconds_a_step == pytest.approx(0.014)
    # The two best of a method, none that promises much less than plain decoding, in turns.
    best = ["chain (length=3)", "expansion (widths=[2])", "prompt_lookup", "chain (length=2)"]
    assert asked[:5] == ["none", *best]
    assert len(asked) == 3 * 5 + 3 * 4  # all for three rounds, the best three for three more
    assert "prompt_lookup" not in asked[15:]


def test_a_finalist_is_judged_by_all_its_rounds(monkeypatch, session):
    lucky = [(2.0, 0.010)] * 3 + [(2.0, 0.030)] * 3
    seen = {
        "none": (1.0, 0.010),
        "chain (length=3)": lucky,
        "chain (length=2)": (2.0, 0.012),
        "expansion (widths=[2])": (2.0, 0.011),
    }
    tried(monkeypatch, seen)
    assert planned(monkeypatch, session, FOUND).best.label == "expansion (widths=[2])"


def test_a_lead_that_a_third_of_the_rounds_does_not_show_is_noise(monkeypatch, session):
    uneven = [(2.0, 0.018), (2.0, 0.018), (2.0, 0.022), (2.0, 0.018), (2.0, 0.018), (2.0, 0.022)]
    slow = dict.fromkeys(("chain (length=2)", "expansion (widths=[2])"), (1.5, 0.016))
    tried(monkeypatch, {"none": (1.0, 0.010), "chain (length=3)": uneven, **slow})
    assert planned(monkeypatch, session, FOUND, margin=0.03).best.method == "none"
    uneven[2] = (2.0, 0.018)  # and another margin, as plans are remembered
    assert planned(monkeypatch, session, FOUND, margin=0.02).best.label == "chain (length=3)"


def test_plain_decoding_is_taken_where_trials_keep_no_promise(monkeypatch, session):
    slow = dict.fromkeys(("chain (length=3)", "chain (length=2)"), (1.5, 0.016))
    tried(monkeypatch, {"none": (1.0, 0.010), "expansion (widths=[2])": (1.02, 0.010), **slow})
    assert planned(monkeypatch, session, FOUND, margin=0.03).best.method == "none"


def test_an_offer_that_fails_in_its_trial_is_out(monkeypatch, session):
    seen = {
        "none": (1.0, 0.010),
        "chain (length=3)": ZeroDivisionError("a bug of somebody else's"),
        "chain (length=2)": UserError("does not fit"),
        "expansion (widths=[2])": (1.9, 0.014),
    }
    said = []
    session.say = said.append
    tried(monkeypatch, seen)
    plan = planned(monkeypatch, session, FOUND)
    assert plan.best.method == "expansion"
    assert any("drafting=chain failed: ZeroDivisionError" in line for line in said)


def test_without_trials_predictions_decide(monkeypatch, session):
    assert not tried(monkeypatch, {})
    assert planned(monkeypatch, session, FOUND, trials=0).best.label == "chain (length=3)"


def test_a_method_that_fails_takes_no_other_down(session):
    said = []
    method = Method("broken", AutoConfig, "fivefold_speculative.planner.broken:build", "", "")
    asked = MachineProfile(session, AutoConfig()), plans._Acceptance(session, AutoConfig())
    assert plans._candidates(method, *asked, said.append) == []
    assert "drafting=broken offers nothing" in said[0]


def test_an_unknown_method_is_refused(session):
    with pytest.raises(UserError, match=r"no such drafting method.*drafting\.methods=chian"):
        make_plan(session, AutoConfig(methods=["chian"], trials=0))


def plan_of(*overrides):
    """Run `fivefold plan`; return the methods and settings that were offered."""
    run = compose("plan", ["drafting.trials=0", *overrides])
    assert task.run(run.config, run) == 0
    return [(row["method"], row["settings"]) for row in run.result.rows], run.result


def test_any_draft_can_be_planned_with(folders, capsys):
    model = f"model={folders / 'target'}"
    own = f"drafting.draft={folders / 'draft'}"
    found, _ = plan_of(model, own, "drafting.methods=[chain]")
    assert found[0] == ("none", "")
    assert ("chain", f"draft={folders / 'draft'}, length=4") in found
    assert {method for method, _ in found} == {"none", "chain"}
    capsys.readouterr()
    nothing, _ = plan_of(model, "drafting.methods=[chain]")
    assert nothing == [("none", "")]  # nothing is shipped for this target
    assert "name a draft by drafting.draft" in capsys.readouterr().err


def test_several_drafts_are_chosen_among(folders):
    model, draft = folders / "target", folders / "draft"
    drafts = f"drafting.drafts=['{draft}','{folders / 'chatty'}']"
    found, _ = plan_of(f"model={model}", drafts, "drafting.methods=[chain]")
    for name in (draft, folders / "chatty"):
        assert ("chain", f"draft={name}, length=2") in found


def test_the_planned_draft_drafts(folders):
    target, draft = folders / "target", folders / "draft"
    texts = []
    for overrides in (["drafting=none"], ["drafting=auto", f"drafting.draft={draft}"]):
        words = [f"model={target}", "prompt=abcab", "max_new_tokens=16", *overrides]
        run = compose("generate", words)
        import_module("fivefold_speculative.fronts").generate(run.config, run)
        texts.append(run.result.rows[0]["token_ids"])
    assert texts[0] == texts[1]


@pytest.mark.parametrize(
    ("overrides", "setting"),
    [
        (["drafting.draft=no/such.safetensors"], "drafting.draft"),
        (["drafting.drafts=[shipped,no/such.safetensors]"], "drafting.drafts"),
        (["drafting.drafts=['']"], "drafting.drafts"),
        (["drafting.draft=''"], "drafting.draft"),
        (["drafting.bits=5"], "drafting.bits"),
        (["drafting.draft=quantised", "drafting.bits=1"], "drafting.bits"),
    ],
)
def test_a_draft_that_cannot_be_is_refused(folders, overrides, setting):
    with pytest.raises(UserError) as caught:
        plan_of(f"model={folders / 'target'}", *overrides)
    assert caught.value.setting == setting
    assert caught.value.remedy


def test_bits_name_the_copy_only_where_they_are_not_the_usual():
    config = AutoConfig(drafts=["shipped", "quantised"])
    assert [config.settings_of(name) for name in config.drafts] == [{}, {"draft": "quantised"}]
    copy = AutoConfig(draft="quantised", bits=4)
    assert copy.settings_of("quantised") == {"draft": "quantised", "bits": 4}
    assert copy.source_of("quantised") == "quantised:4"


STREAMED = ("model.offload=disk", "model.memory=96KiB")


def test_a_streamed_target_has_times_of_its_own(folders):
    model, methods = f"model={folders / 'target'}", "drafting.methods=[chain]"
    for overrides in ((), STREAMED, (*STREAMED, "model.disk_rate=50")):
        _, result = plan_of(model, methods, *overrides)
        link = result.figures.get("link_bytes_per_second")
        assert (link is None) == (not overrides)
        if "model.disk_rate=50" in overrides:
            assert 0 < link < 55e6  # slowed to 50 MB/s
    for folder in ("profiles", "plans"):
        assert len(list((cache_folder() / folder).iterdir())) == 3


def test_methods_that_no_planner_can_ask_are_refused(session):
    with pytest.raises(UserError, match=r"nothing of this can be planned") as caught:
        make_plan(session, AutoConfig(methods=["prompt_lookup", "expansion"]))
    assert caught.value.setting == "drafting.methods"
    assert "drafting=prompt_lookup" in caught.value.remedy


def test_more_nodes_bound_what_fewer_can_cost(session, monkeypatch):
    """A pass over one node that was measured while something else ran is not believed."""
    monkeypatch.setattr(machine, "_path", lambda session: None)
    seconds = {1: 0.090, 2: 0.024, 4: 0.043}
    monkeypatch.setattr(MachineProfile, "_target", lambda self, nodes: seconds[nodes])
    profile = MachineProfile(session, AutoConfig())
    assert profile.target(1) == 0.090  # nothing else is known yet
    assert profile.target(2) == 0.024
    assert profile.target(3) == pytest.approx(0.0335)
    assert profile.target(1) == 0.024


def test_a_run_says_once_what_it_takes(session):
    said = []
    session.say = said.append
    for _ in range(2):
        build(AutoConfig(methods=["chain"], trials=0, margin=0.031), session)
    assert len([line for line in said if "drafting=auto takes" in line]) <= 1
    session_module._said.clear()
    build(AutoConfig(methods=["chain"], trials=0, margin=0.031), session)
    assert "drafting=auto takes" in said[-1]


def test_a_streamed_target_is_planned_for_with_larger_trees(session, monkeypatch):
    session.model = replace(session.model, context_len=1 << 15)
    assert MachineProfile(session, AutoConfig()).max_nodes == 128
    monkeypatch.setattr(machine, "_streams", lambda module: object())
    monkeypatch.setattr(machine, "_path", lambda session: None)
    assert MachineProfile(session, AutoConfig()).max_nodes == 2048


def test_passes_are_measured_behind_a_context_like_the_prompts():
    suite = TestSwitching()
    run = suite.compose()
    model = replace(suite.target(), context_len=1 << 15)
    found = []
    for length in (5, 384, 385, 1536, 1537, 20_000):
        session = suite.session(run, [[1, 2], [3] * length], 8, model=model)
        found.append(machine.context_of(session))
    assert found == [192, 192, 768, 768, 3072, 3072]
    paths = {
        MachineProfile(suite.session(run, [[3] * n], 8, model=model), AutoConfig()).key
        for n in (5, 30, 1000)
    }
    assert len(paths) == 2


def test_a_plan_is_remembered_and_a_damaged_one_made_anew(session):
    said = []
    session.say = said.append
    plan, path = make_plan(session, AutoConfig(methods=["chain"]))
    assert make_plan(session, AutoConfig(methods=["chain"]))[0] == plan
    assert len([line for line in said if "planning" in line]) == 1
    path.write_text("{}")
    again, _ = make_plan(session, AutoConfig(methods=["chain"]))
    assert [offer.settings for offer in again.offers] == [offer.settings for offer in plan.offers]


def test_times_of_more_nodes_are_not_less_and_are_measured_once(session):
    profile = MachineProfile(session, AutoConfig())
    assert profile.target(3) >= profile.target(2) > 0
    assert MachineProfile(session, AutoConfig()).target(3) == profile.target(3)
    assert profile.draft("any", "independent", 1) > 0
    assert profile.draft("any", "feature_head", 2) > 0
    assert profile.overhead >= 0
    assert profile.plain > 0


def test_what_was_measured_is_remembered_with_the_plan(session, tmp_path):
    drafter = build(AutoConfig(methods=["chain"]), session)
    from fivefold_speculative.checks import run_to_end

    run_to_end(session, drafter, "auto")
    plan, path = make_plan(session, AutoConfig(methods=["chain"]))
    assert plan.best.measured > 0
    assert json.loads(path.read_text())["offers"][plan.chosen]["measured"] == plan.best.measured


def test_the_task_prints_every_method_and_what_it_really_does(folders, capsys):
    settings = [f"model={folders / 'target'}", "drafting.methods=[chain]", "measure=true"]
    run = compose("plan", [*settings, "max_new_tokens=8"])
    assert task.run(run.config, run) == 0
    assert run.result.rows[0]["method"] == "none"
    assert run.result.rows[0]["measured tokens/s"] > 0, run.result.rows
    assert run.result.rows[0]["tried ratio"] in (None, 1.0)
    assert "drafting=auto takes" in capsys.readouterr().out


def test_another_method_has_no_plan(folders):
    run = compose("plan", [f"model={folders / 'target'}", "drafting=chain"])
    with pytest.raises(UserError, match=r"drafting\.methods"):
        task.run(run.config, run)


@pytest.mark.parametrize("rule", ["multi_step", "without_replacement", "point_mass"])
def test_a_rule_that_does_not_suit_every_method_is_refused_before_anything_is_planned(rule):
    words = ["prompt=a", "drafting=auto", "sampling.temperature=0.7"]
    run = compose("generate", [*words, f"rule={rule}"])
    with pytest.raises(UserError, match="may be a method") as caught:
        check_pair(run.config, run)
    assert caught.value.setting == "rule"
    for word in ("auto", "lookup"):
        run = compose("generate", [*words, f"rule={word}"])
        check_pair(run.config, run)


def test_a_planner_that_is_to_choose_itself_is_refused():
    run = compose("plan", ["drafting.methods=[chain,auto]"])
    with pytest.raises(UserError, match=r"does not choose itself \(drafting\.methods=auto\)"):
        check_pair(run.config, run)


def test_a_plan_takes_no_rule_as_it_decides_on_none():
    with pytest.raises(UserError, match="rule"):
        compose("plan", ["rule=lookup"])
    run = compose("plan")
    check_pair(run.config, run)
