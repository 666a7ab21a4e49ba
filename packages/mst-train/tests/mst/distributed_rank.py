"""What one process of `test_distributed.py` does; started by torch.multiprocessing."""

import os

import torch
import torch.distributed as dist
from fivefold import UserError
from fivefold_lm.testing import tiny_model
from fivefold_mst_train import MstConfig, apply_mst, linear_cross_entropy
from fivefold_mst_train.config import BlockConfig, HeadConfig, MlpConfig
from fivefold_mst_train.mst.linear_cross_entropy import vocab_parallel_cross_entropy
from fivefold_mst_train.testing import exact_norms, plain_loss, training_batch
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

VOCAB, WORLD = 96, 2
COUNTS = {}


def start(rank, file, work, out):
    """Join the group, do the work, write what rank 0 found."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=WORLD)
    try:
        torch.save(globals()[work](rank), f"{out}.{rank}")
    finally:
        dist.destroy_process_group()


def model(tied=False):
    module = tiny_model("llama", VOCAB, eos_token_id=None, tie_word_embeddings=tied).module
    return exact_norms(module.double()).train()


def batches():
    """Rows for each rank, with other numbers of labels; every divisor is the whole count."""
    found = [training_batch(VOCAB, batch=2, tokens=24, seed=rank) for rank in range(WORLD)]
    found[0]["shift_labels"][:, :15] = -100
    total = sum((each["shift_labels"] != -100).sum() for each in found)
    return [{**each, "num_items_in_batch": total} for each in found]


def settings(**more):
    return MstConfig(
        mlp=MlpConfig(tile_tokens=10),
        head=HeadConfig(chunk_tokens=7, **more.pop("head", {})),
        **more,
    )


def alone(tied=False):
    """Gradients of one process on both ranks' rows."""
    module = model(tied)
    for batch in batches():
        plain_loss(module, batch).backward()
    return {name: weight.grad for name, weight in module.named_parameters()}


def worst(got, tied=False):
    wanted = alone(tied)
    scale = max(float(each.abs().max()) for each in wanted.values())
    return max(float((got[name] - wanted[name]).abs().max()) for name in wanted) / scale


def full(module):
    return {
        name: (g.full_tensor() if hasattr(g := weight.grad, "full_tensor") else g)
        for name, weight in module.named_parameters()
    }


def ddp(rank):
    found = {}
    for name, config in {
        "mst": settings(),
        "block": settings(block=BlockConfig(True)),
        "recompute": settings(head={"strategy": "recompute"}),
    }.items():
        module = model()
        apply_mst(module, config)
        wrapped = DistributedDataParallel(module)
        fired = []
        for weight in module.parameters():
            weight.register_post_accumulate_grad_hook(lambda w, all=fired: all.append(id(w)))
        (wrapped(**batches()[rank], use_cache=False).loss * WORLD).backward()
        found[name] = worst({n: w.grad for n, w in module.named_parameters()})
        found[f"{name}: hooks"] = len(fired) / len(set(fired))
    return found


def sharded(module, own_head):
    for layer in module.model.layers:
        fully_shard(layer)
    if own_head:
        fully_shard(module.lm_head)
        fully_shard(module.model.norm)
    fully_shard(module)
    return module


def fsdp(rank):
    found = {}
    for name, (config, own_head, tied) in {
        "mst, head a unit": (settings(), True, False),
        "mst, head in the root": (settings(), False, False),
        "mst, tied": (settings(), False, True),
        "block, head a unit": (settings(block=BlockConfig(True)), True, False),
        "recompute, head a unit": (settings(head={"strategy": "recompute"}), True, False),
    }.items():
        module = model(tied)
        handle = apply_mst(module, config)
        sharded(module, own_head)
        gathered = count_gathers(module.lm_head) if own_head else []
        (module(**batches()[rank], use_cache=False).loss * WORLD).backward()
        found[name] = worst(full(module), tied)
        if own_head:
            found[f"{name}: gathers of the head"] = len(gathered)
        handle.revert()
    return found


