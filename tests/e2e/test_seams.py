"""What is chosen is what decodes: an attention and a correction that change the text."""

from pathlib import Path

import pytest

PROMPT = f"prompt={'abcdefgh' * 5}"


@pytest.fixture(scope="module")
def seams(pip_install):
    """The environment in which both methods are installed."""
    return pip_install(Path(__file__).with_name("seams"))


@pytest.fixture
def token_ids(fivefold, tiny, tiny_draft, seams):
    """Decode greedily with some methods and return the tokens and what the run left."""

    def decode(*methods):
        words = [PROMPT, f"model={tiny}", "max_new_tokens=24", "drafting=chain", *methods]
        ended = fivefold("generate", *words, f"drafting.draft={tiny_draft}", env=seams)
        assert ended.status == 0, ended.err
        (row,) = ended.result["rows"]
        return row["token_ids"], ended

    return decode


@pytest.mark.parametrize("chosen", ["attention=windowed", "correction=plausible"])
def test_the_chosen_method_writes_the_text_and_the_run_says_so(token_ids, chosen):
    plain, _ = token_ids("attention=full", "correction=none")
    changed, ended = token_ids(chosen)
    assert len(changed) == len(plain)
    assert changed != plain
    hook, _, name = chosen.partition("=")
    assert ended.result["environment"]["methods"][hook] == name
    assert chosen in (ended.folder / "config.yaml").read_text("utf-8").splitlines()[0]


@pytest.mark.parametrize(
    "chosen",
    [
        ["attention=windowed", "attention.newest=80"],  # more than there is
        ["correction=plausible", "correction.threshold=2"],  # more than any token has
    ],
)
def test_its_settings_reach_the_method(token_ids, chosen):
    assert token_ids(*chosen)[0] == token_ids()[0]


def test_the_audit_fails_for_a_lossy_correction(fivefold, tiny, tiny_draft, seams):
    small = ["toy_samples=2000", "model_samples=0", "max_new_tokens=12", "correction=plausible"]
    words = [f"model={tiny}", "drafting=chain", f"drafting.draft={tiny_draft}", *small]
    ended = fivefold("audit", *words, env=seams)
    assert ended.status == 1, ended.out + ended.err
    assert not all(row["passed"] for row in ended.result["rows"])
