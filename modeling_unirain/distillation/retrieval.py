"""Hierarchical retrieval (paper, section 3.2): three levels, each searching only what the one before kept."""

from dataclasses import dataclass

import numpy as np

from modeling_unirain.distillation.records import Retrieval
from modeling_unirain.distillation.reference_index import ReferenceIndex
from modeling_unirain.distillation.structural import structural_similarity


GATHERED = 4096
"""References whose features are in memory at a time: C1 is larger than K1 where many share the last one's caption."""


@dataclass(frozen=True)
class RetrievalSettings:
    """K1, K2, K3. The paper does not give them; ours keep three references, as many pictures as a prompt holds well.

    Args:
        k1 (`int`): references kept by the distance of the captions.
        k2 (`int`): of these, references kept by the cosine of the visual features.
        k3 (`int`): of these, references kept by SSIM: the retrieved set S(q).
    """

    k1: int = 100
    k2: int = 20
    k3: int = 3

    def __post_init__(self) -> None:
        if not self.k1 >= self.k2 >= self.k3 >= 1:
            raise ValueError(
                f"each level keeps part of the one before: K1 >= K2 >= K3 >= 1, not {self.k1}, {self.k2}, {self.k3}"
            )


def _cosines(query: np.ndarray, features: np.ndarray) -> np.ndarray:
    features = np.asarray(features, dtype=np.float64)
    norms = np.linalg.norm(features, axis=1) * np.linalg.norm(query)
    return np.divide((features * query).sum(axis=1), norms, out=np.zeros(len(features)), where=norms > 0)


class HierarchicalRetriever:
    """S(q) for one query at a time. Ties go to the smaller reference id, save at the end of C1, which keeps all of them."""

    def __init__(self, index: ReferenceIndex, settings: RetrievalSettings):
        self.index, self.settings = index, settings

    def retrieve(
        self, text_embeddings: np.ndarray, image_embeddings: np.ndarray, thumbnails: np.ndarray
    ) -> list[Retrieval]:
        """All of C2(q) with the scores of its three levels, structurally most similar first: the first K3 are S(q).

        Args:
            text_embeddings (`np.ndarray`): φ_T(T_q), `float32` (n, d_text).
            image_embeddings (`np.ndarray`): f_q, `float32` (n, d_image).
            thumbnails (`np.ndarray`): luma of I_q, `uint8` (n, SIDE, SIDE).
        """
        level_1 = self.semantic(text_embeddings)
        return [
            self.structural(thumbnail, *self.feature(image_embedding, *kept))
            for image_embedding, thumbnail, kept in zip(image_embeddings, thumbnails, level_1, strict=True)
        ]

    def semantic(self, text_embeddings: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """C1(q): the K1 smallest s_txt = ‖φ_T(T_q) − φ_T(T_r)‖₂ and what equals the last; rows and distances per query."""
        return self.index.nearest_captions(text_embeddings, self.settings.k1)

    def feature(self, image_embedding: np.ndarray, rows: np.ndarray, distances: np.ndarray) -> tuple:
        """C2(q): the K2 largest s_vis = f_qᵀ f_r / (‖f_q‖ ‖f_r‖) within C1; rows, distances, cosines.

        C1 is mostly small, so that its vectors are gathered and multiplied: no index is searched a second time. A feature
        without length is similar to nothing (0).
        """
        query = image_embedding.astype(np.float64)
        parts = np.split(rows, range(GATHERED, len(rows), GATHERED))
        cosines = np.concatenate([_cosines(query, self.index.image_embeddings[part]) for part in parts])
        best = np.lexsort((rows, -cosines))[: self.settings.k2]
        return rows[best], distances[best], cosines[best]

    def structural(
        self, thumbnail: np.ndarray, rows: np.ndarray, distances: np.ndarray, cosines: np.ndarray
    ) -> Retrieval:
        """C2(q) in the order of s_perc = SSIM(I_q, I_r) on bounded luma; the K3 largest are S(q)."""
        similarities = structural_similarity(thumbnail, self.index.thumbnails[rows])
        best = np.lexsort((rows, -similarities))
        return Retrieval(
            rows=tuple(rows[best].tolist()),
            semantic_distance=tuple(distances[best].tolist()),
            feature_similarity=tuple(cosines[best].tolist()),
            structural_similarity=tuple(similarities[best].tolist()),
        )
