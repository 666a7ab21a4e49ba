"""The Mini-Sequence Transformer (arXiv 2407.15892): exact training of long sequences."""
