"""Compile the C++ kernels at first use into a cache folder, and load them."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path

from ..errors import UnsupportedError
from .abi import declare
from .machine import INSTRUCTION_SETS, missing, runs_here

SOURCES = Path(__file__).parent.parent
FLAGS = (
    "-std=c++17",
    "-O3",
    "-fPIC",
    "-shared",
    "-pthread",
    "-fvisibility=hidden",
    "-ffp-contract=off",  # fused operations only where the source says so: one rounding everywhere
    "-fno-math-errno",
)
COMPILERS = ("c++", "g++")
TIMEOUT = 300  # seconds
_LOADED: dict[tuple[str, str], ctypes.CDLL] = {}  # a library is loaded once a process


class CompileError(UnsupportedError):
    """The compiler refused the sources, or the flags of an instruction set."""


def cpu_library(
    name: str = "auto",
    folder: Path | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> ctypes.CDLL:
    """Return the CPU kernels for an instruction set, compiled now if they never were.

    Args:
        name: of the instruction set; `auto`: the best that this machine has and the compiler knows.
        folder: where compiled libraries are kept.
        say: told when they are compiled, which takes some seconds.

    Raises:
        UnsupportedError: this machine lacks the set, there is no compiler, or it failed.
    """
    if name == "auto":
        compiler, (*better, last) = find_compiler(), runs_here()
        for each in better:
            try:
                return _loaded(each, compiler, folder, say)
            except CompileError as error:
                say(f"not the kernels for {each}: {error}")
        return _loaded(last, compiler, folder, say)
    if name not in (each.name for each in INSTRUCTION_SETS):
        real = ", ".join(each.name for each in INSTRUCTION_SETS if not each.is_emulated)
        raise UnsupportedError(f"no instruction set {name!r}; there are {real}")
    lacking = missing(name)
    if lacking:
        raise UnsupportedError(f"this machine lacks {', '.join(lacking)}, which {name} needs")
    return _loaded(name, find_compiler(), folder, say)


def build_name(library: ctypes.CDLL) -> str:
    """Return the instruction set of a library that `cpu_library` gave."""
    return next(name for (name, _), each in _LOADED.items() if each is library)


def _loaded(
    name: str, compiler: str, folder: Path | None, say: Callable[[str], None]
) -> ctypes.CDLL:
    flags = next(each.flags for each in INSTRUCTION_SETS if each.name == name)
    key = _key(compiler, flags)
    if (name, key) not in _LOADED:
        file = (folder or default_folder()) / f"{name}-{key}.so"
        library = _opened(file) if file.is_file() else None
        if library is None:  # never compiled, or damaged
            say(f"compiling the CPU kernels for {name} (once)")
            compile_into(file, compiler, flags)
            library = _opened(file)
        if library is None:
            raise UnsupportedError(
                f"the kernels for {name} cannot be loaded from {file}; may programs run there?"
            )
        _LOADED[name, key] = library
    return _LOADED[name, key]


def _opened(file: Path) -> ctypes.CDLL | None:
    """Return a compiled library with its functions declared; None: it is damaged.

    What was cut or overwritten could not be refused once it is loaded: it would end the process.
    """
    try:
        if _seal_of(file).read_text() != _digest(file):
            return None
        return declare(ctypes.CDLL(str(file)))
    except (OSError, ValueError, AttributeError):  # no seal, no library, or one without a function
        return None


def _seal_of(file: Path) -> Path:
    return file.with_suffix(".sha256")


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def default_folder() -> Path:
    """Return the folder for compiled libraries when the caller has none: the user's own cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fivefold-kernels"


def find_compiler() -> str:
    """Return the C++ compiler: `$CXX`, or the first that is there.

    Raises:
        UnsupportedError: there is none.
    """
    wanted = os.environ.get("CXX")
    for candidate in (wanted,) if wanted else COMPILERS:
        found = shutil.which(candidate)
        if found:
            return found
    raise UnsupportedError(
        f"no C++ compiler ({wanted or ' or '.join(COMPILERS)}); install g++, or set CXX"
    )


def has_compiler() -> bool:
    """Say whether the kernels can be compiled at all."""
    try:
        find_compiler()
    except UnsupportedError:
        return False
    return True


def compile_into(file: Path, compiler: str, flags: tuple[str, ...]) -> None:
    """Compile the library, whole or not at all: two processes at once are safe.

    Raises:
        UnsupportedError: the folder cannot be written; `CompileError`: the compiler failed.
    """
    source = SOURCES / "native" / "library.cpp"
    draft, seal = (file.with_suffix(f".{os.getpid()}.{kind}.tmp") for kind in ("so", "seal"))
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        seal.touch()
    except OSError as error:
        why = f"{file.parent}, cannot be written to ({error.strerror})"
        raise UnsupportedError(f"the folder of compiled kernels, {why}") from error
    try:
        command = [compiler, *FLAGS, *flags, str(source), "-o", str(draft)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if "error" in line]
            why = lines[0] if lines else f"status {done.returncode}"
            raise CompileError(f"{compiler} cannot compile the kernels: {why}")
        seal.write_text(_digest(draft))
        os.replace(draft, file)
        os.replace(seal, _seal_of(file))
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnsupportedError(f"the kernels cannot be compiled ({error})") from error
    finally:
        draft.unlink(missing_ok=True)
        seal.unlink(missing_ok=True)


@cache
def _key(compiler: str, flags: tuple[str, ...]) -> str:
    """Name a build by everything that goes into it.

    Raises:
        UnsupportedError: the compiler is none.
    """
    digest = hashlib.sha256("\0".join([*FLAGS, *flags]).encode())
    try:
        version = subprocess.run(
            [compiler, "--version"], capture_output=True, text=True, timeout=TIMEOUT, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnsupportedError(
            f"{compiler} is no C++ compiler ({error}); install g++, or set CXX"
        ) from error
    digest.update(version.stdout.encode())
    for file in sorted(SOURCES.rglob("*.[hc]pp")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]
