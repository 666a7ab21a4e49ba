"""Block tiling: everything of a layer but attention itself runs tile by tile.

    [tile: norm, q, k, v, rotation]  ->  attention over the sequence  ->  [tile: o, residual, norm,
    MLP, residual]

Forward keeps the layer's input alone. Backward makes q, k and v again tile by tile and attention
once; then it takes the tiles of the second part (again and back at once), attention back, and the
tiles of the first part. No norm, rotation or MLP tensor of the whole sequence exists. Extension of
arXiv 2407.15892; a layer is its own checkpoint. `block_patch.py` finds the layers.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .ambient import Autocast
from .gated import GatedBackward, Middle
from .offload import HostStore
from .sums import GradientSums
from .tiles import cut


@dataclass(frozen=True)
class BlockTiles:
    """How a layer is tiled."""

    tile: int
    """Tokens of a tile, over all rows of a batch."""
    activation: str
    """Of a gated MLP whose backward goes by hand; empty: by autograd."""
    middle: Middle
    in_float32: bool
    store: HostStore | None
    """Where layer inputs wait; None: on the device."""
    passes_window: bool = False
    """Whether the layer tells attention how far it may look back."""


def tiled_block(layer: nn.Module, x: Tensor, tiles: BlockTiles, given: dict[str, Any]) -> Tensor:
    """Run a layer tile by tile; gradients flow to x, [batch, token, hidden], and its weights."""
    call = BlockCall(layer, tiles, given, Autocast.capture(x.device))
    parameters = call.first + call.second + call.third
    with tiles.store or nullcontext():
        made: Tensor = _Block.apply(call, x, *parameters)  # type: ignore[no-untyped-call]
    return made


class BlockCall:
    """One call of a layer: its parts, its parameters, and the tiles they run in."""

    def __init__(
        self, layer: Any, tiles: BlockTiles, given: dict[str, Any], autocast: Autocast
    ) -> None:
        """Collect what the parts of a layer need.

        Args:
            layer: the layer, all of whose weights are at hand now.
            tiles: how it is tiled.
            given: what the model passes to its layers by name.
            autocast: what holds in forward.
        """
        self.layer = layer
        self.tiles, self.autocast = tiles, autocast
        given = dict(given)
        given.pop("past_key_values", None)
        self.cosine, self.sine = given.pop("position_embeddings")
        self.mask = given.pop("attention_mask", None)
        self.given = given
        attention: Any = self.layer.self_attn
        names = ("q_proj", "k_proj", "v_proj", "q_norm", "k_norm")
        inner = [m for m in (getattr(attention, name, None) for name in names) if m is not None]
        self.first = _trainable([self.layer.input_layernorm, *inner])
        before_mlp = [attention.o_proj, self.layer.post_attention_layernorm]
        after_mlp: list[nn.Module] = []
        if hasattr(self.layer, "pre_feedforward_layernorm"):
            before_mlp.append(self.layer.pre_feedforward_layernorm)
            after_mlp.append(self.layer.post_feedforward_layernorm)
        self.is_sandwich = bool(after_mlp)
        self.second = _trainable(before_mlp)
        hand = GatedBackward(self.layer.mlp, tiles.activation, tiles.middle)
        self.by_hand = hand if hand.suits(autocast) and hand.is_trained else None
        by_autograd = _trainable([self.layer.mlp, *after_mlp])
        self.third = by_autograd if self.by_hand is None else [*hand.parameters]

    def rows(self, x: Tensor) -> Iterator[slice]:
        """Yield the tokens of every tile; a tile holds them for all rows of the batch."""
        batch, tokens = x.shape[:2]
        return cut(tokens, max(1, self.tiles.tile // batch), is_planned=x.is_meta)

    def project(self, x: Tensor, rows: slice) -> tuple[Tensor, Tensor, Tensor]:
        """Run norm, projections and rotation: q, k, v of a tile, [batch, head, token, dim]."""
        attention = self.layer.self_attn
        x = self.layer.input_layernorm(x)
        shape = (*x.shape[:-1], -1, attention.head_dim)
        q, k, v = (getattr(attention, f"{name}_proj")(x).view(shape) for name in "qkv")
        if getattr(attention, "q_norm", None) is not None:
            q, k = attention.q_norm(q), attention.k_norm(k)
        rotate = _rotation(attention)
        q, k = rotate(
            q.transpose(1, 2), k.transpose(1, 2), self.cosine[:, rows], self.sine[:, rows]
        )
        return q, k, v.transpose(1, 2)

    def project_all(self, x: Tensor) -> list[Tensor]:
        """Run the first part tile by tile into three tensors made beforehand."""
        made: list[Tensor] = []
        for rows in self.rows(x):
            parts = self.project(x[:, rows], rows)
            if not made:
                made = [_like(part, x.shape[1]) for part in parts]
            for whole, part in zip(made, parts, strict=True):
                whole[:, :, rows] = part
            del parts
        return made

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Run attention as the layer would, [batch, token, head * dim]."""
        attention = self.layer.self_attn
        more = dict(self.given)
        if self.tiles.passes_window:
            window = getattr(attention.config, "sliding_window", None)
            more["sliding_window"] = getattr(attention, "sliding_window", window)
        if hasattr(attention, "attn_logit_softcapping"):
            more["softcap"] = attention.attn_logit_softcapping
        eager: Any = getattr(sys.modules[_home(attention)], "eager_attention_forward", None)
        chosen = ALL_ATTENTION_FUNCTIONS.get_interface(attention.config._attn_implementation, eager)
        made, _ = chosen(
            attention, q, k, v, self.mask, dropout=0.0, scaling=attention.scaling, **more
        )
        whole: Tensor = made.reshape(*made.shape[:2], -1)
        return whole

    def before_mlp(self, attended: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the residual stream before the MLP of a tile, and the MLP's input."""
        made = self.layer.self_attn.o_proj(attended)
        if not self.is_sandwich:
            stream = x + made
            return stream, self.layer.post_attention_layernorm(stream)
        stream = x + self.layer.post_attention_layernorm(made)
        return stream, self.layer.pre_feedforward_layernorm(stream)

    def finish(self, attended: Tensor, x: Tensor) -> Tensor:
        """Run the second part of a tile."""
        stream, normed = self.before_mlp(attended, x)
        made: Tensor = self.layer.mlp(normed)
        if self.is_sandwich:
            made = self.layer.post_feedforward_layernorm(made)
        return stream + made

    def forward(self, x: Tensor) -> Tensor:
        """Run the layer without gradients."""
        attended = self.attend(*self.project_all(x))
        made = None
        for rows in self.rows(x):
            part = self.finish(attended[:, rows], x[:, rows])
            made = torch.empty_like(x, dtype=part.dtype) if made is None else made
            made[:, rows] = part
            del part
        assert made is not None
        return made

    def backward(self, x: Tensor, grad: Tensor, sums: GradientSums, places: list[int]) -> Tensor:
        """Return the gradient of x; add those of the weights to `sums`.

        Args:
            x: the layer's input.
            grad: of its output.
            sums: one place a trainable parameter, in the order of `first`, `second`, `third`.
            places: where each of the three begins.
        """
        qkv = self.project_all(x)
        with torch.enable_grad():
            qkv = [each.requires_grad_() for each in qkv]
            attended = self.attend(*qkv)
        of_attended, of_x = torch.empty_like(attended), torch.empty_like(x)
        whole = attended.detach()
        for rows in self.rows(x):
            o, r = self._finish_back(whole[:, rows], x[:, rows], grad[:, rows], sums, places)
            of_attended[:, rows], of_x[:, rows] = o, r
            del o, r
        del whole
        of_qkv = torch.autograd.grad(attended, qkv, of_attended)
        del attended, qkv, of_attended
        for rows in self.rows(x):
            with torch.enable_grad():
                part = x[:, rows].detach().requires_grad_()
                made = self.project(part, rows)
            upstream = [each[:, :, rows] for each in of_qkv]
            found = torch.autograd.grad(made, (part, *self.first), upstream)
            of_x[:, rows] += found[0]
            for place, each in enumerate(found[1:], places[0]):
                sums.add(place, each)
            del found, made
        return of_x

    def _finish_back(
        self, attended: Tensor, x: Tensor, grad: Tensor, sums: GradientSums, places: list[int]
    ) -> tuple[Tensor, Tensor]:
        """Differentiate the second part of a tile; return the gradients of both its inputs."""
        with torch.enable_grad():
            attended = attended.detach().requires_grad_()
            x = x.detach().requires_grad_()
            if self.by_hand is None:
                made: tuple[Tensor, ...] = (self.finish(attended, x),)
            else:
                made = self.before_mlp(attended, x)
        inputs, upstream = [attended, x, *self.second], [grad]
        if self.by_hand is None:
            inputs += self.third
        else:
            batch, tokens, hidden = x.shape
            flat = made[1].detach().reshape(-1, hidden)
            shifted = _From(sums, places[2])
            of_normed = self.by_hand(flat, grad.reshape(-1, hidden), shifted)
            upstream.append(of_normed.view(batch, tokens, hidden))
        found = torch.autograd.grad(made, inputs, upstream)
        for place, each in enumerate(found[2:], places[1]):
            sums.add(place, each)
        return found[0], found[1]


class _From(GradientSums):
    """Sums whose places are counted from another one's place."""

    def __init__(self, sums: GradientSums, start: int) -> None:
        self._whole, self._start = sums, start

    def add(self, index: int, grad: Tensor | None) -> None:
        self._whole.add(self._start + index, grad)

    def add_product(self, index: int, left: Tensor, right: Tensor) -> None:
        self._whole.add_product(self._start + index, left, right)


class _Block(torch.autograd.Function):
    """Autograd's view of a tiled layer: x and parameters in, hidden states out."""

    @staticmethod
    def forward(ctx: Any, call: BlockCall, x: Tensor, *parameters: Tensor) -> Tensor:
        ctx.call = call
        ctx.parameters = parameters
        ctx.save_for_backward(x)
        return call.forward(x)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        call: BlockCall = ctx.call
        (x,) = ctx.saved_tensors
        sums = GradientSums(ctx.parameters, call.tiles.in_float32)
        second = len(call.first)
        with call.autocast.replay():
            of_x = call.backward(x, grad, sums, [0, second, second + len(call.second)])
        return (None, of_x, *sums.take())


def _trainable(modules: Sequence[nn.Module]) -> list[Tensor]:
    return [each for module in modules for each in module.parameters() if each.requires_grad]


def _like(part: Tensor, tokens: int) -> Tensor:
    """Return room for a whole sequence of heads, laid out as [batch, token, head, dim]."""
    batch, heads, _, dim = part.shape
    return part.new_empty(batch, tokens, heads, dim).transpose(1, 2)


def _home(attention: nn.Module) -> str:
    """Return the module in which an attention class was written."""
    for kind in type(attention).__mro__:
        if hasattr(sys.modules.get(kind.__module__), "apply_rotary_pos_emb"):
            return kind.__module__
    return type(attention).__module__


def _rotation(attention: nn.Module) -> Callable[..., tuple[Tensor, Tensor]]:
    found: Callable[..., tuple[Tensor, Tensor]] = sys.modules[_home(attention)].apply_rotary_pos_emb
    return found
