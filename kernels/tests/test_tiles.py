"""AMX: who may use it, what its build holds, and that its tiles keep every row's bits.

The tests over all builds run on an emulation of the tiles too; these look at what is theirs alone.
"""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from fivefold_kernels import Format, PackedMatrix, UnsupportedError, cpu_library, runs_here
from fivefold_kernels.linear.reference import linear
from fivefold_kernels.native import library as build
from fivefold_kernels.native import machine
from fivefold_kernels.native.machine import INSTRUCTION_SETS, missing

SETS = {each.name: each for each in INSTRUCTION_SETS}
OF_AMX = ("amx_tile", "amx_bf16", "amx_int8")
GROUPED = [Format.I8, Format.Q4, Format.Q8]


@pytest.fixture
def emulated(folder):
    if missing("amx_emulated") or not build.has_compiler():
        pytest.skip("no AVX-512 with BF16, or no C++ compiler")
    return cpu_library("amx_emulated", folder)


def numbers(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# ------------------------------------------------------------------------------ the real build


def test_amx_is_refused_by_what_a_processor_lacks(monkeypatch, folder):
    monkeypatch.setattr(machine, "cpu_features", lambda: frozenset(SETS["avx512_bf16"].needs))
    assert missing("amx") == OF_AMX
    assert runs_here()[0] == "avx512_bf16"
    with pytest.raises(UnsupportedError) as refusal:
        cpu_library("amx", folder)
    assert str(refusal.value) == (
        "this machine lacks amx_tile, amx_bf16, amx_int8, which amx needs"
    )


def test_amx_is_the_best_only_where_the_system_permits_it(monkeypatch, folder):
    monkeypatch.setattr(machine, "cpu_features", lambda: frozenset(SETS["amx"].needs))
    monkeypatch.setattr(machine, "tiles_are_permitted", lambda: True)
    assert runs_here()[0] == "amx"
    monkeypatch.setattr(machine, "tiles_are_permitted", lambda: False)
    assert runs_here()[0] == "avx512_bf16"
    with pytest.raises(UnsupportedError, match="lacks the system's permission for AMX tiles"):
        cpu_library("amx", folder)


@pytest.mark.skipif("amx_tile" in machine.cpu_features(), reason="this processor has tiles")
def test_system_permits_no_tiles_where_there_are_none():
    assert not machine.tiles_are_permitted()


def test_system_that_cannot_be_asked_permits_no_tiles(monkeypatch):
    monkeypatch.setattr(machine.ctypes, "CDLL", lambda name: object())
    assert not machine.tiles_are_permitted.__wrapped__()


def test_compiler_that_knows_no_amx_builds_the_next_best(monkeypatch, tmp_path, folder):
    if not build.has_compiler():
        pytest.skip("no C++ compiler")
    here = [name for name in runs_here() if name != "amx"]
    old = tmp_path / "c++"
    old.write_text(
        '#!/bin/sh\ncase "$*" in *-mamx*) echo "error: no -mamx-tile" >&2; exit 1;; esac\n'
        f'exec {build.find_compiler()} "$@"\n'
    )
    old.chmod(0o755)
    monkeypatch.setenv("CXX", str(old))
    monkeypatch.setattr(build, "runs_here", lambda: ["amx", *here])
    said = []
    assert build.build_name(cpu_library("auto", folder, said.append)) == here[0]
    assert re.search(r"not the kernels for amx: .* error: no -mamx-tile", said[1])


def test_amx_compiles_without_warnings_into_its_instructions(tmp_path):
    if not build.has_compiler():
        pytest.skip("no C++ compiler")
    command = [build.find_compiler(), *build.FLAGS, "-O0", *SETS["amx"].flags]
    empty, result = tmp_path / "empty.cpp", tmp_path / "amx.so"
    empty.write_text("")
    if subprocess.run([*command, "-c", empty, "-o", result], capture_output=True).returncode:
        pytest.skip("this compiler knows no AMX")
    quiet = ("-Wall", "-Wextra", "-Wno-maybe-uninitialized", "-Wno-uninitialized")
    source = build.SOURCES / "native" / "library.cpp"
    done = subprocess.run(
        [*command, *quiet, source, "-o", result], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    if shutil.which("objdump") is None:
        pytest.skip("no objdump")
    code = subprocess.run(["objdump", "-d", result], capture_output=True, text=True, check=True)
    found = set(re.findall(r"\b(?:tdp|tile|ldtile)[a-z0-9]+(?=\s)", code.stdout))
    assert found == {
        "ldtilecfg",
        "tdpbf16ps",
        "tdpbsud",
        "tileloadd",
        "tilerelease",
        "tilestored",
        "tilezero",
    }


# -------------------------------------------------------------------------------- the emulation


def test_emulation_is_chosen_by_nobody(monkeypatch):
    monkeypatch.setattr(machine, "cpu_features", lambda: frozenset(SETS["amx"].needs))
    monkeypatch.setattr(machine, "tiles_are_permitted", lambda: False)
    assert "amx_emulated" not in runs_here()
    assert [each.name for each in INSTRUCTION_SETS if each.is_emulated] == ["amx_emulated"]


def test_sources_name_no_tile_where_neither_amx_nor_its_emulation_is_compiled(folder, emulated):
    if shutil.which("nm") is None:
        pytest.skip("no nm")

    def symbols(name):
        file = Path(cpu_library(name, folder)._name)
        return subprocess.run(["nm", "-C", file], capture_output=True, text=True, check=True).stdout

    assert "on_tiles" in symbols("amx_emulated")
    assert "on_tiles" not in symbols("avx512_bf16")


@pytest.mark.parametrize("rows", [1, 4, 5, 16, 17, 40])
@pytest.mark.parametrize("format", GROUPED, ids=lambda f: f.name)
def test_tiles_of_bytes_have_the_bits_of_vectors(emulated, folder, format, rows):
    weight, x = numbers(50, 230), numbers(rows, 230, seed=1)
    one, other = (
        PackedMatrix.pack(weight, format, library).product(x)
        for library in (emulated, cpu_library("avx512_bf16", folder))
    )
    assert torch.equal(one, other)


@pytest.mark.parametrize("inputs", [31, 32, 33, 64, 4200])
def test_tiles_of_bfloat16_are_the_references_whatever_the_inputs_leave_over(emulated, inputs):
    packed = PackedMatrix.pack(numbers(40, inputs), Format.BF16, emulated)
    x = numbers(35, inputs, seed=2)
    x[:, -1] = 1e3  # what follows it in memory must not count
    got = packed.product(x)
    wanted = linear(x, packed.rows(torch.arange(40)), Format.BF16)
    assert (got - wanted).abs().max() <= 1e-5 * wanted.abs().max()


@pytest.mark.parametrize("format", [Format.BF16, *GROUPED], ids=lambda f: f.name)
def test_many_rows_that_read_a_tile_in_chunks_have_the_bits_of_one(emulated, format):
    packed = PackedMatrix.pack(numbers(32, 4200), format, emulated)
    x = numbers(128, 4200, seed=3)
    together = packed.product(x)
    assert torch.equal(packed.product(x, threads=3), together)
    for rows in (1, 4, 5, 31, 32, 33, 47, 65):
        assert torch.equal(packed.product(x[:rows]), together[:rows])
