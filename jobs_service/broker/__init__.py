"""Redis: the queues, publishing to them, and the list of dead letters."""
