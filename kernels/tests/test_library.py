"""Which build of the kernels is used, and what is said when there is none."""

import re
import shutil
import subprocess

import pytest
from fivefold_kernels import UnsupportedError, cpu_library, runs_here
from fivefold_kernels.native import library as build
from fivefold_kernels.native import machine

COMPILES = pytest.mark.skipif(not build.has_compiler(), reason="no C++ compiler")


@pytest.fixture(autouse=True)
def nothing_is_loaded_yet(monkeypatch):
    monkeypatch.setattr(build, "_LOADED", {})


@COMPILES
def test_portable_runs_everywhere_and_auto_is_the_best(monkeypatch, folder):
    assert runs_here()[-1] == "portable"
    monkeypatch.setattr(machine, "cpu_features", lambda: frozenset(("avx2", "fma", "f16c")))
    assert runs_here() == ["avx2", "portable"]
    monkeypatch.setattr(machine, "cpu_features", lambda: frozenset())
    assert cpu_library("auto", folder).ff_lanes() == 4


def test_instruction_set_that_the_processor_lacks_is_refused_by_what_it_lacks(monkeypatch, folder):
    monkeypatch.setattr(machine, "cpu_features", lambda: frozenset(("avx2", "fma", "f16c")))
    with pytest.raises(UnsupportedError, match="lacks avx512f"):
        cpu_library("avx512", folder)
    with pytest.raises(UnsupportedError, match=r"no instruction set 'sse'; .* portable$"):
        cpu_library("sse", folder)


def test_machine_without_a_compiler_is_told_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(UnsupportedError, match="install g\\+\\+, or set CXX"):
        cpu_library("portable", tmp_path / "new")


def test_compiler_that_fails_leaves_nothing_behind(monkeypatch, tmp_path):
    broken = tmp_path / "c++"
    broken.write_text("#!/bin/sh\ntest $1 = --version || { echo 'error: no' >&2; exit 1; }\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    with pytest.raises(UnsupportedError, match="cannot compile the kernels: error: no"):
        cpu_library("portable", tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []


@COMPILES
def test_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    named = rf"folder of compiled kernels, {re.escape(str(tmp_path))}.*cannot be written"
    with pytest.raises(UnsupportedError, match=named):
        cpu_library("portable", tmp_path / "file" / "below")


@COMPILES
def test_library_is_compiled_once(monkeypatch, folder):
    cpu_library("portable", folder)
    build._LOADED.clear()
    compiled = []
    monkeypatch.setattr(build, "compile_into", lambda *a: compiled.append(a))
    cpu_library("portable", folder)
    assert compiled == []


def cut(whole):
    return whole[: len(whole) // 2]


def overwritten(whole):
    return whole[:5000] + bytes(9000) + whole[14_000:]


@COMPILES
@pytest.mark.parametrize("damaged", [lambda _: b"", lambda _: b"\x7fELF", cut, overwritten])
@pytest.mark.parametrize("is_sealed", [True, False])
def test_damaged_library_is_compiled_again_and_never_loaded(
    monkeypatch, folder, tmp_path, damaged, is_sealed
):
    """Loaded, one that was cut or overwritten would end the process."""
    cpu_library("portable", folder)
    key = next(key for name, key in build._LOADED if name == "portable")
    whole, file = folder / f"portable-{key}.so", tmp_path / f"portable-{key}.so"
    build._LOADED.clear()
    file.write_bytes(damaged(whole.read_bytes()))
    seal = whole.with_suffix(".sha256")
    if is_sealed:
        shutil.copy(seal, tmp_path)

    def compile_into(to, *_):
        shutil.copy(whole, to)
        shutil.copy(seal, tmp_path)

    monkeypatch.setattr(build, "compile_into", compile_into)
    assert cpu_library("portable", tmp_path).ff_lanes() == 4


@COMPILES
def test_compiling_leaves_the_library_and_its_seal(tmp_path):
    build.compile_into(tmp_path / "x.so", build.find_compiler(), ("-O0",))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["x.sha256", "x.so"]
    with pytest.raises(build.CompileError):
        build.compile_into(tmp_path / "y.so", build.find_compiler(), ("-no-such-flag",))
    assert len(list(tmp_path.iterdir())) == 2


def test_compiler_that_is_none_is_named(tmp_path, monkeypatch):
    script = tmp_path / "cxx"
    script.write_text("neither a program nor a script")
    script.chmod(0o755)
    monkeypatch.setenv("CXX", str(script))
    with pytest.raises(UnsupportedError, match=r"cxx is no C\+\+ compiler"):
        cpu_library("portable", tmp_path)


@COMPILES
def test_library_that_cannot_be_loaded_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(build, "compile_into", lambda to, *_: to.write_bytes(b"no library"))
    with pytest.raises(UnsupportedError, match=f"cannot be loaded from {re.escape(str(tmp_path))}"):
        cpu_library("portable", tmp_path)


@COMPILES
@pytest.mark.parametrize("name", ["avx512_bf16", "avx2", "portable", "amx_emulated"])
def test_source_compiles_without_warnings(name, tmp_path):
    flags = next(each.flags for each in machine.INSTRUCTION_SETS if each.name == name)
    compiler = build.find_compiler()
    quiet = ("-Wno-maybe-uninitialized", "-Wno-uninitialized")  # in gcc's own intrinsics
    command = [compiler, *build.FLAGS, "-O0", *flags, "-Wall", "-Wextra", *quiet]
    source = build.SOURCES / "native" / "library.cpp"
    done = subprocess.run(
        [*command, str(source), "-o", str(tmp_path / "x.so")], capture_output=True, text=True
    )
    assert done.stderr == ""
