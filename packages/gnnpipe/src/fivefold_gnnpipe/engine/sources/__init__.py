"""Where graphs come from: Debian's package lists, files, generators, PyG's data sets."""

from __future__ import annotations

from collections.abc import Callable

from ...config import DataConfig
from ..graph import GraphData
from .bundled import BUNDLED
from .debian import debian_graph
from .files import read_graph
from .generators import GENERATORS
from .pyg import pyg_graph

__all__ = ["load_graph"]


def load_graph(config: DataConfig | None = None, **settings: object) -> GraphData:
    """Return the graph that the settings name, checked.

    Args:
        config: the settings; made of `settings` when left out, as in `load_graph(source="karate")`.
        settings: fields of `DataConfig`.

    Raises:
        UserError: a graph that cannot be found, read or made sense of.
    """
    config = config or DataConfig(**settings)  # type: ignore[arg-type]
    config.require_named()
    loaders: dict[str, Callable[[DataConfig], GraphData]] = {
        "auto": read_graph,
        "debian": debian_graph,
        "pyg": pyg_graph,
        **BUNDLED,
        **GENERATORS,
    }
    return loaders[config.source](config).checked()
