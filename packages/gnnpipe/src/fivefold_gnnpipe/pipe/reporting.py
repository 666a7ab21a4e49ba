"""What a pipeline's ranks say of an epoch beside the report: staleness, who was where and when."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from torch import Tensor

from .rank import PipeRank, Stay


def said_by(ranks: Sequence[PipeRank], num_layers: int) -> list[float]:
    """Return one rank's numbers: two a layer of the whole network, then its chunks' stays.

    Args:
        ranks: this rank's replicas.
        num_layers: layers of the whole network.
    """
    stale = ranks[0].staleness
    layers = chain.from_iterable(stale.get(n, (0.0, 0.0)) for n in range(1, num_layers + 1))
    stays = chain.from_iterable(
        (float(stay.backward), float(stay.chunk), stay.begin, stay.end)
        for rank in ranks
        for stay in rank.stays
    )
    return [*layers, *stays]


def distances(said: Tensor, num_layers: int) -> list[float]:
    """Return ‖history - fresh‖ / ‖fresh‖ of each layer; nothing if it was not measured.

    Args:
        said: `said_by` of every rank, [rank, number].
        num_layers: layers of the whole network.
    """
    layers = said[:, : 2 * num_layers].sum(0).reshape(-1, 2)
    if not bool(layers[:, 1].any()):
        return []
    return [float((far / size).sqrt()) if size > 0 else 0.0 for far, size in layers.unbind(0)]


def stays(said: Tensor, num_layers: int) -> list[Stay]:
    """Return when which chunk was in which stage; the arguments are those of `distances`."""
    return [
        Stay(rank, bool(backward), int(chunk), begin, end)
        for rank, row in enumerate(said[:, 2 * num_layers :].reshape(len(said), -1, 4).tolist())
        for backward, chunk, begin, end in row
    ]
