"""Finding what can be tiled in a model, by structure and never by the name of a class."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fivefold import UserError
from torch import nn

SHAPES: tuple[tuple[str, ...], ...] = (
    ("gate_proj", "up_proj", "down_proj"),
    ("gate_up_proj", "down_proj"),
    ("up_proj", "down_proj"),
    ("w1", "w2", "w3"),
    ("fc1", "fc2"),
    ("fc_in", "fc_out"),
    ("c_fc", "c_proj"),
    ("dense_h_to_4h", "dense_4h_to_h"),
)
"""Names of the projections of an MLP, the first one widening."""
POST_NORMS = ("post_feedforward_layernorm", "post_mlp_layernorm")
_GATED = re.compile(
    r"self\.down_proj\(\s*self\.act_fn\(self\.gate_proj\((\w+)\)\) \* self\.up_proj\(\1\)\s*\)"
)
_ACTIVATIONS = {
    "SiLU": "silu",
    "SiLUActivation": "silu",
    "GELU": "gelu",
    "GELUActivation": "gelu",
    "GELUTanh": "gelu_tanh",
    "PytorchGELUTanh": "gelu_tanh",
    "NewGELUActivation": "gelu_tanh",
    "ReLU": "relu",
}


@dataclass(frozen=True)
class FoundMlp:
    """An MLP that can be tiled."""

    name: str
    """Where it stands in the model."""
    module: nn.Module
    width: int
    """Its widest activation, I."""
    post_norm: nn.Module | None = None
    """The norm that follows it and nothing else; it runs inside the tile."""
    activation: str = ""
    """Of a gated MLP of plain linear layers; empty: backward goes through autograd."""


@dataclass(frozen=True)
class Report:
    """What became of one module."""

    module: str
    state: str
    """`tiled`, `chunked`, `block`, `checkpointed` or `skipped`."""
    why: str

    def row(self) -> dict[str, str]:
        """Return the line of a table."""
        return {"module": self.module, "state": self.state, "why": self.why}


def base_causal(model: nn.Module) -> nn.Module:
    """Return the causal model inside wrappers such as those of PEFT."""
    unwrap = getattr(model, "get_base_model", None)
    return unwrap() if callable(unwrap) else model


def find_mlps(model: nn.Module, named: Sequence[str] = ()) -> tuple[list[FoundMlp], list[Report]]:
    """Return the MLPs that can be tiled, and why others cannot.

    Args:
        model: any model.
        named: modules to tile whatever their structure is, by name or by the end of it.
    """
    found, skipped = [], []
    routed = list(_routed(model))
    parents = {id(child): (name, parent) for name, parent in model.named_modules()
               for child in parent.children()}  # fmt: skip
    for name, module in model.named_modules():
        is_named = any(_is_called(name, each) for each in named)
        names = _projections(module)
        if not (names or is_named):
            continue
        inside = next((path for path in routed if name.startswith(f"{path}.")), None)
        if inside is not None and "shared_expert" not in name and not is_named:
            continue
        if not _takes_one_tensor(module):
            skipped.append(Report(name, "skipped", "its forward takes more than one tensor"))
            continue
        parent = parents.get(id(module), ("", None))[1]
        norm = _post_norm(parent, module)
        width = _width(module, names)
        found.append(FoundMlp(name, module, width, norm, _hand_derivable(module)))
    skipped += [
        Report(path, "skipped", "mixture of experts: rows are routed, each expert to its own list")
        for path in routed
    ]
    return found, skipped


def require_named(model: nn.Module, named: Sequence[str]) -> None:
    """Refuse names of modules that no module has, or of modules that are not token-wise.

    Raises:
        UserError: says which name, and what is wrong with it.
    """
    for each in named:
        modules = [part for name, part in model.named_modules() if _is_called(name, each)]
        problem = next(
            (why for part in modules if (why := _not_token_wise(part))),
            "" if modules else "no module of the model has this name",
        )
        if problem:
            raise UserError(
                problem,
                setting="training.mlp.modules",
                value=each,
                remedy="name modules that take rows and multiply them by matrices, as "
                "`fivefold train inspect` prints names, or leave it out",
            )


def require_mlps(found: Sequence[FoundMlp], skipped: Sequence[Report], model: nn.Module) -> None:
    """Refuse a model without an MLP that can be tiled.

    Raises:
        UserError: says what was looked for, or why what was found is skipped.
    """
    if found:
        return
    kind = type(model).__name__
    why = f": {skipped[0].module}: {skipped[0].why}" if skipped else ""
    raise UserError(
        f"{kind} has no MLP that can be tiled{why}",
        setting="training",
        value="mst",
        remedy="name its MLPs in training.mlp.modules, set training.mlp.enabled=false for the head "
        "alone, or take training=checkpoint",
    )


def find_head(causal: nn.Module) -> tuple[str, nn.Module]:
    """Return the name and module of a causal model's head.

    Raises:
        UserError: the model has none, or not as a module of its own.
    """
    getter = getattr(causal, "get_output_embeddings", None)
    head = getter() if callable(getter) else None
    for name, child in causal.named_children():
        if head is not None and child is head:
            return name, child
    raise UserError(
        f"{type(causal).__name__} has no head that is known: no child is its output embedding",
        setting="training.head.enabled",
        value=True,
        remedy="load it by AutoModelForCausalLM, or set training.head.enabled=false",
    )


def _is_called(name: str, given: str) -> bool:
    """Whether a user's name means a module: all of its name, or the end of it."""
    return name == given or name.endswith(f".{given}")


