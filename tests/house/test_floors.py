"""Who may import whom, and what is light."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

HOUSE = Path(__file__).parents[2]
HEAVY = (
    "torch",
    "transformers",
    "jaxtyping",
    "numpy",
    "safetensors",
    "tokenizers",
    "matplotlib",
    "torch_geometric",
    "qiskit",
    "qiskit_aer",
    "sklearn",
)
BLOCK = f"import sys\nfor name in {HEAVY!r}:\n    sys.modules[name] = None\n"
DESCRIBES = (
    "fivefold",
    "fivefold.cli",
    "fivefold.errors",
    "fivefold.testing",
    "fivefold_kernels",
    "fivefold_kernels.native.machine",
    "fivefold_lm",
    "fivefold_lm._words",
    "fivefold_lm.config",
    "fivefold_lm.groups",
    "fivefold_lm.task_configs",
    "fivefold_quark",
    "fivefold_quark._words",
    "fivefold_quark.config",
    "fivefold_quark.groups",
    "fivefold_quark.task_configs",
    "fivefold_speculative",
    "fivefold_speculative._words",
    "fivefold_speculative.config",
    "fivefold_speculative.task_configs",
    "fivefold_speculative.topology",
    "fivefold_gnnpipe",
    "fivefold_gnnpipe._words",
    "fivefold_gnnpipe.config",
    "fivefold_gnnpipe.groups",
    "fivefold_gnnpipe.pipe.config",
    "fivefold_gnnpipe.task_configs",
    "fivefold_mst_train",
    "fivefold_mst_train._words",
    "fivefold_mst_train.config",
    "fivefold_mst_train.task_configs",
)


def test_imports_run_downwards_and_the_host_stays_light():
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([linter], cwd=HOUSE, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("module", DESCRIBES)
def test_describing_module_is_imported_with_torch_blocked(python, module):
    assert python(f"{BLOCK}import {module}; print('light')") == "light\n"


def test_entry_point_of_every_plugin_is_light(python):
    # in a process of its own, since other tests put wheels on the path of this one
    listed = "print(*{entry.module for entry in entry_points(group='fivefold')})"
    modules = python(f"from importlib.metadata import entry_points; {listed}").split()
    assert "fivefold_speculative.builtin" in modules
    for module in modules:
        assert python(f"{BLOCK}import {module}; print('light')") == "light\n"


def test_plugins_are_listed_with_torch_blocked(python):
    program = f"{BLOCK}from fivefold.cli import main; sys.exit(main(['plugins', '--json']))"
    listed = json.loads(python(program))
    states = {plugin["name"]: plugin["state"] for plugin in listed["plugins"]}
    assert set(states.values()) == {"ok"}, states


def test_plugins_are_listed_within_a_second_of_processor_time():
    """Processor time, so that a busy machine does not decide; the benchmark measures the clock."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "fivefold", "plugins"]
    subprocess.run(command, capture_output=True, check=True, env=os.environ)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert spent < 1.0
