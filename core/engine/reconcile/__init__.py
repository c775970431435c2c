"""The only code that changes the host: one applier per family of resources."""