def _not_token_wise(module: nn.Module) -> str:
    """Return why a module cannot be cut into rows; nothing where that cannot be seen."""
    if isinstance(module, nn.Embedding):
        return "this module takes tokens, not rows"
    if not any(_is_matrix(part) for part in module.modules()):
        return "this module holds no matrix, so that tiles of it save nothing"
    parameters = inspect.signature(inspect.unwrap(type(module).forward)).parameters.values()
    named = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if len(named) != 2:  # self and the rows
        return "the forward of this module takes more than one tensor"
    return ""


def _projections(module: nn.Module) -> tuple[str, ...]:
    for names in SHAPES:
        children = [getattr(module, name, None) for name in names]
        if all(isinstance(each, nn.Module) and _is_matrix(each) for each in children):
            return names if not hasattr(module, "c_attn") else ()
    return ()


def _is_matrix(module: nn.Module) -> bool:
    """Whether a module holds a matrix itself, or wraps one as adapters do."""
    inner = getattr(module, "base_layer", module)
    weight = getattr(inner, "weight", None)
    return weight is not None and (weight.ndim == 2 or hasattr(weight, "quant_state"))


def _width(module: nn.Module, names: tuple[str, ...]) -> int:
    """Return the out features of the widening projection; the largest side of any, else."""
    children = [getattr(module, name) for name in names] or [
        each for each in module.modules() if _is_matrix(each)
    ]
    first = getattr(children[0], "base_layer", children[0])
    out = getattr(first, "out_features", None) or getattr(first, "nf", None)
    if names and out:
        return int(out)
    sizes = [max(getattr(each, "base_layer", each).weight.shape) for each in children]
    return int(max(sizes))


def _routed(model: nn.Module) -> Iterator[str]:
    for name, module in model.named_modules():
        if isinstance(getattr(module, "experts", None), nn.Module):
            yield name


def _takes_one_tensor(module: nn.Module) -> bool:
    try:
        parameters = inspect.signature(type(module).forward).parameters.values()
    except (TypeError, ValueError):
        return False
    required = [p for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    return len(required) == 2  # self and the rows


def _post_norm(parent: nn.Module | None, mlp: nn.Module) -> nn.Module | None:
    """Return the norm that the layer applies to the MLP's result and to nothing else."""
    if parent is None or getattr(parent, "mlp", None) is not mlp:
        return None
    source = source_of(parent)
    for name in POST_NORMS:
        follows = rf"(\w+) = self\.mlp\(\w+\)\s*\n\s*\w+ = self\.{name}\(\1\)"
        norm = getattr(parent, name, None)
        if isinstance(norm, nn.Module) and re.search(follows, source):
            return norm
    return None


def _hand_derivable(module: nn.Module) -> str:
    """Return the activation of a gated MLP whose backward is known, or nothing."""
    names = ("gate_proj", "up_proj", "down_proj")
    if not all(type(getattr(module, name, None)) is nn.Linear for name in names):
        return ""
    activation = getattr(module, "act_fn", None)
    if not _GATED.search(source_of(module)):
        return ""
    name = _ACTIVATIONS.get(type(activation).__name__, "")
    is_tanh = getattr(activation, "approximate", "none") == "tanh"
    return "gelu_tanh" if name == "gelu" and is_tanh else name


def source_of(module: nn.Module) -> str:
    """Return the code of a module's own forward, found under what transformers wraps it in."""
    try:
        return inspect.getsource(inspect.unwrap(type(module).forward))
    except (OSError, TypeError):
        return ""
