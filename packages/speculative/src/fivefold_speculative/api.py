"""Python API: `from fivefold_speculative import generate, stream`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias, TypedDict, Unpack, overload

from fivefold import UserError
from fivefold_lm import (
    AttentionMethod,
    LanguageModel,
    ModelConfig,
    Sampler,
    SamplingConfig,
    load_model,
    self_test,
)
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .answers import Answer, Job, Piece, answer, make_jobs
from .choosing import choose_drafting, choose_given, draft_loader
from .engine import Engine, memory_errors
from .prompt_sets import Message, Prompt, checked_content
from .task_configs import GenerateConfig

Messages: TypeAlias = list[Message]
"""A conversation: `role` and `content` of each message."""
Model: TypeAlias = str | LanguageModel | tuple[PreTrainedModel, PreTrainedTokenizerBase]
"""What `model=NAME` takes on the command line, or a model that is loaded already."""
MethodSpec: TypeAlias = str | Mapping[str, Any]
"""A method's name, or its name and settings: `{"expansion": {"widths": [4, 2, 1]}}`."""


class Settings(TypedDict, total=False):
    """Keyword arguments of `generate` and `stream`; what is left out is as on the command line."""

    model: Model
    """Default `smollm2`; another hub id, folder or GGUF file. Pass what `fivefold_lm.load_model`
    returns to load it only once."""
    drafting: MethodSpec
    """Drafting method; default `none`."""
    draft: str | Mapping[str, Any] | PreTrainedModel
    """Its draft model: a module, folder, draft file or hub id, or `shipped`; without `drafting`, a
    drafting method may stand here too."""
    attention: MethodSpec
    """Default `full`."""
    correction: MethodSpec
    """Default `none`."""
    rule: str
    """Acceptance rule; default `auto`."""
    max_new_tokens: int
    """Most tokens an answer may have; default 128."""
    num_samples: int
    """Answers a prompt; default 1."""
    stop: list[str]
    """Texts that end an answer."""
    logprobs: int
    """Record log-probabilities, and those of so many alternatives."""
    chat: str
    """Put plain texts into the chat template: `auto` (default), `always`, `never`."""
    batch_size: int
    """Answers written at the same time; default 1."""
    temperature: float
    """0 (default) takes the most likely token; above 0 samples."""
    top_k: int
    """Keep the k most likely tokens; 0 (default) keeps all."""
    top_p: float
    """Keep the most likely tokens that hold this share; 1 (default) keeps all."""
    min_p: float
    """Keep tokens at least this fraction as likely as the best; 0 (default) keeps all."""
    repetition_penalty: float
    """Divides the scores of tokens in prompt or text; 1 (default) changes nothing."""
    presence_penalty: float
    """Subtracted from the scores of tokens in the text; 0 (default) changes nothing."""
    seed: int
    """Same seed, same text; default 0."""


@overload
def generate(  # type: ignore[overload-overlap]
    prompt: str | Messages, **settings: Unpack[Settings]
) -> Answer: ...


@overload
def generate(prompt: Sequence[str | Messages], **settings: Unpack[Settings]) -> list[Answer]: ...


def generate(
    prompt: str | Messages | Sequence[str | Messages], **settings: Unpack[Settings]
) -> Answer | list[Answer]:
    """Continue a prompt, or several, with the model's own text, faster by a drafting method.

    Example:
        answer = generate("Why is the sky blue?", drafting="feature_head", max_new_tokens=64)
        print(answer.text, answer.mean_acceptance_length)

    Args:
        prompt: a text, a conversation (a list of messages), or a list of texts and conversations.
        settings: see `fivefold_speculative.Settings`.

    Returns:
        The answer to a text or a conversation (its first sample); to a list of them, all answers
        in the order of prompts and samples.

    Raises:
        UserError: a setting, prompt, model or method that cannot be used.
    """
    contents, is_one = contents_of(prompt)
    engine, config = _prepare(settings)
    jobs = [job for i, content in enumerate(contents) for job in _jobs(engine, i, content, config)]
    tops = -1 if config.logprobs is None else config.logprobs
    events = answer(engine, jobs, batch_size=config.batch_size, logprobs=tops)
    done = {(item.id, item.sample): item for item in events if isinstance(item, Answer)}
    ordered = [done[job.prompt.id, job.sample] for job in jobs]
    return ordered[0] if is_one else ordered


def stream(prompt: str | Messages, **settings: Unpack[Settings]) -> Iterator[str]:
    """Continue one prompt and yield its text as it becomes certain.

    Args:
        prompt: a text or a conversation.
        settings: see `fivefold_speculative.Settings`.

    Yields:
        Pieces of text; joined they are the answer's text.

    Raises:
        UserError: as `generate`.
    """
    content = checked_content(prompt)
    engine, config = _prepare(settings)
    for event in answer(engine, _jobs(engine, 0, content, config)[:1]):
        if isinstance(event, Piece):
            yield event.text


def contents_of(prompt: object) -> tuple[list[str | Messages], bool]:
    """Return the texts and conversations that `generate` was given, and whether it is just one.

    Raises:
        UserError: one of them is neither, or empty.
    """
    if not isinstance(prompt, list | tuple) or (prompt and isinstance(prompt[0], Mapping)):
        return [checked_content(prompt)], True
    several = enumerate(prompt)
    return [checked_content(content, f"prompt[{index}]") for index, content in several], False


def _prepare(settings: Settings) -> tuple[Engine, GenerateConfig]:
    """Check every setting, load the model, and choose the methods."""
    names = GenerateConfig.__dataclass_fields__, SamplingConfig.__dataclass_fields__
    own, drawn = ({k: v for k, v in settings.items() if k in known} for known in names)
    config, sampling = GenerateConfig(**own), SamplingConfig(**drawn)  # type: ignore[arg-type]
    unknown = set(settings) - set(own) - set(drawn) - set(Settings.__annotations__)
    if unknown:
        raise TypeError(f"generate() got an unexpected keyword argument {min(unknown)!r}")
    draft = settings.get("draft")
    drafting = choose_drafting(settings.get("drafting"), draft)
    choices = {
        hook: choose_given(hook, settings.get(hook, default), hook)
        for hook, default in (("attention", "full"), ("correction", "none"))
    }
    target = _load(settings.get("model", "smollm2"))
    attention: AttentionMethod = choices["attention"].build()
    self_test(target, attention)
    engine = Engine(
        model=target,
        attention=attention,
        sampler=Sampler(sampling, vocab_size=target.vocab_size),
        drafting=drafting.build,
        correction=choices["correction"].build,
        rule=config.rule,
        drafts=draft_loader(target, draft),
    )
    return engine, config


def _load(model: object) -> LanguageModel:
    if isinstance(model, LanguageModel):
        return model
    if isinstance(model, tuple):
        module, tokenizer = model
        return LanguageModel.wrap(module, tokenizer, type(module).__name__)
    if not isinstance(model, str):
        raise UserError(
            f"{type(model).__name__} is not a model",
            setting="model",
            remedy="give a name, what load_model returns, or (module, tokenizer)",
        )
    with memory_errors():
        return load_model(ModelConfig(name=model))


def _jobs(engine: Engine, index: int, content: str | Messages, config: GenerateConfig) -> list[Job]:
    return make_jobs(
        engine,
        Prompt(str(index), content),
        first_key=index * config.num_samples,
        num_samples=config.num_samples,
        max_new_tokens=config.max_new_tokens,
        stop=config.stop,
        chat=config.chat,
    )
