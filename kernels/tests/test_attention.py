"""Tree attention equals its reference; a node's result depends on what it sees, nothing else."""

import pytest
import torch
from fivefold_kernels import UnsupportedError
from fivefold_kernels.attention import cpu, reference
from fivefold_kernels.attention.cpu import move_slots
from fivefold_kernels.attention.layout import block_keys, plain_keys

HEADS, KV_HEADS, DIM = 6, 2, 32


def tree_attention(query, keys, *rest, **options):
    """The kernel, on keys in plain order."""
    return cpu.tree_attention(query, block_keys(keys), *rest, **options)


def cache(batch, slots, dtype=torch.float32, seed=0, dim=DIM, kv_heads=KV_HEADS):
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, kv_heads, slots, dim)
    return [torch.randn(shape, generator=generator).to(dtype) for _ in "kv"]


def queries(batch, nodes, seed=1, dim=DIM, heads=HEADS):
    return torch.randn(batch, nodes, heads, dim, generator=torch.Generator().manual_seed(seed))


def tree(parents):
    """Ancestors and itself, of each node."""
    seen = torch.eye(len(parents), dtype=torch.bool)
    for node, parent in enumerate(parents):
        if parent >= 0:
            seen[node] |= seen[parent]
    return seen


def random_tree(nodes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    parents = [-1, *(int(torch.randint(n, (1,), generator=generator)) for n in range(1, nodes))]
    return tree(parents)


def chain(nodes):
    return torch.ones(nodes, nodes, dtype=torch.bool).tril()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("lengths", [[0, 0], [3, 130], [127, 128], [600, 255]], ids=str)
@pytest.mark.parametrize("shape", ["node", "tree", "chain", "prompt"])
def test_attention_is_the_references(library, dtype, lengths, shape):
    nodes = {"node": 1, "tree": 13, "chain": 5, "prompt": 70}[shape]
    seen = random_tree(nodes) if shape == "tree" else chain(nodes)
    keys, values = cache(2, 704, dtype)
    keys[0, :, lengths[0] + nodes :] = float("nan")  # nobody may look there
    values[0, :, lengths[0] + nodes :] = float("nan")
    q, rows = queries(2, nodes), torch.tensor(lengths)
    visible = seen.expand(2, -1, -1)
    wanted = reference.tree_attention(q, keys.nan_to_num(), values.nan_to_num(), rows, visible, 0.2)
    got = tree_attention(q, keys, values, rows, visible, 0.2, library=library)
    assert (got - wanted).abs().max() <= 2e-5 * wanted.abs().max()


@pytest.mark.parametrize(("dim", "heads", "kv_heads"), [(16, 4, 4), (128, 14, 1), (80, 3, 1)])
def test_head_sizes_and_groups_of_all_kinds(library, dim, heads, kv_heads):
    keys, values = cache(1, 304, dim=dim, kv_heads=kv_heads)
    q, seen = queries(1, 4, dim=dim, heads=heads), tree([-1, 0, 0, 1])[None]
    rows = torch.tensor([200])
    wanted = reference.tree_attention(q, keys, values, rows, seen, 1.0)
    got = tree_attention(q, keys, values, rows, seen, 1.0, library=library)
    assert (got - wanted).abs().max() <= 2e-5 * wanted.abs().max()


@pytest.mark.parametrize("length", [0, 1, 100, 127, 128, 129, 500, 1030])
def test_text_decoded_alone_verified_in_a_tree_or_read_as_a_prompt_is_bitwise_one(library, length):
    """A path of a tree, moved to where plain decoding has it, attends to the same bits."""
    depth, nodes = 6, 40
    keys, values = cache(1, 1088, seed=length)
    seen = tree([-1, *range(depth - 1), *range(nodes - depth)])
    q = queries(1, nodes)
    rows = torch.tensor([length])
    in_tree = tree_attention(q, keys, values, rows, seen[None], 0.2, library=library)
    for node in (0, 3, depth - 1, depth + 2, nodes - 1):
        path = seen[node].nonzero().flatten()
        moved = [store.clone() for store in (keys, values)]
        for store, old in zip(moved, (keys, values), strict=True):
            store[:, :, length : length + len(path)] = old[:, :, length + path]
        alone = tree_attention(
            q[:, node : node + 1],
            *moved,
            torch.tensor([length + len(path) - 1]),
            torch.ones(1, 1, 1, dtype=torch.bool),
            0.2,
            library=library,
        )
        assert torch.equal(alone[0, 0], in_tree[0, node])
    prompt = tree_attention(q, keys, values, rows, chain(nodes)[None], 0.2, library=library)
    for node in (0, 17, nodes - 1):
        alone = tree_attention(
            q[:, node : node + 1],
            keys,
            values,
            rows + node,
            torch.ones(1, 1, 1, dtype=torch.bool),
            0.2,
            library=library,
        )
        assert torch.equal(alone[0, 0], prompt[0, node])


def test_rows_of_a_batch_and_threads_change_nothing(library):
    lengths = torch.tensor([5, 300, 128])
    keys, values = cache(3, 400)
    q, seen = queries(3, 9), random_tree(9).expand(3, -1, -1)
    together = tree_attention(q, keys, values, lengths, seen, 0.2, library=library, threads=1)
    threads = [
        tree_attention(q, keys, values, lengths, seen, 0.2, library=library, threads=n)
        for n in (2, 5)
    ]
    assert all(torch.equal(each, together) for each in threads)
    for row in range(3):
        one = slice(row, row + 1)
        alone = tree_attention(
            q[one], keys[one], values[one], lengths[one], seen[one], 0.2, library=library
        )
        assert torch.equal(alone[0], together[row])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_slots_are_moved_as_an_index_moves_them(library, dtype):
    keys, values = (torch.stack([one, one.flip(0)]) for one in cache(3, 48, dtype))
    source = torch.tensor([[4, 7, 20, 33], [5, 6, 7, 8], [16, 17, 40, 47]])
    target = torch.tensor([[4, 5, 6, 7], [5, 6, 7, 8], [15, 16, 17, 18]])
    blocked, moved = block_keys(keys), values.clone()
    move_slots(blocked, source, target, library)
    move_slots(moved, source, target, library)
    for got, given in ((plain_keys(blocked), keys), (moved, values)):
        wanted = given.clone()
        for row in range(3):
            wanted[:, row, :, target[row]] = given[:, row, :, source[row]]
        assert torch.equal(got, wanted)


def test_what_the_kernel_would_misread_is_refused(library):
    keys, values = cache(1, 16)
    q, seen, rows = queries(1, 1), torch.ones(1, 1, 1, dtype=torch.bool), torch.tensor([16])
    with pytest.raises(UnsupportedError, match="17 slots are read of a cache that has 16"):
        tree_attention(q, keys, values, rows, seen, 1.0, library=library)
    with pytest.raises(UnsupportedError, match="float16"):
        tree_attention(q, keys.half(), values.half(), rows - 1, seen, 1.0, library=library)
    turned = values.mT.contiguous().mT
    with pytest.raises(UnsupportedError, match="in one piece"):
        tree_attention(q, keys, turned, rows - 1, seen, 1.0, library=library)
    with pytest.raises(UnsupportedError, match="as block_keys lays them out"):
        cpu.tree_attention(
            q, block_keys(keys), values[:, :, :8], rows - 1, seen, 1.0, library=library
        )
    odd = torch.zeros(1, 2, 16, 3)
    with pytest.raises(UnsupportedError, match="head size 3"):
        tree_attention(q[..., :3], odd, odd, rows - 1, seen, 1.0, library=library)
