"""API keys and limits: who may send which request, and how many."""
