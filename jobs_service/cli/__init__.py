"""The command `jobs`: what an operator types. It uses the client alone, and so the REST API."""
