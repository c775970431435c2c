"""Shipped ipam drivers, one file each."""
