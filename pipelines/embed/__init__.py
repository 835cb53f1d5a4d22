"""Shards of images and videos become embedding tables; the query log becomes a table of encoded queries.

plan         which shards there are, where their vectors go, which are not there yet (no torch, no Beam)
job          the stage: embeds what is pending, then checks counts and ids of the whole
transforms   the Beam wiring: one shard is one element
shard        one shard -> table, rejects, manifest
batches      which samples go through the model together, and back into their order
encoding     one batch: decode, forward, find the sample to blame
lanes        threads side by side, results in order, bounded look-ahead
queries      the query log -> distinct queries with vectors
"""
