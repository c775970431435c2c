"""conmon and the OCI runtime."""
