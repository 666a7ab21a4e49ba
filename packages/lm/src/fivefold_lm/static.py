"""A Llama-family decoder on a GPU: passes in static shapes, recorded as graphs and replayed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from fivefold_kernels import FloatMatrix
from fivefold_kernels.decoder.cpu import Scores
from fivefold_kernels.decoder.gpu import Operations, static_pass
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from .cache import KVCache
from .graphs import CudaGraphRecorder, Graphs, Recorder
from .native import weights_of

SIZES = (1, 2, 4, 8, 16, 32, 64, 96, 128, 192, 256)
"""Nodes, and pending nodes, of a recorded pass; fewer are padded to the next of them."""


class StaticDecoder:
    """Runs tree nodes through all layers, a graph a shape, over the module's own weights.

    The shape is (batch, nodes, pending nodes), the last two padded to `SIZES`; passes over more
    nodes, which are prefill, run without a graph. Padding is computed like any node and cut off;
    its keys go to a slot of the cache that nobody sees. No call waits for the device, but for the
    recording of a new shape. With Triton's kernels a node's result is the same bits whatever is
    computed beside it.
    """

    def __init__(
        self,
        module: PreTrainedModel,
        operations: Operations,
        record: Recorder | None,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Prepare a module that `why_no_pass` has nothing against.

        Args:
            module: on the device where it will run; it is left as it is, and must stay there.
            operations: what computes.
            record: makes graphs; None: passes run operation by operation.
            say: told when passes cannot be recorded.
        """
        self.weights = weights_of(module, _matrix)
        self.operations = operations
        self.cache_dtype = module.dtype
        self.graphs = None if record is None else Graphs(record)
        self._say = say
        self._rotary: nn.Module = module.base_model.rotary_emb  # type: ignore[assignment]
        self._cosine = self._sine = torch.empty(0, self.weights.dim // 2, device=module.device)

    def __call__(
        self,
        cache: KVCache,
        inputs: Float[Tensor, "batch node hidden"],
        positions: Int[Tensor, "batch node"],
        visible: Bool[Tensor, "batch node pending"],
        want_logits: bool,
    ) -> Scores:
        """Run nodes that the cache is open for; write their keys and values into it.

        Args:
            cache: a plain one, opened for the nodes.
            inputs: embeddings.
            positions: of each node in its row's text.
            visible: among all pending nodes, the new ones last: ancestors and itself.
            want_logits: run the output layer.
        """
        w, nodes = self.weights, positions.shape[1]
        keys, values = cache.static_planes(w.kv_heads, w.dim, self.cache_dtype)
        self._extend(keys.shape[3])
        nobodys = keys.shape[3] - 1
        given = _padded(inputs, positions, cache.lengths, visible, cache.slots, nobodys)

        def body(held: Sequence[Tensor]) -> Scores:
            return self._pass(keys, values, want_logits, *held)

        if self.graphs is None or nodes > SIZES[-1]:
            scores = body(given)
        else:
            place = (want_logits, keys.data_ptr(), values.data_ptr(), keys.shape)
            scores = self._recorded(self.graphs, place, given, body)
        logits = None if scores.logits is None else scores.logits[:, :nodes]
        return Scores(scores.hidden[:, :nodes], logits)

    def head(self, hidden: Float[Tensor, "row hidden"]) -> Float[Tensor, "row vocab"]:
        """Score hidden states of a pass as the pass does."""
        matrix = self.weights.head
        assert matrix is not None
        rows = hidden.to(matrix.weight.dtype).contiguous()
        return self.operations.float_linear(rows, matrix.weight, matrix.bias)

    def _recorded(
        self,
        graphs: Graphs,
        place: tuple[object, ...],
        given: Sequence[Tensor],
        body: Callable[[Sequence[Tensor]], Scores],
    ) -> Scores:
        """Run a pass by its graph; for good without graphs where one cannot be recorded."""
        try:
            return graphs.run(place, given, body)
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]
            self._say(f"slower passes are run, none could be recorded as a CUDA graph: {reason}")
            self.graphs = None
            return body(given)

    def _pass(
        self,
        keys: Tensor,
        values: Tensor,
        want_logits: bool,
        inputs: Tensor,
        positions: Tensor,
        lengths: Tensor,
        visible: Tensor,
        slots: Tensor,
    ) -> Scores:
        return static_pass(
            self.weights,
            self.operations,
            inputs,
            self._cosine[positions],
            self._sine[positions],
            lengths,
            visible,
            slots,
            keys,
            values,
            want_logits,
        )

    def _extend(self, count: int) -> None:
        """Compute the angles of so many positions by the module's own rotary embedding."""
        if self._cosine.shape[0] >= count:
            return
        device, half = self._cosine.device, self.weights.dim // 2
        with torch.inference_mode(False), torch.no_grad():
            positions = torch.arange(count, device=device)[None]
            cosine, sine = self._rotary(torch.empty(1, 1, 1, device=device), positions)
            self._cosine = cosine[0, :, :half].contiguous()
            self._sine = sine[0, :, :half].contiguous()
        if self.graphs is not None:
            self.graphs.clear()  # they read the old ones


def cuda_recorder(module: PreTrainedModel) -> Recorder | None:
    """Return what records passes of a module; None where its device has no graphs."""
    return CudaGraphRecorder(module.device) if module.device.type == "cuda" else None


def size_of(nodes: int) -> int:
    """Return how many nodes a pass over so many is padded to."""
    return next((size for size in SIZES if size >= nodes), nodes)


def _padded(
    inputs: Tensor,
    positions: Tensor,
    lengths: Tensor,
    visible: Tensor,
    slots: Tensor,
    nobodys: int,
) -> tuple[Tensor, ...]:
    """Add nodes that nobody sees, at position 0 and in a slot of nobody's, up to a known size.

    Args:
        inputs: [batch, node, hidden].
        positions: [batch, node].
        lengths: [batch].
        visible: [batch, node, pending].
        slots: [batch, node].
        nobodys: a slot.
    """
    nodes, pending = visible.shape[1:]
    more, unseen = size_of(nodes) - nodes, size_of(pending) - pending
    if more or unseen:
        visible = functional.pad(visible, (0, unseen, 0, more))
    if more:
        visible[:, nodes:, 0] = True  # something: attention to nothing is no number
        inputs = functional.pad(inputs, (0, 0, 0, more))
        positions = functional.pad(positions, (0, more))
        slots = functional.pad(slots, (0, more), value=nobodys)
    return inputs, positions, lengths, visible, slots


def _matrix(layer: Any) -> FloatMatrix:
    bias = getattr(layer, "bias", None)
    return FloatMatrix(layer.weight.detach(), None if bias is None else bias.detach())
