"""Settings refuse what no run could use, and name themselves."""

import dataclasses
import inspect

import pytest
from fivefold import UserError
from fivefold_lm.config import KERNELS, CacheConfig, ModelConfig, RuntimeConfig, SamplingConfig
from fivefold_lm.groups import CACHE, MODEL, RUNTIME, SAMPLING

CONFIGS = [ModelConfig, SamplingConfig, CacheConfig, RuntimeConfig]


@pytest.mark.parametrize(
    ("config", "field", "value"),
    [
        (ModelConfig, "name", "  "),
        (ModelConfig, "dtype", "flot32"),
        (ModelConfig, "device", "gpu"),
        (SamplingConfig, "temperature", -0.1),
        (SamplingConfig, "temperature", float("nan")),
        (SamplingConfig, "temperature", float("inf")),
        (SamplingConfig, "top_k", -1),
        (SamplingConfig, "top_p", 1.2),
        (SamplingConfig, "top_p", 0.0),
        (SamplingConfig, "min_p", 1.5),
        (SamplingConfig, "repetition_penalty", 0.0),
        (SamplingConfig, "presence_penalty", 3.0),
        (SamplingConfig, "seed", -1),
        (CacheConfig, "max_len", -1),
        (RuntimeConfig, "threads", -2),
    ],
)
def test_a_value_out_of_range_is_refused_with_its_setting_named(config, field, value):
    node = config.__name__.removesuffix("Config").lower()
    with pytest.raises(UserError) as caught:
        config(**{field: value})
    assert caught.value.setting == f"{node}.{field}"
    assert caught.value.remedy
    assert "\n" not in str(caught.value)


def test_emulated_kernels_are_taken_by_name_and_proposed_to_nobody():
    assert ModelConfig(kernels="amx_emulated").kernels == "amx_emulated"
    assert "amx" in KERNELS
    assert "amx_emulated" not in KERNELS
    with pytest.raises(UserError) as caught:
        ModelConfig(kernels="amx_emulate")
    assert "amx_emulated" not in caught.value.remedy
    with pytest.raises(UserError):
        ModelConfig(weights="amx_emulated")


def test_the_nearest_dtype_is_named():
    with pytest.raises(UserError, match=r"did you mean float32"):
        ModelConfig(dtype="flot32")


@pytest.mark.parametrize("config", CONFIGS)
def test_every_field_is_documented(config):
    source = inspect.getsource(config)
    for field in dataclasses.fields(config):
        after = source.split(f"    {field.name}: ", 1)[1].split("\n")[1]
        assert after.strip().startswith('"""')


def test_groups_take_their_place():
    groups = {group.node: group.config for group in (MODEL, SAMPLING, CACHE, RUNTIME)}
    assert groups == dict(zip(["model", "sampling", "cache", "runtime"], CONFIGS, strict=True))
    assert (MODEL.free, MODEL.default) == ("name", "smollm2")
