"""The local stack of `make run`: real servers from wheels. For development and tests; the image does not include it."""
