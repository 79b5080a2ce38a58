"""`python -m bench`: this service and other ways to do the same, measured side by side in one run."""
