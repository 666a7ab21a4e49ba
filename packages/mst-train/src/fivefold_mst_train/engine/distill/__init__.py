"""Distillation: a small student learns a teacher's law."""
