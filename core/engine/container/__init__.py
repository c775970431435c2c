"""Containers: their state, their life, what they are made of."""
