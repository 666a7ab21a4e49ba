"""See that a wheel works where nothing but its declared dependencies is installed.

`python tests/house/alone.py fivefold-lm`, by the session `wheels`, in the wheel's own environment.
"""

import json
import re
import subprocess
import sys
from importlib import import_module
from importlib.metadata import distribution, entry_points
from importlib.util import find_spec
from pkgutil import walk_packages


def main(name: str) -> None:
    """Import every module of a wheel, and find what it brings in `fivefold plugins`."""
    package = name.replace("-", "_")
    top = import_module(package)
    modules = [found.name for found in walk_packages(top.__path__, f"{package}.")]
    for module in modules:
        if not module.endswith(("__main__", ".testing")):
            import_or_extra(module, name)
    for public in getattr(top, "__all__", ()):  # a plugin publishes its entry point alone
        getattr(top, public)
    if find_spec("fivefold") is None:  # kernels know no host
        print(f"{name} {distribution(name).version}: {len(modules)} modules, no host")
        return
    command = [sys.executable, "-m", "fivefold", "plugins", "--json"]
    listed = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)["plugins"]
    broken = [plugin for plugin in listed if plugin["state"] != "ok"]
    assert not broken, broken
    brought = {entry.name for entry in entry_points(group="fivefold") if entry.dist.name == name}
    assert brought <= {plugin["name"] for plugin in listed}, listed
    print(f"{name} {distribution(name).version}: {len(modules)} modules, plugins {sorted(brought)}")


def import_or_extra(module: str, name: str) -> None:
    """Import a module; only what an extra of the wheel brings may be missing."""
    required = distribution(name).requires or []
    extras = {re.split(r"[^\w-]", line)[0] for line in required if "extra ==" in line}
    try:
        import_module(module)
    except ModuleNotFoundError as error:
        if str(error.name).partition(".")[0] not in extras:
            raise


if __name__ == "__main__":
    main(sys.argv[1])
