"""Problems, circuits, engines and counters: what optimisers of discretised models are built from."""
