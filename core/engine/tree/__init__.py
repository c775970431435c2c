"""A local directory and a store, kept in agreement: the code inside a volume's helper process."""
