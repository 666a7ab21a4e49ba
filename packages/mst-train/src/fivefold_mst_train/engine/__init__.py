"""The training engine: loop, data, checkpoints, metrics, distillation."""
