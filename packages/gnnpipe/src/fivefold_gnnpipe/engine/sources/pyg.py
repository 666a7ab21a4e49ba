"""`data=pyg data.name=Planetoid/Cora`: PyG's own data sets, fetched by PyG on first use."""

from __future__ import annotations

import inspect
import zipfile
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import torch_geometric.datasets
from fivefold import UserError, nearest
from fivefold.cache import cache_folder
from torch_geometric import seed_everything
from torch_geometric.datasets import FakeDataset

from ...config import DataConfig
from ..graph import GraphData, clean_edges, hashed_masks
from .files import MASKS, graph_of

_WIDEST = 64
"""Feature columns of a made graph, unless fewer are asked for."""


def pyg_graph(config: DataConfig) -> GraphData:
    """Return the first graph of a PyG data set.

    Args:
        config: `name` is `Class` or `Class/name`, `ogb/…` one of OGB's; `path` the folder in which
            data sets are kept.

    Raises:
        UserError: an unknown name, or no network and no copy.
    """
    root = Path(config.path) if config.path else cache_folder() / "pyg"
    kind, _, name = config.name.partition("/")
    folder = root / kind
    try:
        made: Any = _ogb(name, root) if kind == "ogb" else _dataset(kind, name, folder)
        data = made[0]
    except UserError:
        raise
    except (OSError, RuntimeError, AssertionError, zipfile.BadZipFile) as error:
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{config.name} is not here and cannot be fetched: {said}",
            setting="data.name",
            value=config.name,
            remedy=f"copy its `raw` folder to {folder}, or set data.path to where it is",
        ) from error
    arrays = {key: value for key, value in data.to_dict().items() if torch.is_tensor(value)}
    arrays |= _first_split(arrays)
    arrays |= _rest_split(arrays)
    if kind == "ogb":
        arrays |= _ogb_masks(made, arrays["x"].shape[0])
    return graph_of(arrays, config, config.name)


def _dataset(kind: str, name: str, folder: Path) -> Any:
    known = torch_geometric.datasets.__all__
    if kind not in known:
        raise UserError(
            "no such data set of PyG", setting="data.name", value=kind, remedy=nearest(kind, known)
        )
    dataset = getattr(torch_geometric.datasets, kind)
    try:
        root = [str(folder)] if "root" in inspect.signature(dataset.__init__).parameters else []
        return dataset(*root, *([name] if name else []))
    except TypeError as error:
        remedy = f"write data.name={kind}/NAME" if not name else f"see PyG's page of {kind}"
        raise UserError(
            f"{kind} cannot be made: {error}", setting="data.name", value=kind, remedy=remedy
        ) from error


def _ogb(name: str, root: Path) -> Any:
    try:
        dataset = import_module("ogb.nodeproppred").PygNodePropPredDataset
    except ImportError as error:
        raise UserError(
            "OGB's graphs need the package ogb", setting="data.name", remedy="pip install ogb"
        ) from error
    return dataset(name, root=str(root / "ogb"))


def _ogb_masks(dataset: Any, num_nodes: int) -> dict[str, torch.Tensor]:
    split = dataset.get_idx_split()
    masks = {}
    for key, part in zip(MASKS, ("train", "valid", "test"), strict=True):
        masks[key] = torch.zeros(num_nodes, dtype=torch.bool)
        masks[key][split[part]] = True
    return masks


def fake(config: DataConfig) -> GraphData:
    """Return PyG's `FakeDataset`: random structure without homophily, for timing only."""
    with torch.random.fork_rng(devices=[]):
        seed_everything(config.seed)
        made = FakeDataset(
            num_graphs=1,
            avg_num_nodes=config.nodes,
            avg_degree=config.degree,
            num_channels=min(config.features, _WIDEST),
            num_classes=config.blocks,
            task="node",
        )[0]
    edges, _ = clean_edges(made.edge_index, made.num_nodes, undirected=True)
    masks = hashed_masks([str(node).encode() for node in range(made.num_nodes)])
    y = made.y.to(torch.int64)
    return GraphData(made.x.float(), edges, y, *masks, num_classes=config.blocks, name="fake")


def _rest_split(arrays: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return validation and test masks for a set that has a training mask alone: every other."""
    if [key for key in MASKS if key in arrays] != ["train_mask"]:
        return {}
    rest = ~arrays["train_mask"]
    is_odd = rest.cumsum(0) % 2 == 1
    return {"val_mask": rest & is_odd, "test_mask": rest & ~is_odd}


def _first_split(arrays: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the first of several splits where masks have a column for each."""
    return {key: arrays[key][:, 0] for key in MASKS if key in arrays and arrays[key].ndim == 2}
