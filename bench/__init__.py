"""`python -m bench`: this service and the straightforward version of it, measured side by side in one run."""
