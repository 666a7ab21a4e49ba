"""What the packages promise: `__all__`, one import path for each name, types."""

import importlib
import importlib.metadata
from pathlib import Path

import pytest

PACKAGES = (
    "fivefold",
    "fivefold_kernels",
    "fivefold_lm",
    "fivefold_speculative",
    "fivefold_mst_train",
    "fivefold_gnnpipe",
    "fivefold_quark",
)


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_is_there_and_described(package):
    module = importlib.import_module(package)
    for name in module.__all__:
        thing = getattr(module, name)
        assert name in dir(module)
        if callable(thing):
            assert (thing.__doc__ or "").strip(), f"{package}.{name} says nothing"


@pytest.mark.parametrize("package", PACKAGES)
def test_unknown_name_is_an_attribute_error(package):
    module = importlib.import_module(package)
    with pytest.raises(AttributeError, match="no_such_name"):
        module.no_such_name  # noqa: B018 - looking it up is the test


@pytest.mark.parametrize("package", PACKAGES)
def test_package_says_that_it_is_typed(package):
    module = importlib.import_module(package)
    assert Path(module.__file__).with_name("py.typed").is_file()


@pytest.mark.parametrize("package", PACKAGES)
def test_import_does_nothing_visible(python, package):
    assert python(f"import {package}") == ""
