"""What runs: reading, embedding, index, rerank, evaluation, publishing, the command line.

Imports point one way: webdataset <- embed, index <- rerank <- evaluate <- reindex <- cli. Beam is imported only
by `transforms.py` files and `local_runner.py`; torch never by `index`; faiss only by `index` and what searches.
"""