def count_gathers(head):
    """Count how often the head's weight is gathered: by the calls of its own unshard."""
    group, calls = head._get_fsdp_state()._fsdp_param_group, []
    original = group.unshard

    def unshard(*args, **kwargs):
        if not group.is_unsharded:
            calls.append(1)
        return original(*args, **kwargs)

    group.unshard = unshard
    return calls


def ulysses(rank):
    found = {}
    whole = training_batch(VOCAB, batch=2, tokens=24, ignored="prefix")
    packed = dict(whole)
    packed["position_ids"] = torch.cat([torch.arange(10), torch.arange(14)]).expand(2, -1)
    for name, (batch, config) in {
        "mst": (whole, settings(sequence_parallel=WORLD)),
        "block": (whole, settings(sequence_parallel=WORLD, block=BlockConfig(True))),
        "packed": (packed, settings(sequence_parallel=WORLD)),
    }.items():
        module, plain = model(), model()
        with apply_mst(module, config) as handle:
            part = handle.local_batch(batch)
            assert part["input_ids"].shape[1] == 12
            loss = module(**part, use_cache=False).loss
            loss.backward()
        for weight in module.parameters():
            dist.all_reduce(weight.grad)
        total = loss.detach().clone()
        dist.all_reduce(total)
        expected = plain_loss(plain, batch)
        expected.backward()
        got = {n: w.grad for n, w in module.named_parameters()}
        wanted = {n: w.grad for n, w in plain.named_parameters()}
        scale = max(float(each.abs().max()) for each in wanted.values())
        error = max(float((got[n] - wanted[n]).abs().max()) for n in wanted) / scale
        found[name] = max(error, abs(float(total - expected.detach())))
        assert plain.config._attn_implementation == module.config._attn_implementation
    return found


def shared_vocabulary(rank):
    """Each process holds one part of the head's rows; parts are of other sizes."""
    source = torch.Generator().manual_seed(0)
    hidden = torch.randn(13, 6, generator=source, dtype=torch.float64)
    weight = torch.randn(17, 6, generator=source, dtype=torch.float64)
    labels = torch.randint(0, 17, (13,), generator=source)
    labels[:4] = -100
    part = [slice(0, 10), slice(10, 17)][rank]
    found = {}
    for strategy in ("grad_in_forward", "recompute"):
        h, w = hidden.clone().requires_grad_(), weight[part].clone().requires_grad_()
        whole_h, whole_w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        terms = {"chunk_tokens": 5, "strategy": strategy, "label_smoothing": 0.1, "z_loss": 0.01}
        mine = vocab_parallel_cross_entropy(h, w, labels, start=part.start, vocab=17, **terms)
        mine.loss.backward()
        linear_cross_entropy(whole_h, whole_w, labels, **terms).loss.backward()
        found[strategy] = max(
            float((h.grad - whole_h.grad).abs().max()),
            float((w.grad - whole_w.grad[part]).abs().max()),
        )
    return found


def disagreeing(rank):
    try:
        apply_mst(model(), tile_tokens=8 + rank)
    except UserError as error:
        return str(error)
    return "nothing"


def in_backward(rank):
    config = settings(optimizer_in_backward=True)
    with apply_mst(model(), config) as handle:
        try:
            handle.optimizer(lambda p: torch.optim.SGD(p, lr=0.1), handle.model.parameters())
        except UserError as error:
            return str(error)
    return "nothing"


def uncuttable(rank):
    said = []
    try:
        apply_mst(model(), settings(sequence_parallel=3))
    except UserError as error:
        said.append(str(error))
    with apply_mst(model(), settings(sequence_parallel=2)) as handle:
        try:
            handle.local_batch(training_batch(VOCAB, tokens=23))
        except UserError as error:
            said.append(str(error))
    return said
