"""The shared nodes a task composes: `groups=(MODEL, SAMPLING, CACHE, RUNTIME)`."""

from fivefold import Group

from .config import CacheConfig, ModelConfig, RuntimeConfig, SamplingConfig

MODEL = Group(
    node="model",
    config=ModelConfig,
    options={"smollm2": {"name": "smollm2"}},
    default="smollm2",
    free="name",
)
SAMPLING = Group(node="sampling", config=SamplingConfig)
CACHE = Group(node="cache", config=CacheConfig)
RUNTIME = Group(node="runtime", config=RuntimeConfig)
