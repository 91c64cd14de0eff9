"""Draw the documents of an audit: few buckets of each subset, and some documents of each.

1. The sample is divided equally among the subsets. A subset with fewer documents gives all.
2. Of a subset, one bucket is drawn for 50 documents of its share, by weight: a bucket with twice
   as many documents is twice as likely. A source must be read from its beginning, so documents
   from everywhere would cost a reading of the whole corpus.
3. The subset's share is drawn from the documents of these buckets together.

The draws are permutations (permute.py) keyed by the audit's seed.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from mobilellama.shards.dataset import bucket_name
from mobilellama.shards.manifest import ManifestRow
from mobilellama.shards.permute import Permutation

DOCUMENTS_PER_BUCKET = 50
_DRAWN_AT_ONCE = 1024


def draw_documents(rows: Sequence[ManifestRow], sample: int, seed: int) -> dict[str, list[int]]:
    """Return the drawn documents by bucket: their numbers in the source's order, rising.

    If all documents are drawn, buckets without any are there too: their sources must hold none.

    Args:
        rows: the manifest.
        sample: documents to draw; all are drawn if there are not more.
        seed: the audit's.
    """
    by_subset: dict[str, list[ManifestRow]] = {}
    for row in rows:
        if row["documents"]:
            by_subset.setdefault(row["subset"], []).append(row)
    counts = {name: sum(row["documents"] for row in mine) for name, mine in by_subset.items()}
    drawn: dict[str, list[int]] = {}
    for subset, share in _shares(counts, sample).items():
        if share:
            drawn |= _draw(_draw_buckets(by_subset[subset], share, seed), share, seed)
    if sample >= sum(counts.values()):
        drawn |= {
            bucket_name(row["subset"], row["bucket"]): [] for row in rows if not row["documents"]
        }
    return drawn


def _shares(counts: Mapping[str, int], sample: int) -> dict[str, int]:
    """Return how many documents each subset gives; what small ones lack, larger ones give."""
    shares, left = {}, sample
    for i, name in enumerate(sorted(counts, key=lambda name: (counts[name], name))):
        shares[name] = min(counts[name], -(-left // (len(counts) - i)))
        left -= shares[name]
    return shares


def _draw_buckets(rows: list[ManifestRow], share: int, seed: int) -> list[ManifestRow]:
    ends = np.cumsum([row["documents"] for row in rows])
    permute = Permutation(int(ends[-1]), seed, rows[0]["subset"], "buckets")
    wanted, found = -(-share // DOCUMENTS_PER_BUCKET), dict[int, int]()
    for start in range(0, permute.n, _DRAWN_AT_ONCE):
        documents = permute(np.arange(start, min(start + _DRAWN_AT_ONCE, permute.n)))
        for i in np.searchsorted(ends, documents, side="right").tolist():
            if len(found) >= wanted and sum(found.values()) >= share:
                return [rows[i] for i in sorted(found)]
            found[i] = rows[i]["documents"]
    return [rows[i] for i in sorted(found)]


def _draw(rows: list[ManifestRow], share: int, seed: int) -> dict[str, list[int]]:
    ends = np.cumsum([row["documents"] for row in rows])
    permute = Permutation(int(ends[-1]), seed, rows[0]["subset"], "documents")
    drawn: dict[str, list[int]] = {}
    for document in np.sort(permute(np.arange(share))).tolist():
        i = int(np.searchsorted(ends, document, side="right"))
        row = rows[i]
        first = int(ends[i]) - row["documents"]
        drawn.setdefault(bucket_name(row["subset"], row["bucket"]), []).append(document - first)
    return drawn
