"""Sizes are read as people write them; a budget says how many layers stay."""

import subprocess
import sys

import pytest
import torch
from fivefold import UserError
from fivefold_lm.config import ModelConfig
from fivefold_lm.offload import budget
from fivefold_lm.offload.budget import BUFFERS, free_bytes, reserved_bytes, resident_layers
from fivefold_lm.offload.sizes import in_units, parse_size
from fivefold_lm.testing import tiny_model


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("200MiB", 200 * 2**20),
        ("2GiB", 2**31),
        (" 1.5 GB ", 1_500_000_000),
        ("512kib", 2**19),
        ("7B", 7),
    ],
)
def test_sizes_are_numbers_with_a_unit(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "200", "MiB", "2 apples", "-1GiB", "1e3MB", "nanGB"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(ValueError, match="no size; write a number and one of B, kB"):
        parse_size(text)


@pytest.mark.parametrize("text", ["0GiB", "0.0MB"])
def test_a_budget_of_nothing_is_refused(text):
    with pytest.raises(ValueError, match="a budget of nothing"):
        parse_size(text)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"offload": "dsk"}, r"unknown offload \(model\.offload=dsk\); did you mean disk\?"),
        ({"offload": "disk", "memory": "200"}, r"no size.*\(model\.memory=200\)"),
        ({"offload": "disk", "memory": "0MiB"}, r"a budget of nothing \(model\.memory=0MiB\)"),
        ({"memory": "2GiB"}, r"no layers are streamed \(model\.memory=2GiB\); set model\.offload"),
        ({"offload": "disk", "disk_rate": -1.0}, r"no rate \(model\.disk_rate=-1\.0\)"),
        ({"offload": "disk", "disk_rate": float("nan")}, r"no rate \(model\.disk_rate=nan\)"),
        ({"disk_rate": 5.0}, r"no layers are read from disk \(model\.disk_rate=5\.0\)"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings, line):
    with pytest.raises(UserError, match=line):
        ModelConfig(**settings)


@pytest.mark.parametrize("copies", [1, 2])
def test_what_stays_fits_and_one_layer_more_would_not(copies):
    sizes, fixed = [100] * 12, 1000
    for given in range(fixed + (BUFFERS + copies - 1) * 100, 2 * fixed + copies * 1200, 37):
        stay = resident_layers(sizes, fixed, given, copies)
        if stay == 12:
            assert fixed + copies * 1200 <= given
            continue

        def taken(stay):
            return fixed + copies * 100 * stay + (BUFFERS + copies - 1) * 100

        assert taken(stay) <= given
        assert stay == 11 or taken(stay + 1) > given


def test_too_little_is_refused_with_what_would_do():
    with pytest.raises(UserError, match=r"take 1000B, 2 buffers of a layer 200B.*give 1\.2KiB"):
        resident_layers([100] * 5, 1000, 1199, asked="1199B")
    assert resident_layers([100] * 5, 1000, 1200) == 0


def test_free_memory_leaves_room_for_keys_values_and_logits(monkeypatch):
    config = tiny_model().module.config
    some, more = (reserved_bytes(config, torch.float32, free) for free in (0, 10**9))
    assert some >= 2 * 3 * 2 * 8 * 256 * 4
    assert more - some == 10**8
    assert 0 < free_bytes(torch.device("cpu")) < 2**50
    monkeypatch.setattr(budget, "_group_free", lambda: 12345)
    assert free_bytes(torch.device("cpu")) == 12345


def test_units():
    assert [in_units(size) for size in (5, 2048, 200 * 2**20, 3 * 2**30)] == [
        "5B",
        "2.0KiB",
        "200.0MiB",
        "3.0GiB",
    ]


PEAK = """
import resource, sys, torch
from fivefold_lm import FullAttention, TreeForward, load_model, offload_of
from fivefold_lm.config import ModelConfig
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
load_model(ModelConfig(name=sys.argv[2], dtype="bfloat16", kernels=sys.argv[3], offload="disk"))
before = peak()
settings = dict(name=sys.argv[1], dtype="bfloat16", kernels=sys.argv[3], offload="disk")
model = load_model(ModelConfig(**settings, memory=sys.argv[4]))
method = FullAttention()
cache = method.make_cache(model, 1, 8)
TreeForward(model.module, method).prefill(cache, torch.ones(1, 4, dtype=int), torch.tensor([4]))
assert offload_of(model.module).done().passes
print(peak() - before, offload_of(model.module).about.weight_bytes)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kernels", ["auto", "torch"])
def test_the_model_is_never_all_in_memory_not_even_while_it_is_written(tmp_path, kernels):
    big = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 24, "head_dim": 64}
    for name, sizes in (("big", big), ("small", {**big, "num_hidden_layers": 3})):
        model = tiny_model("llama", **sizes)
        model.module.bfloat16().save_pretrained(tmp_path / name)
        model.tokenizer.save_pretrained(tmp_path / name)
    whole = sum(file.stat().st_size for file in (tmp_path / "big").glob("*.safetensors"))
    layer = whole / 24
    command = [sys.executable, "-c", PEAK, tmp_path / "big", tmp_path / "small", kernels]
    done = subprocess.run([*command, f"{int(4.5 * layer)}B"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    grown, weights = map(int, done.stdout.split())
    assert weights <= 4.5 * layer
    assert grown < 10 * layer < whole / 2
