"""`fivefold train plan` and `fivefold train inspect`, as the command line composes them."""

import json

import pytest
from fivefold import UserError
from fivefold.description import load
from fivefold.testing import compose
from fivefold_lm.testing import tiny_model
from fivefold_mst_train.mst.shapes import NAMES, PUBLISHED, shape_config

LONGEST = ("plain", "recompute", "mst_faithful", "mst", "mst_offload", "mst_block")


@pytest.fixture
def folder(tmp_path):
    module = tiny_model("llama", 96, eos_token_id=None, max_position_embeddings=100_000).module
    module.config.save_pretrained(tmp_path / "tiny")
    return tmp_path / "tiny"


def ended(task, *overrides):
    run = compose(task, overrides)
    assert load(run.task.run)(run.config, run) == 0
    return run.result


@pytest.mark.slow
def test_plan_of_a_local_config(folder, capsys):
    result = ended("train plan", f"model={folder}", "seq_len=4096", "device_memory=200MiB")
    figures = result.figures
    longest = [figures[f"longest_{name}"] for name in LONGEST]
    assert longest[0] < longest[1] < longest[2] < longest[3]
    assert longest[3] < longest[4]
    printed = capsys.readouterr().out
    assert "optimizer state" in printed
    assert "tokens a tile" in printed
    assert "longest sequence" in printed


@pytest.mark.slow
def test_plan_counts_what_does_not_depend_on_the_sequence(folder):
    result = ended("train plan", f"model={folder}", "device_memory=200MiB", "model.dtype=float32")
    row = next(row for row in result.rows if row["training"] == "mst")
    module = tiny_model("llama", 96).module
    size = sum(weight.numel() for weight in module.parameters()) * 4
    assert row["weights_bytes"] == row["gradients_bytes"] == size
    assert row["optimizer_bytes"] == 2 * size


@pytest.mark.slow
def test_longest_sequence_just_fits(folder):
    """One more step does not."""
    longest = ended("train plan", f"model={folder}", "device_memory=60MiB").figures["longest_mst"]
    for more, fits in ((0, True), (512, False)):
        result = ended(
            "train plan", f"model={folder}", "device_memory=60MiB", f"seq_len={longest + more}"
        )
        row = next(row for row in result.rows if row["training"] == "mst")
        assert row["fits"] is fits


@pytest.mark.slow
def test_plan_of_the_issues_model_needs_no_network():
    """The shape of Llama 3.1 8B: mini-sequences reach several times further than checkpoints."""
    result = ended(
        "train plan", "model=meta-llama/Llama-3.1-8B", "seq_len=60000", "device_memory=80GiB",
        "training.optimizer_in_backward=true",
    )  # fmt: skip
    figures = result.figures
    assert figures["longest_mst"] > 60_000
    assert figures["longest_mst_offload"] > 2 * figures["longest_mst"]
    assert figures["longest_mst_faithful"] < figures["longest_mst"]


@pytest.mark.parametrize("name", PUBLISHED)
def test_shapes_are_those_of_the_specification(name):
    wanted = {
        "meta-llama/Meta-Llama-3-8B": (4096, 14336, 128256, 32),
        "meta-llama/Llama-2-7b-hf": (4096, 11008, 32000, 32),
        "mistralai/Mistral-7B-v0.3": (4096, 14336, 32768, 32),
        "Qwen/Qwen2-7B": (3584, 18944, 152064, 28),
        "google/gemma-2-9b": (3584, 14336, 256000, 42),
    }[name]
    found = shape_config(name)
    sizes = (found.hidden_size, found.intermediate_size, found.vocab_size, found.num_hidden_layers)
    assert sizes == wanted


def test_every_shape_can_be_read():
    found = {shape_config(name).model_type for name in NAMES}
    assert found == {"llama", "mistral", "qwen2", "gemma2"}


@pytest.mark.parametrize(
    ("overrides", "wrong"),
    [
        (["model=meta-llama/Llama-9"], "did you mean"),
        (["device_memory=many"], "size"),
        (["seq_len=0"], "seq_len"),
        (["model.dtype=int3"], "dtype"),
        (["optimizer=adamv"], "adamw"),
        (["margin=2"], "margin"),
        (["training.mlp.tile_tokens=-1"], "tile_tokens"),
        (["training.head.impl=liget"], "liger"),
        (["training.budget.bytes=lots"], "budget"),
        (["training.head.label_smoothing=1"], "label_smoothing"),
    ],
)
def test_bad_input_of_plan_is_one_line(overrides, wrong):
    with pytest.raises(UserError, match=wrong) as error:
        ended("train plan", *overrides)
    assert "\n" not in str(error.value)


def test_a_broken_config_is_one_line(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "no_such_type"}))
    with pytest.raises(UserError, match="cannot be read"):
        ended("train plan", f"model={tmp_path}")


def test_inspect_says_what_is_tiled(folder):
    result = ended("train inspect", f"model={folder}", "training.mlp.tile_tokens=32")
    states = {row["module"]: row["state"] for row in result.rows}
    assert states["model.layers.*.mlp"] == "tiled"
    assert states["lm_head"] == "chunked"
    assert result.figures["tiled_modules"] == 3


def test_inspect_of_plain_training_says_that_nothing_is_done(folder, capsys):
    ended("train inspect", f"model={folder}", "training=plain")
    assert "leaves every module" in capsys.readouterr().out


def test_inspect_of_a_missing_model_is_one_line():
    with pytest.raises(UserError):
        ended("train inspect", "model=./no/such/folder")
