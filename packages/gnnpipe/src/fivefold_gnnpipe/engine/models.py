"""The networks that come with the package, each as the source's section 6 writes it.

x features, σ ReLU, D dropout, A the symmetric normalisation with self loops, M the mean over
in-neighbours, LN layer norm with affine weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict
from importlib import import_module

import torch
from fivefold import UserError
from jaxtyping import Float
from torch import Tensor, nn
from torch_geometric.nn import GATConv

from .._words import Norm
from ..config import ModelConfig
from .plan import Block, ConvBlock, LayerPlan, SparseBlock, check_fits
from .wrapping import plan_of


class GCNBlock(SparseBlock):
    """H^l = σ(A D(H^{l-1}) W + b) (arXiv 1609.02907)."""

    norm = Norm.SYM
    loops = True
    kept = 3

    def __init__(self, in_width: int, out_width: int) -> None:
        super().__init__(in_width, out_width)
        self.linear = nn.Linear(in_width, out_width)

    def combine(
        self,
        neighbours: Float[Tensor, "row dim"],
        dst: Float[Tensor, "row dim"],
        h: Float[Tensor, "row dim"],
        h0: Float[Tensor, "row initial"] | None = None,
    ) -> Float[Tensor, "row out"]:
        """Transform the aggregated rows."""
        rows: Tensor = self.linear(neighbours)
        return rows.relu_()


class SAGEBlock(SparseBlock):
    """H^l = σ(D(H^{l-1}) W + M D(H^{l-1}) W' + b) (arXiv 1706.02216, mean)."""

    norm = Norm.MEAN

    def __init__(self, in_width: int, out_width: int) -> None:
        super().__init__(in_width, out_width)
        self.own = nn.Linear(in_width, out_width)
        self.neighbours = nn.Linear(in_width, out_width, bias=False)

    def combine(
        self,
        neighbours: Float[Tensor, "row dim"],
        dst: Float[Tensor, "row dim"],
        h: Float[Tensor, "row dim"],
        h0: Float[Tensor, "row initial"] | None = None,
    ) -> Float[Tensor, "row out"]:
        """Transform a vertex and its neighbourhood apart, and add."""
        rows: Tensor = self.own(dst) + self.neighbours(neighbours)
        return rows.relu_()


class GCNIIBlock(SparseBlock):
    """U = (1-α) A D(H^{l-1}) + α H^0; H^l = σ((1-θ_l) U + θ_l U W), θ_l = ln(λ/l + 1).

    arXiv 2007.02133.
    """

    norm = Norm.SYM
    loops = True
    residual = True
    uses_initial = True
    kept = 3

    def __init__(self, width: int, layer: int, alpha: float, theta: float) -> None:
        super().__init__(width, width)
        self.linear = nn.Linear(width, width, bias=False)
        self.alpha = alpha
        self.share = math.log(theta / layer + 1)

    def combine(
        self,
        neighbours: Float[Tensor, "row dim"],
        dst: Float[Tensor, "row dim"],
        h: Float[Tensor, "row dim"],
        h0: Float[Tensor, "row initial"] | None = None,
    ) -> Float[Tensor, "row out"]:
        """Mix in the initial embedding, then the weight."""
        assert h0 is not None
        mixed = torch.lerp(neighbours, h0, self.alpha)
        return torch.lerp(mixed, self.linear(mixed), self.share).relu_()


class ResGCNBlock(SparseBlock):
    """T = D(σ(LN(H^{l-1}))); H^l = H^{l-1} + T W + M T W' + b (arXiv 2006.07739, section 4)."""

    norm = Norm.MEAN
    residual = True
    kept = 5

    def __init__(self, width: int) -> None:
        super().__init__(width, width)
        self.layer_norm = nn.LayerNorm(width)
        self.own = nn.Linear(width, width)
        self.neighbours = nn.Linear(width, width, bias=False)

    def prepare(self, h: Float[Tensor, "row dim"]) -> Float[Tensor, "row dim"]:
        """Normalise and activate before the aggregation."""
        normal: Tensor = self.layer_norm(h)
        return normal.relu()

    def combine(
        self,
        neighbours: Float[Tensor, "row dim"],
        dst: Float[Tensor, "row dim"],
        h: Float[Tensor, "row dim"],
        h0: Float[Tensor, "row initial"] | None = None,
    ) -> Float[Tensor, "row out"]:
        """Add to the residual stream."""
        added: Tensor = self.own(dst) + self.neighbours(neighbours)
        return h + added


def make_plan(
    config: ModelConfig,
    num_features: int,
    num_classes: int,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> LayerPlan:
    """Return the network that the settings describe, freshly initialised.

    Weights are drawn from Xavier's uniform law under the seed, biases are zero; a network of your
    own keeps its initialisation, drawn under the same seed.

    Args:
        config: name and sizes.
        num_features: columns of the features.
        num_classes: columns of the scores.
        seed: same seed, same weights.
        dtype: number format of the weights.

    Raises:
        UserError: a network of your own that cannot be found or wrapped.
    """
    recipe = {**asdict(config), "num_features": num_features, "num_classes": num_classes}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if config.name in _BUILDERS:
            plan = _built(config, num_features, num_classes)
            plan.apply(_initialise)
        else:
            plan = _imported(config, num_features, num_classes)
    plan.recipe = recipe
    return plan.to(dtype)


def _built(config: ModelConfig, num_features: int, num_classes: int) -> LayerPlan:
    with_encoder = config.encoder or config.name in ("gcnii", "resgcn")
    width = config.hidden
    encoder = nn.Sequential(nn.Linear(num_features, width), nn.ReLU()) if with_encoder else None
    if config.name == "resgcn":  # its blocks begin with norm and activation
        encoder = nn.Sequential(nn.Linear(num_features, width))
    make = _BUILDERS[config.name]
    first = width if with_encoder else num_features
    blocks = [
        make(config, first if layer == 1 else width, layer) for layer in range(1, config.layers + 1)
    ]
    last = nn.Sequential(nn.LayerNorm(width), nn.ReLU()) if config.name == "resgcn" else None
    return LayerPlan(
        blocks,
        num_features=num_features,
        encoder=encoder,
        head=nn.Linear(width, num_classes),
        before_head=last,
        dropout=config.dropout,
    )


def _gat(config: ModelConfig, in_width: int, layer: int) -> Block:
    """H^l = ELU(Σ_u softmax_u(a(Θ D(h_v), Θ D(h_u))) Θ D(h_u)), heads side by side (1710.10903)."""
    per_head = config.hidden // config.heads
    conv = GATConv(in_width, per_head, config.heads, add_self_loops=False)
    return ConvBlock(conv, in_width, config.hidden, activation=nn.ELU(), loops=True, attention=True)


_BUILDERS: dict[str, Callable[[ModelConfig, int, int], Block]] = {
    "gcn": lambda config, in_width, layer: GCNBlock(in_width, config.hidden),
    "sage": lambda config, in_width, layer: SAGEBlock(in_width, config.hidden),
    "gcnii": lambda config, in_width, layer: GCNIIBlock(
        config.hidden, layer, config.alpha, config.theta
    ),
    "resgcn": lambda config, in_width, layer: ResGCNBlock(config.hidden),
    "gat": _gat,
}


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _imported(config: ModelConfig, num_features: int, num_classes: int) -> LayerPlan:
    """Return the network of a user's function `module:function`."""
    module, _, name = config.name.partition(":")
    try:
        function = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        remedy = "give module:function, where the module can be imported"
        raise UserError(
            f"the model cannot be found: {error}",
            setting="model.name",
            value=config.name,
            remedy=remedy,
        ) from error
    try:
        made = function(num_features, num_classes)
    except UserError:
        raise
    except Exception as error:  # whatever a user's function raises
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"the model's function failed on ({num_features}, {num_classes}): {said}",
            setting="model.name",
            value=config.name,
            remedy="let it take the numbers of features and of classes; debug=true shows where",
        ) from error
    if not isinstance(made, LayerPlan):
        drop = config.dropout
        return plan_of(made, num_features=num_features, num_classes=num_classes, dropout=drop)
    check_fits(made, num_features, num_classes)
    return made
