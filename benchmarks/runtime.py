"""How near the CPU runtime comes to the machine's bounds, and what verifying n tokens costs.

`python benchmarks/runtime.py [--quick] [--out DIR]` measures everything it prints in one run and
writes `DIR/result.json`. Figures:

- `plain_over_bound_{fp32,bf16,int8,q4}`: time of a pass over one token, over reading the packed
  weights once at the bandwidth measured in the same run, on a buffer of that size;
- `t8_over_t1_{fp32,bf16,int8,int4}`, `t16_over_t1_…`: a pass over n tokens, over one of one token;
- `ratio_to_transformers_{fp32,bf16}`: tokens/s of plain decoding over transformers' `generate`,
  each at its best number of threads, same prompts: the median over prompts, `rows` hold each;
- `attention_8k_share_of_bandwidth`: decode attention over 8,192 slots, bytes over bandwidth, worst;
- `prefill_share_of_ceiling_{fp32,bf16}`: operations of reading 2,048 tokens, attention counted,
  over the rate of a product of square matrices in the same dtype, torch's or ours, the faster;
- `row_invariance_cost_{fp32,bf16}`: our pass over 8 tokens, over the same with oneDNN's products
  for the linear layers alone (the fastest library kernel here);
- `ratio_to_fastest_peer_{plain,drafting}`: tokens/s on the GGUF file's own blocks over the faster
  of llama.cpp and OpenVINO GenAI on the same file (`peers.py`), each at its best setting: the
  median over prompts. Drafting is the fastest of `DRAFTING`. Null where no peer can be installed,
  or for another model.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from bounds import num_cores
from contestants import Contestant, Threaded, ours, plain_stock, stock_module
from fivefold.cache import cache_folder
from fivefold.result import Result
from fivefold_kernels import Format
from fivefold_kernels.attention.layout import KEY_BLOCK
from fivefold_kernels.ceilings import packed_rate, product_rate, read_bandwidth
from fivefold_kernels.decoder.cpu import STAGES
from fivefold_kernels.native.memory import streamed_zeros
from fivefold_lm import FullAttention, KVCache, LanguageModel, ModelConfig, TreeForward, load_model
from fivefold_lm.kernels import speedup_of
from fivefold_lm.loading import DEFAULT
from fivefold_lm.native import NativeDecoder
from fivefold_speculative.prompt_sets import chat_prompts, human_eval_prompts, spread
from peers import Peer, model_file, peers

FORMATS: dict[str, dict[str, str]] = {
    "fp32": {},
    "bf16": {"dtype": "bfloat16"},
    "int8": {"weights": "int8"},
    "int4": {"weights": "int4"},
}
DRAFTING = ("feature_head", "prompt_lookup", "auto")
CURVE = (1, 2, 4, 8, 16, 32, 64, 128)
PREFIX = 256
LONG = 8192


@dataclass(frozen=True)
class Case:
    """How much is measured."""

    repeats: int
    prompts: int
    tokens: int


FULL = Case(repeats=15, prompts=4, tokens=96)
QUICK = Case(repeats=5, prompts=2, tokens=48)


def main() -> int:
    """Measure, print, write."""
    options = read_options()
    case = QUICK if options.quick else FULL
    result = Result("benchmarks/runtime")
    result.environment |= {"quick_case": options.quick, "model": options.model, **vars(case)}
    result.environment["threads"] = num_cores()
    torch.set_num_threads(num_cores())
    for name, settings in FORMATS.items():
        model = load_model(ModelConfig(name=options.model, **settings), print)  # type: ignore[arg-type]
        native = native_of(model)
        measure_curve(name, model, native, case, result)
        if name in ("fp32", "bf16"):
            measure_prefill(name, model, case, result)
            measure_against_onednn(name, model, options.model, case, result)
            measure_transformers(name, model, options.model, case, result)
    measure_attention(native, case, result)
    result.figures |= {f"ratio_to_fastest_peer_{what}": None for what in ("plain", "drafting")}
    if options.model == DEFAULT:
        measure_peers(case, result)
    options.out.mkdir(parents=True, exist_ok=True)
    result.write(options.out)
    for figure, value in result.figures.items():
        print(f"{figure} = {value}")
    return 0


def read_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a smaller case, under ten minutes")
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks/runtime"))
    parser.add_argument("--model", default=DEFAULT, help="as in `model=NAME`")
    return parser.parse_args()


def native_of(model: LanguageModel) -> NativeDecoder:
    """Return the decoder of a model in one call a pass; without one there is nothing to measure."""
    speedup = speedup_of(model.module)
    if speedup is None or not isinstance(speedup.decoder, NativeDecoder):
        sys.exit("the CPU kernels do not run this model here; see `fivefold kernels`")
    return speedup.decoder


# --------------------------------------------------------------------------------- t(n) and bounds


def measure_curve(
    name: str, model: LanguageModel, native: NativeDecoder, case: Case, result: Result
) -> None:
    """Time passes over 1 to 128 tokens and a read of as many bytes, in turns; parts of two."""
    weights = native.weights
    size = weights.layer_bytes + weights.head_bytes
    library = native.run.library
    buffer = streamed_zeros((size // 4,), torch.float32).fill_(1)
    calls = {nodes: one_pass(model, nodes) for nodes in CURVE}
    calls[0] = lambda: library.ff_read(buffer.data_ptr(), buffer.numel(), num_cores())
    times = interleaved(calls, case.repeats)
    bound = times[0]
    for nodes in CURVE:
        row: dict[str, object] = {"what": "pass", "format": name, "tokens": nodes}
        row |= {"seconds_over_bound": times[nodes] / bound, "over_one": times[nodes] / times[1]}
        row |= {"stages": stages(model, native, nodes)} if nodes in (1, 8) else {}
        result.rows.append(row)
        print(f"{name} t({nodes})/t(1) = {times[nodes] / times[1]:.2f}", flush=True)
    result.environment[f"bandwidth_{name}"] = (
        f"{size / bound / 1e9:.1f} GB/s of {size / 1e6:.0f} MB"
    )
    result.figures[f"plain_over_bound_{'q4' if name == 'int4' else name}"] = times[1] / bound
    for nodes in (8, 16):
        result.figures[f"t{nodes}_over_t1_{name}"] = times[nodes] / times[1]


def one_pass(model: LanguageModel, nodes: int) -> Callable[[], object]:
    """Return a call that runs a chain of tokens after a prefix, and forgets it again."""
    method = FullAttention()
    forward, cache = TreeForward(model.module, method), filled(model, nodes)
    depths = torch.arange(nodes, device=model.device)[None]
    tokens = depths * 97 % model.vocab_size
    seen = torch.ones(1, nodes, nodes, dtype=torch.bool, device=model.device).tril()

    def run() -> None:
        forward(cache, tokens, depths, seen)
        cache.rewind(cache.lengths)

    return run


def filled(model: LanguageModel, nodes: int) -> KVCache:
    """Return a cache that holds a prefix, with room for nodes."""
    cache = FullAttention().make_cache(model, 1, PREFIX + nodes)
    tokens = torch.arange(PREFIX, device=model.device)[None] * 89 % model.vocab_size
    lengths = torch.tensor([PREFIX], device=model.device)
    TreeForward(model.module, FullAttention()).prefill(cache, tokens, lengths)
    return cache


def stages(model: LanguageModel, native: NativeDecoder, nodes: int) -> dict[str, float]:
    """Return the share of each stage of a pass."""
    cache = filled(model, nodes)
    depths = torch.arange(nodes)[None]
    seen = torch.ones(1, nodes, nodes, dtype=torch.bool).tril()
    cache.open(depths)
    inputs = torch.zeros(1, nodes, native.weights.hidden)
    spent = [0.0] * len(STAGES)
    for _ in range(5):
        native(cache, inputs, cache.lengths[:, None] + depths, seen, True, spent)
    return {stage: time_ / sum(spent) for stage, time_ in zip(STAGES, spent, strict=True)}


def interleaved(calls: dict[int, Callable[[], object]], repeats: int) -> dict[int, float]:
    """Return the median time of each call, taken in turns."""
    return interleaved_seconds({key: timed(call) for key, call in calls.items()}, repeats)


def timed(call: Callable[[], object]) -> Callable[[], float]:
    """Return a call that tells its time."""

    def run() -> float:
        begin = time.perf_counter()
        call()
        return time.perf_counter() - begin

    return run


def interleaved_seconds(calls: dict[int, Callable[[], float]], repeats: int) -> dict[int, float]:
    """Return the median of the times that calls tell, taken in turns after one not counted."""
    rounds = [{key: call() for key, call in calls.items()} for _ in range(repeats + 1)][1:]
    return {key: statistics.median(one[key] for one in rounds) for key in calls}


# ------------------------------------------------------------------------ prefill, attention, peers


def measure_prefill(name: str, model: LanguageModel, case: Case, result: Result) -> None:
    """Read 2,048 tokens; count the operations of products and of causal attention."""
    length, config = 2048, model.module.config
    forward = TreeForward(model.module, FullAttention())
    tokens = torch.arange(length)[None] * 89 % model.vocab_size
    cache = FullAttention().make_cache(model, 1, length)

    def read() -> None:
        cache.rewind(torch.tensor([0]))
        forward.prefill(cache, tokens, torch.tensor([length]))

    own = Format.F32 if model.dtype == torch.float32 else Format.BF16
    rate = max(product_rate(model.dtype), packed_rate(own, native_of(model).run.library))
    seconds = interleaved({0: read}, max(3, case.repeats // 5))[0]
    layers = sum(
        part.weight.numel()
        for part_name, part in model.module.named_modules()
        if isinstance(part, torch.nn.Linear) and "lm_head" not in part_name
    )
    attention = 2 * length**2 * config.num_attention_heads * config.head_dim
    operations = 2 * layers * length + attention * config.num_hidden_layers
    share = operations / seconds / rate
    result.figures[f"prefill_share_of_ceiling_{name}"] = share
    result.environment[f"products_{name}"] = f"{rate / 1e9:.0f} GFLOP/s"
    print(f"{name} prefill at {share:.2f} of the ceiling", flush=True)


def measure_attention(native: NativeDecoder, case: Case, result: Result) -> None:
    """Attend over 8,192 slots inside a pass: batch 1 and 8, 1 to 8 rows, both dtypes."""
    rate = packed_rate(Format.F32, native.run.library)  # it multiplies float32 whatever it reads
    heads = native.weights.heads
    for dtype in (torch.float32, torch.bfloat16):
        for batch in (1, 8):
            planes = filled_planes(native, batch, dtype)
            size = 2 * planes[1].nbytes * LONG // (LONG + KEY_BLOCK)
            for nodes in (1, 2, 4, 8):
                calls = {
                    0: attention_of_pass(native, planes, nodes),
                    1: sdpa_over(planes, nodes, heads),
                }
                times = interleaved_seconds(calls, max(3, case.repeats // 3))
                floor = size / read_bandwidth(min(size, 2**30), native.run.library)
                operations = 4 * batch * nodes * heads * planes[1][:, 0, 0].numel()
                row: dict[str, object] = {"what": "attention", "batch": batch, "tokens": nodes}
                row |= {"dtype": str(dtype).removeprefix("torch.")}
                shares = {"share_of_bandwidth": floor / times[0]}
                shares["share_of_bound"] = max(floor, operations / rate) / times[0]
                row |= shares
                row |= {"ratio_to_sdpa": times[1] / times[0]}
                result.rows.append(row)
                print(row, flush=True)
                for name, share in shares.items():
                    figure = f"attention_8k_{name}"
                    result.figures[figure] = min(share, result.figures.get(figure) or share)


def filled_planes(
    native: NativeDecoder, batch: int, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return keys, in blocks, and values of all layers for 8,192 slots and some to write."""
    w, slots = native.weights, LONG + KEY_BLOCK
    lead = (len(w.layers), batch, w.kv_heads)
    keys = streamed_zeros((*lead, slots // KEY_BLOCK, w.dim, KEY_BLOCK), dtype)
    return keys.fill_(0.01), streamed_zeros((*lead, slots, w.dim), dtype).fill_(0.02)


def attention_of_pass(
    native: NativeDecoder, planes: tuple[torch.Tensor, torch.Tensor], nodes: int
) -> Callable[[], float]:
    """Return a call of a whole pass that tells the time of its attention alone."""
    w, batch = native.weights, planes[0].shape[1]
    inputs, angles = torch.zeros(batch, nodes, w.hidden), torch.zeros(batch, nodes, w.dim // 2)
    lengths = torch.full((batch,), LONG)
    seen = torch.ones(nodes, nodes, dtype=torch.bool).tril().repeat(batch, 1, 1)

    def run() -> float:
        spent = [0.0] * len(STAGES)
        native.run(inputs, angles, angles, lengths, seen, *planes, want_logits=False, seconds=spent)
        return spent[STAGES.index("attention")] + spent[STAGES.index("merge")]

    return run


def sdpa_over(
    planes: tuple[torch.Tensor, torch.Tensor], nodes: int, heads: int
) -> Callable[[], float]:
    """Return a timed call of torch's attention over as much, layer by layer."""
    values = planes[1]
    layers, batch, _, _, dim = values.shape
    keys = planes[0].view(values.shape)  # other keys, the same memory
    used = LONG + nodes
    seen = None if nodes == 1 else torch.ones(nodes, used, dtype=torch.bool).tril(LONG)
    query = torch.zeros(batch, heads, nodes, dim, dtype=values.dtype)

    def run() -> None:
        for layer in range(layers):
            torch.nn.functional.scaled_dot_product_attention(
                query,
                keys[layer, :, :, :used],
                values[layer, :, :, :used],
                attn_mask=seen,
                enable_gqa=True,
            )

    return timed(run)


def measure_against_onednn(
    name: str, model: LanguageModel, where: str, case: Case, result: Result
) -> None:
    """Compare a pass over 8 tokens with the same model on oneDNN's products."""
    dtype = str(model.dtype).removeprefix("torch.")
    other = load_model(ModelConfig(name=where, kernels="onednn", dtype=dtype))
    times = interleaved({0: one_pass(model, 8), 1: one_pass(other, 8)}, case.repeats)
    result.figures[f"row_invariance_cost_{name}"] = times[0] / times[1]
    print(f"{name} over oneDNN at 8 tokens: {times[0] / times[1]:.2f}", flush=True)


def measure_transformers(
    name: str, model: LanguageModel, where: str, case: Case, result: Result
) -> None:
    """Decode plainly with ours and with transformers, each at its best number of threads."""
    dtype = str(model.dtype).removeprefix("torch.")
    stock = plain_stock(stock_module(ModelConfig(name=where, dtype=dtype)))[0]
    prompts = encoded_prompts(model, case)
    sides = [best_threaded(side, prompts[0], case) for side in (ours(model, "none"), stock)]
    ratios = []
    for prompt in prompts:
        speeds = [speed(side, prompt, case) for side in sides]
        ratios.append(speeds[0] / speeds[1])
        row: dict[str, object] = {"what": "decoding", "format": name, "ratio": ratios[-1]}
        row |= {f"threads_{side.name}": side.threads for side in sides}
        result.rows.append(row)
    torch.set_num_threads(num_cores())
    result.figures[f"ratio_to_transformers_{name}"] = statistics.median(ratios)
    print(f"{name} over transformers: {statistics.median(ratios):.2f}", flush=True)


def encoded_prompts(model: LanguageModel, case: Case) -> list[list[int]]:
    """Return prompts of code and of talk, half and half."""
    half = case.prompts // 2
    chosen = [*spread(human_eval_prompts(), half), *spread(chat_prompts(), half)]
    return [model.encode(prompt.content) for prompt in chosen]


def measure_peers(case: Case, result: Result) -> None:
    """Decode the GGUF file's own blocks beside llama.cpp and OpenVINO GenAI, prompt by prompt."""
    model = load_model(ModelConfig(weights="file"), print)
    prompts = encoded_prompts(model, case)
    folder = cache_folder() / "peers"
    plain, *drafting = (ours(model, method) for method in ("none", *DRAFTING))
    ratios: dict[str, list[float]] = {"plain": [], "drafting": []}
    threads = range(1, num_cores() + 1)
    with peers(model_file(folder, print), folder, threads, print) as everybody:
        fastest = [best_peer(group, prompts[0], case) for group in everybody.values() if group]
        for prompt in prompts if fastest else []:
            sides: list[Contestant] = [*fastest, plain, *drafting]
            speeds = {side.name: speed(side, prompt, case) for side in sides}
            peer = max(speeds[side.name] for side in fastest)
            ratios["plain"].append(speeds[plain.name] / peer)
            ratios["drafting"].append(max(speeds[side.name] for side in drafting) / peer)
            row: dict[str, object] = {"what": "peers", "tokens_per_second": speeds}
            result.rows.append(row)
            print(row, flush=True)
    result.environment["peers"] = {side.name: dict(side.settings) for side in fastest}
    for what, values in ratios.items():
        result.figures[f"ratio_to_fastest_peer_{what}"] = statistics.median(values or [0]) or None


def best_peer(group: Sequence[Peer], prompt: Sequence[int], case: Case) -> Peer:
    """Return a peer at its fastest setting, by the better of two answers; end the others."""
    speeds = {one: max(speed(one, prompt, case) for _ in range(2)) for one in group}
    best = max(speeds, key=lambda one: speeds[one])
    for one in group:
        if one is not best:
            one.close()
    return best


def best_threaded(side: Contestant, prompt: Sequence[int], case: Case) -> Threaded:
    """Return a side at the number of threads at which it is fastest."""
    tried = [Threaded(side, count) for count in range(1, num_cores() + 1)]
    return max(tried, key=lambda one: speed(one, prompt, case))


def speed(side: Contestant, prompt: Sequence[int], case: Case) -> float:
    """Return tokens a second, after one call that is not counted."""
    side.answer(prompt, 4)
    answered = side.answer(prompt, case.tokens)
    return len(answered.tokens) / answered.seconds


if __name__ == "__main__":
    sys.exit(main())
