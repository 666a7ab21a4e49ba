"""Instruction sets of x86-64 that the CPU kernels are compiled for, and which of them run here."""

from __future__ import annotations

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


_AVX2 = ("avx2", "fma", "f16c")
_AVX512 = (*_AVX2, "avx512f", "avx512bw", "avx512vl", "avx512dq")
_VNNI = (*_AVX512, "avx512_vnni")
_BF16 = (*_VNNI, "avx512_bf16")


def _flags(features: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"-m{feature.replace('_', '')}" for feature in features)


INSTRUCTION_SETS = (
    InstructionSet("avx512_bf16", _BF16, _flags(_BF16)),
    InstructionSet("avx512_vnni", _VNNI, _flags(_VNNI)),
    InstructionSet("avx512", _AVX512, _flags(_AVX512)),
    InstructionSet("avx2", _AVX2, _flags(_AVX2)),
    InstructionSet("portable", (), ()),
)
"""Best first; `portable` is plain C++ for any processor."""


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


def missing(name: str) -> tuple[str, ...]:
    """Return what this processor lacks of an instruction set.

    Raises:
        KeyError: there is no such set.
    """
    sets = {each.name: each for each in INSTRUCTION_SETS}
    return tuple(feature for feature in sets[name].needs if feature not in cpu_features())


def runs_here() -> list[str]:
    """Return the instruction sets that this processor has, best first."""
    return [each.name for each in INSTRUCTION_SETS if not missing(each.name)]
