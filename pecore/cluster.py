"""Group an index's images by what they show."""

from dataclasses import dataclass

import numpy as np

from pecore.errors import InputError

MINI_BATCH_ABOVE = 100_000
"""Rows that are too many for k-means over all of them at once."""

MINI_BATCH = 8192
"""Rows of a mini-batch."""


@dataclass(frozen=True)
class Cluster:
    """`rows` of the index, the nearest to the cluster's direction first, and their `cosines` with it."""

    rows: np.ndarray
    cosines: np.ndarray


def cluster(embeddings: np.ndarray, k: int, seed: int = 0) -> list[Cluster]:
    """k-means on `[n, dim]` L2-normalised embeddings, above `MINI_BATCH_ABOVE` rows by mini-batches; the clusters, the
    largest first. The seed decides the start.

    Raises:
        InputError: k is not between 1 and n.
    """
    from sklearn.cluster import KMeans, MiniBatchKMeans

    if not 1 <= k <= len(embeddings):
        raise InputError(f"{len(embeddings)} images can't be put into {k} clusters; take --k from 1 to that number")
    if len(embeddings) > MINI_BATCH_ABOVE:
        found = MiniBatchKMeans(k, n_init=3, random_state=seed, batch_size=MINI_BATCH).fit(embeddings)
    else:
        found = KMeans(k, n_init=3, random_state=seed).fit(embeddings)
    groups = []
    for i, centre in enumerate(found.cluster_centers_):
        rows = np.flatnonzero(found.labels_ == i)
        cosines = embeddings[rows] @ (centre / max(np.linalg.norm(centre), 1e-12))
        order = np.lexsort((rows, -cosines))
        groups.append(Cluster(rows[order], cosines[order]))
    return sorted((g for g in groups if len(g.rows)), key=lambda g: (-len(g.rows), g.rows[0]))
