"""Two processes over gloo: DDP, FSDP2, Ulysses; gradients are those of one process on all rows."""

import sys
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp

HERE = Path(__file__).parent
WORLD = 2


@pytest.fixture
def on_two(tmp_path, monkeypatch):
    """Run a function of `distributed_rank.py` on two processes; return what each found."""
    monkeypatch.syspath_prepend(str(HERE))
    if "distributed_rank" in sys.modules:
        del sys.modules["distributed_rank"]
    import distributed_rank

    def run(work):
        out = tmp_path / work
        arguments = (str(tmp_path / f"{work}.group"), work, str(out))
        mp.spawn(distributed_rank.start, args=arguments, nprocs=WORLD, join=True)
        return [torch.load(f"{out}.{rank}", weights_only=True) for rank in range(WORLD)]

    return run


def test_ddp_with_other_numbers_of_labels(on_two):
    """Invariant 9; Liger 893: every parameter is marked ready once."""
    for found in on_two("ddp"):
        hooks = {name: value for name, value in found.items() if name.endswith("hooks")}
        assert set(hooks.values()) == {1.0}
        assert max(value for name, value in found.items() if name not in hooks) < 1e-12


def test_fsdp2_with_other_numbers_of_labels(on_two):
    """Section 6.6: the head is gathered for forward and for backward, not for every chunk."""
    for found in on_two("fsdp"):
        gathers = {name: value for name, value in found.items() if "gathers" in name}
        assert gathers
        assert max(gathers.values()) <= 2
        assert max(value for name, value in found.items() if name not in gathers) < 1e-12


def test_ulysses_sees_the_whole_sequence(on_two):
    """Invariant 10: labels are shifted before the cut; documents in a row stay apart."""
    for found in on_two("ulysses"):
        assert max(found.values()) < 1e-12


def test_a_vocabulary_shared_by_processes(on_two):
    """Section 6.8: the loss and gradients of one head that holds all of it."""
    for found in on_two("shared_vocabulary"):
        assert max(found.values()) < 1e-12


def test_processes_with_other_settings_are_refused(on_two):
    """kernels-community 1000: another number of tiles, and they wait for ever."""
    for said in on_two("disagreeing"):
        assert "other settings than process 0" in said


def test_stepping_in_backward_is_refused(on_two):
    for said in on_two("in_backward"):
        assert "before processes exchange" in said


def test_sequences_that_cannot_be_cut_are_refused(on_two):
    for said in on_two("uncuttable"):
        assert len(said) == 2
        assert "sequence_parallel=3" in said[0]
        assert "23 tokens cannot be cut" in said[1]
