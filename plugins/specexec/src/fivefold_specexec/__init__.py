"""SpecExec: the most probable tree under a budget, grown anew at every step."""
