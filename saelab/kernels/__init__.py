"""The inner loops of sparse dictionaries, each with a plain-PyTorch reference."""
