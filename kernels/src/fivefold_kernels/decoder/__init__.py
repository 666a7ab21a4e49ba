"""A pass of a Llama-family decoder over tree nodes, in one call."""
