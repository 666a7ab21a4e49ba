#!/usr/bin/env python3
"""Do all set-up and run a session of `noxfile.py`, as in `python3 start.py demo`.

Needs Python 3.11 or newer and pip, nothing else: nox goes into `.tools/` beside this file, so a
system Python that refuses `pip install` (PEP 668) or lacks `ensurepip` serves as well.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import venv
from pathlib import Path

HOUSE = Path(__file__).resolve().parent
TOOLS = HOUSE / ".tools"
PYTHON = TOOLS / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def install_nox() -> None:
    """Install nox, at the version of constraints.txt, into `.tools/` (once)."""
    versions = (HOUSE / "constraints.txt").read_text(encoding="utf-8").splitlines()
    nox = next(line for line in versions if line.startswith("nox=="))
    mark = TOOLS / "installed"
    if mark.is_file() and mark.read_text(encoding="utf-8") == nox:
        return
    venv.create(TOOLS, with_pip=False, clear=True)
    pip = [sys.executable, "-m", "pip", "--python", str(PYTHON), "install", "--quiet"]
    command = [*pip, "--disable-pip-version-check", "-c", str(HOUSE / "constraints.txt"), nox]
    if subprocess.run(command, check=False).returncode:
        sys.exit("start.py: pip could not install nox; is there a network, and pip 22.3 or newer?")
    mark.write_text(nox, encoding="utf-8")


def main(arguments: list[str]) -> int:
    """Run `nox -s SESSION [-- …]` and return its exit status."""
    if sys.version_info < (3, 11):  # noqa: UP036 - older ones are what it is here to refuse
        sys.exit(f"start.py: this is Python {sys.version.split()[0]}; Fivefold needs 3.11 or newer")
    # A shell that runs us in the background (`&`) has Ctrl-C ignored in all that we start: the
    # tests that interrupt a run would wait for ever.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    install_nox()
    session = ["-s", *arguments] if arguments else ["--list"]
    nox = [str(PYTHON), "-m", "nox", "-f", str(HOUSE / "noxfile.py"), *session]
    return subprocess.run(nox, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
