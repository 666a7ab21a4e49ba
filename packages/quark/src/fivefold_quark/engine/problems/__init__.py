"""Problems of the source, and those a user brings: a name and settings become a `Training`."""
