"""Choosing a drafting method outside a run: for the Python API and `model.generate`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import cache
from typing import Any, TypeAlias

from fivefold import Choice, UserError
from fivefold.composing import validated
from fivefold.discovery import installed
from fivefold_lm import LanguageModel
from fivefold_lm.layout import why_no_tree
from fivefold_lm.models import context_len
from transformers import PreTrainedModel

from .draft_model import SHIPPED, DraftKind, DraftLoader, DraftModel, no_feature_head
from .task_configs import TASKS, named_as, parse_method

_GENERATE = TASKS[0]
Draft: TypeAlias = str | Mapping[str, Any] | PreTrainedModel
"""What writes ahead: a model, its folder or hub id, `shipped`, or a method with its settings."""


def choose(hook: str, name: str, values: Mapping[str, Any] | None = None) -> Choice:
    """Return an installed method with its settings checked.

    Args:
        hook: `drafting`, `attention` or `correction`.
        name: the method.
        values: settings by key; the others keep their defaults.

    Raises:
        UserError: there is no such method or key, or the method refuses a value.
    """
    method = installed().method(_GENERATE, hook, name)
    return Choice(hook, method, validated(method.config, values or {}, hook))


def choose_given(hook: str, given: object, setting: str) -> Choice:
    """Return the method that a name, or a mapping of one name to its settings, means.

    Args:
        hook: as in `choose`.
        given: the name or mapping.
        setting: the argument that holds it, for errors.

    Raises:
        UserError: as `choose`, or it is neither.
    """
    name, values = parse_method(given, setting)
    with named_as(setting, given):
        return choose(hook, name, values)


def choose_drafting(drafting: object, draft: object) -> Choice:
    """Return the drafting method that a method's name and a draft mean together.

    Args:
        drafting: a name, or a mapping of one name to its settings; `None`: what `draft` suggests.
        draft: a model, its folder or hub id, `shipped`, or a method as in `drafting`.

    Raises:
        UserError: as `choose`, or `draft` is none of these.
    """
    if drafting is None and draft is None:
        return choose("drafting", "none")
    if draft is not None and not isinstance(draft, str | Mapping | PreTrainedModel):
        raise _no_draft(draft)
    if isinstance(draft, Mapping) or (drafting is None and draft in _names()):
        return choose_given("drafting", draft, "draft")
    given = "chain" if drafting is None else drafting
    if draft is not None:
        name, values = parse_method(given, "drafting")
        if name in _names() and "draft" not in _settings_of(name):
            raise UserError(
                f"drafting={name} takes no draft model",
                setting="draft",
                remedy="leave it out, or choose drafting=chain",
            )
        said = draft if isinstance(draft, str) else type(draft).__name__
        given = {name: {**values, "draft": said}}
    return choose_given("drafting", given, "drafting")


def draft_loader(
    target: LanguageModel, draft: Draft | None, *, has_tokenizer: bool = True
) -> Callable[[str, DraftKind], DraftModel]:
    """Return where drafters find their draft model.

    Args:
        target: the model the draft is for.
        draft: a model that is loaded already, or what the user said.
        has_tokenizer: whether the target's is there to compare a draft's with.
    """
    setting = "draft" if isinstance(draft, str) else "drafting.draft"
    ordinary = DraftLoader(target, setting=setting, methods=_names() if draft else ())
    if isinstance(draft, PreTrainedModel):
        given = _as_draft(draft, target)
        return lambda name, kind: _of_kind(given, kind)
    if has_tokenizer:
        return ordinary

    @cache  # a planner asks for the same one again and again
    def load(name: str, kind: DraftKind) -> DraftModel:
        if name == SHIPPED or name.endswith(".safetensors") or kind is DraftKind.FEATURE_HEAD:
            return ordinary(name, kind)
        return _as_draft(ordinary.load_model(name).module, target)

    return load


def _as_draft(module: PreTrainedModel, target: LanguageModel) -> DraftModel:
    """Take a model as a draft; without tokenizers, equal vocabularies are the user's word."""
    words, wanted = module.config.vocab_size, target.module.config.vocab_size
    if words != wanted:
        raise UserError(
            f"draft and target read different vocabularies ({words} and {wanted} tokens)",
            setting="draft",
            value=type(module).__name__,
            remedy="choose a draft with the target's tokenizer",
        )
    reason = why_no_tree(module)
    if reason is not None:
        raise UserError(
            f"this model cannot draft: {reason}",
            setting="draft",
            value=type(module).__name__,
            remedy="choose a draft with plain or sliding-window attention",
        )
    return DraftModel(
        module=module,
        head=None,
        embed=None,
        vocab_ids=None,
        num_words=min(words, target.vocab_size),
        context_len=context_len(module),
        name=type(module).__name__,
    )


def _of_kind(draft: DraftModel, kind: DraftKind) -> DraftModel:
    """Return a given model as a draft of a kind; only an independent one is a model."""
    if kind is DraftKind.FEATURE_HEAD:
        raise no_feature_head(draft.name, "draft", 'leave draft out, or choose drafting="chain"')
    return draft


def _no_draft(draft: object) -> UserError:
    return UserError(
        f"{type(draft).__name__} is neither a text, a mapping nor a model of transformers",
        setting="draft",
        remedy=f"give a smaller model, its folder or hub id, {SHIPPED}, or a drafting method "
        f"({', '.join(_names())})",
    )


def _settings_of(name: str) -> set[str]:
    config = installed().method(_GENERATE, "drafting", name).config
    return {field.name for field in fields(config)}


def _names() -> list[str]:
    return sorted(installed().methods(_GENERATE, "drafting"))
