"""The shared nodes of the graph tasks: `groups=(MODEL, DATA, RUNTIME)`."""

from fivefold import Group

from .config import MODELS, SOURCES, DataConfig, ModelConfig, RuntimeConfig

MODEL = Group(
    node="model",
    config=ModelConfig,
    options={name: {"name": name} for name in MODELS},
    default="gcnii",
    free="name",
)
DATA = Group(
    node="data",
    config=DataConfig,
    options={
        **{name: {"source": name} for name in SOURCES if name != "auto"},
        "file": {"source": "auto"},
    },
    default="debian",
    free="path",
)
RUNTIME = Group(node="runtime", config=RuntimeConfig)
