"""Tree attention in Triton equals its reference; a node's bits follow from what it sees alone.

On a GPU where there is one, else interpreted.
"""

import os
import subprocess
import sys

import pytest
import torch
from fivefold_kernels import UnsupportedError
from fivefold_kernels.attention import gpu, reference
from fivefold_kernels.attention.gpu import segment_length, tree_attention
from torch.utils._python_dispatch import TorchDispatchMode

pytest.importorskip("triton")
DEVICE = torch.accelerator.current_accelerator() or torch.device("cpu")
SCALE = 0.2
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2**-7, torch.float16: 2**-10}


def numbers(*shape, seed=0, dtype=torch.float32):
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return drawn.to(DEVICE, dtype)


def cache(batch, slots, dim=16, kv_heads=1, seed=0, dtype=torch.float32):
    return [numbers(batch, kv_heads, slots, dim, seed=seed + n, dtype=dtype) for n in range(2)]


def tree(parents):
    """Ancestors and itself, of each node."""
    seen = torch.eye(len(parents), dtype=torch.bool, device=DEVICE)
    for node, parent in enumerate(parents):
        if parent >= 0:
            seen[node] |= seen[parent]
    return seen


def chain(nodes):
    return tree(range(-1, nodes - 1))


def rows(*lengths):
    return torch.tensor(lengths, device=DEVICE)


def difference(got, query, keys, values, lengths, visible):
    """Largest difference from the reference, over the largest number."""
    told = [each.cpu() for each in (query.float(), keys, values, lengths, visible)]
    wanted = reference.tree_attention(*told, SCALE)
    return float((got.cpu().float() - wanted).abs().max() / wanted.abs().max())


TREE = [-1, 0, -1, 1, 1, 2]  # two, in fact: a node may see no first pending one


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize(
    ("lengths", "heads", "kv_heads", "dim", "parents"),
    [
        ((0, 129), 2, 2, 64, TREE),
        ((127, 128), 3, 1, 48, range(-1, 3)),
        ((1, 300), 4, 1, 64, TREE),
        ((130, 7), 4, 1, 64, [-1]),
    ],
)
def test_attention_is_the_references(dtype, lengths, heads, kv_heads, dim, parents):
    seen = tree(parents).expand(2, -1, -1)
    keys, values = cache(2, 320, dim, kv_heads, dtype=dtype)
    query = numbers(2, len(seen[0]), heads, dim, seed=9, dtype=dtype)
    dirty = [each.clone() for each in (keys, values)]
    for each in dirty:
        for row, length in enumerate(lengths):
            each[row, :, length + len(seen[0]) :] = float("nan")  # nobody may look there
    got = tree_attention(query, *dirty, rows(*lengths), seen, SCALE)
    assert got.dtype is dtype
    assert difference(got, query, keys, values, rows(*lengths), seen) <= TOLERANCE[dtype]


def test_queries_in_float32_over_a_bfloat16_cache_lose_nothing():
    keys, values = cache(1, 160, 64, dtype=torch.bfloat16)
    query, seen = numbers(1, 3, 2, 64, seed=9), tree([-1, 0, 0])[None]
    got = tree_attention(query, keys, values, rows(150), seen, SCALE)
    assert difference(got, query, keys, values, rows(150), seen) <= TOLERANCE[torch.float32]


@pytest.mark.parametrize(("dim", "heads"), [(16, 20), (80, 3), (256, 2)])
def test_head_sizes_and_groups_of_all_kinds(dim, heads):
    keys, values = cache(1, 150, dim)
    query, seen = numbers(1, 3, heads, dim, seed=9), tree([-1, 0, 0])[None]
    got = tree_attention(query, keys, values, rows(140), seen, SCALE)
    assert difference(got, query, keys, values, rows(140), seen) <= TOLERANCE[torch.float32]


