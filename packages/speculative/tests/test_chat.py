"""A chat keeps its history and its cache: only what is new is read."""

import os
import signal
import sys
from importlib import import_module
from io import BytesIO, StringIO, TextIOWrapper

import pytest
from fivefold.testing import compose
from fivefold_lm import FullAttention, Sampler, SamplingConfig
from fivefold_lm.testing import tiny_model
from fivefold_speculative.chat import read_lines
from fivefold_speculative.choosing import choose
from fivefold_speculative.conversation import Conversation
from fivefold_speculative.engine import Engine
from fivefold_speculative.toy import plain_greedy

task = import_module("fivefold_speculative.chat")
TOLD = ["abcab", "cab", "bacbac"]


@pytest.fixture(scope="module")
def model(template):
    made = tiny_model(vocab=24)
    made.tokenizer.chat_template = template
    return made


def engine(model, drafting="prompt_lookup"):
    sampler = Sampler(SamplingConfig(), vocab_size=model.vocab_size)
    return Engine(model, FullAttention(), sampler, choose("drafting", drafting).build)


def conversation(model, drafting="prompt_lookup", **settings):
    return Conversation(engine(model, drafting), **{"max_new_tokens": 9, **settings})


def count_read_tokens(monkeypatch):
    """Count the tokens that prefill passes read."""
    from fivefold_lm import TreeForward

    read, real = [], TreeForward.prefill

    def prefill(self, cache, tokens, lengths, **settings):
        read.append(int(lengths.sum()))
        return real(self, cache, tokens, lengths, **settings)

    monkeypatch.setattr(TreeForward, "prefill", prefill)
    return read


@pytest.mark.parametrize("drafting", ["none", "prompt_lookup"])
def test_every_answer_is_what_the_model_says_to_the_whole_conversation(model, drafting):
    talk = conversation(model, drafting, system="abc")
    for text in TOLD:
        history = [*talk.messages, {"role": "user", "content": text}]
        pieces = list(talk.answer(text))
        expected, _ = plain_greedy(model, model.encode(history), 9)
        assert talk.last.token_ids == expected
        assert "".join(pieces) == model.decode(expected) == talk.messages[-1]["content"]


def test_only_the_new_tokens_of_a_turn_are_read(model, monkeypatch):
    read, talk, length = count_read_tokens(monkeypatch), conversation(model), 0
    for text in TOLD:
        list(talk.answer(text))
        turn, total = talk.last, talk.last.record.prompt_len
        assert turn.num_kept + turn.num_prefilled == total
        assert turn.num_prefilled <= total - length + 3
        assert read[-1] == turn.num_prefilled - 1  # the last token is the first tree's root
        length = total + len(turn.token_ids)
    assert talk.last.num_kept > talk.last.num_prefilled


def test_reset_forgets_everything(model):
    talk = conversation(model)
    first = "".join(talk.answer("abcab"))
    list(talk.answer("cab"))
    talk.reset()
    assert "".join(talk.answer("abcab")) == first
    assert talk.last.num_kept == 0


def test_an_answer_that_is_stopped_stays_in_the_history(model):
    talk = conversation(model, "none", max_new_tokens=30)
    asked = iter(range(30))
    pieces = list(talk.answer("abcab", stopped=lambda: next(asked) >= 3))
    assert talk.last.record.finish_reason == "cancelled"
    assert 3 <= len(talk.last.token_ids) < 30
    assert talk.messages[-1]["content"] == "".join(pieces)
    list(talk.answer("cab"))
    assert talk.last.num_kept > 5


@pytest.fixture
def chat(folders, cache, monkeypatch, capsys):
    """Return a function that runs the task on some lines of standard input."""

    def call(lines, *overrides, model="chatty"):
        monkeypatch.setattr(sys, "stdin", StringIO("".join(f"{line}\n" for line in lines)))
        run = compose("chat", [f"model={folders / model}", "max_new_tokens=6", *overrides])
        task.run(run.config, run)
        return run, capsys.readouterr()

    return call


def test_lines_of_a_pipe_are_answered_one_by_one(chat):
    run, shown = chat(["abcab", "", "cab"], "drafting=prompt_lookup")
    assert [row["prompt"] for row in run.result.rows] == ["abcab", "cab"]
    assert shown.out == "".join(row["text"] + "\n" for row in run.result.rows)
    assert "kept" in shown.err
    assert run.result.figures["num_turns"] == 2


def test_commands_are_not_said_to_the_model(chat):
    run, shown = chat(["/help", "abcab", "/reset", "/nonsense", "cab", "/quit", "abc"])
    assert [row["num_kept_tokens"] for row in run.result.rows] == [0, 0]
    assert "/reset" in shown.out
    assert "No command /nonsense" in shown.err


def test_a_message_that_does_not_fit_is_refused_and_the_chat_goes_on(chat):
    run, shown = chat(["abc", "a" * 300, "cab"])
    assert "tokens" in shown.err
    assert [row["prompt"] for row in run.result.rows] == ["abc", "cab"]


def test_a_model_without_a_chat_template_is_refused_in_one_line(chat):
    run, shown = chat(["abc"], model="target")
    assert "chat template" in shown.err
    assert run.result.rows == []


def test_the_first_ctrl_c_stops_the_answer_and_the_second_raises():
    before = signal.getsignal(signal.SIGINT)
    with task.interruptible() as stopped:
        assert not stopped()
        os.kill(os.getpid(), signal.SIGINT)
        assert stopped()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_line_that_is_no_utf_8_is_named_and_the_others_are_read(monkeypatch, capsys):
    piped = TextIOWrapper(BytesIO("Grüße\n".encode() + b"Gr\xfc\xdfe\nlast\n"))
    monkeypatch.setattr("sys.stdin", piped)
    assert list(read_lines(compose("chat", []))) == ["Grüße\n", "last\n"]
    assert "line 2: not UTF-8 text (byte 2 of the line); left out" in capsys.readouterr().err
