"""A profile tells a step apart without a gap, counts what must be done, and leaves no trace."""

import json
from dataclasses import replace
from importlib import import_module
from itertools import count
from types import SimpleNamespace

import pytest
import torch
from fivefold import UserError
from fivefold.testing import compose
from fivefold_kernels.decoder.cpu import STAGES
from fivefold_kernels.native.library import has_compiler
from fivefold_lm import FullAttention, Sampler, SamplingConfig
from fivefold_lm.attention import NAME, attention_forward
from fivefold_lm.kernels import choose_kernels, speed_up, speedup_of
from fivefold_lm.testing import tiny_model
from fivefold_speculative import DraftKind, Request
from fivefold_speculative.config import ExpansionConfig
from fivefold_speculative.drafters.model_tree import build as build_expansion
from fivefold_speculative.drafters.none import PlainDrafter
from fivefold_speculative.engine import Engine
from fivefold_speculative.ledger import Ledger, Stage
from fivefold_speculative.step_profile import (
    PARTS,
    Ceilings,
    decode_profiled,
    refuse_accelerators,
    rows_of,
)
from fivefold_speculative.toy import ToyDrafts
from torch.nn.modules import module as torch_modules
from transformers import AttentionInterface

bench = import_module("fivefold_speculative.bench")
fronts = import_module("fivefold_speculative.fronts")
WHOLE_TILES = {"vocab": 64, "hidden_size": 64, "intermediate_size": 96, "head_dim": 16}
"""Sizes that our kernels run in one call a pass and pack without padding."""
KERNELS = ["torch", "onednn", "auto"]
NEW = 7  # tokens that are written
PROMPTS = [[5, 9, 2], [4, 8, 1, 6, 2]]
FLOAT = 4  # bytes


def model_of(arch="llama", **sizes):
    return replace(tiny_model(arch, **sizes), eos_ids=())


def sped_up(model, kernels):
    chosen = choose_kernels(kernels, "float", torch.float32)
    if chosen is not None:
        speed_up(model.module, chosen)
    return model


def plain_engine(model):
    sampler = Sampler(SamplingConfig(), vocab_size=model.vocab_size)
    return Engine(model, FullAttention(), sampler, drafting=lambda session: PlainDrafter())


def tree_engine(kernels):
    """Return an engine whose draft, the target with noise, computes with the same kernels."""
    target = model_of(**WHOLE_TILES)
    draft = ToyDrafts(target, noise=0.1)("toy", DraftKind.INDEPENDENT)
    chosen = choose_kernels(kernels, "float", torch.float32)
    if chosen is not None:
        speed_up(draft.module, chosen)
    return replace(
        plain_engine(sped_up(target, kernels)),
        drafting=lambda session: build_expansion(ExpansionConfig(widths=[2, 1]), session),
        drafts=lambda name, kind: draft,
    )


def requests(prompts=PROMPTS):
    return [Request(tokens=list(p), max_new_tokens=NEW, key=key) for key, p in enumerate(prompts)]


def tokens_of(session):
    return [record.tokens for record in session.records]


def weights_of_layers(model):
    names = ("layers.", ".h.")
    return sum(
        weight.numel()
        for name, weight in model.module.named_parameters()
        if weight.ndim == 2 and any(part in name for part in names)
    )


@pytest.mark.parametrize("kernels", KERNELS)
def test_stages_have_all_the_time_of_the_steps_between_them(kernels):
    """By a clock that counts its own readings: from the first step's to the last one's end."""
    readings = count()
    ledger = Ledger(clock=lambda: float(next(readings)))
    decode_profiled(tree_engine(kernels), requests(), ledger)
    last = next(readings) - 1
    assert ledger.steps > 1
    assert ledger.skipped > 0
    assert ledger.seconds + ledger.skipped == pytest.approx(last, rel=1e-12)


@pytest.mark.parametrize("kernels", KERNELS)
def test_no_stage_has_negative_time(kernels):
    """What a native pass measured of itself lies within what was measured around it."""
    ledger = Ledger()
    decode_profiled(tree_engine(kernels), requests(), ledger)
    assert all(tally.seconds > -1e-9 for tally in ledger.tallies.values())