def test_new_nodes_may_have_ancestors_that_were_pending_before_them():
    keys, values = cache(1, 40)
    query, seen = numbers(1, 2, 2, 16, seed=9), tree(TREE)[None, 4:]
    got = tree_attention(query, keys, values, rows(30), seen, SCALE)
    assert difference(got, query, keys, values, rows(30), seen) <= TOLERANCE[torch.float32]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_node_has_the_same_bits_beside_any_number_of_others(dtype):
    nodes = 17
    seen = tree([-1, *(node // 2 for node in range(nodes - 1))])[None]
    keys, values = cache(1, 160, dtype=dtype)
    query = numbers(1, nodes, 3, 16, seed=9, dtype=dtype)
    together = tree_attention(query, keys, values, rows(135), seen, SCALE)
    for some in range(1, nodes):
        first = tree_attention(
            query[:, :some], keys, values, rows(135), seen[:, :some, :some], SCALE
        )
        assert torch.equal(first, together[:, :some])
    for node in (1, 8, 16):
        one = slice(node, node + 1)
        alone = tree_attention(query[:, one], keys, values, rows(135), seen[:, one], SCALE)
        assert torch.equal(alone, together[:, one])


def test_more_nodes_than_a_launch_takes_have_the_bits_of_few():
    nodes = gpu.MOST_NODES + 6
    keys, values = cache(1, nodes + 8)
    query, seen = numbers(1, nodes, 1, 16, seed=9), chain(nodes)[None]
    together = tree_attention(query, keys, values, rows(5), seen, SCALE)
    assert difference(together, query, keys, values, rows(5), seen) <= TOLERANCE[torch.float32]
    some = slice(nodes - 8, nodes)
    few = tree_attention(query[:, some], keys, values, rows(5), seen[:, some], SCALE)
    assert torch.equal(few, together[:, some])


def test_batch_size_of_cache_and_layout_change_nothing():
    keys, values = cache(3, 150, kv_heads=2)
    query, seen = numbers(3, 4, 4, 16, seed=9), tree([-1, 0, 0, 1]).expand(3, -1, -1)
    lengths = rows(5, 140, 128)
    together = tree_attention(query, keys, values, lengths, seen, SCALE)
    larger = [torch.cat([each, each], 2) for each in (keys, values)]
    swapped = [each.transpose(1, 2).contiguous().transpose(1, 2) for each in (keys, values)]
    assert torch.equal(tree_attention(query, *larger, lengths, seen, SCALE), together)
    assert torch.equal(tree_attention(query, *swapped, lengths, seen, SCALE), together)
    for row in range(3):
        one = slice(row, row + 1)
        alone = tree_attention(query[one], keys[one], values[one], lengths[one], seen[one], SCALE)
        assert torch.equal(alone, together[one])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("dim", [16, 64])
@pytest.mark.parametrize("beyond", [None, -3, -1, 0, 1])
def test_text_decoded_alone_or_verified_in_a_tree_is_bitwise_one(dtype, dim, beyond):
    """A path of a tree, moved to where plain decoding has it, attends to the same bits."""
    length = 0 if beyond is None else 2 * segment_length(dim, dtype) + beyond
    keys, values = cache(1, length + 8, dim, dtype=dtype)
    seen = tree([-1, 0, 0, 1, 3, 4])
    query = numbers(1, 6, 3, dim, seed=9, dtype=dtype)
    in_tree = tree_attention(query, keys, values, rows(length), seen[None], SCALE)
    for node in (0, 2, 5):
        path = seen[node].nonzero().flatten()
        moved = [each.clone() for each in (keys, values)]
        for store, old in zip(moved, (keys, values), strict=True):
            store[:, :, length : length + len(path)] = old[:, :, length + path]
        alone = tree_attention(
            query[:, node : node + 1],
            *moved,
            rows(length + len(path) - 1),
            torch.ones(1, 1, 1, dtype=torch.bool, device=DEVICE),
            SCALE,
        )
        assert torch.equal(alone[0, 0], in_tree[0, node])


def test_lengths_that_leave_no_room_read_nothing_outside_the_cache():
    keys, values = cache(1, 24)
    query, seen = numbers(1, 2, 2, 16, seed=9), chain(2)[None]
    last = tree_attention(query, keys, values, rows(22), seen, SCALE)
    assert torch.equal(tree_attention(query, keys, values, rows(10**6), seen, SCALE), last)


class Calls(TorchDispatchMode):
    """Writes down what torch is asked for."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(function.name())
        return function(*args, **kwargs or {})


def test_device_is_never_waited_for_and_no_shape_follows_from_data():
    keys, values = cache(2, 40)
    query = numbers(2, 3, 2, 16, seed=9)
    seen = [tree([-1, 0, 0]).expand(2, -1, -1), chain(3).expand(2, -1, -1)]
    with Calls() as few:
        tree_attention(query, keys, values, rows(0, 1), seen[0], SCALE)
    with Calls() as many:
        tree_attention(query, keys, values, rows(30, 33), seen[1], SCALE)
    assert few.names == many.names
    assert not [name for name in few.names if "_local_scalar_dense" in name or "nonzero" in name]


def test_kernels_compile_for_a_gpu(tmp_path):
    """Without one: to PTX and machine code, in a process where Triton does not interpret."""
    pytest.importorskip("triton.backends.nvidia")
    code = """
import torch, triton, triton.language as tl
from triton.backends.compiler import GPUTarget
from fivefold_kernels.attention import gpu, gpu_kernels
for numbers, of in ((torch.bfloat16, "bf16"), (torch.float32, "fp32")):
    shape = dict(group=3, dim=64, width=64, segment=gpu.segment_length(64, numbers))
    fixed = {"kv_heads": 3, "numbers": getattr(tl, str(numbers)[6:]), **shape}
    for kernel in (gpu_kernels.attend_segments, gpu_kernels.merge_segments):
        types = dict.fromkeys(kernel.arg_names, "i32")
        types |= dict.fromkeys(("query", "key", "value", "out"), f"*{of}")
        types |= dict.fromkeys(("tops", "totals", "mixtures"), "*fp32")
        types |= dict.fromkeys(("lengths", "order", "seen"), "*i64") | {"scale": "fp32"}
        types |= dict.fromkeys(fixed, "constexpr")
        source = triton.compiler.ASTSource(
            kernel,
            {name: types[name] for name in kernel.arg_names},
            {name: fixed[name] for name in kernel.arg_names if name in fixed},
        )
        options = {"num_warps": gpu.WARPS[numbers.itemsize], "enable_fp_fusion": True}
        made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
        assert len(made.asm["cubin"]) > 1000
        assert "tf32" not in made.asm["ptx"]
"""
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def refusal(query, keys, values, lengths, seen):
    with pytest.raises(UnsupportedError) as caught:
        tree_attention(query, keys, values, lengths, seen, SCALE)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_what_the_kernel_would_misread_is_refused():
    keys, values = cache(1, 8, kv_heads=2)
    query, lengths, seen = numbers(1, 1, 4, 16), rows(4), chain(1)[None]
    assert "takes float32, bfloat16 or float16" in refusal(
        query, keys.double(), values.double(), lengths, seen
    )
    assert "keys and values alike" in refusal(query, keys, values.half(), lengths, seen)
    odd = keys.mT.contiguous().mT
    assert "dim innermost" in refusal(query, odd, odd, lengths, seen)
    turned = values.transpose(1, 2).contiguous().transpose(1, 2)
    assert "one layout" in refusal(query, keys, turned, lengths, seen)
    assert "3 heads over 2 KV heads" in refusal(query[:, :, :3], keys, values, lengths, seen)
    assert "up to 256" in refusal(numbers(1, 1, 2, 288), *cache(1, 8, 288), lengths, seen)
    assert "9 pending nodes in a cache that has 8 slots" in refusal(
        query, keys, values, lengths, chain(9)[None, :1]
    )
    assert "int32 or int64" in refusal(query, keys, values, lengths.to(torch.int16), seen)


def test_machine_without_triton_is_told_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "fivefold_kernels.attention.gpu_kernels", None)
    keys, values = cache(1, 8)
    message = refusal(numbers(1, 1, 1, 16), keys, values, rows(4), chain(1)[None])
    assert "pip install 'fivefold-kernels[gpu]'" in message


def test_tensors_that_are_not_on_a_gpu_are_refused_with_what_serves_instead(monkeypatch):
    monkeypatch.setattr(gpu, "is_interpreted", lambda kernels: False)
    keys, values = (each.cpu() for each in cache(1, 8))
    told = (each.cpu() for each in (rows(4), chain(1)[None]))
    message = refusal(numbers(1, 1, 1, 16).cpu(), keys, values, *told)
    assert "TRITON_INTERPRET=1" in message
    assert "attention.cpu" in message
