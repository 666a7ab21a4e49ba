"""The exam of every training method, on several architectures."""

import pytest
import torch
from fivefold_mst_train.testing import TrainingMethodSuite, gradients, training_batch, worst_error

TILES = ("training.mlp.tile_tokens=7", "training.head.chunk_tokens=5")


class TestPlain(TrainingMethodSuite):
    overrides = ["training=plain"]
    tolerance = 1e-6  # transformers' own loss is in float32 whatever the model is


class TestCheckpoint(TrainingMethodSuite):
    overrides = ["training=checkpoint"]
    tolerance = 1e-6


class TestCheckpointWithOffload(TrainingMethodSuite):
    overrides = ["training=checkpoint", "training.offload=cpu"]
    tolerance = 1e-6


class TestMst(TrainingMethodSuite):
    overrides = ["training=mst", *TILES]


class TestMstThatRecomputesTheHead(TrainingMethodSuite):
    overrides = ["training=mst", *TILES, "training.head.strategy=recompute"]


class TestMstWithoutSaveFirst(TrainingMethodSuite):
    overrides = ["training=mst", *TILES, "training.mlp.save_first=false"]


class TestMstWithoutCheckpoints(TrainingMethodSuite):
    overrides = ["training=mst", *TILES, "training.checkpoint.enabled=false"]


class TestMstWithOffload(TrainingMethodSuite):
    overrides = ["training=mst", *TILES, "training.checkpoint.offload=cpu"]


class TestMstThatDropsIgnoredLabels(TrainingMethodSuite):
    overrides = ["training=mst", *TILES, "training.head.drop_ignored=true"]


class TestMstWithTorchsHead(TrainingMethodSuite):
    overrides = ["training=mst", *TILES, "training.head.impl=torch"]


class TestBlockTiling(TrainingMethodSuite):
    overrides = ["training=mst", *TILES, "training.block.enabled=true"]


class TestBlockTilingWithOffload(TrainingMethodSuite):
    overrides = [
        "training=mst",
        *TILES,
        "training.block.enabled=true",
        "training.checkpoint.offload=cpu",
    ]


class TestFaithful(TrainingMethodSuite):
    overrides = ["training=mst_faithful"]


def run(arch, overrides, batches, dtype=torch.float64):
    """Return loss and gradients of a tiny model under a method."""
    suite = TrainingMethodSuite()
    suite.arch, suite.overrides = arch, overrides
    model = suite.model().to(dtype)
    with suite.method().apply(model) as handle:
        for batch in batches:
            loss = suite.step(model, batch)
    return loss, gradients(model), handle


def wide(grads):
    return {name: grad.double() for name, grad in grads.items()}


@pytest.mark.parametrize(
    "arch", ["llama", "qwen2", "qwen3", "mistral", "gemma2", "gemma3", "gpt2", "gpt_neox", "phi"]
)
@pytest.mark.parametrize("more", [[], ["training.block.enabled=true"]], ids=["mlp", "block"])
def test_gradients_are_those_of_plain_training_on_every_architecture(arch, more):
    """In float32: norms of some architectures know no other format."""
    if more and arch in ("gpt2", "gpt_neox", "phi"):
        pytest.skip("its layers are not tiled as blocks; see the test of reports")
    batch = training_batch(96, tokens=23)
    loss, got, _ = run(arch, ["training=mst", *TILES, *more], [batch], torch.float32)
    wanted_loss, wanted, _ = run(arch, ["training=plain"], [batch], torch.float32)
    torch.testing.assert_close(loss, wanted_loss, rtol=1e-6, atol=1e-6)
    _, exact, _ = run(arch, ["training=plain"], [batch])  # as near to it as plain training is
    own, plain = (worst_error(wide(grads), wide(exact)) for grads in (got, wanted))
    assert own < 1.25 * plain + 1e-6


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("tokens", [1, 2, 17, 256, 257, 300])
@pytest.mark.parametrize("tiles", [1, 2, 7])
def test_grid_of_batches_lengths_and_tiles(rows, tokens, tiles):
    """Invariant 1 in float64: tiles that do not divide the rows, crossing rows of the batch."""
    tile = max(1, rows * tokens // tiles - 1)
    overrides = [
        "training=mst",
        f"training.mlp.tile_tokens={tile}",
        f"training.head.chunk_tokens={tile}",
    ]
    batch = training_batch(96, batch=rows, tokens=tokens)
    loss, got, _ = run("llama", overrides, [batch])
    suite = TrainingMethodSuite()
    wanted_loss, wanted = suite.expected([batch])
    torch.testing.assert_close(loss, wanted_loss, rtol=1e-12, atol=1e-12)
    assert worst_error(got, wanted) < 1e-12


def test_one_token_a_tile_is_the_same():
    """M = S."""
    overrides = ["training=mst", "training.mlp.tile_tokens=1", "training.head.chunk_tokens=1"]
    batch = training_batch(96, batch=1)
    loss, got, _ = run("llama", overrides, [batch])
    wanted_loss, wanted = TrainingMethodSuite().expected([batch])
    torch.testing.assert_close(loss, wanted_loss, rtol=1e-12, atol=1e-12)
    assert worst_error(got, wanted) < 1e-12


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_accumulated_gradients_are_the_sum(steps):
    """Invariant 2: what the reference's doubled head gradient failed."""
    batches = [training_batch(96, seed=seed) for seed in range(steps)]
    _, got, _ = run("llama", ["training=mst", *TILES], batches)
    _, wanted = TrainingMethodSuite().expected(batches)
    assert worst_error(got, wanted) < 1e-12


def test_report_names_what_is_tiled_and_why_something_is_not():
    _, _, handle = run(
        "gpt2", ["training=mst", *TILES, "training.block.enabled=true"], [training_batch(96)],
        torch.float32,
    )  # fmt: skip
    rows = {(row["state"], row["module"].split(".")[-1]) for row in handle.report()}
    assert ("tiled", "mlp") in rows
    assert ("chunked", "lm_head") in rows
    assert any(row["state"] == "skipped" and "block" in row["why"] for row in handle.report())
