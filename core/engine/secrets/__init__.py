"""The engine's own secrets, and the keys of encrypted volumes."""
