"""The correction seam: `none` is really called, and a lossy toy changes the text."""

from dataclasses import replace

import torch
from fivefold_speculative import NoCorrection
from fivefold_speculative.checks import run_to_end
from fivefold_speculative.outcome import Accepted
from fivefold_speculative.testing import PROMPTS, CorrectorSuite
from fivefold_speculative.toy import plain_greedy, toy_target


class TestNoCorrection(CorrectorSuite):
    overrides = ["drafting=expansion", "drafting.widths=[3,2]", "correction=none"]

    def test_judge_and_repair_are_called_once_a_step(self):
        run = self.compose()
        session = self.session(run, PROMPTS, 12)
        calls = []

        class Counting(NoCorrection):
            def judge(self, *args):
                calls.append("judge")
                return super().judge(*args)

            def repair(self, *args):
                calls.append("repair")
                super().repair(*args)

        run_to_end(session, self.drafter(run, session), "auto", Counting())
        steps = max(record.num_spec_steps for record in session.records)
        assert calls == ["judge", "repair"] * steps


class Plausible:
    """Accept a first child that the target finds plausible, whatever the rule says."""

    lossless = False
    threshold = 0.02

    def judge(self, tree, rows, rule, state):
        accepted = rule.accept(tree, rows, state)
        batch = torch.arange(len(tree.tokens))
        child = tree.child(torch.zeros_like(batch), 0)
        token = tree.tokens[batch, child]
        chance = rows.logits[:, 0].softmax(-1)[batch, token]
        swap = (chance >= self.threshold) & (accepted.path[:, 1] != child) & (accepted.count > 0)
        path, tokens = accepted.path.clone(), accepted.tokens.clone()
        path[:, 1] = torch.where(swap, child, path[:, 1])
        tokens[:, 0] = torch.where(swap, token, tokens[:, 0])
        after = rows.logits[batch, child].argmax(-1)
        tokens[:, 1] = torch.where(swap, after, tokens[:, 1])
        count = torch.where(swap, 2, accepted.count)
        live = torch.arange(path.shape[1]) < count[:, None]
        return Accepted(torch.where(live, path, 0), count, torch.where(live, tokens, 0))

    def repair(self, cache, accepted):
        cache.keep(accepted.path, accepted.count)


class TestLossyCorrector(CorrectorSuite):
    overrides = ["drafting=expansion", "drafting.widths=[2,2]"]

    def corrector(self, run, session):
        return Plausible()

    def test_the_text_is_the_correctors_own(self):
        run, model = self.compose(), toy_target()
        found = self.decode(run, self.session(run, PROMPTS, 20, model=model))
        expected = [plain_greedy(model, prompt, 20)[0] for prompt in PROMPTS]
        assert found != expected

    def test_more_is_accepted_than_the_rule_allows(self):
        run = self.compose()
        lossy, strict = self.session(run, PROMPTS, 20), self.session(run, PROMPTS, 20)
        run_to_end(lossy, self.drafter(run, lossy), "auto", Plausible())
        run_to_end(strict, self.drafter(run, strict), "auto")
        steps = [sum(r.num_spec_steps for r in s.records) for s in (lossy, strict)]
        assert steps[0] < steps[1]


def test_a_threshold_above_one_is_the_rule():
    corrector = Plausible()
    corrector.threshold = 2.0
    suite = TestLossyCorrector()
    run, model = suite.compose(), replace(toy_target())
    session = suite.session(run, PROMPTS, 20, model=model)
    run_to_end(session, suite.drafter(run, session), "auto", corrector)
    expected = [plain_greedy(model, prompt, 20)[0] for prompt in PROMPTS]
    assert [record.tokens for record in session.records] == expected
