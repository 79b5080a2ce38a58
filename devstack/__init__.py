"""The local stack: real servers from wheels, and `make run`. For development and tests; the image leaves it out."""
