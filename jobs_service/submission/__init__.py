"""Accepting a job."""
