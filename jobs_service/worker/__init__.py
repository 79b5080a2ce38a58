"""A worker process: how it is put together and kept well."""
