"""HTTP: the Docker Engine API, and what is ours beside it."""
