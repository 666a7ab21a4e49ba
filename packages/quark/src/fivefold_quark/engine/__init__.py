"""Problems, circuits, engines, counters: what optimisers of discretised models are built from."""
