"""GNNPipe: layers over stages, chunks over time (arXiv 2308.10087)."""
