"""Making WebDataset shards and a query log: the generated demo, or COCO from its official archives."""
