"""The slow side, offline: every candidate pair scored, fused with the fast score, and ranked.

plan          which shard's pictures are wanted by which queries; what is done already
ground_truth  which items are known to be relevant to which queries
fusion        slow + beta * fast: beta, ranks, and the TREC files
pictures      fetches the wanted pictures of one shard, each once
scoring       one group of pictures and the pairs they are in -> pair scores
shard         one shard -> its scores, its rejects and the manifest that commits both
transforms    the same over many shards, on Beam
job           the stage: candidates in, rankings out
"""
