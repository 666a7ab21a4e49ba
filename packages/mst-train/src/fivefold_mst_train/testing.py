"""The exam that every training method sits.

A third party's whole test: `class TestMine(TrainingMethodSuite): overrides = ["training=mine"]`.
"""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from fivefold import Run
from fivefold.testing import compose
from fivefold_lm.testing import tiny_model
from torch import Tensor, nn
from torch.nn import functional as F

from .protocol import TrainingHandle, TrainingMethod

IGNORED = -100
HEAVY = ("torch", "transformers", "jaxtyping", "numpy")


def training_batch(
    vocab: int, batch: int = 3, tokens: int = 17, seed: int = 1, ignored: str = "prefix"
) -> dict[str, Tensor]:
    """Return a batch as the engine calls a model with it.

    Args:
        vocab: tokens are below it.
        batch: rows.
        tokens: of a row.
        seed: of the tokens.
        ignored: which labels count for nothing: `none`, `prefix` (a third of the first row) or
            `all`.
    """
    source = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, vocab, (batch, tokens), generator=source)
    labels = F.pad(ids[:, 1:], (0, 1), value=IGNORED)
    if ignored == "prefix":
        labels[0, : tokens // 3] = IGNORED
    if ignored == "all":
        labels[:] = IGNORED
    count = (labels != IGNORED).sum()
    return {
        "input_ids": ids,
        "labels": labels,
        "shift_labels": labels,
        "num_items_in_batch": count.clamp(min=1),
    }


def exact_norms(model: nn.Module) -> nn.Module:
    """Let a float64 model norm in float64, and return it.

    Llama's own norm works in float32 whatever it is given: where that rounds, an error of 1e-16
    becomes one of 1e-7.
    """
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child).__name__ in ("LlamaRMSNorm", "Qwen2RMSNorm", "MistralRMSNorm"):
                theirs: Any = child
                norm = nn.RMSNorm(theirs.weight.shape[0], eps=theirs.variance_epsilon)
                norm.weight = theirs.weight
                setattr(module, name, norm)
    return model


def plain_loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Compute the loss of a batch from logits and torch's cross entropy: the oracle."""
    given = {name: batch[name] for name in ("input_ids", "position_ids") if name in batch}
    logits = model(**given, use_cache=False).logits
    summed = F.cross_entropy(
        logits.flatten(0, 1), batch["shift_labels"].flatten(), reduction="sum", ignore_index=IGNORED
    )
    return summed / batch["num_items_in_batch"]


def gradients(model: nn.Module) -> dict[str, Tensor]:
    """Return every parameter's gradient by name; zeros where there is none."""
    return {
        name: torch.zeros_like(weight) if weight.grad is None else weight.grad.clone()
        for name, weight in model.named_parameters()
        if weight.requires_grad
    }


def worst_error(got: dict[str, Tensor], wanted: dict[str, Tensor]) -> float:
    """Return the largest difference between gradients, relative to the largest of their model."""
    assert got.keys() == wanted.keys()
    scale = max(float(tensor.abs().max()) for tensor in wanted.values()) or 1.0
    return max(float((got[name] - wanted[name]).abs().max()) for name in wanted) / scale