def test_stages_inside_one_another_have_their_own_time_alone():
    times = iter([0.0, 1.0, 3.0, 7.0, 15.0, 31.0, 63.0])
    ledger = Ledger(clock=lambda: next(times))
    ledger.step()
    ledger.enter(Stage.TARGET_AROUND)  # 1
    ledger.enter(Stage.TARGET_LINEAR)  # 3
    ledger.leave()  # 7
    ledger.skip()  # 15
    ledger.leave()  # 31
    ledger.end()  # 63
    spent = {stage: tally.seconds for stage, tally in ledger.tallies.items() if tally.seconds}
    assert spent == {Stage.REST: 1 + 32, Stage.TARGET_AROUND: 2 + 16, Stage.TARGET_LINEAR: 4}
    assert ledger.skipped == 8


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("arch", ["llama", "mistral", "gpt2"])
def test_work_of_plain_decoding_is_that_of_a_count_on_paper(arch, kernels):
    """Two rows of different lengths; mistral sees six tokens back, GPT-2 has layers of its own."""
    sizes = {"vocab": 64} if arch == "gpt2" else WHOLE_TILES
    model = model_of(arch, **sizes)
    layer_weights, rows = weights_of_layers(model), len(PROMPTS)
    hidden = model.module.config.hidden_size
    kv_heads, dim = (4, 8) if arch == "gpt2" else (2, 16)
    ledger = Ledger()
    decode_profiled(plain_engine(sped_up(model, kernels)), requests(), ledger)

    window = 6 if arch == "mistral" else 1000
    pairs = sum(min(len(prompt) + step, window) for prompt in PROMPTS for step in range(NEW))
    assert ledger.steps == NEW
    work = {stage: (tally.bytes, tally.flops) for stage, tally in ledger.tallies.items()}
    assert work[Stage.TARGET_LINEAR] == (
        NEW * FLOAT * layer_weights,
        NEW * rows * 2 * layer_weights,
    )
    assert work[Stage.TARGET_HEAD] == (NEW * FLOAT * hidden * 64, NEW * rows * 2 * hidden * 64)
    assert work[Stage.TARGET_ATTENTION] == (
        3 * pairs * 2 * kv_heads * dim * FLOAT,
        3 * pairs * 4 * 4 * dim,
    )
    assert work[Stage.ACCEPTANCE] == (NEW * rows * 64 * FLOAT, 0)
    assert work[Stage.COMPACTION] == (0, 0)
    assert work[Stage.DRAFT_LINEAR] == (0, 0)


@pytest.mark.parametrize("kernels", KERNELS)
def test_work_of_a_tree_and_of_its_draft_is_that_of_a_count_on_paper(kernels):
    """The root, two children, a child of each: ten tokens seen inside the tree, five nodes."""
    engine, prompt = tree_engine(kernels), PROMPTS[:1]
    weights = weights_of_layers(engine.model)
    outcomes = list(engine.batch(requests(prompt), text=False).steps())
    ledger = Ledger()
    decode_profiled(engine, requests(prompt), ledger)

    steps, prefix, pairs, moved = len(outcomes), len(prompt[0]) - 1, 0, 0
    for outcome in outcomes:
        pairs += 5 * prefix + (1 + 2 * 2 + 2 * 3)
        kept = outcome.accepted.path[0, : int(outcome.accepted.count)].tolist()
        moved += sum(place != node for place, node in enumerate(kept))
        prefix += int(outcome.count)
    assert ledger.steps == steps
    assert ledger.tallies[Stage.TARGET_LINEAR].flops == steps * 5 * 2 * weights
    assert ledger.tallies[Stage.TARGET_ATTENTION].flops == 3 * pairs * 4 * 4 * 16
    token_bytes = 3 * 2 * 2 * 16 * FLOAT
    assert moved > 0
    assert ledger.tallies[Stage.COMPACTION].bytes == 2 * moved * token_bytes
    # The draft runs two late tokens, then the two inner nodes of the next level.
    assert ledger.tallies[Stage.DRAFT_LINEAR].bytes == steps * 2 * FLOAT * weights
    assert ledger.tallies[Stage.DRAFT_LINEAR].flops == steps * (2 + 2) * 2 * weights


@pytest.mark.parametrize("weights", ["int8", "int4"])
@pytest.mark.skipif(not has_compiler(), reason="no C++ compiler")
def test_rounded_weights_count_as_they_are_packed(weights):
    model = model_of(**WHOLE_TILES)
    numbers = weights_of_layers(model)
    speed_up(model.module, choose_kernels("auto", weights, torch.float32))
    ledger = Ledger()
    decode_profiled(plain_engine(model), requests(), ledger)
    packed = speedup_of(model.module).decoder.weights
    linear = ledger.tallies[Stage.TARGET_LINEAR]
    assert linear.bytes == NEW * packed.layer_bytes
    assert ledger.tallies[Stage.TARGET_HEAD].bytes == NEW * packed.head_bytes
    assert linear.flops == NEW * len(PROMPTS) * 2 * numbers
    assert linear.bytes < NEW * 2 * numbers  # of floats it would be twice this


