"""WebDataset shards: which there are, what is in them, and where each byte lies."""
