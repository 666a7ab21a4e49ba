"""One forward pass over a tree of nodes, for any Hugging Face decoder, target or draft."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from fivefold import UserError
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers.modeling_utils import PreTrainedModel
from transformers.utils.generic import ModelOutput

from . import attention
from .attention import AttentionMethod, FullAttention, Pass
from .cache import KVCache
from .kernels import speedup_of
from .layout import Layout
from .offload.streamed import offload_of


class Rows(NamedTuple):
    """What a pass yields for its nodes."""

    logits: Float[Tensor, "batch node vocab"] | None
    """Float32 scores of the next token; None where none were asked for, or `head` is to make them.
    """
    hidden: Float[Tensor, "batch node hidden"] | None
    """The last hidden state, after the final norm; None where it was not asked for."""
    head: Callable[[Tensor], Tensor] | None = None
    """Scores hidden states [row, hidden] as the pass would have, where it was told to leave that;
    logits of all nodes together, batch * node * vocab * 4 bytes, need then never be there."""
    head_chunk: int = 0
    """Nodes to score at a time by `head`."""

    def at(self, node: Int[Tensor, " batch"]) -> Float[Tensor, "batch vocab"]:
        """Return the logits of one node a row."""
        batch = torch.arange(len(node), device=node.device)
        if self.logits is not None:
            return self.logits[batch, node]
        assert self.head is not None
        return self.head(_known(self.hidden)[batch, node])

    def chunks(self) -> Iterator[tuple[slice, Float[Tensor, "row vocab"]]]:
        """Yield logits by `head`, some nodes at a time, and which nodes of all rows they are."""
        assert self.head is not None
        hidden = _known(self.hidden).flatten(0, 1)
        for start in range(0, len(hidden), self.head_chunk):
            span = slice(start, start + self.head_chunk)
            yield span, self.head(hidden[span])


class TreeForward:
    """Run a decoder on tree nodes: a mask of ancestors, and positions by depth.

    Rows of a batch are independent and may have different lengths. Nothing here waits for an
    accelerator. The model is left as it was: its attention is exchanged only during a pass.
    """

    def __init__(self, module: PreTrainedModel, method: AttentionMethod) -> None:
        """Prepare a decoder.

        Args:
            module: a causal LM, or a bare decoder (which yields hidden states, but no logits).
            method: how layers attend.
        """
        attention.register()
        self.module = module
        self.method = method
        self.layout = Layout.of(module)
        self.decoder: nn.Module = module.base_model
        self.has_head = self.decoder is not module
        self._configs = _attention_configs(module)
        self.dtype = module.dtype
        self._embed: nn.Module = module.get_input_embeddings()
        speedup = speedup_of(module)
        self.native = None if speedup is None else speedup.decoder
        self._offload = offload_of(module)
        self._takes_pass = all(_takes_any(part.forward) for part in (module, self.decoder))

    def prefetch(self) -> None:
        """Begin to load the first layers of the next pass, where layers are streamed at all.

        Nothing waits. After a pass this has begun by itself; before the first it has not.
        """
        if self._offload is not None:
            self._offload.prefetch()

    @torch.no_grad()
    def __call__(
        self,
        cache: KVCache,
        tokens: Int[Tensor, "batch node"] | None,
        depths: Int[Tensor, "batch node"],
        visible: Bool[Tensor, "batch node pending"],
        inputs_embeds: Float[Tensor, "batch node hidden"] | None = None,
        want_hidden: bool = False,
        want_logits: bool = True,
        head_chunk: int = 0,
    ) -> Rows:
        """Append nodes to the cache, where they stay pending, and score what follows each.

        Args:
            cache: holds the prefix and the nodes still pending.
            tokens: the new nodes' tokens; None when `inputs_embeds` says what they are.
            depths: distance from the row's committed text: a node's position is length + depth.
            visible: among all pending nodes, the new ones last: each new node's ancestors and
                itself. The prefix is always visible.
            inputs_embeds: input vectors in place of tokens.
            want_hidden: also yield the last hidden state.
            want_logits: run the output layer.
            head_chunk: leave the output layer to the rows' `head`, so many nodes at a time; 0: run
                it. The hidden states are then in the numbers that the output layer reads.

        Raises:
            UserError: this model cannot attend by the method chosen.
        """
        positions = cache.lengths[:, None] + depths
        cache.open(depths)
        with_head = want_logits and self.has_head and not head_chunk
        if self.native and type(cache) is KVCache and type(self.method) is FullAttention:
            if inputs_embeds is None:
                inputs_embeds = self._embed(tokens)
            out = self.native(cache, inputs_embeds, positions, visible, with_head)
            if head_chunk:
                return Rows(None, out.hidden, self.native.head, head_chunk)
            hidden = out.hidden.to(self.dtype) if want_hidden or not with_head else None
            return Rows(out.logits, hidden)
        inputs: dict[str, Any] = {
            "attention_mask": self._masks(cache, visible),
            "position_ids": positions,
            "past_key_values": cache,
            "use_cache": True,
        }
        if inputs_embeds is None:
            inputs["input_ids"] = tokens
        else:
            inputs["inputs_embeds"] = inputs_embeds
        catch = _last_hidden(self.decoder, with_head and want_hidden)
        with self._attending() as carried, catch as seen:
            out = (self.module if with_head else self.decoder)(**inputs, **carried)
        if with_head:
            return Rows(out.logits.float(), seen[0] if want_hidden else None)
        if head_chunk:
            head = partial(self._head, type(out))
            return Rows(None, out.last_hidden_state, head, head_chunk)
        return Rows(None, out.last_hidden_state)

    @torch.no_grad()
    def _head(
        self, kind: type[ModelOutput], hidden: Float[Tensor, "row hidden"]
    ) -> Float[Tensor, "row vocab"]:
        """Score last hidden states as the model itself does: output layer, scaling, soft cap.

        Args:
            kind: what the decoder returns.
            hidden: after the final norm.
        """
        with _standing_in(self.module, kind(last_hidden_state=hidden[None])):
            unread = torch.zeros(1, len(hidden), dtype=torch.long, device=hidden.device)
            logits: Tensor = self.module(input_ids=unread, use_cache=False).logits[0]
        return logits.float()

    def prefill(
        self,
        cache: KVCache,
        tokens: Int[Tensor, "batch token"] | None,
        lengths: Int[Tensor, " batch"],
        inputs_embeds: Float[Tensor, "batch token hidden"] | None = None,
        want_hidden: bool = False,
        want_logits: bool = False,
        chunk: int = 512,
    ) -> Rows:
        """Read text into the cache and commit it.

        Args:
            cache: without pending nodes; what it holds stays in front.
            tokens: padded on the right with any token.
            lengths: how many of them count, per row; at least 1 when `want_logits`.
            inputs_embeds: input vectors in place of tokens.
            want_hidden: also yield the last hidden states, [batch, token, hidden]; those of
                padding mean nothing.
            want_logits: score what follows each row's last token, [batch, 1, vocab].
            chunk: tokens a pass; bounds the memory of the mask.
        """
        assert cache.pending == 0, "nodes are pending: keep, commit or rewind first"
        given = tokens if inputs_embeds is None else inputs_embeds
        assert given is not None, "tokens or inputs_embeds"
        body = given.shape[1] - int(want_logits)
        parts = []
        for start in range(0, body, chunk):
            stop = min(start + chunk, body)
            part = self._chain(cache, given[:, start:stop], want_logits=False)
            cache.commit((lengths - int(want_logits) - start).clamp(0, stop - start))
            if want_hidden:
                parts.append(_known(part.hidden))
        if not want_logits:
            return Rows(None, torch.cat(parts, dim=1) if want_hidden else None)
        last = (lengths - 1)[:, None]
        tail = given.gather(1, last if given.ndim == 2 else _spread(last, given.shape[2]))
        end = self._chain(cache, tail, want_logits=True, want_hidden=want_hidden)
        cache.commit(torch.ones_like(lengths))
        if not want_hidden:
            return Rows(end.logits, None)
        newest = _known(end.hidden)
        hidden = torch.cat([*parts, torch.zeros_like(newest)], dim=1)
        return Rows(end.logits, hidden.scatter(1, _spread(last, hidden.shape[2]), newest))

    def _chain(
        self, cache: KVCache, given: Tensor, want_logits: bool, want_hidden: bool = False
    ) -> Rows:
        """Append tokens (or vectors) one below the other."""
        batch, nodes = given.shape[:2]
        depths = torch.arange(nodes, device=given.device).expand(batch, nodes)
        visible = torch.ones(nodes, nodes, dtype=torch.bool, device=given.device).tril()
        tokens, vectors = (given, None) if given.ndim == 2 else (None, given)
        return self(
            cache,
            tokens,
            depths,
            visible.expand(batch, nodes, nodes),
            inputs_embeds=vectors,
            want_hidden=want_hidden,
            want_logits=want_logits,
        )

    def _masks(self, cache: KVCache, visible: Tensor) -> Tensor | dict[str, Tensor]:
        """Additive masks [batch, 1, node, column], made once a pass; by layer type if needed."""
        masks = {}
        for kind in self.layout.masks:
            seen = cache.visible_columns(visible, self.layout.window_of(kind))
            mask = torch.zeros(seen.shape, dtype=self.dtype, device=seen.device)
            masks[kind] = mask.masked_fill_(~seen, torch.finfo(self.dtype).min)[:, None]
        return masks if self.layout.by_type else next(iter(masks.values()))

    @contextmanager
    def _attending(self) -> Iterator[dict[str, Pass]]:
        """Exchange the model's attention for ours while a pass runs."""
        carried = Pass(self.method)
        before = [config._attn_implementation_internal for config in self._configs]
        for config in self._configs:
            config._attn_implementation_internal = attention.NAME
        try:
            yield {"fivefold": carried} if self._takes_pass else {}
        finally:
            for config, name in zip(self._configs, before, strict=True):
                config._attn_implementation_internal = name
        if carried.calls == 0 and type(self.method) is not FullAttention:
            raise UserError(
                f"{type(self.module).__name__} attends by code of its own",
                setting="attention",
                value=self.method.name,
                remedy="use attention=full, or a model with transformers' attention functions",
            )


