"""Opening a training run: from settings to a `Session`, for either objective."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from fivefold import Run, UserError
from fivefold_lm import RuntimeConfig, apply_runtime, free_bytes
from fivefold_lm.offload.sizes import in_units
from torch import nn
from transformers import PreTrainedModel

from ..protocol import TrainingHandle
from .checkpoints import Checkpoint, Checkpoints, read_checkpoint
from .config import Objective, Parallel, TrainConfig
from .distill.opening import open_student
from .language import LanguageTrainee
from .loop import Budget, Loop
from .memory import PeakMeter
from .metrics import Metrics
from .models import add_adapters, open_model
from .optimizers import Optimizers
from .prepared import FULL_RATE, LORA_RATE, Nodes, Prepared, Split, check_length
from .ranks import Ranks, sharded
from .reading import read_blocks, read_evaluation
from .session import Session

CHECKPOINTS = "checkpoints"


@contextmanager
def open_session(config: TrainConfig, run: Run, ranks: Ranks) -> Iterator[Session]:
    """Open a training run; the method is taken off the model when it closes.

    Args:
        config: the task's settings.
        run: of the task.
        ranks: the processes.

    Raises:
        UserError: whatever of model, data, method or checkpoint is wrong, in every process.
    """
    nodes = Nodes.of(config, run)
    ranks.agree(nodes.shared(run))
    apply_runtime(run.node("runtime", RuntimeConfig))
    output = Path(config.output).expanduser() if config.output else run.folder
    with ExitStack() as stack:
        yield _open(nodes, run, ranks, output, stack)


def _open(nodes: Nodes, run: Run, ranks: Ranks, output: Path, stack: ExitStack) -> Session:
    config = nodes.train
    torch.manual_seed(config.seed)  # adapters begin the same in every process
    with ranks.together():
        checkpoint = read_checkpoint(config.resume) if config.resume else None
    prepare = open_student if config.objective is Objective.DISTILL else _open_language
    ready = prepare(nodes, run, ranks, checkpoint, output, _say(run, ranks))
    stack.enter_context(ready.handle)
    _warn_of_memory(ready, _say(run, ranks))
    optimizers = Optimizers(
        ready.module.named_parameters(),
        nodes.optimizer,
        nodes.optimizer.lr or ready.rate,
        ready.handle.optimizer,
    )
    device = next(ready.module.parameters()).device
    keeps = not ready.handle.steps_in_backward
    meter = PeakMeter(ready.module, device, config.memory, keeps)
    sharing = ready.handle.sequence_parallel
    loop: Loop[Any] = Loop(
        ready.trainee,
        ready.split.order(config, ranks, sharing),
        optimizers,
        nodes.optimizer,
        Budget(config.steps, config.minutes),
        config.seed,
        ranks,
        watch=meter.watch,
    )
    session = Session(
        config=config,
        loop=loop,
        settings=_must_stay(nodes, ready, ranks.size // sharing),
        checkpoints=Checkpoints(output / CHECKPOINTS, config.keep, ranks),
        metrics=None,
        save_model=ready.save,
        evaluate=_evaluation(ready, config, ranks, sharing),
        meter=meter,
        predicted=ready.predicted,
    )
    if checkpoint is not None:
        session.resume(checkpoint)
        _say(run, ranks)(f"resumed from {checkpoint.folder}, step {loop.progress.step}")
    with ranks.together():
        if ranks.is_first:
            session.metrics = stack.enter_context(
                Metrics(output, run, config.tensorboard, loop.progress.step)
            )
    return session


def _open_language(
    nodes: Nodes,
    run: Run,
    ranks: Ranks,
    checkpoint: Checkpoint | None,
    output: Path,
    say: Callable[[str], None],
) -> Prepared:
    """Open a model that learns the next token; nothing is kept in `output` but checkpoints."""
    config = nodes.train
    device = ranks.device(nodes.model.device)
    whole = checkpoint.folder if checkpoint is not None and not nodes.lora.rank else None
    with ranks.together():
        model = open_model(nodes.model, device, say, whole)
        check_length(config.seq_len, model.context_len)
        if nodes.lora.rank:
            add_adapters(model, nodes.lora)
            if checkpoint is not None:
                model.adopt_adapters(checkpoint.folder)
        given = (nodes.data, model.tokenizer, model.vocab_size, config.seq_len)
        split = Split.of(read_blocks(*given), nodes.data.eval_share, read_evaluation(*given))
        say(str(split))
    handle: TrainingHandle = run.build("training").apply(model.module)
    module = _together(model.module, handle, config, ranks)
    trainee = LanguageTrainee(module, handle, model.device, config.autocast)
    return Prepared(
        trainee=trainee,
        module=model.module,
        handle=handle,
        split=split,
        rate=LORA_RATE if nodes.lora.rank else FULL_RATE,
        evaluate=trainee.evaluate,
        save=lambda folder: model.save(folder, ranks),
        fingerprint=model.fingerprint if nodes.lora.rank else "",
        # neither masks of packed documents nor gathered shards are planned for
        predicted=None
        if nodes.data.mask_documents or (ranks.size > 1 and config.parallel is Parallel.FSDP2)
        else handle.predicted_peak(config.batch_size, config.seq_len),
    )


def _together(
    model: PreTrainedModel, handle: TrainingHandle, config: TrainConfig, ranks: Ranks
) -> nn.Module:
    """Return the module that processes train together.

    Raises:
        UserError: the processes cannot be divided among sequences.
    """
    sharing = handle.sequence_parallel
    if ranks.size % sharing:
        raise UserError(
            f"{ranks.size} processes cannot share sequences in groups of {sharing}",
            setting="training.sequence_parallel",
            value=sharing,
            remedy="start a multiple of it with torchrun --nproc-per-node",
        )
    if config.seq_len % sharing:
        raise UserError(
            f"{config.seq_len} tokens cannot be cut into {sharing} equal parts",
            setting="seq_len",
            value=config.seq_len,
            remedy=f"give a multiple of {sharing}",
        )
    if ranks.size > 1 and config.parallel is Parallel.FSDP2:
        sharded(model, ranks)
        return model
    return ranks.average(model)


def _evaluation(
    ready: Prepared, config: TrainConfig, ranks: Ranks, sharing: int
) -> Callable[[], dict[str, float]] | None:
    """Return what evaluates, each process its share of the held-out blocks; None: none are."""
    chosen = ready.split.chosen(config.eval_blocks)
    if not chosen:
        return None
    rank, size = ranks.rank // sharing, ranks.size // sharing
    # every process calls the model as often as the others: under FSDP2 they gather weights together
    rounds = -(-len(chosen) // size)
    own = chosen[rank::size]

    def evaluate() -> dict[str, float]:
        blocks = ready.split.evaluation
        batches = (
            blocks.batch([own[place]]) if place < len(own) else blocks.batch([chosen[0]]).blank()
            for place in range(rounds)
        )
        return ready.evaluate(batches, ranks)

    return evaluate


def _must_stay(nodes: Nodes, ready: Prepared, size: int) -> dict[str, Any]:
    """Return what a resumed run must have in common with the one before."""
    config = nodes.train
    return {
        "objective": config.objective.value,
        "teacher": config.teacher,
        "seq_len": config.seq_len,
        "global_batch": config.batch_size * config.accumulate * size,
        "seed": config.seed,
        "model.dtype": nodes.model.dtype,
        "optimizer.name": nodes.optimizer.name.value,
        "lora.rank": nodes.lora.rank,
        "lora.targets": list(nodes.lora.targets),
        "data": ready.split.blocks.fingerprint(),
        "held_out": len(ready.split.held_out),
        "model": ready.fingerprint,
    }


def _warn_of_memory(ready: Prepared, say: Callable[[str], None]) -> None:
    """Say that a step is expected to take more memory than there is, before it does."""
    if ready.predicted is None:
        return
    free = free_bytes(next(ready.module.parameters()).device)
    if ready.predicted > free:
        say(
            f"a step is expected to take {in_units(ready.predicted)} beside weights and optimizer, "
            f"and {in_units(free)} are free: lower batch_size or seq_len, take training=mst, or "
            "see `fivefold train plan`"
        )


def _say(run: Run, ranks: Ranks) -> Callable[[str], None]:
    """Return what the first process says things with; the others are silent."""
    return run.note if ranks.is_first else (lambda _: None)
