"""Weights are read one at a time from whole, sharded or damaged folders."""

import json
import shutil

import pytest
import torch
from fivefold import UserError
from fivefold_lm import load_model, offload_of
from fivefold_lm.config import ModelConfig
from fivefold_lm.offload.layer_files import ENTRY
from fivefold_lm.offload.source import Checkpoint
from fivefold_lm.testing import plain_logits, tiny_model
from safetensors.torch import load_file, save_file

TOKENS = [1, 5, 3, 9, 2]


@pytest.fixture
def folder(tmp_path):
    model = tiny_model("llama", vocab=40)
    model.module.save_pretrained(tmp_path / "model")
    model.tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def load(folder, **settings):
    settings = {"kernels": "torch", "offload": "disk", "memory": "80KiB"} | settings
    return load_model(ModelConfig(name=str(folder), **settings))


def refusal(folder, **settings):
    with pytest.raises(UserError) as caught:
        load(folder, **settings)
    line = str(caught.value)
    assert "\n" not in line
    return line


def folders(cache):
    return {path.name for path in (cache / ENTRY).iterdir() if path.is_dir()}


def test_shards_are_read_by_their_index(folder, tmp_path):
    wanted = plain_logits(load(folder).module, TOKENS)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    save_file({"not.a.weight": torch.ones(2)}, folder / "left-over.safetensors")
    index = {}
    for place, name in enumerate(tensors):
        file = f"model-{place % 3}.safetensors"
        index[name] = file
    for file in set(index.values()):
        save_file({n: tensors[n] for n, where in index.items() if where == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    assert len(Checkpoint(folder, "m").files) == 3
    assert torch.equal(plain_logits(load(folder).module, TOKENS), wanted)
    (folder / "model-1.safetensors").unlink()
    assert "its weights are damaged (model-1.safetensors is missing)" in refusal(folder)


def test_weights_without_the_models_prefix_are_found(folder):
    wanted = plain_logits(load(folder).module, TOKENS)
    tensors = load_file(folder / "model.safetensors")
    bare = {name.removeprefix("model."): tensor for name, tensor in tensors.items()}
    save_file(bare, folder / "model.safetensors")
    assert torch.equal(plain_logits(load(folder).module, TOKENS), wanted)


def test_the_same_weights_are_written_once_and_others_anew(folder, cache):
    load(folder)
    first = folders(cache)
    load(folder, memory="90KiB")
    assert folders(cache) == first
    load(folder, dtype="bfloat16")
    assert len(folders(cache)) == 2
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"] += 1
    save_file(tensors, folder / "model.safetensors")
    model = load(folder)
    assert len(folders(cache)) == 3
    resident = load_model(ModelConfig(name=str(folder), kernels="torch"))
    assert torch.equal(plain_logits(model.module, TOKENS), plain_logits(resident.module, TOKENS))


@pytest.mark.parametrize("size", [5, 3000, 40_000])
def test_truncated_weights_are_refused_and_leave_nothing(folder, cache, size):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    assert "its weights are damaged" in refusal(folder)
    assert not (cache / ENTRY).exists() or not folders(cache)


def test_missing_and_misshapen_weights_are_refused(folder, cache):
    tensors = load_file(folder / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    save_file({**tensors, name: torch.ones(3, 3)}, folder / "model.safetensors")
    assert f"{name} has the shape (3, 3), and its config says (48, 32)" in refusal(folder)
    assert not folders(cache)
    del tensors[name]
    save_file(tensors, folder / "model.safetensors")
    assert refusal(folder).startswith(f"1 of its weights are missing, {name} for one")


def test_pickled_weights_are_never_read(folder, tmp_path):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    assert refusal(folder).startswith("only weights in safetensors files can be streamed")


def test_weights_quantised_by_others_are_refused(folder):
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (folder / "config.json").write_text(json.dumps(config))
    assert refusal(folder).startswith("layers of weights quantised by another library are not")


def test_layers_that_were_damaged_name_their_remedy_and_are_written_anew(folder, cache):
    load(folder)
    (path,) = (cache / ENTRY).glob("*/001.layer")
    path.write_bytes(path.read_bytes()[:4096])
    line = refusal(folder)
    assert line.startswith("the streamed layers are damaged: 001.layer has 4096 bytes")
    assert "(model.offload=disk); run `fivefold cache clear entry=offload`" in line
    shutil.rmtree(path.parent)
    assert offload_of(load(folder).module) is not None
