"""Adapters train, merge and resume; the weights below them stay as they are."""

import copy

import pytest
import torch
from fivefold import UserError
from fivefold_lm.testing import tiny_model
from fivefold_mst_train import MstConfig
from fivefold_mst_train import train as train_model
from fivefold_mst_train.config import PlainConfig
from fivefold_mst_train.engine.config import LoraConfig, OptimizerConfig, TrainConfig
from fivefold_mst_train.engine.models import add_adapters, trainable
from fivefold_mst_train.mst.methods import build_mst, build_plain
from transformers import AutoModelForCausalLM

pytest.importorskip("peft")


def adapted(seed=1, **config):
    torch.manual_seed(seed)
    model = trainable(tiny_model(vocab=64, eos_token_id=None))
    add_adapters(model, LoraConfig(rank=3, **config))
    return model


@pytest.mark.parametrize("build", [build_plain, build_mst])
def test_only_adapters_are_trained_and_the_merged_folder_is_the_model(blocks, tmp_path, build):
    model = adapted()
    before = {
        name: weight.clone()
        for name, weight in model.module.state_dict().items()
        if "lora_" not in name
    }
    method = build(PlainConfig() if build is build_plain else MstConfig())
    losses = [
        report.loss
        for report in train_model(
            model.module, blocks, method, TrainConfig(steps=8), OptimizerConfig(lr=1e-2)
        )
    ]
    assert losses[-1] != losses[0]
    after = model.module.state_dict()
    assert all(torch.equal(after[name], weight) for name, weight in before.items())
    model.save(tmp_path)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path)
    ids = blocks.batch([0]).input_ids
    own = model.module.eval()(input_ids=ids).logits
    torch.testing.assert_close(merged(input_ids=ids).logits, own, rtol=1e-4, atol=1e-5)
    plain = tiny_model(vocab=64, eos_token_id=None).module(input_ids=ids).logits
    assert not torch.allclose(own, plain, atol=1e-3)


def test_methods_train_adapters_alike(blocks):
    found = []
    for method in (build_plain(PlainConfig()), build_mst(MstConfig())):
        model = adapted()
        model.module.double()
        settings = TrainConfig(steps=4), OptimizerConfig(lr=1e-2)
        found.append([r.loss for r in train_model(model.module, blocks, method, *settings)])
    assert found[0] == pytest.approx(found[1], rel=1e-6)


def test_adapters_of_a_checkpoint_are_taken_over(blocks, tmp_path):
    model = adapted()
    settings = TrainConfig(steps=3), OptimizerConfig(lr=1e-2)
    list(train_model(model.module, blocks, build_plain(PlainConfig()), *settings))
    model.save(tmp_path)
    other = adapted(seed=9)
    other.adopt_adapters(tmp_path)
    ids = blocks.batch([0]).input_ids
    assert torch.equal(other.module.eval()(ids).logits, model.module.eval()(ids).logits)


def test_a_checkpoint_without_adapters_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds no adapters"):
        adapted().adopt_adapters(tmp_path)


def test_a_name_that_no_module_has_is_answered_with_those_they_have():
    with pytest.raises(UserError, match=r"no module.*q_proj"):
        adapted(targets=["query"])


def test_named_modules_alone_get_adapters():
    model = adapted(targets=["q_proj"])
    trained = {n for n, w in copy.copy(model.module).named_parameters() if w.requires_grad}
    assert trained
    assert all("q_proj.lora_" in name for name in trained)


def test_a_lora_run_resumes(train, tmp_path):
    words = ["lora.rank=2", f"output={tmp_path}", f"hydra.run.dir={tmp_path / 'run'}"]
    first = train(*words, "steps=2")
    assert first.returncode == 0, first.stderr
    again = train(*words, "steps=4", f"resume={tmp_path}")
    assert again.returncode == 0, again.stderr
    other = train("steps=6", f"output={tmp_path}", f"resume={tmp_path}")
    assert other.returncode == 2
    assert "lora.rank=2" in other.stderr.splitlines()[-1]
