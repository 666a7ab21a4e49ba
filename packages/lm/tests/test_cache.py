"""The KV cache: ragged rows, compaction, rewind, growth in blocks."""

import pytest
import torch
from fivefold_lm.cache import BLOCK, KVCache
from fivefold_lm.layout import FULL, Layout

HEADS, DIM, LAYERS = 2, 3, 2


def empty(batch, max_len=64, kind=KVCache):
    return kind(Layout((FULL,) * LAYERS, None, by_type=False), batch, max_len, torch.device("cpu"))


def append(cache, nodes):
    """Append nodes with random keys and values; return them, [layer, 2, batch, head, node, dim]."""
    cache.open(torch.zeros(cache.batch, nodes, dtype=torch.long))
    states = torch.randn(LAYERS, 2, cache.batch, HEADS, nodes, DIM)
    for layer, (keys, values) in enumerate(states):
        cache.update(keys, values, layer)
    return states


def held(cache, row):
    """What a row holds: [layer, 2, head, length, dim]."""
    cache.open(torch.zeros(cache.batch, 1, dtype=torch.long))
    none = torch.zeros(cache.batch, HEADS, 1, DIM)
    length = int(cache.lengths[row])
    columns = [cache.update(none, none, layer) for layer in range(LAYERS)]
    cache.rewind(cache.lengths)
    return torch.stack([torch.stack([k[row, :, :length], v[row, :, :length]]) for k, v in columns])


class FarCache(KVCache):
    """As on an accelerator: the host does not read lengths unless it must."""

    _is_readable = False


@pytest.mark.parametrize("kind", [KVCache, FarCache])
@pytest.mark.parametrize("batch", [1, 3])
def test_kept_paths_are_what_each_row_holds(batch, kind):
    torch.manual_seed(batch)
    cache = empty(batch, kind=kind)
    oracle = [torch.zeros(LAYERS, 2, HEADS, 0, DIM) for _ in range(batch)]
    for nodes in (5, 1, 7, 2):
        states = append(cache, nodes)
        paths = torch.stack([torch.randperm(nodes)[:3].sort().values for _ in range(batch)])
        count = torch.randint(0, paths.shape[1] + 1, (batch,))
        cache.keep(paths, count)
        for row in range(batch):
            kept = states[:, :, row][:, :, :, paths[row, : count[row]]]
            oracle[row] = torch.cat([oracle[row], kept], dim=3)
            assert torch.equal(held(cache, row), oracle[row])


def test_commit_keeps_the_first_nodes_as_they_lie():
    cache = empty(2)
    states = append(cache, 4)
    cache.commit(torch.tensor([4, 1]))
    assert cache.lengths.tolist() == [4, 1]
    assert torch.equal(held(cache, 0), states[:, :, 0])
    assert torch.equal(held(cache, 1), states[:, :, 1, :, :1])


def test_rewind_forgets_the_newest_and_never_remembers():
    cache = empty(2)
    states = append(cache, 4)
    cache.commit(torch.tensor([4, 3]))
    append(cache, 2)
    cache.rewind(torch.tensor([2, 9]))
    assert cache.lengths.tolist() == [2, 3]
    assert cache.pending == 0
    assert torch.equal(held(cache, 0), states[:, :, 0, :, :2])


def test_selected_rows_keep_their_text():
    cache = empty(3)
    states = append(cache, 4)
    cache.commit(torch.tensor([4, 2, 3]))
    cache.select(torch.tensor([2, 0]))
    assert cache.lengths.tolist() == [3, 4]
    assert torch.equal(held(cache, 0), states[:, :, 2, :, :3])
    assert torch.equal(held(cache, 1), states[:, :, 0])


def test_memory_grows_in_blocks_with_the_text_alone():
    cache = empty(1, max_len=8192)
    append(cache, 10)
    block = LAYERS * 2 * HEADS * BLOCK * DIM * 4
    assert cache.nbytes() == block
    cache.commit(torch.tensor([10]))
    before = held(cache, 0)
    append(cache, BLOCK)
    assert cache.nbytes() == 2 * block
    cache.rewind(cache.lengths)
    assert torch.equal(held(cache, 0), before)


def test_a_row_may_use_max_len_slots_and_no_more():
    cache = empty(2, max_len=6)
    append(cache, 6)
    cache.keep(torch.tensor([[0, 1, 2, 3, 4]] * 2), torch.tensor([5, 2]))
    append(cache, 1)
    with pytest.raises(ValueError, match="max_len=6"):
        append(cache, 1)


def test_a_path_longer_than_the_pending_nodes_is_refused():
    cache = empty(1)
    append(cache, 2)
    with pytest.raises(ValueError, match="only 2 are pending"):
        cache.keep(torch.tensor([[0, 1, 1]]), torch.tensor([3]))


def test_a_window_counts_positions_not_slots():
    cache = empty(1)
    append(cache, 4)
    cache.commit(torch.tensor([4]))
    depths = torch.tensor([[0, 1, 1, 2]])  # two branches: 0-1-3 and 0-2
    cache.open(depths)
    visible = torch.tensor([[1, 0, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0], [1, 1, 0, 1]]).bool()
    seen = cache.visible_columns(visible[None], window=3)[0].int().tolist()
    assert seen == [
        [0, 0, 1, 1, 1, 0, 0, 0],  # position 4 sees 2, 3, 4
        [0, 0, 0, 1, 1, 1, 0, 0],  # position 5 sees 3, 4, 5
        [0, 0, 0, 1, 1, 0, 1, 0],
        [0, 0, 0, 0, 1, 1, 0, 1],  # position 6 sees 4, 5, 6
    ]


def test_keep_in_inference_mode_and_outside_can_be_mixed():
    cache = empty(2)
    with torch.inference_mode():
        append(cache, 3)
    cache.keep(torch.tensor([[0, 2], [0, 1]]), torch.tensor([2, 1]))
    with torch.inference_mode():
        append(cache, 3)
        cache.keep(torch.tensor([[0, 2], [0, 1]]), torch.tensor([2, 1]))
    append(cache, 2)
    assert cache.lengths.tolist() == [4, 2]


def test_far_from_the_host_a_loose_bound_neither_overflows_nor_wastes():
    cache = empty(2, max_len=400, kind=FarCache)
    for _ in range(120):  # 3 tokens kept of 9 drafted: the bound grows three times too fast
        append(cache, 9)
        cache.keep(torch.arange(9).expand(2, -1), torch.tensor([3, 1]))
    assert cache.lengths.tolist() == [360, 120]
    assert cache.nbytes() == LAYERS * 2 * 2 * HEADS * 400 * DIM * 4
