"""The HTTP resources: one module for each noun in a URL."""
