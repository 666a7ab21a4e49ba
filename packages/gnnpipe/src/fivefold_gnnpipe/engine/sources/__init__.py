"""Where graphs come from: Debian's package lists, files, generators, PyG's data sets."""

from __future__ import annotations

from fivefold.description import load

from ...config import DataConfig
from ..graph import GraphData

__all__ = ["load_graph"]

_LOADERS = {
    "auto": "files:read_graph",
    "debian": "debian:debian_graph",
    "pyg": "pyg:pyg_graph",
    "digits": "bundled:digits",
    "karate": "bundled:karate",
    "lesmis": "bundled:lesmis",
    "florentine": "bundled:florentine",
    "blocks": "generators:block_model",
    "preferential": "generators:preferential_attachment",
    "grid": "generators:grid",
    "rmat": "generators:rmat",
    "fake": "pyg:fake",
}
"""Module and function of each source, imported when chosen: their libraries take seconds."""


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
    read = load(f"{__name__}.{_LOADERS[config.source]}", setting="data.source")
    graph: GraphData = read(config)
    return graph.checked()
