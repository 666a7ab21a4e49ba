"""`fivefold train inspect`: which modules a training method works on, which not, and why."""

from __future__ import annotations

from typing import Any

import torch
from fivefold import Run, UserError
from fivefold_lm import ModelConfig
from fivefold_lm.loading import explain
from transformers import AutoConfig, PretrainedConfig

from ..task_configs import InspectConfig
from .schemes import tile_rows
from .shapes import NAMES, shape_config


def run(config: InspectConfig, run: Run) -> int:
    """Run `fivefold train inspect`; no weight is read."""
    model = run.node("model", ModelConfig)
    shape = inspected_config(model)
    rows = tile_rows(run.build("training").apply, shape, getattr(torch, model.dtype))
    if not rows:
        run.print(f"training={run.method('training').name} leaves every module as it is")
        return 0
    run.table(f"{model.name} under training={run.method('training').name}", rows)
    for row in rows:
        run.row(**row)
    for state in ("tiled", "block", "chunked", "checkpointed", "skipped"):
        count = sum(int(str(row["count"])) for row in rows if row["state"] == state)
        run.figure(f"{state}_modules", count)
    return 0


def inspected_config(model: ModelConfig) -> PretrainedConfig:
    """Return the config of the model that the settings name; a hub model's config is fetched.

    Raises:
        UserError: there is no such model.
    """
    try:
        return shape_config(model.name)
    except UserError:
        if model.name in NAMES or model.name.startswith((".", "/", "~")):
            raise
    options: dict[str, Any] = {"trust_remote_code": model.trust_remote_code}
    if model.revision:
        options["revision"] = model.revision
    if model.token:
        options["token"] = model.token
    try:
        found: PretrainedConfig = AutoConfig.from_pretrained(model.name, **options)
    except Exception as error:  # the many errors of two libraries, each made one line
        raise explain(error, model, model.name) from error
    return found
