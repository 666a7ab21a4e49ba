"""The exam of kernels: what it says of those for a GPU, with and without one."""

import pytest
import torch
from fivefold_kernels import Format, UnsupportedError, exam
from fivefold_kernels.attention import gpu


def test_without_a_gpu_it_says_why_triton_was_not_looked_at(monkeypatch):
    monkeypatch.setattr(exam, "INSTRUCTION_SETS", ())
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: None)
    findings = list(exam.examine([1]))
    assert [each.operation for each in findings] == [
        "linear F32",
        "tree_attention float32",
        "linear BF16",
        "tree_attention bfloat16",
    ]
    assert {each.implementation for each in findings} == {"triton"}
    assert all("no GPU here" in each.why_not and not each.passed for each in findings)


def test_builds_that_do_not_run_are_named_but_not_what_is_emulated(monkeypatch):
    def refuse(name, folder):
        raise UnsupportedError(f"no {name}")

    monkeypatch.setattr(exam, "cpu_library", refuse)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: None)
    why_not = {each.implementation: each.why_not for each in exam.examine([1])}
    assert why_not["amx"] == "no amx"
    assert "amx_emulated" not in why_not


def test_with_a_gpu_but_no_triton_it_says_what_to_install(monkeypatch):
    def refuse():
        raise UnsupportedError("no Triton; install it")

    monkeypatch.setattr(exam, "INSTRUCTION_SETS", ())
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(gpu, "load_kernels", refuse)
    assert {each.why_not for each in exam.examine([1])} == {"no Triton; install it"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_triton_kernel_passes_its_self_test(monkeypatch, dtype):
    pytest.importorskip("triton")
    device = torch.accelerator.current_accelerator() or torch.device("cpu")
    for name, size in (("SLOTS", 140), ("HEADS", 2), ("KV_HEADS", 1)):
        monkeypatch.setattr(exam, name, size)
    monkeypatch.setattr(exam, "gpu_seconds", lambda call: 1e-3)
    monkeypatch.setattr(exam, "gpu_read_bandwidth", lambda size, device: 1e9)
    found = exam._gpu_attention(device, dtype, [1, 3])
    assert found.passed
    assert 0 < found.error < found.tolerance
    assert found.row_invariant
    assert found.seconds == (1e-3, 1e-3)
    assert found.bound == 2 * 140 * 64 * dtype.itemsize / 1e9


@pytest.mark.parametrize("format", [Format.F32, Format.BF16], ids=lambda each: each.name)
def test_triton_product_passes_its_self_test(monkeypatch, format):
    pytest.importorskip("triton")
    device = torch.accelerator.current_accelerator() or torch.device("cpu")
    for name, size in (("OUT", 40), ("IN", 100)):
        monkeypatch.setattr(exam, name, size)
    monkeypatch.setattr(exam, "gpu_seconds", lambda call: 1e-3)
    monkeypatch.setattr(exam, "gpu_read_bandwidth", lambda size, device: 1e9)
    found = exam._gpu_linear(device, format, [1, 3])
    assert found.passed
    assert found.row_invariant
    assert found.bound == 40 * 100 * (4 if format is Format.F32 else 2) / 1e9
