"""Where graphs come from: Debian's package lists, files, generators, PyG's data sets."""

from __future__ import annotations

from dataclasses import fields

from fivefold import UserError, nearest
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
_MADE = ("blocks", "preferential", "grid", "rmat", "fake")


def load_graph(config: DataConfig | None = None, **settings: object) -> GraphData:
    """Return the graph that the settings name, checked.

    Args:
        config: the settings; made of `settings` when left out, as in `load_graph(source="karate")`.
        settings: fields of `DataConfig`.

    Raises:
        UserError: a graph that cannot be found, read or made sense of.
    """
    if isinstance(config, str):  # load_graph("digits"), as `data=digits`
        raise UserError(
            "a graph is named by its source or its path",
            setting="data.source",
            value=config,
            remedy=f"give load_graph(source={config!r}), or load_graph(path={config!r}) for a file",
        )
    known = [field.name for field in fields(DataConfig)]
    for name, value in settings.items():
        if name not in known:
            remedy = nearest(name, known)
            raise UserError("no such setting", setting=f"data.{name}", value=value, remedy=remedy)
    config = config or DataConfig(**settings)  # type: ignore[arg-type]
    config.require_named()
    read = load(f"{__name__}.{_LOADERS[config.source]}", setting="data.source")
    try:
        graph: GraphData = read(config)
    except MemoryError as error:
        raise UserError(
            "the graph does not fit into memory",
            setting="data.nodes" if config.source in _MADE else "data.path",
            remedy="give a smaller graph",
        ) from error
    if config.source in _MADE and not bool(graph.train_mask.any()):
        raise UserError(
            "no vertex of so few is one to learn from",
            setting="data.nodes",
            value=config.nodes,
            remedy="give more",
        )
    return graph.checked()
