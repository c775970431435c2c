"""Runs containers: conmon as monitor, crun or runc as OCI runtime, and the OCI spec for them."""
