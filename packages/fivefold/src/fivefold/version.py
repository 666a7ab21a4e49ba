"""The host's version, as its installed metadata states it."""

from importlib.metadata import version

__version__ = version("fivefold")