@pytest.mark.parametrize("kernels", KERNELS)
def test_the_text_is_the_same_with_a_profile(kernels):
    for engine in (tree_engine(kernels), plain_engine(sped_up(model_of("gemma2"), kernels))):
        unwatched = tokens_of(bench.decode_once(engine, requests()))
        assert tokens_of(decode_profiled(engine, requests(), Ledger())) == unwatched
        assert tokens_of(bench.decode_once(engine, requests())) == unwatched


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_of_a_profile_stays(fails, monkeypatch):
    engine = tree_engine("auto")
    before = speedup_of(engine.model.module)
    decoder = before and before.decoder
    if fails:
        monkeypatch.setattr(PlainDrafter, "propose", lambda *given: 1 / 0)
        engine = replace(engine, drafting=lambda session: PlainDrafter())
        with pytest.raises(ZeroDivisionError):
            decode_profiled(engine, requests(), Ledger())
    else:
        decode_profiled(engine, requests(), Ledger())
    assert not torch_modules._global_forward_hooks
    assert not torch_modules._global_forward_pre_hooks
    assert AttentionInterface()[NAME] is attention_forward
    assert speedup_of(engine.model.module) is before
    assert (before and before.decoder) is decoder


def test_every_stage_of_the_native_pass_has_its_part():
    assert set(PARTS) == set(STAGES)
    assert {Stage(f"draft_{part}") for part in PARTS.values()} <= set(Stage)


def test_the_share_of_a_ceiling_is_the_nearer_bound_over_the_time():
    ledger = Ledger()
    ledger.steps = 4
    for stage, seconds in ((Stage.TARGET_LINEAR, 3.0), (Stage.TARGET_HEAD, 1.0), (Stage.REST, 4.0)):
        ledger.tallies[stage].seconds = seconds
    ledger.count(Stage.TARGET_LINEAR, num_bytes=20, flops=3000)
    ledger.count(Stage.TARGET_HEAD, num_bytes=5, flops=1)
    linear, head, rest = rows_of("any", ledger, Ceilings(read_bandwidth=10.0, product_rate=2000.0))
    assert linear == {
        "method": "any",
        "stage": "target_linear",
        "ms_per_step": 750.0,
        "share": 3 / 8,
        "bytes": 5.0,
        "flops": 750.0,
        "share_of_ceiling": 2 / 3,  # two seconds to read, one and a half to multiply
    }
    assert head["share_of_ceiling"] == 0.5
    assert (rest["bytes"], rest["flops"], rest["share_of_ceiling"]) == (None, None, None)


@pytest.mark.parametrize("kernels", KERNELS)
def test_a_bench_prints_and_records_the_stages_of_every_method(kernels, tmp_path, capsys):
    model, prompts = tiny_model(**WHOLE_TILES), tmp_path / "prompts.jsonl"
    model.module.save_pretrained(tmp_path / "model")
    model.tokenizer.save_pretrained(tmp_path / "model")
    prompts.write_text("".join(json.dumps({"prompt": p}) + "\n" for p in ("abcab", "hello", "ca")))
    settings = [
        f"model={tmp_path / 'model'}",
        f"model.kernels={kernels}",
        f"prompts={prompts}",
        f"methods=[prompt_lookup,{{chain:{{length:2,draft:'{tmp_path / 'model'}'}}}}]",
        *("batch_size=2", "max_new_tokens=9", "repeats=1", "plots=false", "profile=true"),
    ]
    run = compose("bench", settings, folder=tmp_path)
    fronts.bench(run.config, run)
    methods = [row for row in run.result.rows if "stage" not in row]
    stages = [row for row in run.result.rows if "stage" in row]
    assert [row["identical_to_plain"] for row in methods] == [True] * 3
    assert list(dict.fromkeys(row["method"] for row in stages)) == [r["method"] for r in methods]
    assert set(stages[0]) == {
        *("method", "stage", "ms_per_step", "share", "bytes", "flops", "share_of_ceiling")
    }
    for method in (row["method"] for row in methods):
        mine = {row["stage"]: row for row in stages if row["method"] == method}
        assert sum(row["share"] for row in mine.values()) == pytest.approx(1)
        assert {"target_linear", "target_attention", "target_head", "acceptance", "rest"} <= set(
            mine
        )
        assert ("draft_head" in mine) == ("draft_linear" in mine) == method.startswith("chain")
        whole = sum(row["ms_per_step"] for row in mine.values())
        assert run.result.figures[f"ms_per_step_{method}"] == pytest.approx(whole)
    assert run.result.figures["read_bandwidth"] > 0
    assert run.result.figures["product_rate"] > 0
    shown = capsys.readouterr().out
    assert "share_of_ceiling" in shown
    assert "GB/s" in shown


@pytest.mark.parametrize("device", ["cuda", "xpu:1", "mps"])
def test_an_accelerator_is_refused_by_name(device):
    with pytest.raises(UserError, match=rf"is on {device} \(profile\); set model\.device=cpu"):
        refuse_accelerators(torch.device(device))
    refuse_accelerators(torch.device("cpu"))


def test_a_bench_refuses_to_profile_an_accelerator_before_it_decodes(folders, monkeypatch):
    loaded = SimpleNamespace(model=SimpleNamespace(device=torch.device("cuda:0")))
    monkeypatch.setattr(bench.Engine, "of", lambda *given: loaded)
    run = compose("bench", [f"model={folders / 'target'}", "profile=true"])
    with pytest.raises(UserError, match="cuda:0"):
        bench.compare([], run.config, run)
