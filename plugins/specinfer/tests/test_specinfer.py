"""The exam of `drafting=specinfer`, alone and merged."""

from fivefold_speculative.testing import DrafterSuite

FEWER = 10_000
SUITE_WIDTHS = "drafting.widths=[1,2,1]"


class TestExpansion(DrafterSuite):
    samples = FEWER
    overrides = ["drafting=specinfer", SUITE_WIDTHS]
