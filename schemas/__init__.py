"""What everything looks like: samples, Arrow schemas, ids, manifests, configs, layout, errors.

errors       every exception of the project, with its exit code
samples      one image or clip as it comes out of a shard
rejects      one refused sample, and the table of them
ids          key -> 63-bit item id
digests      names made from content: hashes of files and of plain values
stores       files wherever they lie, a folder or an object store, opened one way
conditional  create if absent, replace and remove if unchanged; on S3 and GCS in files of their own
commits      files that appear whole or not at all; create-once manifests
layout       where each thing lives under an output root (the only file that joins paths)
manifests    what a finished unit leaves behind
parquet      the one way tables are written and read here
embeddings   the embedding table
query_logs   the query log and its embedding table
rankings     candidates, pair scores, rankings; TREC runs and qrels
configs      dataset, encoder and training configs, read strictly

May import the standard library, numpy, pyarrow, pydantic, yaml and fsspec; nothing heavier.
"""
