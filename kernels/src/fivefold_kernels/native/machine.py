"""Instruction sets of x86-64 that the CPU kernels are compiled for, and which of them run here."""

from __future__ import annotations

import ctypes
import platform
from dataclasses import dataclass
from functools import cache
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class InstructionSet:
    """One way to compile the kernels."""

    name: str
    needs: tuple[str, ...]
    """Features of the processor, as Linux spells them."""
    flags: tuple[str, ...]
    """What the compiler is told."""
    is_emulated: bool = False
    """Plain C++ stands in for instructions that tests cannot count on: never the best of a machine,
    only for who asks for it by name."""


_AVX2 = ("avx2", "fma", "f16c")
_AVX512 = (*_AVX2, "avx512f", "avx512bw", "avx512vl", "avx512dq")
_VNNI = (*_AVX512, "avx512_vnni")
_BF16 = (*_VNNI, "avx512_bf16")
_AMX = (*_BF16, "amx_tile", "amx_bf16", "amx_int8")


def _flags(features: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(
        f"-m{feature.replace('_', '-' if feature.startswith('amx') else '')}"
        for feature in features
    )


INSTRUCTION_SETS = (
    InstructionSet("amx", _AMX, _flags(_AMX)),
    InstructionSet("avx512_bf16", _BF16, _flags(_BF16)),
    InstructionSet("avx512_vnni", _VNNI, _flags(_VNNI)),
    InstructionSet("avx512", _AVX512, _flags(_AVX512)),
    InstructionSet("avx2", _AVX2, _flags(_AVX2)),
    InstructionSet("portable", (), ()),
    InstructionSet(
        "amx_emulated", _BF16, (*_flags(_BF16), "-DFIVEFOLD_EMULATED_TILES"), is_emulated=True
    ),
)
"""Best first; `portable` is plain C++ for any processor, and what is emulated comes after it."""

NO_PERMISSION = "the system's permission for AMX tiles"
_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA = 158, 0x1023, 18  # as Linux numbers them on x86-64


@cache
def cpu_features() -> frozenset[str]:
    """Return the processor's features; none where the system does not tell."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return frozenset()
    try:
        text = CPUINFO.read_text(encoding="utf-8")
    except OSError:
        return frozenset()
    line = next((line for line in text.splitlines() if line.startswith("flags")), "")
    return frozenset(line.partition(":")[2].split())


@cache
def tiles_are_permitted() -> bool:
    """Ask Linux for the right to use AMX tiles, which no process has by itself; say if it is given.

    A kernel that knows of no tiles refuses, and so may a sandbox. Threads and forks inherit it.
    """
    arguments = (_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA)
    try:
        return bool(ctypes.CDLL(None).syscall(*map(ctypes.c_long, arguments)) == 0)
    except (AttributeError, OSError):
        return False


def missing(name: str) -> tuple[str, ...]:
    """Return what this machine lacks of an instruction set: features, or the right to use them.

    Raises:
        KeyError: there is no such set.
    """
    sets = {each.name: each for each in INSTRUCTION_SETS}
    needs = sets[name].needs
    lacking = tuple(feature for feature in needs if feature not in cpu_features())
    if not lacking and "amx_tile" in needs and not tiles_are_permitted():
        return (NO_PERMISSION,)
    return lacking


def runs_here() -> list[str]:
    """Return the instruction sets that this machine has, best first; none that is emulated."""
    real = (each.name for each in INSTRUCTION_SETS if not each.is_emulated)
    return [name for name in real if not missing(name)]
