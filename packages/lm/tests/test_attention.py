"""Attention methods: the exam, on the default and on a toy that sees only part of the prefix."""

import pytest
import torch
from fivefold_lm.attention import FullAttention, attend_plainly, build_full
from fivefold_lm.builtin import FullAttentionConfig, fivefold_attention
from fivefold_lm.cache import KVCache
from fivefold_lm.layout import Layout
from fivefold_lm.testing import (
    PROMPTS,
    AttentionSuite,
    assert_light,
    tiny_model,
    verify,
)
from torch import nn


class TestFullAttention(AttentionSuite):
    describes = "fivefold_lm.builtin"

    def make(self):
        return build_full(FullAttentionConfig())


class TestFullAttentionOnSlidingWindows(TestFullAttention):
    arch = "gemma3"


class WindowedCache(KVCache):
    """Keeps everything, hands each layer only the newest columns of its row: a partial cache."""

    newest = 12

    def update(self, key_states, value_states, layer_idx, *args, **kwargs):
        keys, values = super().update(key_states, value_states, layer_idx)
        at = self._columns()[0][:, None, :, None].expand(-1, keys.shape[1], -1, keys.shape[3])
        return keys.gather(2, at), values.gather(2, at)

    def visible_columns(self, visible, window=None):
        column, real = self._columns()
        seen = super().visible_columns(visible, window)
        return seen.gather(2, column[:, None].expand(-1, seen.shape[1], -1)) & real[:, None]

    def _columns(self):
        column = (self.lengths + self.pending)[:, None] - torch.arange(self.newest, 0, -1)
        return column.clamp(min=0), column >= 0


class WindowedAttention(FullAttention):
    name = "windowed"
    lossless = False

    def make_cache(self, model, batch, max_len):
        return WindowedCache(Layout.of(model.module), batch, max_len, model.device)


class TestAPartialCacheIsAnAttentionMethodToo(AttentionSuite):
    describes = "fivefold_lm.builtin"

    def make(self):
        return WindowedAttention()


def test_a_partial_cache_changes_what_long_rows_see_and_nothing_else():
    model = tiny_model()
    full, nodes, _ = verify(model, FullAttention(), PROMPTS)
    part, _, _ = verify(model, WindowedAttention(), PROMPTS, nodes)
    differs = (full - part).abs().amax((1, 2))
    assert differs[1] > 0.05  # 11 tokens and 8 nodes: more than 12
    assert differs[2] < 1e-5  # 1 token and 8 nodes: fewer


@pytest.mark.parametrize("shape", [(1, 4, 2, 1, 7), (3, 6, 3, 5, 9), (2, 4, 4, 17, 33)])
def test_fused_attention_equals_the_plain_twin(shape):
    batch, heads, kv_heads, nodes, columns = shape
    torch.manual_seed(0)
    query = torch.randn(batch, heads, nodes, 8)
    key, value = torch.randn(2, batch, kv_heads, columns, 8)
    mask = torch.zeros(batch, 1, nodes, columns)
    mask[..., 3:].masked_fill_(torch.rand(batch, 1, nodes, columns - 3) < 0.5, -3e38)
    fused = FullAttention().attend(nn.Identity(), query, key, value, mask, 0.3)
    plain = attend_plainly(query.double(), key.double(), value.double(), mask.double(), 0.3)
    torch.testing.assert_close(fused, plain.transpose(1, 2).float(), atol=2e-6, rtol=1e-5)


def test_softcap_bends_scores_before_the_mask():
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 1, 2, 4, 8)
    mask = torch.zeros(1, 1, 4, 4).masked_fill(~torch.ones(4, 4).tril().bool(), -3e38)
    bent = FullAttention().attend(nn.Identity(), query, key, value, mask, 1.0, softcap=0.5)
    scores = 0.5 * torch.tanh(query @ key.mT / 0.5)
    wanted = (scores + mask).softmax(-1) @ value
    torch.testing.assert_close(bent, wanted.transpose(1, 2))


def test_the_registered_method_is_full():
    (method,) = fivefold_attention()
    assert method.name == "full"
    assert method.config is FullAttentionConfig


@pytest.mark.parametrize("module", ["_words", "config", "groups", "builtin"])
def test_light_modules_need_no_torch(module):
    assert_light(f"fivefold_lm.{module}")


def test_the_package_itself_is_light():
    assert_light("fivefold_lm")
