"""Random numbers: the reference algorithm, its independence of layout, and its law."""

import numpy as np
import pytest
import torch
from fivefold_lm.noise import GOLDEN, Purpose, RandomStream, _mix, _signed
from scipy import stats

MASK = (1 << 64) - 1


def mix(x):
    """SplitMix64's finaliser in Python integers."""
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & MASK
    return x ^ (x >> 31)


def reference(seed, purpose, request, position, draw):
    state = 0
    for word in (seed & MASK, purpose, request, position):
        state = mix(((state ^ word) + GOLDEN) & MASK)
    return ((mix((state + (draw + 1) * GOLDEN) & MASK) >> 12) + 0.5) / 2**52


def test_published_outputs_of_splitmix64_are_met():
    # the first five of seed 1234567, from the test of Rosetta Code's "Pseudo-random numbers"
    state = torch.tensor([1234567])
    found = [int(_mix(state + _signed(i * GOLDEN))) & MASK for i in range(1, 6)]
    assert found == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


@pytest.mark.parametrize("seed", [0, 7, 2**63 - 1, -3])
@pytest.mark.parametrize("purpose", list(Purpose))
def test_uniform_is_the_reference(seed, purpose):
    request, position = torch.tensor([0, 3, 3, 2**40]), torch.tensor([0, 5, 6, 2**31])
    found = RandomStream(seed).uniform(purpose, request, position, draws=3)
    for row, (r, p) in enumerate(zip(request.tolist(), position.tolist(), strict=True)):
        assert found[row].tolist() == [reference(seed, purpose, r, p, i) for i in range(3)]


def test_a_draw_does_not_depend_on_batch_or_number():
    stream = RandomStream(1)
    request, position = torch.arange(5), torch.arange(5) * 3
    many = stream.uniform(Purpose.DRAFT, request, position, draws=9)
    one = stream.uniform(Purpose.DRAFT, request[2:3], position[2:3], draws=4)
    assert torch.equal(many[2:3, :4], one)


def test_numbers_lie_in_the_open_interval():
    bits = torch.tensor([0, MASK >> 12])
    low, high = ((bits.double() + 0.5) * 2.0**-52).tolist()
    assert 0 < low < high < 1


@pytest.mark.parametrize("along", ["draw", "position", "request"])
def test_a_million_numbers_are_uniform_and_uncorrelated(along):
    n = 1_000_000
    count, zero = torch.arange(n), torch.zeros(n, dtype=torch.long)
    stream = RandomStream(11)
    if along == "draw":
        u = stream.uniform(Purpose.TARGET, zero[:1], zero[:1], draws=n)[0].numpy()
    elif along == "position":
        u = stream.uniform(Purpose.TARGET, zero, count)[:, 0].numpy()
    else:
        u = stream.uniform(Purpose.TARGET, count, zero)[:, 0].numpy()
    assert stats.chisquare(np.histogram(u, 1000, (0, 1))[0]).pvalue > 1e-6
    pairs = np.histogram2d(u[:-1], u[1:], 30, ((0, 1), (0, 1)))[0]
    assert stats.chisquare(pairs.ravel()).pvalue > 1e-6


def test_purposes_and_seeds_have_streams_of_their_own():
    at = torch.arange(100_000)
    streams = [
        RandomStream(seed).uniform(purpose, at * 0, at)[:, 0].numpy()
        for seed in (0, 1)
        for purpose in (Purpose.TARGET, Purpose.DRAFT, Purpose.ACCEPT)
    ]
    off = np.corrcoef(streams) - np.eye(len(streams))
    assert np.abs(off).max() < 5 / np.sqrt(len(at))


def test_a_race_of_exponentials_follows_the_weights():
    weights = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64)
    at = torch.arange(200_000)
    noise = RandomStream(3).exponential(Purpose.DRAFT, at * 0, at, 4)
    won = torch.bincount((noise / weights).argmin(1), minlength=4)
    assert stats.chisquare(won.numpy(), (weights * len(at)).numpy()).pvalue > 1e-6
