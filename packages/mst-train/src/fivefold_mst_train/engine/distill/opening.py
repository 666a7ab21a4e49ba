"""Opening a distillation: teacher, student, what they read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fivefold import Run, UserError
from fivefold_lm import LanguageModel, load_model

from ...protocol import TrainingHandle
from ..checkpoints import Checkpoint
from ..config import Parallel
from ..data.blocks import Blocks
from ..data.tokens import Tokens
from ..models import TrainedModel, open_model
from ..prepared import FULL_RATE, STUDENT_RATE, Nodes, Prepared, Split, check_length
from ..ranks import Ranks
from ..reading import read_evaluation, read_tokens
from .samples import FILE, load_samples, prompts, save_samples, write_samples
from .student import frequent_words, new_student, plain_rows, write_draft
from .trainee import HiddenStates, StudentTrainee


def open_student(
    nodes: Nodes,
    run: Run,
    ranks: Ranks,
    checkpoint: Checkpoint | None,
    output: Path,
    say: Callable[[str], None],
) -> Prepared:
    """Open a student and its teacher.

    Args:
        nodes: the settings.
        run: of the task.
        ranks: the processes.
        checkpoint: to go on from.
        output: folder in which samples are kept.
        say: told what takes time.

    Raises:
        UserError: teacher, student, data or method do not fit together.
    """
    config, settings = nodes.train, nodes.distill
    _refuse_shards(nodes, ranks)
    device = ranks.device(nodes.model.device)
    with ranks.together():
        teacher = _teacher(nodes, device, say)
        taught = plain_rows(teacher.module, "teacher")
        check_length(config.seq_len, teacher.context_len)
        model = _student(nodes, teacher, checkpoint, device, say)
        rows = plain_rows(model.module, "model.name")
        _same_vocabulary(model, teacher)
        tokens = read_tokens(nodes.data, teacher.tokenizer, len(taught))
    if settings.samples:
        with ranks.together():
            path = _written(nodes, teacher, tokens, ranks, checkpoint, output, say)
    with ranks.together():
        tokens = load_samples(path) if settings.samples else tokens
        words = frequent_words(tokens.ids, len(taught), settings.words)
        blocks = Blocks(tokens, config.seq_len, nodes.data.mask_documents)
        given = (nodes.data, teacher.tokenizer, len(taught), config.seq_len)
        split = Split.of(blocks, nodes.data.eval_share, read_evaluation(*given))
    say(str(split))
    handle: TrainingHandle = run.build("training").apply(model.module)
    _refuse_sharing(handle)
    student = ranks.average(HiddenStates(model.module))
    trainee = StudentTrainee(
        student,
        rows,
        HiddenStates(teacher.module),
        taught,
        words,
        teacher.device,
        settings.temperature,
        config.autocast,
    )
    card = {"target": config.teacher, "recipe": "fivefold train objective=distill"}

    def save(folder: Path) -> None:
        model.save(folder, ranks)
        if ranks.is_first and settings.layers:
            write_draft(model.module, words, folder, {**card, "data": nodes.data.name})

    return Prepared(
        trainee=trainee,
        module=model.module,
        handle=handle,
        split=split,
        rate=STUDENT_RATE if settings.layers else FULL_RATE,
        evaluate=trainee.evaluate,
        save=save,
        fingerprint=f"{teacher.fingerprint} {settings.layers} {words.numel()}",
    )


def _teacher(nodes: Nodes, device: str, say: Callable[[str], None]) -> LanguageModel:
    """Load the teacher; what is wrong with it is said of `teacher=`, not of `model=`."""
    name = nodes.train.teacher
    try:
        return load_model(nodes.model.for_loading(name, device), say)
    except UserError as error:
        raise (error.located("teacher", name) if error.setting == "model.name" else error) from None


def _student(
    nodes: Nodes,
    teacher: LanguageModel,
    checkpoint: Checkpoint | None,
    device: str,
    say: Callable[[str], None],
) -> TrainedModel:
    """Make the student, or load it: from a checkpoint, or as `model=` names it."""
    settings = nodes.distill
    if checkpoint is None and settings.layers:
        module = new_student(teacher.module, settings.layers, nodes.train.seed)
        return TrainedModel(module, teacher.tokenizer, teacher.context_len, "")
    folder = checkpoint.folder if checkpoint is not None else None
    model = open_model(nodes.model, device, say, folder)
    if settings.layers:  # embedding and output rows stay the teacher's
        for part in ("get_input_embeddings", "get_output_embeddings"):
            getattr(model.module, part)().weight.requires_grad_(False)
    return model


def _written(
    nodes: Nodes,
    teacher: LanguageModel,
    tokens: Tokens,
    ranks: Ranks,
    checkpoint: Checkpoint | None,
    output: Path,
    say: Callable[[str], None],
) -> Path:
    """Return the file of samples; the first process writes it, unless a checkpoint has one.

    Raises:
        UserError: a prompt leaves no room for an answer.
    """
    config, settings = nodes.train, nodes.distill
    kept = checkpoint.folder.resolve().parent.parent / FILE if checkpoint is not None else None
    if kept is not None and kept.is_file():
        return kept
    if settings.prompt_len >= config.seq_len:
        raise UserError(
            f"a sample of {config.seq_len} tokens has no room after its prompt",
            setting="distill.prompt_len",
            value=settings.prompt_len,
            remedy="give fewer, or a larger seq_len",
        )
    if ranks.is_first:
        begins = prompts(tokens, settings, config.seed)
        given = (teacher.module, teacher.tokenizer, begins, config.seq_len, settings)
        save_samples(write_samples(*given, config.seed, say), output / FILE)
    return output / FILE


def _same_vocabulary(model: TrainedModel, teacher: LanguageModel) -> None:
    if model.tokenizer.get_vocab() != teacher.tokenizer.get_vocab():
        raise UserError(
            "student and teacher have different tokenizers",
            setting="model.name",
            remedy="choose a student of the teacher's family, or distill.layers=2 for a new one",
        )


def _refuse_shards(nodes: Nodes, ranks: Ranks) -> None:
    if ranks.size > 1 and nodes.train.parallel is Parallel.FSDP2:
        raise UserError(
            "a student is small and is not sharded",
            setting="parallel",
            value=nodes.train.parallel,
            remedy="set parallel=ddp",
        )


def _refuse_sharing(handle: TrainingHandle) -> None:
    if handle.sequence_parallel > 1:
        raise UserError(
            "teacher and student read whole sequences",
            setting="training.sequence_parallel",
            value=handle.sequence_parallel,
            remedy="set it to 1",
        )
