"""GGUF files run as they are: their own blocks, packed for the kernels, never made floats of."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fivefold import UserError
from fivefold_kernels import Format, PackedMatrix
from fivefold_kernels.linear.packed import Blocks
from gguf import GGUFReader, dequantize
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from .gguf_file import file_key, require_gguf, unreadable
from .packed import BlockEmbedding, BlockLinear
from .quiet import without_stderr
from .store import made_once

FILE = "blocks.safetensors"
PERMUTED = {"llama": True, "qwen2": False, "qwen3": False}
"""Architectures that are read, and whether their query and key rows are kept in pairs."""
_BLOCKS = (Blocks.Q4_1, Blocks.Q8_0, Blocks.Q4_0)
_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_IGNORED = ("rope_freqs",)  # what the config says already


@dataclass(frozen=True)
class _Heads:
    query: int
    key: int


def blocks_folder(path: Path, say: Callable[[str], None]) -> Path:
    """Return the folder of a GGUF file's blocks, config and tokenizer, made on first use.

    Raises:
        UserError: the file is no GGUF file, is damaged, or of an architecture not read here.
    """
    require_gguf(path)

    def make(folder: Path) -> None:
        say(f"sorting the blocks of {path.name} (once)")
        sort_blocks(path, folder, say)

    return made_once(f"{path.stem}-{file_key(path)}-blocks", make)


def sort_blocks(path: Path, folder: Path, say: Callable[[str], None]) -> None:
    """Write a GGUF file's blocks under the names and in the order of transformers' modules.

    Blocks of kinds that the kernels do not know are written as floats.

    Raises:
        UserError: the file is damaged, or of an architecture not read here.
    """
    where = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    try:
        reader = GGUFReader(path)
        field = reader.get_field("general.architecture")
        architecture = str(field.contents()) if field else "unknown"
        _require_known(architecture, path)
        with without_stderr():
            tokenizer = AutoTokenizer.from_pretrained(**where)
            config: Any = AutoConfig.from_pretrained(**where)
        heads = _Heads(config.num_attention_heads, config.num_key_value_heads)
        tensors, kinds, inflated = {}, {}, set()
        for tensor in reader.tensors:
            name = _module_name(tensor.name)
            if name is None:
                continue
            data, kind = _data(tensor)
            if kind == "float" and tensor.tensor_type.name not in ("F32", "F16", "BF16"):
                inflated.add(tensor.tensor_type.name)
            if PERMUTED[architecture]:
                data = _in_halves(data, name, heads)
            tensors[name], kinds[name] = torch.from_numpy(np.array(data)), kind
    except UserError:
        raise
    except Exception as error:  # readers raise whatever a damaged file leads them to
        raise unreadable(path, error) from error
    if inflated:
        say(f"blocks of kind {', '.join(sorted(inflated))} have no kernel and are held as floats")
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    config.tie_word_embeddings = "lm_head.weight" not in tensors
    save_file(tensors, folder / FILE, metadata=kinds)
    with without_stderr():
        config.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def load_blocks(folder: Path, dtype: torch.dtype, library: ctypes.CDLL) -> PreTrainedModel:
    """Build a model of packed blocks.

    Args:
        folder: made by `sort_blocks`.
        dtype: of its norms, hidden states and KV cache.
        library: a build of the kernels.
    """
    config = AutoConfig.from_pretrained(folder)
    auto: Any = AutoModelForCausalLM
    with torch.device("meta"):
        module: PreTrainedModel = auto.from_config(config, dtype=dtype)
    with safe_open(folder / FILE, framework="pt") as file:
        kinds = file.metadata()
        for name in file.keys():  # noqa: SIM118  (no mapping)
            if name.endswith("bias"):
                continue
            path = name.removesuffix(".weight")
            data, kind = file.get_tensor(name), kinds[name]
            if data.ndim == 1:
                module.get_submodule(path).weight = nn.Parameter(data.to(dtype), False)
                continue
            matrix = matrix_of(data, kind, dtype, library)
            if f"{path}.bias" in kinds:
                matrix = matrix.with_bias(file.get_tensor(f"{path}.bias"))
            is_embedding = isinstance(module.get_submodule(path), nn.Embedding)
            part = BlockEmbedding(matrix, dtype) if is_embedding else BlockLinear(matrix, dtype)
            module.set_submodule(path, part)
            if is_embedding and "lm_head.weight" not in kinds:
                module.set_submodule("lm_head", BlockLinear(matrix, dtype))
    base: Any = module.base_model
    base.rotary_emb = type(base.rotary_emb)(config=config)  # its frequencies were never computed
    module.train(False)
    return module.requires_grad_(False)


def matrix_of(data: Tensor, kind: str, dtype: torch.dtype, library: ctypes.CDLL) -> PackedMatrix:
    """Pack a tensor of the blocks' file: blocks as they are, floats in the model's format."""
    if kind != "float":
        return PackedMatrix.of_blocks(data, kind, library)
    return PackedMatrix.pack(data, Format.F32 if dtype == torch.float32 else Format.BF16, library)


def _require_known(architecture: str, path: Path) -> None:
    if architecture not in PERMUTED:
        raise UserError(
            f"GGUF files of architecture {architecture} do not run from their own blocks; "
            f"{', '.join(PERMUTED)} do",
            setting="model.weights",
            value="file",
            remedy=f"set model.weights=int4, int8 or float for {path.name}",
        )


def _module_name(name: str) -> str | None:
    """Return the name that transformers gives a tensor: blk.3.attn_q.weight and the like."""
    *lead, part, kind = name.split(".")
    if part in _IGNORED:
        return None
    if part not in _NAMES:
        raise ValueError(f"tensor {name} has no place in a model of this family")
    layer = f"model.layers.{lead[1]}." if lead else ""
    return f"{layer}{_NAMES[part]}.{kind}"


def _data(tensor: Any) -> tuple[NDArray[np.generic], str]:
    """Return a tensor's blocks, or its numbers where the kernels know no such blocks."""
    kind = tensor.tensor_type.name
    if kind in _BLOCKS:
        return tensor.data, kind
    numbers = dequantize(tensor.data, tensor.tensor_type)
    return numbers.astype(np.float32), "float"


def _in_halves(data: NDArray[np.generic], name: str, heads: _Heads) -> NDArray[np.generic]:
    """Undo the order of query and key rows in files: pairs of a rotation beside each other."""
    count = {"q_proj": heads.query, "k_proj": heads.key}.get(name.split(".")[-2])
    if count is None:
        return data
    pairs = data.reshape(count, data.shape[0] // count // 2, 2, *data.shape[1:])
    return pairs.swapaxes(2, 1).reshape(data.shape)
