"""Classical searches and gradient training on the same problems: what Quark stands beside."""
