"""SpecInfer inside `drafting=auto`: rows that stop drafting keep the target's law."""

from fivefold_speculative.testing import SwitchingSuite


class TestSwitchingOfDraws(SwitchingSuite):
    overrides = [
        "drafting=specinfer",
        "drafting.widths=[2,1]",
        "drafting.drafts=[shipped,{draft:shipped,temperature:1.5}]",
    ]


class TestSwitchingOfSets(SwitchingSuite):
    overrides = ["drafting=specinfer", "drafting.widths=[2,1]", "drafting.proposal=topk"]
