"""Stores by URL: which drivers serve it, what they can do, and the live connection."""
