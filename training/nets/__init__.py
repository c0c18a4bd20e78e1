"""The networks, one file a family; each begins with its own normalisation."""
