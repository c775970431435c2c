"""Shipped volume drivers, one file each."""