@contextmanager
def _last_hidden(decoder: nn.Module, wanted: bool) -> Iterator[list[Tensor]]:
    """Catch the decoder's last hidden state inside a pass of the whole model."""
    seen: list[Tensor] = []
    if not wanted:
        yield seen
        return
    hook = decoder.register_forward_hook(lambda _, __, out: seen.append(out.last_hidden_state))
    try:
        yield seen
    finally:
        hook.remove()


class _Given(nn.Module):
    """Returns an output that is known already, whatever it is given."""

    def __init__(self, out: ModelOutput) -> None:
        super().__init__()
        self.out = out

    def forward(self, *_: Any, **__: Any) -> ModelOutput:
        """Return it."""
        return self.out


@contextmanager
def _standing_in(module: PreTrainedModel, out: ModelOutput) -> Iterator[None]:
    """Put a given output in the place of a model's decoder meanwhile: its head then runs alone.

    The decoder itself is not called: hooks on it must not see a pass where there is none.
    """
    name, decoder = module.base_model_prefix, module.base_model
    module._modules[name] = _Given(out)
    try:
        yield
    finally:
        module._modules[name] = decoder


def _attention_configs(module: PreTrainedModel) -> list[Any]:
    """Every config object that some part of the model reads its attention's name from."""
    configs = {id(part.config): part.config for part in module.modules() if hasattr(part, "config")}
    return [c for c in configs.values() if hasattr(c, "_attn_implementation_internal")]


def _takes_any(forward: Any) -> bool:
    kinds = [parameter.kind for parameter in inspect.signature(forward).parameters.values()]
    return inspect.Parameter.VAR_KEYWORD in kinds


def _spread(index: Tensor, size: int) -> Tensor:
    return index[:, :, None].expand(-1, -1, size)


def _known(hidden: Tensor | None) -> Tensor:
    assert hidden is not None
    return hidden
