"""A user's own PyG network as a `LayerPlan`: convolutions called on (sources, targets)."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any

import torch
from fivefold import UserError
from jaxtyping import Float
from torch import Tensor, nn
from torch_geometric.nn import GCN2Conv, GCNConv, MessagePassing
from torch_geometric.nn.models.basic_gnn import BasicGNN

from .._words import Norm
from .plan import Block, ConvBlock, LayerPlan, SparseBlock

_ATTENTION = ("GAT", "Transformer", "SuperGAT", "AGNN", "FiLM", "ResGated")
"""Parts of class names of convolutions whose edge weights depend on the embeddings."""
_SETTING = "model"


class WrappedGCN(SparseBlock):
    """A `GCNConv`: its linear map and bias after our sparse product, (A H) W = A (H W)."""

    norm = Norm.SYM

    def __init__(self, conv: GCNConv, in_width: int, after: nn.Module) -> None:
        super().__init__(in_width, int(conv.out_channels))
        if conv.improved:
            raise _refused("GCNConv(improved=True) weights self loops by 2", "use improved=False")
        self.conv = conv
        self.after = after
        self.loops = bool(conv.add_self_loops)
        self.norm = Norm.SYM if conv.normalize else Norm.NONE

    def combine(
        self,
        neighbours: Float[Tensor, "row dim"],
        dst: Float[Tensor, "row dim"],
        h: Float[Tensor, "row dim"],
        h0: Float[Tensor, "row initial"] | None = None,
    ) -> Float[Tensor, "row out"]:
        """Transform the aggregated rows."""
        rows = self.conv.lin(neighbours)
        if self.conv.bias is not None:
            rows = rows + self.conv.bias
        done: Tensor = self.after(rows)
        return done


class WrappedGCN2(SparseBlock):
    """A `GCN2Conv` with shared weights; the initial embedding is the encoder's output."""

    norm = Norm.SYM
    residual = True
    uses_initial = True

    def __init__(self, conv: GCN2Conv, in_width: int, after: nn.Module) -> None:
        super().__init__(in_width, in_width)
        self.conv = conv
        self.after = after
        self.loops = bool(conv.add_self_loops)
        self.norm = Norm.SYM if conv.normalize else Norm.NONE

    def combine(
        self,
        neighbours: Float[Tensor, "row dim"],
        dst: Float[Tensor, "row dim"],
        h: Float[Tensor, "row dim"],
        h0: Float[Tensor, "row initial"] | None = None,
    ) -> Float[Tensor, "row out"]:
        """Do what `GCN2Conv.forward` does after its propagation."""
        assert h0 is not None
        conv = self.conv
        rows, start = neighbours * (1 - conv.alpha), conv.alpha * h0
        if conv.weight2 is None:
            mixed = rows + start
            rows = torch.addmm(mixed, mixed, conv.weight1, beta=1 - conv.beta, alpha=conv.beta)
        else:
            rows = torch.addmm(rows, rows, conv.weight1, beta=1 - conv.beta, alpha=conv.beta)
            rows = rows + torch.addmm(
                start, start, conv.weight2, beta=1 - conv.beta, alpha=conv.beta
            )
        done: Tensor = self.after(rows)
        return done


def plan_of(
    model: nn.Module,
    *,
    num_features: int,
    num_classes: int,
    encoder: nn.Module | None = None,
    head: nn.Module | None = None,
    activation: Callable[[], nn.Module] = nn.ReLU,
    dropout: float = 0.0,
) -> LayerPlan:
    """Return a `LayerPlan` that shares a user's weights.

    Args:
        model: a `torch.nn.ModuleList` of PyG convolutions, or one of PyG's own networks
            (`torch_geometric.nn.GCN`, `GraphSAGE`, `GAT`, `GIN`, …).
        num_features: columns of the features.
        num_classes: columns of the scores.
        encoder: from features to what the first convolution takes; `None`: the features.
        head: from the last convolution's rows to scores; `None`: those rows are the scores.
        activation: what stands between convolutions, and after the last if there is a head.
        dropout: share of entries dropped before encoder, convolutions and head.

    The dropout of PyG's own networks stands before every layer, the first one included.

    Raises:
        UserError: jumping knowledge, a convolution that cannot be called on (sources, targets)
            or brings dropout of its own, layers that want different edges, a wrong last width.
    """
    if isinstance(model, BasicGNN):
        return _of_basic(model, num_features, num_classes)
    if not isinstance(model, nn.ModuleList):
        problem = f"{type(model).__name__} is neither a ModuleList of convolutions nor PyG's own"
        raise _refused(problem, "give torch.nn.ModuleList([conv, …]) or a LayerPlan")
    last = len(model) - 1
    afters = [
        _made(activation) if index < last or head is not None else nn.Identity()
        for index in range(len(model))
    ]
    width = _encoded_width(encoder, num_features)
    blocks = wrap_convs(list(model), width, afters)
    plan = LayerPlan(blocks, num_features=num_features, encoder=encoder, head=head, dropout=dropout)
    return _checked(plan, num_classes)


def wrap_convs(
    convs: Iterable[nn.Module], in_width: int, afters: Iterable[nn.Module]
) -> list[Block]:
    """Return blocks that share the convolutions' weights.

    Args:
        convs: PyG convolutions, in order.
        in_width: columns that the first one takes.
        afters: what follows each: norm, activation.

    Raises:
        UserError: see `plan_of`.
    """
    blocks: list[Block] = []
    for conv, after in zip(convs, afters, strict=True):
        if not isinstance(conv, MessagePassing):
            remedy = "put vertex-wise layers into encoder, head or activation"
            raise _refused(f"{type(conv).__name__} is no PyG convolution", remedy)
        _refuse_own_dropout(conv)
        blocks.append(_wrapped(conv, in_width, after))
        in_width = blocks[-1].out_width
    if not blocks:
        raise _refused("the model has no convolution", "give at least one")
    return blocks


