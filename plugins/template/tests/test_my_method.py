from fivefold_speculative.testing import DrafterSuite


class TestMyMethod(DrafterSuite):
    overrides = ["drafting=my_method"]
