"""Scores an earlier set holds: a text and a picture that were scored together are not scored again."""

import numpy as np
import pyarrow as pa

from pipelines.rerank.plan import ShardTask
from schemas.errors import InputError
from schemas.manifests import ScoresManifest
from schemas.parquet import read_table

_PAIR = ["text", "content_sha256"]


def known_scores(pairs: pa.Table, task: ShardTask) -> np.ndarray:
    """The score of each pair as the earlier scores of the shard have it; NaN where they do not.

    Pairs are the same by their text and the content of their picture, whatever query and item are called now. Earlier
    scores that are gone, damaged, or made otherwise cost time, never correctness.

    Args:
      pairs: a table of `plan.PAIRS`.

    Returns:
      float32 (pairs,).
    """
    none = np.full(pairs.num_rows, np.nan, np.float32)
    if task.earlier is None:
        return none
    try:
        if ScoresManifest.read(task.earlier.manifest).settings != task.settings:
            return none
        asked = read_table(task.earlier.pairs, ["query_id", "item_id", *_PAIR])
        scores = read_table(task.earlier.data)
    except InputError:
        return none
    known = asked.join(scores, ["query_id", "item_id"], join_type="inner")
    known = known.group_by(_PAIR).aggregate([("slow_score", "min")])  # a picture may be there under two names
    rows = pairs.select(_PAIR).append_column("row", pa.array(np.arange(pairs.num_rows)))
    found = rows.join(known, _PAIR, join_type="inner")
    none[found.column("row").to_numpy()] = found.column("slow_score_min").to_numpy()
    return none
