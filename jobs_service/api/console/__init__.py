"""The console: pages for people, whose every figure and action is a call of the REST API."""
