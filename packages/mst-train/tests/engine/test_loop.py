"""The loop trains as a loop written out by hand does."""

import math

import pytest
import torch
from fivefold import UserError
from fivefold_lm.testing import tiny_model
from fivefold_mst_train import train
from fivefold_mst_train.config import LayerCheckpointConfig, PlainConfig
from fivefold_mst_train.engine.config import (
    OptimizerConfig,
    OptimizerKind,
    Schedule,
    TrainConfig,
)
from fivefold_mst_train.engine.data.blocks import IGNORED, Blocks
from fivefold_mst_train.engine.data.order import Order
from fivefold_mst_train.engine.data.tokens import Tokens
from fivefold_mst_train.engine.language import LanguageTrainee
from fivefold_mst_train.engine.optimizers import Optimizers, share_of_rate
from fivefold_mst_train.engine.ranks import Ranks
from fivefold_mst_train.mst.methods import build_checkpoint, build_plain
from torch.nn import functional as F

PLAIN = build_plain(PlainConfig())


def by_hand(model, blocks, steps, batch, accumulate, config):
    """Train with nothing of ours but the order of the blocks."""
    decayed = [w for w in model.parameters() if w.ndim > 1]
    others = [w for w in model.parameters() if w.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": config.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ],
        betas=(config.beta1, config.beta2),
        eps=config.eps,
    )
    order, losses = Order(blocks, range(len(blocks)), batch, accumulate), []
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = config.lr * share_of_rate(config, (step + 0.5) / steps)
        rows = [order.step(step).batches[micro] for micro in range(accumulate)]
        ids, labels = (torch.cat([getattr(r, n) for r in rows]) for n in ("input_ids", "labels"))
        logits = model(input_ids=ids, use_cache=False).logits
        loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)
        loss.backward()
        if config.clip:
            torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses


def uneven(seed=0):
    """Blocks whose counts of labels differ widely."""
    source = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, 64, (321,), generator=source).int()
    learnt = torch.rand(321, generator=source) < torch.linspace(0.05, 1, 321)
    return Blocks(Tokens(ids, learnt, torch.zeros(321, dtype=torch.bool)), 16)


@pytest.mark.parametrize(("batch", "accumulate"), [(1, 1), (3, 1), (1, 4), (2, 3)])
@pytest.mark.parametrize("clip", [0.0, 0.5])
def test_training_is_that_of_a_loop_written_out(model, batch, accumulate, clip):
    config = OptimizerConfig(lr=3e-3, weight_decay=0.1, clip=clip, schedule=Schedule.LINEAR)
    blocks = uneven()
    settings = TrainConfig(steps=5, batch_size=batch, accumulate=accumulate)
    twin = tiny_model(vocab=64, eos_token_id=None).module.double().train().requires_grad_(True)
    wanted = by_hand(twin, blocks, 5, batch, accumulate, config)
    found = [report.loss for report in train(model, blocks, PLAIN, settings, config)]
    assert found == pytest.approx(wanted, rel=1e-6)  # transformers' own loss is float32
    for own, other in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-3, atol=1e-6)


def test_accumulated_batches_weigh_every_label_alike(model):
    """Four batches of one row are one batch of four rows, also where counts of labels differ."""
    config, blocks = OptimizerConfig(lr=1e-3, clip=0.0), uneven(1)
    one = TrainConfig(steps=3, batch_size=4)
    four = TrainConfig(steps=3, batch_size=1, accumulate=4)
    twin = tiny_model(vocab=64, eos_token_id=None).module.double().train().requires_grad_(True)
    together = [r.loss for r in train(model, blocks, PLAIN, one, config)]
    apart = [r.loss for r in train(twin, blocks, PLAIN, four, config)]
    assert apart == pytest.approx(together, rel=1e-6)


def test_a_method_is_taken_off_when_training_ends_early(model, blocks):
    before = dict(vars(model))
    running = train(model, blocks, build_checkpoint(LayerCheckpointConfig()))
    next(running)
    running.close()
    assert set(vars(model)) == set(before)


def test_bfloat16_autocast_trains_float32_weights(blocks):
    model = tiny_model(vocab=64, eos_token_id=None).module.train().requires_grad_(True)
    twin = tiny_model(vocab=64, eos_token_id=None).module.train().requires_grad_(True)
    exact = [r.loss for r in train(model, blocks, PLAIN, TrainConfig(steps=3))]
    settings = TrainConfig(steps=3, autocast=True)
    rounded = [r.loss for r in train(twin, blocks, PLAIN, settings)]
    assert rounded != exact
    assert rounded == pytest.approx(exact, rel=0.02)
    assert {weight.dtype for weight in twin.parameters()} == {torch.float32}


def test_a_loss_that_is_no_number_ends_the_run(model, blocks):
    with torch.no_grad():
        model.lm_head.weight.fill_(math.nan)
    with pytest.raises(UserError, match="the loss of step 1 is nan"):
        list(train(model, blocks, PLAIN, TrainConfig(steps=3)))


