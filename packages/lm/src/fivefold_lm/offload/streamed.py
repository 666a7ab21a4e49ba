"""A model that computes with streamed layers: which weights a layer holds, and when.

Two ways lead through the layers. A native pass is run span by span, each streamed layer with the
pointers of the buffer it came in. Any other model runs its own modules: hooks around each streamed
layer put the buffer's weights into it and take them out again, so that nothing reads a buffer that
is being filled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from fivefold_kernels import LayerWeights, PackedMatrix
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from ..kernels import Kernels, Speedup, hold_packed
from ..native import NativeDecoder, layer_weights
from ..packed import BlockLinear, NativeProduct, PackedLinear
from .ring import LayerStreamer, Streamed
from .storage import Weights

_ATTRIBUTE = "fivefold_offload"
_ABSENT = "this layer is streamed, and its weights are here only while it runs"


class StreamedLinear(BlockLinear):
    """A linear layer whose packed matrix is there only while its layer runs."""

    def __init__(self, original: nn.Linear, dtype: torch.dtype) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = original.in_features, original.out_features
        self.dtype = dtype
        self.added = None if original.bias is None else original.bias.detach()
        self.drop()

    @property
    def weight(self) -> Float[Tensor, "out in"]:  # type: ignore[override]
        """The matrix as floats, while it is there."""
        if "matrix" not in vars(self):
            raise RuntimeError(_ABSENT)
        return super().weight

    @property
    def bias(self) -> Float[Tensor, " out"] | None:  # type: ignore[override]
        """What is added to each product; it stays."""
        return self.added

    def hold(self, product: NativeProduct) -> None:
        """Compute with a matrix from now on."""
        self.product = product
        self.matrix = product.matrix

    def drop(self) -> None:
        """Hold no matrix."""
        self.product = _absent
        vars(self).pop("matrix", None)


class RepackedLinear(PackedLinear):
    """A linear layer that packs its weight anew each time its layer runs."""

    def __init__(self, original: nn.Linear, kernels: Kernels) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = original.in_features, original.out_features
        self.weight, self.bias = original.weight, original.bias
        assert kernels.pack is not None
        self._pack = kernels.pack
        self.drop()

    def hold(self) -> None:
        """Pack the weight that is there now."""
        self.product = self._pack(self.weight, self.bias)

    def drop(self) -> None:
        """Hold no packed weight."""
        self.product = _absent


def _absent(rows: Tensor) -> Tensor:
    raise RuntimeError(_ABSENT)


def prepare_layer(layer: nn.Module, kernels: Kernels | None, dtype: torch.dtype) -> None:
    """Swap a layer's linear layers for ones whose weights come and go."""
    if kernels is None:
        return
    for parent in list(layer.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is not nn.Linear:
                continue
            is_native = kernels.library is not None
            part = StreamedLinear(child, dtype) if is_native else RepackedLinear(child, kernels)
            setattr(parent, name, part)


class _Binding:
    """One layer's modules and the weights of one storage, ready to be put together."""

    def __init__(self, layer: nn.Module, weights: Weights) -> None:
        self._matrices: list[tuple[StreamedLinear, NativeProduct]] = []
        self._tensors: list[tuple[nn.Module, str, nn.Parameter, nn.Parameter]] = []
        self._repacked = [part for part in layer.modules() if isinstance(part, RepackedLinear)]
        for name, weight in weights.items():
            path, _, leaf = name.rpartition(".")
            owner = layer.get_submodule(path)
            if isinstance(weight, PackedMatrix):
                assert isinstance(owner, StreamedLinear)
                added = owner.added
                matrix = weight if added is None else weight.with_bias(added)
                self._matrices.append((owner, NativeProduct(matrix)))
                continue
            absent = owner._parameters[leaf]
            assert absent is not None
            here = nn.Parameter(weight, requires_grad=False)
            self._tensors.append((owner, leaf, here, absent))

    def bind(self) -> None:
        """Put the weights into the layer."""
        for owner, product in self._matrices:
            owner.hold(product)
        for parent, leaf, here, _ in self._tensors:
            parent._parameters[leaf] = here
        for part in self._repacked:
            part.hold()

    def unbind(self) -> None:
        """Take them out again."""
        for owner, _ in self._matrices:
            owner.drop()
        for parent, leaf, _, absent in self._tensors:
            parent._parameters[leaf] = absent
        for part in self._repacked:
            part.drop()


@dataclass(frozen=True)
class About:
    """What a run says of its streaming."""

    where: str
    """`disk` or `host`."""
    reads: str
    """How the bytes come: `direct`, `dropped` or `cached` from disk, `pinned` or `pageable`."""
    weight_bytes: int
    """What the weights take on the device: resident parts, layers that stay, and buffers."""
    rate: float = 0.0
    """Bytes a second that reads are slowed to; 0: they are not."""


class Offload:
    """What lets one module compute with streamed layers.

    Args:
        module: whose layers are prepared (`prepare_layer`) and without weights.
        layers: the module's decoder layers.
        streamer: brings them.
        views: returns the weights of a layer that a storage holds or will hold.
        marks: of all weights, for the model's fingerprint.
        about: what a run says of it.
    """

    def __init__(
        self,
        module: PreTrainedModel,
        layers: Sequence[nn.Module],
        streamer: LayerStreamer,
        views: Callable[[int, Tensor], Weights],
        marks: Sequence[bytes],
        about: About,
    ) -> None:
        self.streamer = streamer
        self.marks = marks
        self.about = about
        self._layers = layers
        self._views = views
        self._index_of = {id(part): i for i, layer in enumerate(layers) for part in layer.modules()}
        for index, storage in streamer.resident.items():
            _Binding(layers[index], views(index, storage)).bind()
        self._bindings = {
            index: [_Binding(layers[index], views(index, buffer)) for buffer in streamer.buffers]
            for index in sorted(streamer.streamed)
        }
        self._decoder: NativeDecoder | None = None
        self._prepared: dict[int, list[Any]] = {}  # by layer and buffer, as the library knows it
        self._kept: list[LayerWeights[PackedMatrix]] = []  # what the prepared ones point to
        for index, layer in enumerate(layers):
            layer.register_forward_pre_hook(lambda _, __, index=index: self._enter(index))
            layer.register_forward_hook(lambda _, __, ___, index=index: self._leave(index))
        base: nn.Module = module.base_model
        base.register_forward_pre_hook(lambda _, __: self.streamer.begin())
        base.register_forward_hook(lambda _, __, ___: self.streamer.end())
        object.__setattr__(module, _ATTRIBUTE, self)

    @property
    def bytes_per_pass(self) -> int:
        """Bytes that each pass streams."""
        return self.streamer.bytes_per_pass

    def prefetch(self) -> None:
        """Begin to load the first streamed layers of the next pass, unless that has begun."""
        self.streamer.prefetch()

    def done(self) -> Streamed:
        """Return what was streamed so far."""
        return self.streamer.done()

    def speed_up(self, module: PreTrainedModel, kernels: Kernels) -> Speedup:
        """Let the module run in native calls, span by span, where its layers are known."""
        with self._all_bound():
            done = hold_packed(module, kernels)
        if isinstance(done.decoder, NativeDecoder):
            self._run_spans_of(done.decoder)
        return done

    @contextmanager
    def weights_of(self, part: nn.Module) -> Iterator[None]:
        """Give the layer that a module belongs to its weights meanwhile, outside of any pass."""
        index = self._index_of.get(id(part))
        if index is None or index not in self._bindings:
            yield
            return
        storage = self.streamer.copy_of(index)
        binding = _Binding(self._layers[index], self._views(index, storage))
        binding.bind()
        try:
            yield
        finally:
            binding.unbind()

    def environment(self) -> dict[str, object]:
        """Return what a result's environment says of it."""
        return {
            "offload": self.about.where,
            "offload_reads": self.about.reads,
            "offload_layers": self.streamer.count,
            "offload_streamed_layers": len(self.streamer.streamed),
            "offload_bytes_per_pass": self.bytes_per_pass,
            "offload_weight_bytes": self.about.weight_bytes,
        }

    def figures(self) -> dict[str, float | None]:
        """Return what streaming took since the model was loaded.

        `t_stream` is what loading took and `t_stream_wait` how long passes waited for it, in
        seconds, each of one pass; `stream_rate` is in bytes a second of loading.
        """
        done = self.done()
        passes = done.passes or None
        return {
            "stream_bytes_per_pass": float(self.bytes_per_pass),
            "stream_rate": done.nbytes / done.t_stream if done.t_stream else None,
            "t_stream": done.t_stream / passes if passes else None,
            "t_stream_wait": done.t_wait / passes if passes else None,
        }

    # Modules.

    def _enter(self, index: int) -> None:
        buffer = self.streamer.acquire(index)
        if buffer is not None:
            self._bindings[index][buffer].bind()
            self._entered = buffer

    def _leave(self, index: int) -> None:
        if index in self._bindings:
            self._bindings[index][self._entered].unbind()
        self.streamer.release(index)

    # Native passes.

    def _run_spans_of(self, decoder: NativeDecoder) -> None:
        for index, bindings in self._bindings.items():
            self._prepared[index] = []
            for binding in bindings:
                binding.bind()
                weights = layer_weights(self._layers[index])
                self._kept.append(weights)
                self._prepared[index].append(decoder.run.prepared(weights))
                binding.unbind()
        self._decoder = decoder
        decoder.spans = self._spans

    def _spans(self) -> Iterator[tuple[int, int]]:
        """Yield the layers that can run at once; those that stay do not wait for the others."""
        assert self._decoder is not None
        streamer = self.streamer
        streamer.begin()
        first = 0
        while first < streamer.count:
            buffer = streamer.acquire(first)
            last = first + 1
            if buffer is not None:
                self._decoder.run.exchange(first, self._prepared[first][buffer])
            else:
                while last < streamer.count and last not in streamer.streamed:
                    last += 1
            yield first, last
            streamer.release(first)
            for layer in range(first + 1, last):
                streamer.acquire(layer)
                streamer.release(layer)
            first = last
        streamer.end()

    @contextmanager
    def _all_bound(self) -> Iterator[None]:
        """Give every layer the weights of some storage, for what looks at their shapes."""
        for bindings in self._bindings.values():
            bindings[0].bind()
        try:
            yield
        finally:
            for bindings in self._bindings.values():
                bindings[0].unbind()


@contextmanager
def weights_here(module: nn.Module, part: nn.Module) -> Iterator[None]:
    """Let the weights of one part of a model be there meanwhile, streamed or not."""
    offload = offload_of(module)
    with nullcontext() if offload is None else offload.weights_of(part):
        yield


def offload_of(module: nn.Module) -> Offload | None:
    """Return what streams a model's layers; None: they all are simply there."""
    return getattr(module, _ATTRIBUTE, None)
