"""How good it is, and where it is lost.

metrics      hit rate, nDCG, reciprocal rank, median rank; bootstrap intervals
stages       what each step loses: exact search -> index -> rerank -> fused
measure      every figure of one set of rankings
job          the stage: rankings in, metrics.json out

report_data, gallery, thumbnails, charts, page, report: the HTML page of a generation
"""
