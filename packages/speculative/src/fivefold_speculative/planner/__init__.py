"""The planner: measure the machine and the drafts, ask every method, choose one, or none."""
