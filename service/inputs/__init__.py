"""Request bodies to rows: decode and validate before the queue, one module per kind of input."""
