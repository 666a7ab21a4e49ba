"""`fivefold train plan`: where the memory goes, and the longest sequence that fits."""

from __future__ import annotations

import torch
from fivefold import Run, UserError
from fivefold_lm.offload.sizes import in_units, parse_size
from transformers import PretrainedConfig

from ..config import FaithfulConfig, LayerCheckpointConfig, MstConfig, PlainConfig
from ..task_configs import PlanConfig, ShapeConfig
from .schemes import Planned, Scheme, for_device, plan, schemes, tile_rows
from .shapes import shape_config
from .tiles import device_memory

_OF_METHOD = {
    PlainConfig: "plain",
    LayerCheckpointConfig: "recompute",
    FaithfulConfig: "mst_faithful",
    MstConfig: "mst",
}


def run(config: PlanConfig, run: Run) -> int:
    """Run `fivefold train plan`."""
    shape = run.node("model", ShapeConfig)
    model, dtype = shape_config(shape.name), getattr(torch, shape.dtype)
    memory = parse_size(config.device_memory) if config.device_memory else _memory_here()
    settings = run.settings("training")
    base = for_device(settings if isinstance(settings, MstConfig) else MstConfig(), memory)
    room = int(memory * (1 - config.margin))
    compared = schemes(base)
    chosen = next(
        (each for each in compared if each.name == _OF_METHOD.get(type(settings))),
        Scheme(run.method("training").name, run.build("training").apply),
    )
    planned = {
        each.name: _reckoned(each, model, dtype, config, room)
        for each in dict.fromkeys([*compared, chosen])
    }
    mine = planned[chosen.name]
    run.table(_title(shape, config, chosen), _parts(mine, model, memory, config))
    run.table("Modules", tile_rows(chosen.apply, model, dtype))
    run.table(
        f"What fits into {in_units(room)} ({in_units(memory)} less {config.margin:.0%})",
        [_line(each, room) for each in planned.values()],
    )
    for each in planned.values():
        run.row(**_row(each, room))
        run.figure(f"longest_{each.scheme.name.replace('+', '_')}", each.longest)
    run.figure("predicted_peak_bytes", mine.total)
    fits = mine.total <= room
    run.print(
        f"training={run.method('training').name} seq_len={config.seq_len}: "
        f"{in_units(mine.total)} of {in_units(room)}: {'fits' if fits else 'does not fit'}"
    )
    return 0


def _reckoned(
    scheme: Scheme, model: PretrainedConfig, dtype: torch.dtype, config: PlanConfig, room: int
) -> Planned:
    try:
        return plan(scheme, model, dtype, config.optimizer, config.batch_size, config.seq_len, room)
    except NotImplementedError as error:  # an operation without a shape function
        raise UserError(
            f"this model cannot be run without memory: {str(error).splitlines()[0]}",
            setting="model.name",
            remedy="plan with another model of its size, or measure with `fivefold train`",
        ) from error


def _memory_here() -> int:
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    return device_memory(torch.device(device.type, 0) if device.type != "cpu" else device)


def _title(shape: ShapeConfig, config: PlanConfig, scheme: Scheme) -> str:
    return (
        f"{shape.name}, {shape.dtype}, {config.optimizer}, {config.batch_size} x "
        f"{config.seq_len} tokens, {scheme.name}"
    )


def _parts(
    mine: Planned, model: PretrainedConfig, memory: int, config: PlanConfig
) -> list[dict[str, object]]:
    layers, tokens = int(model.num_hidden_layers), config.batch_size * config.seq_len
    parts = [
        ("weights", mine.fixed.weights),
        ("gradients", mine.fixed.gradients),
        ("optimizer state", mine.fixed.optimizer),
        (f"kept of {layers} layers", layers * mine.peak.per_layer),
        ("one layer or the head at work", mine.peak.working),
        ("in all", mine.total),
    ]
    return [
        {
            "part": name,
            "bytes": in_units(size) if size > 0 else "0",
            "KiB a token": round(size / tokens / 1024, 1),
            "of the device": f"{size / memory:.1%}",
        }
        for name, size in parts
    ]


def _line(planned: Planned, room: int) -> dict[str, object]:
    return {
        "training": planned.scheme.name,
        "at this length": in_units(planned.total),
        "fits": "yes" if planned.total <= room else "no",
        "longest sequence": planned.longest or "none",
    }


def _row(planned: Planned, room: int) -> dict[str, object]:
    return {
        "training": planned.scheme.name,
        "weights_bytes": planned.fixed.weights,
        "gradients_bytes": planned.fixed.gradients,
        "optimizer_bytes": planned.fixed.optimizer,
        "peak_bytes": planned.peak.total,
        "layer_bytes": planned.peak.per_layer,
        "working_bytes": planned.peak.working,
        "fits": planned.total <= room,
        "longest": planned.longest,
    }
