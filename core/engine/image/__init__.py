"""Images: a content-addressed store of layers, registries, archives."""
