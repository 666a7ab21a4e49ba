"""What the patch refuses, with a way out that is one; what it plans for."""

import re

import jaxtyping
import pytest
from fivefold import UserError
from fivefold_lm.testing import tiny_model
from fivefold_mst_train import HeadConfig, MlpConfig, MstConfig, apply_mst
from fivefold_mst_train.testing import training_batch


@pytest.fixture(autouse=True)
def untyped(monkeypatch):
    """Let wrong types reach our own refusals: annotations that are executed refuse them first."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


VOCAB = 96
BATCH = training_batch(VOCAB)


def model():
    return tiny_model("llama", VOCAB, eos_token_id=None).module.train()


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("nothing", "no module of the model has this name"),
        ("self_attn", "takes more than one tensor"),
        ("layers.0", "takes more than one tensor"),
        ("input_layernorm", "tiles of it save nothing"),
        ("embed_tokens", "takes tokens, not rows"),
    ],
)
def test_a_name_of_no_token_wise_module_is_refused(name, wrong):
    module = model()
    config = MstConfig(mlp=MlpConfig(modules=[name]))
    with pytest.raises(UserError, match=rf"{wrong} \(training\.mlp\.modules={name}\)"):
        apply_mst(module, config)
    assert not any("forward" in part.__dict__ for part in module.modules())


def test_a_module_named_by_its_layers_number_is_planned_for_too():
    config = MstConfig(mlp=MlpConfig(tile_tokens=7, modules=["layers.2.mlp"]))
    with apply_mst(model(), config) as handle:
        assert handle.predicted_peak(1, 21)


@pytest.mark.parametrize("given", ["smollm2", None, 3])
def test_a_name_in_place_of_a_model_is_refused(given):
    with pytest.raises(UserError, match=r"on a module of torch.*from_pretrained"):
        apply_mst(given)


def test_settings_of_another_kind_are_refused():
    with pytest.raises(UserError, match=r"an MstConfig, not a dict"):
        apply_mst(model(), {"mlp": {"tile_tokens": 7}})
    with pytest.raises(UserError, match=r"no whole number \(training\.mlp\.tile_tokens=7\.5\)"):
        apply_mst(model(), tile_tokens=7.5)


@pytest.mark.parametrize("impl", ["eager", "torch"])
def test_fewer_labels_than_positions_are_refused(impl):
    module, ids = model(), BATCH["input_ids"]
    count = ids.numel()
    with (
        apply_mst(module, MstConfig(head=HeadConfig(impl=impl))),
        pytest.raises(UserError, match=rf"{count - len(ids)} labels for {count} positions"),
    ):
        module(input_ids=ids, labels=ids[:, 1:])


def test_what_is_left_out_of_the_head_is_planned_for():
    every, some = (MstConfig(head=HeadConfig(drop_ignored=drop)) for drop in (False, True))
    peaks = []
    for config in (every, some):
        with apply_mst(model(), config) as handle:
            peaks.append(handle.predicted_peak(1, 21))
    assert peaks[0] == peaks[1] is not None


@pytest.mark.parametrize("text", ["1KiB", "100B"])
def test_the_budget_that_is_advised_is_large_enough(text):
    config, given = MstConfig(), [text]
    while (line := refusal(config, given[-1])) and len(given) < 4:
        assert "min_tile" not in line  # it is 1 on a CPU
        given.append(re.search(r"give (\w+) or more", line)[1])
    assert 2 <= len(given) <= 3  # advised for the MLP, for the head


def refusal(config, text):
    config.budget.bytes = text
    try:
        apply_mst(model(), config)
    except UserError as error:
        return str(error)
    return ""
