"""Both transports: what arrives, what is counted, how a lost rank ends all others."""

import sys
import time
from pathlib import Path

import pytest
import torch
from fivefold import UserError
from fivefold_gnnpipe.engine.transport import (
    InProcessNetwork,
    Link,
    Traffic,
    agree,
    all_gather,
    ring_all_reduce,
    run_in_process,
)
from fivefold_gnnpipe.engine.transport.launching import finish_ranks, start_ranks

RANK = str(Path(__file__).with_name("exchanging_rank.py"))


def shift(transport, rows, rounds):
    after, before = (transport.rank + 1) % transport.size, (transport.rank - 1) % transport.size
    for step in range(rounds):
        pending = transport.post(rows.shape, rows.dtype, before, Traffic.HALO, step)
        transport.send(rows, after, Traffic.HALO, step)
        rows = (yield pending) + 1
    total = yield from ring_all_reduce(transport, rows, range(transport.size), Traffic.WEIGHT)
    return total


def launch(case, size, timeout=60.0):
    return finish_ranks(start_ranks([sys.executable, RANK, case], size), timeout)


@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("length", [1, 7, 10])
def test_ring_sum_is_the_sum_in_the_same_bits_on_every_rank(size, length):
    network = InProcessNetwork(size)
    values = [torch.randn(length, generator=torch.Generator().manual_seed(r)) for r in range(size)]
    sums = run_in_process(
        network,
        [ring_all_reduce(network[r], values[r], range(size), Traffic.WEIGHT) for r in range(size)],
    )
    for total in sums:
        assert torch.equal(total, sums[0])
        torch.testing.assert_close(total, torch.stack(values).sum(0))
    sent = sum(network[r].counters.total() for r in range(size))
    assert sent == 2 * (size - 1) * length * 4
    assert network.num_undelivered == 0


def test_gather_returns_every_ranks_rows_in_order():
    network = InProcessNetwork(3)
    rows = [torch.full((r, 2), float(r)) for r in range(3)]
    gathered = run_in_process(
        network, [all_gather(network[r], rows[r], [0, 1, 2], [0, 1, 2]) for r in range(3)]
    )
    for found in gathered:
        assert torch.equal(torch.cat(found), torch.cat(rows))
    assert sum(network[r].counters.total() for r in range(3)) == 0  # evaluation is not training


@pytest.mark.parametrize("size", [2, 4])
def test_gloo_and_one_process_deliver_the_same_bits_and_count_the_same(size):
    network = InProcessNetwork(size)
    programs = [shift(network[r], torch.arange(7.0) * (r + 1), 5) for r in range(size)]
    totals = run_in_process(network, programs)
    for rank, (status, out, err) in enumerate(launch("plain", size)):
        assert status == 0, err
        counted, printed = out.splitlines()
        num_bytes, messages, _ = counted.split()
        assert int(num_bytes) == network[rank].counters.total()
        assert int(messages) == network[rank].counters.num_messages()
        assert printed == str(totals[rank].tolist())


@pytest.mark.parametrize("size", [2, 4])
def test_killed_rank_ends_every_other_rank_with_one_line_that_names_it(size):
    start = time.monotonic()
    ends = launch("killed", size)
    assert time.monotonic() - start < 40
    for rank, (status, _, err) in enumerate(ends):
        if rank != 1:
            assert status == 2
            assert "rank 1 has ended" in err
            assert len(err.strip().splitlines()) == 1


def test_silent_rank_is_given_up_within_the_timeout_and_named():
    ranks = start_ranks([sys.executable, RANK, "silent"], 3)
    ends = finish_ranks([ranks[0], ranks[2]], 40.0)
    ranks[1].kill()
    finish_ranks([ranks[1]], 10.0)
    for status, _, err in ends:
        assert status == 2
        assert "rank 1 was silent for 5 s" in err


def test_problem_of_one_rank_is_the_line_of_all():
    ends = launch("refused", 3)
    assert all(status == 2 for status, _, _ in ends)
    assert "NaN in the features (data.path)" in ends[1][2]
    for rank in (0, 2):
        assert "rank 1: NaN in the features" in ends[rank][2]


def test_ranks_with_other_settings_are_told_apart_by_name():
    for rank, (status, _, err) in enumerate(launch("disagree", 2)):
        assert status == 2
        assert "rank 1 has 1 and rank 0 has 0 (training.seed=" in err, rank
        assert len(err.strip().splitlines()) == 1


def test_throttled_receiver_waits_bytes_over_rate():
    for status, out, err in launch("throttled", 2):
        assert status == 0, err
        seconds = float(out.split()[2])  # 1 MB of rows and 1 MB of sums at 8 Mbit/s
        assert 1.9 < seconds < 4


def test_simulated_clock_is_compute_and_link_whichever_is_longer():
    network = InProcessNetwork(2, Link(mbit=8.0))

    def sender(transport):
        for index in range(3):
            transport.send(torch.zeros(250_000), 1, Traffic.ACTIVATION, index)
        return transport.now()
        yield

    def receiver(transport):
        for index in range(3):
            pending = transport.post((250_000,), torch.float32, 0, Traffic.ACTIVATION, index)
            yield pending
        return transport.now()

    sent, received = run_in_process(network, [sender(network[0]), receiver(network[1])])
    assert sent < 1
    assert 3.0 <= received < 4.0
    assert 2.9 < network[1].waited <= received


def test_message_that_nobody_sends_is_said_and_not_waited_for():
    network = InProcessNetwork(2)

    def waits(transport):
        yield transport.post((1,), torch.float32, 0, Traffic.ACTIVATION, 3)

    def returns(transport):
        return None
        yield

    with pytest.raises(RuntimeError, match="rank 1 for activation 3 of rank 0"):
        run_in_process(network, [returns(network[0]), waits(network[1])])


def test_problem_of_a_virtual_rank_names_it():
    network = InProcessNetwork(2)

    def refuses(transport):
        raise UserError("no room", setting="training.stages")
        yield

    def returns(transport):
        return None
        yield

    with pytest.raises(UserError, match=r"rank 1: no room \(training.stages\)"):
        run_in_process(network, [returns(network[0]), refuses(network[1])])


def test_agreement_in_one_process_is_held_too():
    network = InProcessNetwork(1)
    agree(network[0], {"training.seed": 1})
