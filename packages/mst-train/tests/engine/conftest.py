"""Tiny models and data for the engine's tests."""

import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO

import pytest
import torch
from fivefold.cli import main
from fivefold_lm.testing import tiny_model
from fivefold_mst_train.engine.data.blocks import Blocks
from fivefold_mst_train.engine.data.tokens import Tokens

VOCAB = 64


def random_tokens(count, seed=0, vocab=VOCAB):
    """Tokens of one document, all learnt, never the end of text."""
    source = torch.Generator().manual_seed(seed)
    starts = torch.zeros(count, dtype=torch.bool)
    starts[0] = True
    ids = torch.randint(1, vocab, (count,), generator=source).int()
    return Tokens(ids, torch.ones(count, dtype=torch.bool), starts)


@pytest.fixture
def blocks():
    """Forty blocks of 16 tokens."""
    return Blocks(random_tokens(641), 16)


@pytest.fixture
def model():
    """A tiny Llama in float64."""
    module = tiny_model(vocab=VOCAB, eos_token_id=None).module.double().train()
    return module.requires_grad_(True)


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """The same model as a folder, in float32, with a tokenizer of one token a character."""
    path = tmp_path_factory.mktemp("model")
    made = tiny_model(vocab=128, seed=1, eos_token_id=None)
    made.module.save_pretrained(path)
    made.tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def text(tmp_path_factory):
    """A folder of some text."""
    path = tmp_path_factory.mktemp("text")
    source = torch.Generator().manual_seed(7)
    letters = torch.randint(97, 123, (4000,), generator=source).tolist()
    (path / "a.txt").write_text("".join(map(chr, letters)))
    return path


@dataclass
class Ended:
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


def command(folder, text, words):
    """Return the words of `fivefold train` on the tiny model, unless they say otherwise."""
    own = (f"model={folder}", f"data={text}", "seq_len=32", "tensorboard=never")
    given = {word.partition("=")[0] for word in words}
    return ["train", *(word for word in own if word.partition("=")[0] not in given), *words]


@pytest.fixture(scope="session")
def train(folder, text, tmp_path_factory):
    """Run `fivefold train` on the tiny model, in this process."""

    def run(*words):
        if not any(word.startswith("hydra.run.dir=") for word in words):
            words = (*words, f"hydra.run.dir={tmp_path_factory.mktemp('run')}")
        out, err = StringIO(), StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            status = main(command(folder, text, words))
        return Ended(status, out.getvalue(), err.getvalue())

    return run


@pytest.fixture(scope="session")
def start(folder, text):
    """Start `fivefold train` in a process of its own."""

    def begin(*words, launcher=(sys.executable,), **options):
        line = [*launcher, "-m", "fivefold", *command(folder, text, words)]
        pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(line, **{**pipes, **options})

    return begin
