"""Stepping in backward: the same weights, gradients dropped, schedules obeyed, states restored."""

import pytest
import torch
from fivefold_lm.testing import tiny_model
from fivefold_mst_train import MstConfig, apply_mst
from fivefold_mst_train.config import HeadConfig, MlpConfig
from fivefold_mst_train.testing import training_batch
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

SETTINGS = {"mlp": MlpConfig(tile_tokens=7), "head": HeadConfig(chunk_tokens=5)}


def model():
    return tiny_model("llama", 96, eos_token_id=None).module.train()


def train(in_backward, steps=3, optimizer=None, module=None):
    module = module or model()
    config = MstConfig(**SETTINGS, optimizer_in_backward=in_backward)
    with apply_mst(module, config) as handle:
        made = handle.optimizer(lambda p: AdamW(p, lr=1e-2), module.parameters())
        if optimizer is not None:
            made.load_state_dict(optimizer)
        schedule = LambdaLR(made, lambda step: 0.5**step)
        for seed in range(steps):
            module(**training_batch(96, seed=seed), use_cache=False).loss.backward()
            if in_backward:
                assert all(each.grad is None for each in module.parameters())
            made.step()
            made.zero_grad()
            schedule.step()
        state = made.state_dict()
    return module, state


def test_weights_are_those_of_stepping_afterwards():
    got, _ = train(True)
    wanted, _ = train(False)
    for one, other in zip(got.parameters(), wanted.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)


def test_state_is_restored():
    """The second step after it is, bit for bit, the second step without a break."""

    def step(made, module, seed):
        module(**training_batch(96, seed=seed), use_cache=False).loss.backward()
        made.step()

    config = MstConfig(**SETTINGS, optimizer_in_backward=True)
    straight, broken = model(), model()
    with apply_mst(straight, config) as handle:
        made = handle.optimizer(lambda p: AdamW(p, lr=1e-2), straight.parameters())
        step(made, straight, 0)
        step(made, straight, 1)
        assert made.state.keys() == set(straight.parameters())
    with apply_mst(broken, config) as handle:
        made = handle.optimizer(lambda p: AdamW(p, lr=1e-2), broken.parameters())
        step(made, broken, 0)
        state = made.state_dict()
    with apply_mst(broken, config) as handle:
        made = handle.optimizer(lambda p: AdamW(p, lr=1.0), broken.parameters())
        made.load_state_dict(state)
        step(made, broken, 1)
    for one, other in zip(broken.parameters(), straight.parameters(), strict=True):
        assert torch.equal(one, other)


def test_after_revert_gradients_stay():
    module, _ = train(True, steps=1)
    module(**training_batch(96), use_cache=False).loss.backward()
    assert all(each.grad is not None for each in module.parameters())


def test_handle_says_so():
    with apply_mst(model(), MstConfig(**SETTINGS, optimizer_in_backward=True)) as handle:
        assert handle.steps_in_backward
    with apply_mst(model(), MstConfig(**SETTINGS)) as handle:
        assert not handle.steps_in_backward
        assert isinstance(handle.optimizer(lambda p: AdamW(p), model().parameters()), AdamW)


@pytest.mark.parametrize("tied", [True, False])
def test_tied_weights_are_stepped_once(tied):
    module = tiny_model("llama", 96, eos_token_id=None, tie_word_embeddings=tied).module.train()
    steps = []
    with apply_mst(module, MstConfig(**SETTINGS, optimizer_in_backward=True)) as handle:
        made = handle.optimizer(lambda p: AdamW(p, lr=1e-2), module.parameters())
        module(**training_batch(96), use_cache=False).loss.backward()
        steps = [each["step"] for each in made.state_dict()["state"].values()]
    assert {float(step) for step in steps} == {1.0}
