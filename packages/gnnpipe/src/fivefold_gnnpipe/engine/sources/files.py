"""A user's own graph: npz, safetensors, a saved dictionary of PyG's, or a folder of CSV files.

All keep the same keys: `edge_index [2, E]`, `x [N, F]` (or CSR parts `x_indptr, x_indices,
x_data`), `y [N]` (-1 unlabelled) or `[N, C]` of 0 and 1, and optionally `train_mask, val_mask,
test_mask [N]`, `edge_weight [E]`. Nothing is ever unpickled.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fivefold import UserError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ..._words import Direction
from ...config import DataConfig
from ..graph import GraphData, clean_edges, hashed_masks
from .csv_folder import read_folder
from .hashed_words import dense

_LARGEST_EXACT = 2**53
_CONVERT = (
    "save it as a dictionary: torch.save(data.to_dict(), 'graph.pt'); "
    "pickled objects are never loaded"
)
MASKS = ("train_mask", "val_mask", "test_mask")


def read_graph(config: DataConfig) -> GraphData:
    """Return the graph in `data.path`, recognised by its content.

    Raises:
        UserError: no such file, an unknown or pickled format, missing or senseless arrays.
    """
    path = Path(config.path)
    if path.is_dir():
        return graph_of(read_folder(path), config, path.name)
    if not path.is_file():
        raise _refused(path, "there is no such file or folder", "mend data.path")
    arrays = read_arrays(path)
    return graph_of(arrays, config, path.stem)


def read_arrays(path: Path) -> dict[str, Tensor]:
    """Return a file's tensors by key: npz, safetensors or torch's zip, by their first bytes."""
    try:
        with path.open("rb") as file:
            head = file.read(9)
    except OSError as error:
        raise _refused(path, f"it cannot be read: {error}", "mend data.path") from error
    if head.startswith(b"PK"):
        try:
            with zipfile.ZipFile(path) as held:
                names = held.namelist()
        except zipfile.BadZipFile as error:
            raise _refused(path, f"this file is damaged: {error}", "save it again") from error
        is_npz = bool(names) and all(name.endswith(".npy") for name in names)
        return _read_npz(path) if is_npz else _read_torch(path)
    if head[8:] == b"{":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise _refused(
                path, f"this safetensors file is damaged: {error}", "save it again"
            ) from error
    if head.startswith(b"\x80"):
        raise _refused(path, "this is a pickled object", _CONVERT)
    remedy = "give npz, safetensors, a saved dictionary (.pt), or a folder with edges.csv"
    raise _refused(path, "this is no graph file that is known here", remedy)


def _read_npz(path: Path) -> dict[str, Tensor]:
    try:
        with np.load(path, allow_pickle=False) as held:
            return {key: _tensor(held[key], key, path) for key in held.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        remedy = "save plain arrays of numbers; objects are never unpickled"
        raise _refused(path, f"this npz cannot be read safely: {error}", remedy) from error


def _tensor(array: np.ndarray, key: str, path: Path) -> Tensor:
    if array.dtype == np.uint16 or array.dtype == np.uint32 or array.dtype == np.uint64:
        array = array.astype(np.int64)
    if array.dtype.kind not in "biuf":
        raise _refused(path, f"{key} holds no numbers ({array.dtype})", "save numbers")
    return torch.from_numpy(np.ascontiguousarray(array))


def _read_torch(path: Path) -> dict[str, Tensor]:
    try:
        held: Any = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # torch raises pickle's errors and its own
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        problem = f"this file holds a pickled object ({said.rstrip('.')})"
        if "Unsupported" in str(error) or "Weights only" in str(error):
            problem = "this file holds a pickled object, as PyG's `Data` is"
        raise _refused(path, problem, _CONVERT) from error
    if not isinstance(held, Mapping):
        raise _refused(path, f"this file holds a {type(held).__name__}, not a dictionary", _CONVERT)
    tensors = {str(k): v.detach() for k, v in held.items() if isinstance(v, Tensor)}
    return {k: v if v.layout is torch.strided else v.to_dense() for k, v in tensors.items()}


# ---------------------------------------------------------------------------------- into a graph


def graph_of(arrays: Mapping[str, Tensor], config: DataConfig, name: str) -> GraphData:
    """Return the graph that arrays by key describe.

    Raises:
        UserError: an array that is missing or of the wrong kind.
    """
    path = Path(config.path)
    x = _features(arrays, path)
    num_nodes = x.shape[0]
    edge_index = _edge_index(arrays, path)
    weight = arrays.get("edge_weight")
    if weight is not None and weight.shape != (edge_index.shape[1],):
        problem = f"{weight.numel()} weights for {edge_index.shape[1]} edges"
        raise _refused(path, problem, "give one an edge")
    ends = edge_index.flip(0) if config.direction is Direction.OUT else edge_index
    undirected = config.direction is Direction.UNDIRECTED
    weight = weight.float() if weight is not None else None
    edges, weights = clean_edges(ends, num_nodes, undirected=undirected, weight=weight)
    y = _labels(arrays, num_nodes, path)
    masks = _masks(arrays, y, num_nodes, path)
    is_single = y.ndim == 1
    return GraphData(
        x=x,
        edge_index=edges,
        y=y,
        train_mask=masks[0],
        val_mask=masks[1],
        test_mask=masks[2],
        num_classes=_num_classes(arrays, y, path) if is_single else y.shape[1],
        edge_weight=weights,
        name=name,
    )


def _num_classes(arrays: Mapping[str, Tensor], y: Tensor, path: Path) -> int:
    """Return the classes that the file states, or as many as its highest label needs."""
    if "num_classes" in arrays:
        return _whole(arrays["num_classes"], "num_classes", path)
    return max(int(y.max()) + 1, 1) if len(y) else 1


def _whole(value: Tensor, key: str, path: Path) -> int:
    """Return an array of one whole number above 0 as that number."""
    if value.numel() != 1 or float(value) < 1 or float(value) != int(value):
        raise _refused(path, f"{key} is no whole number above 0", "save one number")
    return int(value)


def _features(arrays: Mapping[str, Tensor], path: Path) -> Tensor:
    if "x" in arrays:
        x = arrays["x"]
        if x.ndim != 2:
            raise _refused(path, f"x has {x.ndim} axes", "give x [N, F]")
        if not x.shape[1]:
            raise _refused(path, "x has no columns", "give x [N, F] with at least one")
        return x.float()
    parts = [arrays.get(key) for key in ("x_indptr", "x_indices", "x_data")]
    if any(part is None for part in parts):
        raise _refused(
            path, "there are no features", "give x [N, F], or x_indptr, x_indices, x_data"
        )
    indptr, indices, values = (part for part in parts if part is not None)
    if indptr.is_floating_point() or indices.is_floating_point():
        raise _refused(path, "x_indptr or x_indices holds fractions", "save them as int64")
    shapes = indptr.ndim == indices.ndim == values.ndim == 1
    if not shapes or not _is_csr(indptr.numpy(), indices.numpy(), len(values)):
        raise _refused(path, "x_indptr, x_indices and x_data do not go together", "save CSR parts")
    least = int(indices.max()) + 1 if len(indices) else 1
    width = _whole(arrays["x_width"], "x_width", path) if "x_width" in arrays else least
    if width < least:
        raise _refused(path, f"x_indices names column {least - 1} of {width}", "mend x_width")
    return dense(indptr.numpy(), indices.numpy(), values.numpy(), width)


def _is_csr(indptr: np.ndarray, indices: np.ndarray, count: int) -> bool:
    if not len(indptr) or indptr[0] != 0 or (np.diff(indptr) < 0).any():
        return False
    return len(indices) == count == int(indptr[-1]) and int(indices.min(initial=0)) >= 0


def _edge_index(arrays: Mapping[str, Tensor], path: Path) -> Tensor:
    index = arrays.get("edge_index")
    if index is None:
        raise _refused(path, "there are no edges", "give edge_index [2, E]")
    if index.ndim != 2 or index.shape[0] != 2:
        raise _refused(path, f"edge_index has shape {list(index.shape)}", "give [2, E]")
    if index.dtype is torch.bool:
        raise _refused(path, "edge_index holds true and false", "save vertex numbers, as int64")
    if index.is_floating_point():
        beyond = index.numel() and float(index.abs().max()) > _LARGEST_EXACT
        if beyond:
            problem = "edge ids above 2^53 are not exact as floating-point numbers"
            raise _refused(path, problem, "save edge_index as int64")
        if not bool((index == index.round()).all()):
            raise _refused(path, "edge ids are not whole numbers", "save edge_index as int64")
    return index.to(torch.int64)


def _labels(arrays: Mapping[str, Tensor], num_nodes: int, path: Path) -> Tensor:
    y = arrays.get("y")
    if y is None:
        raise _refused(path, "there are no labels", "give y [N], -1 where unknown")
    count = len(y) if y.ndim else 1
    if count != num_nodes:
        raise _refused(path, f"{num_nodes} rows of x and {count} labels", "give one a vertex")
    if y.ndim > 2 or (y.ndim == 2 and not y.shape[1]):
        remedy = "give y [N], or [N, C] of 0 and 1"
        raise _refused(path, f"y has shape {list(y.shape)}", remedy)
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim == 2:
        return y.float()
    if y.is_floating_point() and not bool(((y == y.round()) & y.isfinite()).all()):
        raise _refused(path, "labels are not whole numbers", "give classes from 0, or y [N, C]")
    return y.to(torch.int64)


def _masks(
    arrays: Mapping[str, Tensor], y: Tensor, num_nodes: int, path: Path
) -> tuple[Tensor, ...]:
    given = [key for key in MASKS if key in arrays]
    if given and len(given) < len(MASKS):
        missing = ", ".join(key for key in MASKS if key not in arrays)
        raise _refused(
            path, f"{', '.join(given)} without {missing}", "give all three masks or none"
        )
    if not given:
        masks = hashed_masks([str(node).encode() for node in range(num_nodes)])
        known = (y >= 0) if y.ndim == 1 else torch.ones(num_nodes, dtype=torch.bool)
        return tuple(mask & known for mask in masks)
    found = []
    for key in MASKS:
        mask = arrays[key]
        if mask.shape != (num_nodes,):
            raise _refused(path, f"{key} has shape {list(mask.shape)}", f"give [{num_nodes}]")
        if not bool(((mask == 0) | (mask == 1)).all()):
            raise _refused(path, f"{key} holds more than true and false", "save booleans")
        found.append(mask.to(torch.bool))
    return tuple(found)


def _refused(path: Path, problem: str, remedy: str) -> UserError:
    return UserError(problem, setting="data.path", value=str(path), remedy=remedy)
