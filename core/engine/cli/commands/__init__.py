"""The commands, a family in each file: plain functions whose signature is their command line."""
