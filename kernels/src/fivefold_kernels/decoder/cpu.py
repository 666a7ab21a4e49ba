"""A decoder pass on the CPU, in one native call; the twin of `reference.py`."""

from __future__ import annotations

import ctypes
import threading
import weakref
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..attention.checks import check_visible
from ..attention.cpu import check_cache
from ..errors import UnsupportedError
from ..linear.packed import PackedMatrix
from ..native import abi
from ..native.arguments import check_floats, check_indices, thread_count
from .weights import DecoderWeights, LayerWeights

STAGES = (
    "norm",
    "query key value",
    "rotary",
    "attention",
    "merge",
    "output",
    "gate up",
    "down",
    "head",
)
"""What the seconds of a pass are told apart by; conversions of inputs count as norm."""


class Scores(NamedTuple):
    """What a pass yields for its nodes."""

    hidden: Float[Tensor, "batch node hidden"]
    """After the final norm."""
    logits: Float[Tensor, "batch node vocab"] | None


class DecoderPass:
    """Runs a decoder over tree nodes; what a node yields depends on its own text alone.

    Rows of the batch, other nodes and the number of threads change nothing in a node's result, bit
    for bit: a token decoded alone and the same token verified in a tree have the same logits.

    Bytes: the packed matrices once, keys and values once. FLOPs: 2 a weight and node.
    """

    def __init__(self, weights: DecoderWeights[PackedMatrix], library: ctypes.CDLL) -> None:
        """Prepare a decoder for a build of the kernels.

        Raises:
            UnsupportedError: a size that this build does not take.
        """
        check_weights(weights, library)
        if weights.dim % library.ff_lanes() or weights.dim % 2:
            raise UnsupportedError(
                f"head size {weights.dim}; this build takes multiples of {library.ff_lanes()}"
            )
        self.weights = weights
        self.library = library
        self._kept: list[ctypes.Structure] = []
        self._layers = (abi.Layer * len(weights.layers))(*map(self.prepared, weights.layers))
        self._model = abi.Decoder(
            len(weights.layers),
            weights.hidden,
            weights.heads,
            weights.kv_heads,
            weights.dim,
            weights.ffn,
            weights.eps,
            weights.scale,
            self._layers,
            weights.final_norm.data_ptr(),
            None if weights.head is None else self._matrix(weights.head),
        )
        self._lock = threading.Lock()  # one pass at a time: they share its room
        self._pass = library.ff_pass_new()
        if not self._pass:
            raise MemoryError("no memory for a decoder pass")
        weakref.finalize(self, library.ff_pass_free, self._pass)

    def __call__(
        self,
        inputs: Float[Tensor, "batch node hidden"],
        cosine: Float[Tensor, "batch node half"],
        sine: Float[Tensor, "batch node half"],
        lengths: Int[Tensor, " batch"],
        visible: Bool[Tensor, "batch node pending"],
        keys: Float[Tensor, "layer batch kv_head block dim 16"],
        values: Float[Tensor, "layer batch kv_head slot dim"],
        *,
        want_logits: bool = True,
        threads: int | None = None,
        seconds: list[float] | None = None,
        spans: Iterable[tuple[int, int]] | None = None,
    ) -> Scores:
        """Run all layers over the nodes and write their keys and values (see the reference).

        Args:
            inputs: embeddings of the nodes.
            cosine: of each node's position and each pair of a head.
            sine: likewise.
            lengths: committed slots of each row.
            visible: among all pending nodes, the new ones last: ancestors and itself.
            keys: pending node j of row b has slot lengths[b] + j; in blocks of 16 slots, as
                `attention.layout.block_keys` brings them.
            values: likewise, in plain order.
            want_logits: run the output layer, if there is one.
            threads: None takes torch's number.
            seconds: a list to which the time of each of `STAGES` is added.
            spans: layers [first, last) that are run at once, in their order; each is run before the
                next is asked for, so that layers may be exchanged in between. None: all at once.

        Raises:
            UnsupportedError: a tensor of another shape, dtype or layout.
            MemoryError: no room for the pass.
        """
        self._check(inputs, cosine, sine, lengths, visible, keys, values)
        batch, nodes, _ = inputs.shape
        given = inputs.detach().float().contiguous()
        cos, sin = cosine.float().contiguous(), sine.float().contiguous()
        counts, seen = lengths.long().contiguous(), visible.contiguous()
        hidden = torch.empty(given.shape)
        head = self.weights.head if want_logits else None
        logits = None if head is None else torch.empty(batch, nodes, head.out_features)
        spent = (ctypes.c_double * len(STAGES))()
        call = abi.Call(
            batch, nodes, seen.shape[2],
            given.data_ptr(), cos.data_ptr(), sin.data_ptr(), counts.data_ptr(), seen.data_ptr(),
            keys.data_ptr(), values.data_ptr(), *values.stride()[:3], keys.dtype is torch.bfloat16,
            hidden.data_ptr(), None if logits is None else logits.data_ptr(),
            None if seconds is None else ctypes.addressof(spent), 0, 0,
        )  # fmt: skip
        count = thread_count(threads)
        with self._lock:
            for first, last in ((0, len(self.weights.layers)),) if spans is None else spans:
                assert first == call.last, "layers are run in their order, none left out"
                call.first, call.last = first, last
                if self._run(call, count):
                    raise MemoryError("no memory for a decoder pass")
        assert call.last == len(self.weights.layers), f"{call.last} layers ran"
        if seconds is not None:
            seconds[:] = [old + new for old, new in zip(seconds, spent, strict=True)]
        return Scores(hidden, logits)

    def prepared(self, layer: LayerWeights[PackedMatrix]) -> abi.Layer:
        """Return what the library knows a layer by; valid as long as its tensors and this pass."""

        def pointer(norm: Tensor | None) -> int | None:
            return None if norm is None else norm.data_ptr()

        return abi.Layer(
            layer.input_norm.data_ptr(),
            layer.post_norm.data_ptr(),
            pointer(layer.query_norm),
            pointer(layer.key_norm),
            *map(self._matrix, layer.matrices),
        )

    def exchange(self, index: int, layer: abi.Layer) -> None:
        """Let a layer compute with other weights of the same shapes from now on.

        Args:
            index: the layer's.
            layer: made by `prepared`.
        """
        self._layers[index] = layer

    def _run(self, call: abi.Call, threads: int) -> int:
        model, given = ctypes.byref(self._model), ctypes.byref(call)
        status: int = self.library.ff_pass_run(self._pass, model, given, threads)
        return status

    def _check(
        self,
        inputs: Tensor,
        cosine: Tensor,
        sine: Tensor,
        lengths: Tensor,
        visible: Tensor,
        keys: Tensor,
        values: Tensor,
    ) -> None:
        w = self.weights
        if inputs.ndim != 3 or keys.ndim != 6 or values.ndim != 5 or 0 in inputs.shape:
            raise UnsupportedError(
                f"inputs {tuple(inputs.shape)}, keys {tuple(keys.shape)}, values "
                f"{tuple(values.shape)}; the pass takes [batch, node, hidden] and a cache"
            )
        batch, nodes, _ = inputs.shape
        check_floats("inputs", inputs, (batch, nodes, w.hidden))
        for name, angles in (("cosine", cosine), ("sine", sine)):
            check_floats(name, angles, (batch, nodes, w.dim // 2))
        check_indices("lengths", lengths, (batch,))
        check_visible(visible, batch, nodes)
        if visible.device.type != "cpu" or visible.shape[2] < nodes:
            raise UnsupportedError(
                f"{visible.shape[2]} pending nodes on {visible.device}, {nodes} of them in the pass"
            )
        shape = (len(w.layers), batch, w.kv_heads, values.shape[3], w.dim)
        if values.shape != shape or keys.shape[0] != shape[0]:
            raise UnsupportedError(f"values {tuple(values.shape)}; this decoder takes {shape}")
        check_cache(keys[0], values[0], w.dim, self.library)
        if keys.stride(0) != values.stride(0):
            raise UnsupportedError("keys and values must have one layout over the layers")
        slots = int(lengths.max()) + visible.shape[2]
        if slots > shape[3] or int(lengths.min()) < 0:
            raise UnsupportedError(f"{slots} slots are used of a cache that has {shape[3]}")

    def _matrix(self, matrix: PackedMatrix) -> ctypes._Pointer[abi.Matrix]:
        struct = matrix.struct()
        self._kept.append(struct)
        return ctypes.pointer(struct)


def check_weights(weights: DecoderWeights[PackedMatrix], library: ctypes.CDLL) -> None:
    """Refuse weights that a pass of this library would misread.

    Raises:
        UnsupportedError: no layers, a matrix that was packed for another build, or of another
            size, or a norm that is not in float32.
    """
    if not weights.layers:
        raise UnsupportedError("a decoder without layers")
    w, inner = weights, weights.heads * weights.dim
    outer = w.kv_heads * w.dim
    shapes = (
        (inner, w.hidden), (outer, w.hidden), (outer, w.hidden), (w.hidden, inner),
        (w.ffn, w.hidden), (w.ffn, w.hidden), (w.hidden, w.ffn),
    )  # fmt: skip
    for layer in w.layers:
        for matrix, shape in zip(layer.matrices, shapes, strict=True):
            _check_matrix(matrix, shape, library)
        _check_norms((layer.input_norm, layer.post_norm), w.hidden)
        _check_norms((layer.query_norm, layer.key_norm), w.dim)
    _check_norms((w.final_norm,), w.hidden)
    if w.head is not None:
        _check_matrix(w.head, (w.head.out_features, w.hidden), library)


def _check_matrix(matrix: PackedMatrix, shape: tuple[int, int], library: ctypes.CDLL) -> None:
    if matrix.library is not library:
        raise UnsupportedError("a matrix was packed for another build of the kernels; pack it anew")
    found = (matrix.out_features, matrix.in_features)
    if found != shape:
        raise UnsupportedError(f"a matrix {found} where the decoder has {shape}")


def _check_norms(norms: Sequence[Tensor | None], size: int) -> None:
    for norm in norms:
        if norm is None:
            continue
        check_floats("a norm's weight", norm, (size,))
        if norm.dtype is not torch.float32 or not norm.is_contiguous():
            raise UnsupportedError(f"a norm's weight in {norm.dtype}; it is contiguous float32")
