"""Redis: the queues, publishing to them, the list of dead letters."""
