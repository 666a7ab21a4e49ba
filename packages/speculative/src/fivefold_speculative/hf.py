"""`model.generate(**inputs, custom_generate=fivefold_generate, draft=…)`: the Hugging Face habit.

transformers prepares inputs, processors and criteria as for its own loop and then calls us. It
hands over extra arguments only under names that its own loop does not have, so the draft comes as
`draft` (not `assistant_model`).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import FrameType
from typing import Any, cast

import torch
from fivefold import UserError
from fivefold_lm import (
    FullAttention,
    LanguageModel,
    Sampler,
    SamplingConfig,
    self_test,
)
from jaxtyping import Int
from torch import Tensor
from transformers import (
    Cache,
    GenerationConfig,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteriaList,
)
from transformers.generation.configuration_utils import GenerationMode
from transformers.generation.streamers import BaseStreamer
from transformers.generation.utils import GenerateDecoderOnlyOutput

from .choosing import Draft, choose_drafting, draft_loader
from .engine import Engine
from .hf_rows import Columns, PaddedRows
from .hf_sampler import ProcessorSampler

_RECORDED = ("output_scores", "output_logits", "output_attentions", "output_hidden_states")

_TAKEN = {
    "attention_mask",
    "past_key_values",
    "use_cache",
    "logits_to_keep",
    "position_ids",
    "cache_position",
}
"""Inputs that `generate` prepares by itself; positions follow from the attention mask."""


@dataclass
class FivefoldOutput(GenerateDecoderOnlyOutput):
    """What `return_dict_in_generate=True` returns: stock's output, and figures of each row.

    Args:
        acceptance: for each row `mean_acceptance_length` and the like, by AIPerf's names.
    """

    acceptance: list[dict[str, Any]] | None = None


def fivefold_generate(
    model: PreTrainedModel,
    input_ids: Int[Tensor, "batch token"],
    logits_processor: LogitsProcessorList,
    stopping_criteria: StoppingCriteriaList,
    generation_config: GenerationConfig,
    draft: Draft | None = None,
    drafting: str | Mapping[str, Any] | None = None,
    rule: str = "auto",
    fivefold_streamer: BaseStreamer | None = None,
    **model_kwargs: Any,
) -> Int[Tensor, "batch text"] | FivefoldOutput:
    """Decode speculatively inside `model.generate`; the text follows the model's own law.

    Pass it as `custom_generate=`, never call it directly. Greedy text is stock's own; sampled text
    has stock's law, and `torch.manual_seed` decides it (not token by token as in stock).

    Args:
        model: the target.
        input_ids: prompts, padded on the left.
        logits_processor: as prepared by `generate`; applied along every path of the token tree.
        stopping_criteria: as prepared by `generate`; asked after every token.
        generation_config: as prepared by `generate`.
        draft: what writes ahead: a smaller model, its folder or hub id, `shipped`, or the name of
            a drafting method, also as `{"prompt_lookup": {"num_tokens": 5}}`; `None`: nothing.
        drafting: drafting method for a draft model, by name or as
            `{"expansion": {"widths": [4, 2, 1]}}`; by default a chain.
        rule: acceptance rule; `auto` takes the best one valid for the method.
        fivefold_streamer: streamer; a stock `streamer=` is found as well.
        model_kwargs: what else `generate` prepared; only the attention mask counts.

    Returns:
        What stock `generate` returns: the sequences, or a `ModelOutput` that holds them.

    Raises:
        UserError: something is asked for that this loop does not do (beams, scores, ...).
    """
    caller = _arguments_of_generate()
    stock = caller.get("streamer")
    _check(model, input_ids, generation_config, model_kwargs, caller)
    target = replace(_described(model), eos_ids=())
    rows = PaddedRows.of(input_ids, model_kwargs.get("attention_mask"), stopping_criteria)
    sampler = _sampler(target, generation_config, logits_processor, input_ids)
    engine = _engine(target, draft, drafting, rule, sampler)
    requests = rows.requests(generation_config.max_length)
    batch = engine.batch(requests, text=False)
    streamer = Columns(fivefold_streamer or stock, rows, _pad_id(generation_config))
    if fivefold_streamer is not None:  # `generate` has given the prompt to its own
        streamer.give(input_ids)
    for _ in rows.follow(batch):
        streamer.put()
    streamer.end()
    sequences = rows.sequences(_pad_id(generation_config))
    if not generation_config.return_dict_in_generate:
        return sequences
    metrics = [record.metrics() for record in batch.session.records]
    return FivefoldOutput(sequences=cast(torch.LongTensor, sequences), acceptance=metrics)


def _described(model: PreTrainedModel) -> LanguageModel:
    """Return the target; `generate` keeps its tokenizer from us, and only text would need one."""
    nothing: Any = PreTrainedTokenizerBase
    return LanguageModel.wrap(model, nothing(), type(model).__name__)


def _sampler(
    target: LanguageModel,
    config: GenerationConfig,
    processors: LogitsProcessorList,
    input_ids: Int[Tensor, "batch token"],
) -> Sampler:
    """Let the prepared processors do everything; the noise's seed comes from torch's generator."""
    seed = int(torch.randint(2**63 - 1, (1,))) if config.do_sample else 0
    sampling = SamplingConfig(temperature=1.0 if config.do_sample else 0.0, seed=seed)
    drafts = sampling
    if config.do_sample:
        drafts = SamplingConfig(
            temperature=config.temperature or 1.0,
            top_k=config.top_k or 0,
            top_p=config.top_p or 1.0,
            min_p=config.min_p or 0.0,
            seed=seed,
        )
    return ProcessorSampler(sampling, processors, input_ids, target.vocab_size, drafts)


def _engine(
    target: LanguageModel,
    draft: Draft | None,
    drafting: str | Mapping[str, Any] | None,
    rule: str,
    sampler: Sampler,
) -> Engine:
    attention = FullAttention()
    self_test(target, attention)
    return Engine(
        model=target,
        attention=attention,
        sampler=sampler,
        drafting=choose_drafting(drafting, draft).build,
        rule=rule,
        drafts=draft_loader(target, draft, has_tokenizer=False),
    )


def _check(
    model: PreTrainedModel,
    input_ids: Tensor,
    config: GenerationConfig,
    model_kwargs: Mapping[str, Any],
    caller: Mapping[str, Any],
) -> None:
    mode = config.get_generation_mode()
    if mode not in (GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE):
        raise UserError(
            f"fivefold_generate does no {mode.value.replace('_', ' ')}",
            setting="custom_generate",
            remedy="leave num_beams and the like out",
        )
    if caller.get("assistant_model") is not None:
        raise UserError(
            "transformers keeps assistant_model from a custom_generate function",
            setting="assistant_model",
            remedy="pass it as draft=",
        )
    for name in _RECORDED:
        if config.return_dict_in_generate and getattr(config, name, False):
            raise UserError(
                "only visited nodes of a tree have scores; they are not recorded",
                setting=name,
                value=True,
                remedy="leave it out",
            )
    cache = model_kwargs.get("past_key_values")
    if (isinstance(cache, Cache) and cache.get_seq_length() > 0) or input_ids.shape[1] == 0:
        raise UserError(
            "the text must be given as input_ids, from its beginning",
            setting="past_key_values",
            remedy="leave past_key_values and inputs_embeds out",
        )
    for name in sorted(set(model_kwargs) - _TAKEN):
        if model_kwargs[name] is not None:
            raise UserError(
                "this input would be left out of the text",
                setting=name,
                value=type(model_kwargs[name]).__name__,
                remedy="leave it out, or use generate without custom_generate",
            )
    if not _counts_from_zero(model_kwargs):
        raise UserError(
            "positions other than 0, 1, ... after the padding are not kept",
            setting="position_ids",
            remedy="leave it out, or use generate without custom_generate",
        )
    if model.config.is_encoder_decoder:
        raise UserError("an encoder-decoder has no single text", setting="model")


def _counts_from_zero(model_kwargs: Mapping[str, Any]) -> bool:
    """Say whether positions, if any were given, are those that the attention mask means."""
    given, mask = model_kwargs.get("position_ids"), model_kwargs.get("attention_mask")
    if given is None:
        return True
    seen = torch.ones_like(given) if mask is None else mask.to(given.device)
    return bool(torch.equal(given * seen, (seen.cumsum(-1) - 1) * seen))


def _pad_id(config: GenerationConfig) -> int:
    pad = getattr(config, "_pad_token_tensor", None)
    return 0 if pad is None else int(pad)


def _arguments_of_generate() -> Mapping[str, Any]:
    """Return what `generate` was given but keeps from us: a streamer, an assistant model."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        module = str(frame.f_globals.get("__name__"))
        if frame.f_code.co_name == "generate" and module.startswith("transformers."):
            return frame.f_locals
        frame = frame.f_back
    return {}
