"""The REST API: Falcon behind gunicorn."""