@pytest.mark.parametrize(
    ("config", "line"),
    [
        (OptimizerConfig(), r"is nan \(optimizer\.lr=5e-05\); lower it, and resume"),
        (OptimizerConfig(lr=0.5, clip=0.0), r"\(optimizer\.lr=0\.5\); .* set optimizer\.clip=1, "),
    ],
)
def test_the_rate_that_was_taken_is_named_with_what_helps(model, blocks, config, line):
    with torch.no_grad():
        model.lm_head.weight.fill_(math.nan)
    with pytest.raises(UserError, match=line):
        list(train(model, blocks, PLAIN, TrainConfig(steps=1), config))
    with pytest.raises(UserError, match=r"float16 overflows.*\(model\.dtype=float16\)"):
        list(train(model.half(), blocks, PLAIN, TrainConfig(steps=1), config))


def test_training_by_the_clock_ends_by_the_clock(model, blocks):
    reports = list(train(model, blocks, PLAIN, TrainConfig(minutes=0.5 / 60)))
    assert sum(report.seconds for report in reports) >= 0.5
    assert sum(report.seconds for report in reports[:-1]) < 0.5
    assert reports[-1].lr < reports[len(reports) // 2].lr


def test_perplexity_is_that_of_the_logits(model, blocks):
    trainee = LanguageTrainee(model, PLAIN.apply(model), torch.device("cpu"))
    batches = [blocks.batch([block]) for block in range(5)]
    found = trainee.evaluate(batches, Ranks())
    summed = torch.zeros((), dtype=torch.float64)
    right = 0
    for batch in batches:
        logits = model(input_ids=batch.input_ids, use_cache=False).logits[0].detach()
        summed += F.cross_entropy(logits, batch.labels[0], reduction="sum")
        right += int((logits.argmax(-1) == batch.labels[0]).sum())
    assert found["perplexity"] == pytest.approx(math.exp(float(summed) / 80), rel=1e-9)
    assert found["accuracy"] == right / 80
    assert model.training


@pytest.mark.parametrize("schedule", list(Schedule))
def test_the_rate_rises_then_falls_to_its_end(schedule):
    config = OptimizerConfig(schedule=schedule, warmup=0.1, final=0.2)
    assert share_of_rate(config, 0.05) == pytest.approx(0.5)
    assert share_of_rate(config, 0.1) == pytest.approx(1.0)
    middle = {"constant": 1.0, "linear": 0.6, "cosine": 0.6}[schedule]
    assert share_of_rate(config, 0.55) == pytest.approx(middle)
    last = {"constant": 1.0, "linear": 0.2, "cosine": 0.2}[schedule]
    assert share_of_rate(config, 1.0) == share_of_rate(config, 7.0) == pytest.approx(last)


def test_cosine_is_above_linear_in_the_first_half_and_below_in_the_second():
    line, curve = (
        OptimizerConfig(schedule=s, warmup=0.0) for s in (Schedule.LINEAR, Schedule.COSINE)
    )
    assert share_of_rate(curve, 0.25) > share_of_rate(line, 0.25)
    assert share_of_rate(curve, 0.75) < share_of_rate(line, 0.75)


def test_muon_steps_the_layers_matrices_and_adamw_the_rest(model):
    config = OptimizerConfig(name=OptimizerKind.MUON)
    members = Optimizers(model.named_parameters(), config, 1e-3).members
    muon, adamw = (member.optimizer for member in members)
    assert isinstance(muon, torch.optim.Muon)
    names = {weight: name for name, weight in model.named_parameters()}
    inner = {names[w] for group in muon.param_groups for w in group["params"]}
    outer = {names[w] for group in adamw.param_groups for w in group["params"]}
    assert inner == {n for n in names.values() if "proj" in n}
    assert inner | outer == set(names.values())


@pytest.mark.parametrize("kind", list(OptimizerKind))
def test_states_put_back_make_the_same_next_step(kind, blocks):
    config = OptimizerConfig(name=kind, lr=1e-3)

    def fresh():
        return tiny_model(vocab=64, eos_token_id=None).module.train().requires_grad_(True)

    def stepped(model, optimizers, step):
        ids = blocks.batch([step]).input_ids
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        optimizers.step()
        optimizers.zero_grad()

    model = fresh()
    optimizers = Optimizers(model.named_parameters(), config, 1e-3)
    stepped(model, optimizers, 0)
    twin = fresh()
    twin.load_state_dict(model.state_dict())
    others = Optimizers(twin.named_parameters(), config, 1e-3)
    others.restore(optimizers.state())
    for step in (1, 2):
        stepped(model, optimizers, step)
        stepped(twin, others, step)
    for own, other in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(own, other)


def test_states_of_another_model_are_refused(model):
    optimizers = Optimizers(model.named_parameters(), OptimizerConfig(), 1e-3)
    with pytest.raises(ValueError, match="states of other parameters: stranger"):
        optimizers.restore({"stranger/exp_avg": torch.zeros(1)})


def test_a_model_of_which_nothing_is_trained_is_refused(model):
    with pytest.raises(UserError, match="no parameter is trained"):
        Optimizers(model.requires_grad_(False).named_parameters(), OptimizerConfig(), 1e-3)
