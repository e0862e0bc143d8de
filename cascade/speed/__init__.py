"""How fast this machine runs a cascade, by runtime, precision and batch size."""
