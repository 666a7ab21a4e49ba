"""A model's weights on their way from its files to where it computes: what streams, what stays.

The matrices of the decoder layers are streamed; norms, biases, embeddings and output layer stay.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from fivefold import UserError
from fivefold_kernels import Format, PackedMatrix
from torch import Tensor, nn
from transformers import PreTrainedModel

from ..gguf_blocks import matrix_of
from ..kernels import Kernels
from ..marks import matrix_mark, weight_mark
from ..packed import BlockEmbedding, BlockLinear, NativeProduct, OneDnnProduct, PackedLinear
from .source import Checkpoint, as_dtype
from .storage import Weights

FAMILIES = (
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
    "gemma2",
    "gemma3_text",
    "phi",
    "gpt2",
    "gpt_neox",
)
"""Architectures whose layers are streamed: those that the tests run streamed and resident."""
_STORED_AS = {"lm_head.weight": "embed_out.weight"}
"""Parameters that files of some architecture have under an older name (gpt_neox)."""
_LAYERS = ("layers", "h")  # what their decoders call their list of layers


def decoder_layers(module: PreTrainedModel) -> Sequence[nn.Module]:
    """Return a model's decoder layers, in their order."""
    base: Any = module.base_model
    found: nn.ModuleList = next(getattr(base, name) for name in _LAYERS if hasattr(base, name))
    return list(found)


class WeightReader:
    """Reads the weights of a module that has none, in the form in which it computes with them.

    Args:
        module: on the meta device.
        checkpoint: its weights, as floats or as the blocks of a GGUF file.
        kernels: what computes; None: stock torch.
        is_blocks: the checkpoint holds blocks (`gguf_blocks.sort_blocks`).
        name: of the model, for errors.

    Raises:
        UserError: weights are missing.
    """

    def __init__(
        self,
        module: PreTrainedModel,
        checkpoint: Checkpoint,
        kernels: Kernels | None,
        is_blocks: bool,
        name: str,
    ) -> None:
        self._module, self._checkpoint, self._kernels = module, checkpoint, kernels
        self._is_blocks = is_blocks
        self._is_tied = _is_tied(module)
        self._prefix = f"{module.base_model_prefix}."
        self.dtype = module.dtype
        self.layers = decoder_layers(module)
        self._path_of = {id(part): path for path, part in module.named_modules()}
        self._order = [name for name, _ in module.named_parameters()]
        self._sizes = {name: tuple(weight.shape) for name, weight in module.named_parameters()}
        self._matrices = [name for name, part in module.named_modules() if _is_matrix(part)]
        self.marks: dict[str, bytes] = {}
        missing = [each for each in self._order if self._stored(each) is None]
        if missing:
            raise UserError(
                f"{len(missing)} of its weights are missing, {missing[0]} for one",
                setting="model.name",
                value=name,
                remedy="fetch the model again; its config and weights do not belong together",
            )

    def streamed(self, layer: int) -> dict[str, str]:
        """Return which weights of a layer are streamed: names in the layer, and in the model."""
        path = self._path_of[id(self.layers[layer])]
        return {
            name: f"{path}.{name}"
            for name, weight in self.layers[layer].named_parameters()
            if weight.ndim > 1
        }

    def layer(self, layer: int) -> Weights:
        """Read what is streamed of a layer; before its linear layers are prepared."""
        weights: Weights = {}
        for name, full in self.streamed(layer).items():
            owner = self.layers[layer].get_submodule(name.rpartition(".")[0])
            weights[name] = self._held(full, is_linear=type(owner) is nn.Linear)
        return weights

    def planned(self, layer: int) -> Weights:
        """Return plain tensors of a layer's shapes, without numbers."""
        return {
            name: torch.empty(self._sizes[full], dtype=self.dtype, device="meta")
            for name, full in self.streamed(layer).items()
        }

    def read_rest(self, device: torch.device) -> None:
        """Read what stays into the module: all but the layers' matrices."""
        streamed = {full for i in range(len(self.layers)) for full in self.streamed(i).values()}
        for name in self._order:
            path, _, leaf = name.rpartition(".")
            if name in streamed or (self._is_blocks and self._kind(name) != "norm"):
                continue
            weight = self._tensor(name)
            self.marks[name] = weight_mark(name, weight)
            owner = self._module.get_submodule(path)
            owner._parameters[leaf] = nn.Parameter(weight.to(device), requires_grad=False)
        self._read_buffers(device)
        if self._is_blocks:
            self._read_blocks_that_stay()
            return
        if self._is_tied:
            head, embedding = _ends(self._module)
            head.weight = embedding.weight
        if self._kernels is not None:
            self._pack_head(self._kernels)

    def all_marks(self) -> list[bytes]:
        """Return the marks of all weights in the order of a fingerprint."""
        if not self._is_blocks:
            return [self.marks[name] for name in self._order]
        norms = [self.marks[name] for name in self._order if self._kind(name) == "norm"]
        return norms + [self.marks[name] for name in self._matrices]

    # Inside.

    def _stored(self, name: str) -> str | None:
        """Return what the files call a parameter: transformers leaves the prefix away at times."""
        short = name.removeprefix(self._prefix)
        names = (name, short, self._prefix + name, _STORED_AS.get(name, name))
        return next((each for each in names if each in self._checkpoint), None)

    def _tensor(self, name: str) -> Tensor:
        stored = self._stored(name)
        assert stored is not None
        found = self._checkpoint.tensor(stored)
        if not self._is_blocks and tuple(found.shape) != self._sizes[name]:
            raise UserError(
                f"its weight {name} has the shape {tuple(found.shape)}, and its config says "
                f"{self._sizes[name]}",
                setting="model.name",
                remedy="fetch the model again; its config and weights do not belong together",
            )
        return found if self._is_blocks and found.ndim > 1 else as_dtype(found, self.dtype)

    def _held(self, name: str, is_linear: bool) -> Tensor | PackedMatrix:
        """Read one matrix and note its mark."""
        if self._is_blocks:
            path = name.removesuffix(".weight")
            matrix = self._blocks(name)
            self.marks[path] = matrix_mark(path, matrix)
            return matrix
        weight = self._tensor(name)
        self.marks[name] = weight_mark(name, weight)
        if not is_linear or self._kernels is None or self._kernels.library is None:
            return weight
        assert self._kernels.pack is not None
        product = self._kernels.pack(weight, None)
        assert isinstance(product, NativeProduct)
        return product.matrix

    def _blocks(self, name: str) -> PackedMatrix:
        assert self._kernels is not None
        assert self._kernels.library is not None
        kind = self._checkpoint.kinds[name]
        return matrix_of(self._tensor(name), kind, self.dtype, self._kernels.library)

    def _kind(self, name: str) -> str:
        """Tell a norm from a matrix and from a bias, in a file of blocks."""
        if name.endswith("bias"):
            return "bias"
        return "norm" if len(self._sizes[name]) == 1 else "matrix"

    def _read_blocks_that_stay(self) -> None:
        """Read embedding and output layer as blocks; biases of the layers as floats."""
        head, embedding = _ends(self._module)
        path = self._path_of[id(embedding)]
        matrix = self._blocks(f"{path}.weight")
        self._module.set_submodule(path, BlockEmbedding(matrix, self.dtype))
        self.marks[path] = matrix_mark(path, matrix)
        path = self._path_of[id(head)]
        if not self._is_tied:
            matrix = self._blocks(f"{path}.weight")
        self._module.set_submodule(path, BlockLinear(matrix, self.dtype))
        self.marks[path] = matrix_mark(path, matrix)
        for name in self._order:
            if self._kind(name) == "bias":
                owner = self._module.get_submodule(name.rpartition(".")[0])
                stored = self._stored(name)
                assert stored is not None
                bias = self._checkpoint.tensor(stored).float()
                owner._parameters["bias"] = nn.Parameter(bias, requires_grad=False)

    def _pack_head(self, kernels: Kernels) -> None:
        """Pack the output layer; a tied embedding reads its rows out of it where that is exact."""
        head, embedding = _ends(self._module)
        if type(head) is not nn.Linear:
            return
        path = self._path_of[id(head)]
        pack = kernels.head or kernels.pack
        assert pack is not None
        if kernels.library is None:
            self._module.set_submodule(path, PackedLinear(head, pack))
            return
        product = pack(head.weight, head.bias)
        assert isinstance(product, NativeProduct)
        is_exact = product.matrix.format in (Format.F32, Format.BF16)
        if self._is_tied and not is_exact:  # the embedding keeps the floats anyway
            packed = PackedLinear(head, lambda weight, bias: product)
            self._module.set_submodule(path, packed)
            return
        self._module.set_submodule(path, BlockLinear(product.matrix, self.dtype))
        if self._is_tied and type(embedding) is nn.Embedding:
            rows = BlockEmbedding(product.matrix, self.dtype)
            self._module.set_submodule(self._path_of[id(embedding)], rows)

    def _read_buffers(self, device: torch.device) -> None:
        """Bring buffers to the device; those that the files hold are read."""
        for path, part in self._module.named_modules():
            for leaf, buffer in part._buffers.items():
                if buffer is None:
                    continue
                stored = self._stored(f"{path}.{leaf}")
                part._buffers[leaf] = (
                    buffer if stored is None else self._checkpoint.tensor(stored).to(buffer.dtype)
                ).to(device)


