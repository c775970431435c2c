"""Shipped network drivers, one file each."""