class TrainingMethodSuite:
    """What every exact training method must hold; `overrides` names it and its settings."""

    overrides: ClassVar[Sequence[str]] = ()
    """What the command line would be given."""
    task: ClassVar[str] = "train inspect"
    """A task that offers the method."""
    arch: ClassVar[str] = "llama"
    """The tiny model it is examined on."""
    vocab: ClassVar[int] = 96
    tolerance: ClassVar[float] = 1e-12
    """Largest relative difference of gradients in float64."""

    def compose(self) -> Run:
        """Return the run of these overrides."""
        return compose(self.task, list(self.overrides))

    def method(self) -> TrainingMethod:
        """Build the method under test."""
        method: TrainingMethod = self.compose().build("training")
        return method

    def model(self) -> nn.Module:
        """Return a tiny model in float64, the same at every call."""
        module: nn.Module = tiny_model(self.arch, self.vocab, eos_token_id=None).module
        module.config.max_position_embeddings = 512  # type: ignore[union-attr]
        for each in module.modules():
            if isinstance(each, nn.Dropout):
                each.p = 0.0  # what is drawn for a tile is not what is drawn for all rows
        return exact_norms(module.double()).train()

    def step(self, model: nn.Module, batch: dict[str, Tensor], scale: float = 1.0) -> Tensor:
        """Run forward and backward; return the loss."""
        loss: Tensor = model(**batch, use_cache=False).loss
        (loss * scale).backward()
        return loss.detach()

    def expected(self, batches: Sequence[dict[str, Tensor]]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the last loss and the added-up gradients of an untouched model."""
        model = self.model()
        for batch in batches:
            loss = plain_loss(model, batch)
            loss.backward()
        return loss.detach(), gradients(model)

    def _assert_equal(self, batches: Sequence[dict[str, Tensor]]) -> None:
        model = self.model()
        with self.method().apply(model):
            for batch in batches:
                loss = self.step(model, batch)
        wanted_loss, wanted = self.expected(batches)
        assert abs(float(loss) - float(wanted_loss)) <= self.tolerance * (
            1 + abs(float(wanted_loss))
        )
        assert worst_error(gradients(model), wanted) < self.tolerance

    def test_loss_and_gradients_are_those_of_plain_training(self) -> None:
        """One batch with labels that count for nothing."""
        self._assert_equal([training_batch(self.vocab)])

    def test_a_row_of_one_token_trains(self) -> None:
        """Its only label is ignored."""
        self._assert_equal([training_batch(self.vocab, batch=1, tokens=1)])

    def test_micro_steps_add_up(self) -> None:
        """Gradient accumulation: with `.grad` there already."""
        self._assert_equal([training_batch(self.vocab, seed=seed) for seed in range(4)])

    def test_a_batch_without_labels_has_loss_zero(self) -> None:
        """Finite, with gradients of zero."""
        model, batch = self.model(), training_batch(self.vocab, ignored="all")
        with self.method().apply(model):
            loss = self.step(model, batch)
        assert float(loss) == 0.0
        assert all(not grad.any() for grad in gradients(model).values())

    def test_a_scaled_loss_scales_gradients(self) -> None:
        """As a GradScaler does."""
        model, batch = self.model(), training_batch(self.vocab)
        with self.method().apply(model):
            self.step(model, batch, scale=3.0)
        _, wanted = self.expected([batch])
        tripled = {name: 3 * grad for name, grad in wanted.items()}
        assert worst_error(gradients(model), tripled) < self.tolerance

    def test_every_gradient_arrives_once(self) -> None:
        """Each parameter's post-accumulate hook fires once a backward."""
        model, fired = self.model(), []
        hooks = [
            weight.register_post_accumulate_grad_hook(lambda _, name=name: fired.append(name))
            for name, weight in model.named_parameters()
        ]
        with self.method().apply(model):
            self.step(model, training_batch(self.vocab))
        for hook in hooks:
            hook.remove()
        assert sorted(fired) == sorted(name for name, _ in model.named_parameters())

    def test_two_runs_are_bit_for_bit_the_same(self) -> None:
        """Tiles are taken in a fixed order."""
        found = []
        for _ in range(2):
            model = self.model()
            with self.method().apply(model):
                self.step(model, training_batch(self.vocab))
            found.append(gradients(model))
        assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])

    def test_scores_of_evaluation_are_those_of_the_logits(self) -> None:
        """Likelihood, accuracy and count, without gradients."""
        model, batch = self.model().eval(), training_batch(self.vocab)
        labels = batch["shift_labels"]
        with torch.no_grad():
            logits = model(input_ids=batch["input_ids"], use_cache=False).logits
            with self.method().apply(model) as handle:
                scores = handle.scores(model(**batch, use_cache=False), labels)
        nll = F.cross_entropy(
            logits.flatten(0, 1), labels.flatten(), reduction="sum", ignore_index=IGNORED
        )
        torch.testing.assert_close(scores.nll.double(), nll, rtol=1e-12, atol=1e-12)
        assert int(scores.num_tokens) == int((labels != IGNORED).sum())
        assert int(scores.num_correct) == int((logits.argmax(-1) == labels).sum())

    def test_revert_leaves_the_model_bit_for_bit_as_it_was(self) -> None:
        """Names, weights, settings, attributes, logits."""
        model = self.model()
        before = _state(model)
        batch = training_batch(self.vocab)
        logits = model(input_ids=batch["input_ids"]).logits.detach()
        handle: TrainingHandle = self.method().apply(model)
        self.step(model, batch)
        handle.revert()
        handle.revert()
        assert _state(model) == before
        assert torch.equal(model(input_ids=batch["input_ids"]).logits.detach(), logits)

    def test_names_of_parameters_stay(self) -> None:
        """Checkpoints written with the method on load without it."""
        model = self.model()
        names = list(model.state_dict())
        with self.method().apply(model):
            assert list(model.state_dict()) == names

    def test_the_describing_module_is_light(self) -> None:
        """Its package can be listed where torch is missing."""
        module = type(self.compose().settings("training")).__module__
        block = "import sys; sys.modules.update(dict.fromkeys({!r})); import {}"
        ended = subprocess.run(
            [sys.executable, "-c", block.format(HEAVY, module)], capture_output=True, text=True
        )
        assert ended.returncode == 0, ended.stderr


def _state(model: nn.Module) -> dict[str, Any]:
    """Return what a module and all below it hold, in a form that can be compared."""
    config: Any = model.config
    found: dict[str, Any] = {"config": copy.deepcopy(config).to_dict()}
    for name, module in model.named_modules():
        plain = {key: repr(value) for key, value in vars(module).items() if _is_plain(value)}
        found[name] = (type(module), sorted(vars(module)), plain)
    for name, weight in model.state_dict().items():
        found[f"{name}="] = weight.double().flatten().tolist()
    return found


def _is_plain(value: object) -> bool:
    return isinstance(value, bool | int | float | str | type(None))


__all__ = [
    "IGNORED",
    "TrainingMethodSuite",
    "gradients",
    "plain_loss",
    "training_batch",
    "worst_error",
]