def weight_bytes(module: PreTrainedModel) -> int:
    """Return the bytes that the weights of a module take where they are; streamed ones are not."""
    found: dict[int, int] = {}

    def count(tensor: Tensor | None) -> None:
        if tensor is not None and tensor.device.type != "meta":
            found[tensor.data_ptr()] = tensor.nbytes

    for part in module.modules():
        for tensor in (*part._parameters.values(), *part._buffers.values()):
            count(tensor)
        matrix = getattr(part, "matrix", None)
        product = vars(part).get("product")
        if isinstance(product, NativeProduct):
            matrix = product.matrix
        if isinstance(matrix, PackedMatrix):
            for tensor in (matrix.data, matrix.scales, matrix.bias):
                count(tensor)
        elif isinstance(product, OneDnnProduct):  # a copy in its own layout
            assert isinstance(part, PackedLinear)
            found[id(product)] = part.weight.nbytes
    return sum(found.values())


def _is_matrix(part: nn.Module) -> bool:
    return type(part) is nn.Linear or isinstance(part, nn.Embedding)


def _ends(module: PreTrainedModel) -> tuple[nn.Linear, nn.Embedding]:
    head: Any = module.get_output_embeddings()  # type: ignore[no-untyped-call]
    embedding: Any = module.get_input_embeddings()
    return head, embedding


def _is_tied(module: PreTrainedModel) -> bool:
    head, embedding = _ends(module)
    return head is not None and head.weight is embedding.weight
