"""SpecExec inside `drafting=auto`: rows that stop drafting keep the target's law."""

from fivefold_speculative.testing import SwitchingSuite


class TestSwitching(SwitchingSuite):
    overrides = ["drafting=specexec", "drafting.budget=6"]
