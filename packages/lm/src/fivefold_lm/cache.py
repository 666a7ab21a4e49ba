"""The KV cache: static slots, ragged rows, rewind and compaction in place."""

import ctypes
from typing import Any

import torch
from fivefold_kernels.attention.cpu import move_slots
from fivefold_kernels.attention.layout import KEY_BLOCK
from fivefold_kernels.native.memory import streamed_zeros
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer
from transformers.modeling_utils import PreTrainedModel

from .layout import Layout

BLOCK = 256  # slots; capacity grows by whole blocks
STATIC_BLOCK = 1024  # likewise of static planes: caches of about one length have one shape
SPARE = 64  # slots of static planes beyond the capacity: for padding, and one that nobody sees


class KVCache(Cache):
    """Keys and values of a batch whose rows have lengths of their own.

    Row b holds `lengths[b]` committed tokens in slots 0, 1, ...; a forward pass appends nodes in
    the slots after them, where they are *pending*: visible to the next pass as its tree mask says,
    and either kept (moved to the front, in place) or forgotten. Memory grows in blocks up to
    `max_len` slots; no call waits for an accelerator except, rarely, growth.

    A partial cache overrides `update` (which columns a layer sees) and `visible_columns` (the mask
    over those columns).
    """

    lengths: Int[Tensor, " batch"]
    pending: int

    def __init__(self, layout: Layout, batch: int, max_len: int, device: torch.device) -> None:
        """Make an empty cache.

        Args:
            layout: the layers' attention pattern.
            batch: rows.
            max_len: most slots a row may use, pending ones included.
            device: where keys and values will lie.
        """
        super().__init__(layer_class_to_replicate=DynamicLayer)
        self.layout = layout
        self.batch = batch
        self.max_len = max_len
        self.device = device
        self.lengths = torch.zeros(batch, dtype=torch.long, device=device)
        self.pending = 0
        self._longest = 0  # upper bound of lengths.max(), known without asking the device
        self._capacity = 0
        self._stores: dict[tuple[Any, ...], Store | StaticStore | NativeStore] = {}
        self._planes: list[tuple[tuple[Store, int], tuple[Store, int]] | None] = [None] * len(
            layout.types
        )
        self._depths = torch.zeros(batch, 0, dtype=torch.long, device=device)
        self._slots = self._depths  # where the nodes of the running pass are written [batch, node]
        self._start: int | None = None  # the first of them, where the host knows it
        self._width = 0  # slots in use, the running pass included

    @classmethod
    def for_module(cls, module: PreTrainedModel, batch: int, max_len: int) -> "KVCache":
        """Make an empty cache for any decoder module, target or draft."""
        return cls(Layout.of(module), batch, max_len, module.device)

    # -- one forward pass ------------------------------------------------------------------

    def open(self, depths: Int[Tensor, "batch node"]) -> None:
        """Make room for the nodes of a pass, after the pending ones.

        Args:
            depths: distance of each node from its row's committed text; a node's position is
                `lengths + depth`.

        Raises:
            ValueError: the rows would need more than `max_len` slots.
        """
        nodes = depths.shape[1]
        self._tighten(self.pending + nodes)
        first = self.pending
        self.pending += nodes
        self._width = self._longest + self.pending
        if self._width > self._capacity:
            self._grow(self._width)
        self._depths = torch.cat([self._depths, depths], dim=1)
        order = torch.arange(first, self.pending, device=self.device)
        self._slots = self.lengths[:, None] + order
        self._start = self._longest + first if self._is_aligned else None
        for store in self._stores.values():
            store.open(self._slots, self._start, self._width)

    def visible_columns(
        self, visible: Bool[Tensor, "batch node pending"], window: int | None = None
    ) -> Bool[Tensor, "batch node column"]:
        """Say which columns of what `update` returns each node of the pass may see.

        Args:
            visible: among all pending nodes, those of the pass included; the prefix always is.
            window: see only positions less than this far back (sliding-window layers).
        """
        column = torch.arange(self._width, device=self.device)
        after = column - self.lengths[:, None]  # [batch, column]; negative in the prefix
        node = after.clamp(0, self.pending - 1)
        seen = visible.gather(2, node[:, None].expand(-1, visible.shape[1], -1))
        seen = torch.where((after < self.pending)[:, None], seen, False)
        seen = torch.where((after < 0)[:, None], True, seen)
        if window is None:
            return seen
        depth = torch.where(after < 0, after, self._depths.gather(1, node))  # from the prefix's end
        own = self._depths[:, -visible.shape[1] :]
        return seen & (own[:, :, None] - depth[:, None] < window)

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Any, Any]:
        """Write a layer's new keys and values; return all of its columns in use.

        Called by the model's own attention layer with [batch, kv_head, node, dim].
        """
        planes = self._planes[layer_idx]
        if planes is None:
            planes = self._planes[layer_idx] = (
                self._plane("key", layer_idx, *_shape(key_states)),
                self._plane("value", layer_idx, *_shape(value_states)),
            )
        (keys, i), (values, j) = planes
        return keys.write(i, key_states), values.write(j, value_states)

    def planes(
        self, kv_heads: int, dim: int, dtype: torch.dtype, library: ctypes.CDLL
    ) -> tuple[
        Float[Tensor, "layer batch kv_head block dim 16"],
        Float[Tensor, "layer batch kv_head slot dim"],
    ]:
        """Return keys and values of all layers, for a native pass that writes them itself.

        Pending node j of row b has slot `lengths[b] + j`. All layers must be of one kind, and all
        passes over this cache native ones.
        """
        if not self._stores:
            shape = (len(self._planes), self.batch, kv_heads, self._capacity, dim)
            self._stores = {
                (what,): NativeStore(shape, dtype, library, is_keys=what == "key")
                for what in ("key", "value")
            }
        keys, values = self._stores.values()
        assert isinstance(keys, NativeStore), "this cache was begun by another kind of pass"
        return keys.data, values.data

    def static_planes(
        self, kv_heads: int, dim: int, dtype: torch.dtype
    ) -> tuple[
        Float[Tensor, "layer batch kv_head slot dim"],
        Float[Tensor, "layer batch kv_head slot dim"],
    ]:
        """Return keys and values of all layers, for passes that write them where `slots` says.

        They have room for `max_len` slots and `SPARE` more, and stay where they are unless
        `max_len` is raised or rows are selected. All layers must be of one kind, and all passes
        over this cache of this kind.
        """
        if self._capacity < self.max_len:
            self._grow(self.max_len)
        if not self._stores:
            shape = (len(self._planes), self.batch, kv_heads, self._capacity, dim)
            self._stores = {
                (what,): StaticStore(shape, dtype, self.device) for what in ("key", "value")
            }
        keys, values = self._stores.values()
        assert isinstance(keys, StaticStore), "this cache was begun by another kind of pass"
        return keys.data, values.data

    @property
    def slots(self) -> Int[Tensor, "batch node"]:
        """Where the nodes of the running pass are written."""
        return self._slots

    # -- between passes --------------------------------------------------------------------

    def keep(self, path: Int[Tensor, "batch depth"], count: Int[Tensor, " batch"]) -> None:
        """Commit a path of pending nodes, moved to the front in place; forget the others.

        Args:
            path: pending nodes in the order of the text, 0 the oldest; padded with any node.
            count: how many of them to keep, per row.
        """
        depth = path.shape[1]
        if depth > self.pending:
            raise ValueError(f"a path of {depth} nodes; only {self.pending} are pending")
        if self.pending > 1:  # what lies beyond count is free: moving there does no harm
            target = torch.arange(depth, device=self.device)
            for store in self._stores.values():
                store.move(self.lengths[:, None] + path, self.lengths[:, None] + target)
        self._settle(self.lengths + count, self._longest + depth)

    def commit(self, count: Int[Tensor, " batch"]) -> None:
        """Commit the first `count[b]` pending nodes of each row as they lie; forget the others."""
        self._settle(self.lengths + count, self._longest + self.pending)

    def rewind(self, lengths: Int[Tensor, " batch"]) -> None:
        """Forget everything after the first `lengths[b]` tokens, pending nodes included."""
        self._settle(torch.minimum(self.lengths, lengths), self._longest)

    def bound(self, longest: int) -> None:
        """Take note that no row is longer, where the host knows it: nobody need ask the device."""
        self._longest = min(self._longest, longest)

    def select(self, rows: Int[Tensor, " kept"]) -> None:
        """Keep only these rows, in this order; rows may repeat."""
        self.batch = rows.shape[0]
        self.lengths = self.lengths[rows]
        self._depths = self._depths[rows]
        for store in self._stores.values():
            store.select(rows)

    def nbytes(self) -> int:
        """Memory that keys and values take now, in bytes."""
        return sum(store.data.nbytes for store in self._stores.values())

    # -- what transformers asks of a cache -------------------------------------------------

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return an upper bound of the rows' committed lengths."""
        return self._longest

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """Return the number of columns and the first one's offset."""
        return self._width, 0

    @property
    def is_sliding(self) -> list[bool]:
        """All layers keep all slots; a window is a matter of the mask."""
        return [False] * len(self._planes)

    is_linear = is_sliding
    is_dummy = is_sliding

    # -- inside ----------------------------------------------------------------------------

    def _settle(self, lengths: Tensor, longest: int) -> None:
        self.lengths = lengths
        self.pending = 0
        self._longest = longest
        self._depths = self._depths[:, :0]

    def _tighten(self, wanted: int) -> None:
        """Learn the true longest row where that costs nothing, or where the bound is too loose."""
        if self._is_readable or self._longest + wanted > self._capacity:
            self._longest = int(self.lengths.max())

    @property
    def _is_aligned(self) -> bool:
        """Whether the host knows, without asking a device, where all rows write."""
        return self.batch == 1 and self._is_readable

    @property
    def _is_readable(self) -> bool:
        """Whether the host can read `lengths` without waiting for an accelerator."""
        return self.device.type == "cpu"

    def _grow(self, width: int) -> None:
        if width > self.max_len:
            raise ValueError(f"{width} slots are needed; the cache has max_len={self.max_len}")
        wanted = max(width, self._capacity + self._capacity // 4)
        self._capacity = min(-(-wanted // BLOCK) * BLOCK, self.max_len)
        for store in self._stores.values():
            store.grow(self._capacity)

    def _plane(
        self, what: str, layer_idx: int, heads: int, dim: int, dtype: torch.dtype
    ) -> tuple["Store", int]:
        """Give a layer its place in the store of its shape, made by the first of its kind."""
        kind = self.layout.types[layer_idx]
        key = (what, kind, heads, dim, dtype)
        store = self._stores.get(key)
        assert store is None or type(store) is Store
        if store is None:
            planes = self.layout.types[layer_idx:].count(kind)
            shape = (planes, self.batch, heads, self._capacity, dim)
            store = self._stores[key] = Store(shape, dtype, self.device)
            store.open(self._slots, self._start, self._width)
        store.used += 1
        return store, store.used - 1


def _shape(states: Tensor) -> tuple[int, int, torch.dtype]:
    return states.shape[1], states.shape[3], states.dtype


class Store:
    """Keys or values of all layers of one shape: [plane, batch, kv_head, slot, dim]."""

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
        """Allocate zeroed memory: an unused slot must not hold a NaN."""
        with torch.inference_mode(False):
            self.data = torch.zeros(shape, dtype=dtype, device=device)
        self.used = 0
        self.columns: tuple[Tensor, ...] = ()  # what each plane returns in the running pass
        self._spans: tuple[Tensor, ...] | None = None
        self._index = torch.empty(0, dtype=torch.long)

    def open(self, slots: Int[Tensor, "batch node"], start: int | None, width: int) -> None:
        """Prepare the running pass: one set of views and indices for all planes.

        Args:
            slots: where each row's new nodes go.
            start: the first of them where the host knows it to be the same in all rows.
            width: slots in use.
        """
        self.columns = self.data.narrow(3, 0, width).unbind(0)
        self._spans = None
        if start is None:
            self._index = self._rows(slots, planes=1)
        else:
            self._spans = self.data.narrow(3, start, slots.shape[1]).unbind(0)

    def write(self, plane: int, states: Tensor) -> Tensor:
        """Write the new nodes of a layer; return its columns in use."""
        if self._spans is not None:
            self._spans[plane].copy_(states)
        else:
            flat = self.data[plane].view(-1, self.data.shape[-1])
            flat.index_copy_(0, self._index, states.reshape(-1, states.shape[-1]))
        return self.columns[plane]

    def move(self, source: Int[Tensor, "batch n"], target: Int[Tensor, "batch n"]) -> None:
        """Copy slots of each row, in all layers at once; all are read before one is written."""
        flat = self.data.view(-1, self.data.shape[-1])
        moved = flat.index_select(0, self._rows(source, self.used))
        flat.index_copy_(0, self._rows(target, self.used), moved)

    def grow(self, capacity: int) -> None:
        """Enlarge every row to `capacity` slots."""
        planes, batch, heads, old, dim = self.data.shape
        with torch.inference_mode(False):
            larger = self.data.new_zeros(planes, batch, heads, capacity, dim)
        larger[:, :, :, :old] = self.data
        self.data = larger

    def select(self, rows: Int[Tensor, " kept"]) -> None:
        """Keep only these rows."""
        with torch.inference_mode(False):
            self.data = self.data.index_select(1, rows.clone())

    def _rows(self, slots: Int[Tensor, "batch n"], planes: int) -> Int[Tensor, " row"]:
        """Index `data` seen as rows of `dim` numbers: by plane, then batch, then head."""
        _, batch, heads, capacity, _ = self.data.shape
        lead = torch.arange(planes * batch * heads, device=slots.device) * capacity
        return (lead.view(planes, batch, heads, 1) + slots[:, None]).view(-1)


class StaticStore(Store):
    """Keys or values whose place in memory does not change as a text grows."""

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
        """Allocate zeroed memory for [plane, batch, kv_head, slot, dim] and spare slots."""
        *lead, slots, dim = shape
        super().__init__((*lead, _static(slots), dim), dtype, device)
        self.used = shape[0]

    def open(self, slots: Int[Tensor, "batch node"], start: int | None, width: int) -> None:
        """Nothing to prepare: the pass is told its slots."""

    def grow(self, capacity: int) -> None:
        """Enlarge every row to `capacity` slots and some to spare, if they do not fit."""
        if _static(capacity) > self.data.shape[3]:
            super().grow(_static(capacity))


def _static(slots: int) -> int:
    return -(-(slots + SPARE) // STATIC_BLOCK) * STATIC_BLOCK


class NativeStore:
    """Keys or values as a native pass reads them: keys by blocks of 16 slots, in huge pages."""

    def __init__(
        self, shape: tuple[int, ...], dtype: torch.dtype, library: ctypes.CDLL, is_keys: bool
    ) -> None:
        """Allocate zeroed memory for [layer, batch, kv_head, slot, dim]."""
        self.library = library
        self.is_keys = is_keys
        self.data = self._zeros(shape, dtype)

    def open(self, slots: Int[Tensor, "batch node"], start: int | None, width: int) -> None:
        """Nothing to prepare: the pass finds its slots by itself."""

    def move(self, source: Int[Tensor, "batch n"], target: Int[Tensor, "batch n"]) -> None:
        """Copy slots of each row, in all layers at once; paths ascend, so that none is lost."""
        move_slots(self.data, source, target, self.library)

    def grow(self, capacity: int) -> None:
        """Enlarge every row to `capacity` slots."""
        layers, batch, heads, old, dim = self.data.shape[:5]
        larger = self._zeros((layers, batch, heads, capacity, dim), self.data.dtype)
        larger[:, :, :, :old] = self.data
        self.data = larger

    def select(self, rows: Int[Tensor, " kept"]) -> None:
        """Keep only these rows."""
        with torch.inference_mode(False):
            self.data = self.data.index_select(1, rows.clone())

    def _zeros(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        *lead, slots, dim = shape
        blocks = -(-slots // KEY_BLOCK)
        inner = (blocks, dim, KEY_BLOCK) if self.is_keys else (blocks * KEY_BLOCK, dim)
        with torch.inference_mode(False):
            return streamed_zeros((*lead, *inner), dtype)
