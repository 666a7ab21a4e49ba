"""The methods themselves: a cache that hands out a part of itself, a lossy corrector."""

import torch
from fivefold_lm import FullAttention, KVCache
from fivefold_lm.layout import Layout
from fivefold_speculative.outcome import Accepted


class WindowedCache(KVCache):
    """Keeps everything, hands each layer only the newest columns of its row."""

    newest = 0

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

    def __init__(self, newest):
        self.newest = newest

    def make_cache(self, model, batch, max_len):
        cache = WindowedCache(Layout.of(model.module), batch, max_len, model.device)
        cache.newest = self.newest
        return cache


def windowed(config):
    return WindowedAttention(config.newest)


class Plausible:
    """Accept a first child that the target finds plausible, whatever the rule says."""

    lossless = False

    def __init__(self, config, session):
        self.threshold = config.threshold

    def judge(self, tree, rows, rule, state):
        accepted = rule.accept(tree, rows, state)
        batch = torch.arange(len(tree.tokens))
        child = tree.child(torch.zeros_like(batch), 0)
        token = tree.tokens[batch, child]
        chance = rows.logits[:, 0].softmax(-1)[batch, token]
        swap = (chance >= self.threshold) & (accepted.path[:, 1] != child) & (accepted.count > 0)
        path, tokens = accepted.path.clone(), accepted.tokens.clone()
        path[:, 1] = torch.where(swap, child, path[:, 1])
        tokens[:, 0] = torch.where(swap, token, tokens[:, 0])
        after = rows.logits[batch, child].argmax(-1)
        tokens[:, 1] = torch.where(swap, after, tokens[:, 1])
        count = torch.where(swap, 2, accepted.count)
        live = torch.arange(path.shape[1]) < count[:, None]
        return Accepted(torch.where(live, path, 0), count, torch.where(live, tokens, 0))

    def repair(self, cache, accepted):
        cache.keep(accepted.path, accepted.count)
