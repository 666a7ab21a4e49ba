"""`fivefold kernels` looks at the libraries' products beside ours."""

import pytest
import torch
from fivefold_kernels import UnsupportedError, exam
from fivefold_lm import kernels_task


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(exam, "OUT", 256)
    monkeypatch.setattr(exam, "IN", 128)


def test_products_of_libraries_are_right_and_their_invariance_is_measured(monkeypatch):
    real = kernels_task._stock

    def last_row_differs(weight):
        product = real(weight)
        return lambda rows: product(rows) * (1 + 1e-6 * (rows.shape[0] > 1))

    monkeypatch.setattr(kernels_task, "_stock", last_row_differs)
    found = {(f.implementation, f.operation): f for f in kernels_task.examine_libraries([1, 3])}
    stock = found["torch", "linear F32"]
    assert stock.passed
    assert stock.is_library
    assert not stock.row_invariant
    assert len(stock.seconds) == 2
    if torch.backends.mkldnn.is_available():
        assert found["onednn", "linear F32"].row_invariant


def test_a_library_that_is_wrong_is_said_to_be(monkeypatch):
    monkeypatch.setattr(kernels_task, "_stock", lambda weight: lambda rows: 1.1 * (rows @ weight.T))
    found = [f for f in kernels_task.examine_libraries([1]) if f.implementation == "torch"]
    assert found
    assert not any(each.passed for each in found)


def test_without_a_compiler_torch_measures_the_bandwidth(monkeypatch):
    def refuse(folder):
        raise UnsupportedError("no C++ compiler")

    monkeypatch.setattr(kernels_task, "cpu_library", refuse)
    assert all(each.bound > 0 for each in kernels_task.examine_libraries([1]))