def _wrapped(conv: MessagePassing, in_width: int, after: nn.Module) -> Block:
    if isinstance(conv, GCNConv):
        return WrappedGCN(conv, in_width, after)
    if isinstance(conv, GCN2Conv):
        return WrappedGCN2(conv, in_width, after)
    loops = bool(getattr(conv, "add_self_loops", False))
    if loops:  # the graph brings them, once and for all chunks alike
        conv.add_self_loops = False
    name = type(conv).__name__
    return ConvBlock(
        conv,
        in_width,
        _out_width(conv, in_width),
        activation=after,
        loops=loops,
        attention=any(word in name for word in _ATTENTION),
        takes_weight="edge_weight" in inspect.signature(conv.forward).parameters,
    )


def _out_width(conv: MessagePassing, in_width: int) -> int:
    """Call a convolution on two sources and two targets, and see what comes back."""
    like = next(conv.parameters(), torch.zeros(0))
    rows = torch.zeros(2, in_width, dtype=like.dtype)
    edge = torch.tensor([[0], [1]])
    was_training = conv.training
    try:
        with torch.no_grad():
            made: Any = conv.eval()((rows, rows), edge)
    except Exception as error:  # whatever a layer raises that takes no pair, or another width
        problem = (
            f"{type(conv).__name__} cannot be called on (sources, targets) of width {in_width}"
        )
        remedy = "use a layer that takes a pair of tensors, as SAGEConv does"
        raise _refused(f"{problem}: {str(error).splitlines()[0]}", remedy) from error
    finally:
        conv.train(was_training)
    if not isinstance(made, Tensor) or made.shape[0] != 2 or made.ndim != 2:
        problem = f"{type(conv).__name__} returns more than one row a vertex"
        raise _refused(problem, "let each layer carry one tensor [vertex, width]")
    return made.shape[1]


def _of_basic(model: BasicGNN, num_features: int, num_classes: int) -> LayerPlan:
    """Take PyG's own networks apart: convolutions, norms, activation, dropout."""
    if getattr(model, "jk_mode", None) is not None:
        carried = sum(int(conv.out_channels) for conv in model.convs)
        problem = f"jumping knowledge would carry all layers' outputs, {carried} columns a vertex"
        raise _refused(problem, "leave out jk; GCNII and ResGCN+ keep depth without it")
    if model.act_first:
        raise _refused("act_first=True puts the activation before the norm", "use act_first=False")
    count = len(model.convs)
    afters: list[nn.Module] = []
    for index in range(count):
        parts: list[nn.Module] = []
        if index < count - 1:
            norm = model.norms[index] if model.norms is not None else nn.Identity()
            parts = [norm] if not isinstance(norm, nn.Identity) else []
            parts += [model.act] if model.act is not None else []
        afters.append(nn.Sequential(*parts))
    blocks = wrap_convs(list(model.convs), num_features, afters)
    # PyG drops out after each activation; here that is before each block, the first one included
    plan = LayerPlan(blocks, num_features=num_features, dropout=float(model.dropout.p))
    return _checked(plan, num_classes)


def _checked(plan: LayerPlan, num_classes: int) -> LayerPlan:
    for module in (plan.encoder, plan.head):
        if module is not None:
            _refuse_own_dropout(module)
    last = plan.width(plan.num_blocks)
    if plan.head is None and last != num_classes:
        problem = f"the last layer makes {last} columns, and the graph has {num_classes} classes"
        raise _refused(problem, f"let it make {num_classes}, or give a head")
    return plan


def _refuse_own_dropout(module: nn.Module) -> None:
    """A mask that is not keyed by the vertex differs between chunks, and when recomputed."""
    for part in module.modules():
        share = getattr(part, "dropout", getattr(part, "p", 0.0))
        if isinstance(share, float) and share > 0:
            name = type(part).__name__
            remedy = "set its dropout to 0 and give the share to the plan"
            raise _refused(f"{name} drops out by itself, whichever chunk it is in", remedy)


def _made(activation: Callable[[], nn.Module]) -> nn.Module:
    """Return an activation of its own for a layer."""
    made = None if _is_applied(activation) else activation()
    if not isinstance(made, nn.Module):
        remedy = "give what makes a module, as activation=torch.nn.ReLU, or lambda: torch.nn.ELU(2)"
        raise _refused("the activation is one already, and each layer gets its own", remedy)
    return made


def _is_applied(activation: object) -> bool:
    """Whether it is an activation itself, which takes rows, instead of what makes one."""
    if isinstance(activation, type):
        return False
    if isinstance(activation, nn.Module):
        return True
    try:
        inspect.signature(activation).bind()  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return True
    return False


def _encoded_width(encoder: nn.Module | None, num_features: int) -> int:
    if encoder is None:
        return num_features
    like = next(encoder.parameters(), torch.zeros(0))
    with torch.no_grad():
        rows: Tensor = encoder(torch.zeros(2, num_features, dtype=like.dtype))
    return rows.shape[1]


def _refused(problem: str, remedy: str) -> UserError:
    return UserError(problem, setting=_SETTING, remedy=remedy)
