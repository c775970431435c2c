"""Shipped storage drivers, one file each."""
