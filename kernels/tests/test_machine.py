"""Memory and threads as the kernels take them from the machine."""

import torch
from fivefold_kernels.native.memory import ALIGNMENT, CHUNK, HUGE, streamed_bytes, streamed_zeros
from fivefold_kernels.native.threads import num_threads, own_threads


def test_pieces_are_zeroed_aligned_and_apart():
    pieces = [streamed_bytes(size) for size in (1, 63, 64, 65, 4096, CHUNK // 2, 7)]
    for number, piece in enumerate(pieces, 1):
        assert piece.data_ptr() % ALIGNMENT == 0
        assert not piece.any()
        piece.fill_(number)
    assert all((piece == number).all() for number, piece in enumerate(pieces, 1))


def test_large_zeros_begin_at_a_huge_page_and_small_ones_are_zeros_too():
    large, small = (streamed_zeros((2, size), torch.float32) for size in (HUGE // 4, 3))
    assert large.data_ptr() % ALIGNMENT == 0
    assert large.shape == (2, HUGE // 4)
    assert not large.any()
    assert not small.any()


def test_torch_rests_while_the_cores_are_ours_and_has_its_threads_back():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with own_threads():
            with own_threads():
                assert (torch.get_num_threads(), num_threads()) == (1, 3)
            assert (torch.get_num_threads(), num_threads()) == (1, 3)
        assert (torch.get_num_threads(), num_threads()) == (3, 3)
    finally:
        torch.set_num_threads(before)
