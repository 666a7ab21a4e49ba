"""`fivefold demo` shows two texts; one that is interrupted ends its line."""

from importlib import import_module

import pytest
from fivefold.testing import compose
from fivefold_speculative import Session

task = import_module("fivefold_speculative.demo")


@pytest.fixture
def demo(folders, cache, capsys):
    """Return a function that runs the task and returns its run; `shown` reads what it printed."""

    def call():
        words = ["drafting=prompt_lookup", "prompt=abcabc", "max_new_tokens=16"]
        call.run = compose("demo", [f"model={folders / 'target'}", *words])
        return task.run(call.run.config, call.run)

    call.shown = capsys.readouterr
    return call


def test_plain_decoding_proposes_nothing_and_so_has_no_acceptance(demo):
    assert demo() == 0
    plain, fast = demo.run.result.rows
    assert plain["acceptance"] is None
    assert 0 < fast["acceptance"] <= 1


def test_an_interrupted_text_ends_its_line(demo, monkeypatch):
    real, calls = Session.verify, iter(range(1000))

    def interrupt_after_the_warm_up(session, *arguments):
        if next(calls) == 12:
            raise KeyboardInterrupt
        return real(session, *arguments)

    monkeypatch.setattr(Session, "verify", interrupt_after_the_warm_up)
    with pytest.raises(KeyboardInterrupt):
        demo()
    out = demo.shown().out
    assert out.partition("--- plain decoding\n")[2].strip()
    assert out.endswith("\n")
