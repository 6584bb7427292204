"""What the pipeline asks of a captioner, an embedder and a judge, and what it hands them.

A backend subclasses its protocol explicitly, so that it inherits the optional methods (`check`, `release`, `fit`,
`load_statistics`) as no-ops. Images are `uint8` RGB arrays of shape (height, width, 3), of any size, everywhere.
Weights load on first use: building a backend costs nothing, and a rank that has no shard left never loads them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np


@dataclass(frozen=True, eq=False)
class Triplet:
    """An image as the reference database stores it: (T, f, I) of the paper, with the embedded caption φ_T(T)."""

    image_id: str
    """`pair_id` of a candidate, `reference_id` of a reference."""
    image: np.ndarray
    """I, `uint8` RGB (height, width, 3)."""
    caption: str
    """T."""
    text_embedding: np.ndarray
    """φ_T(T), `float32` (d_text,), as the text embedder gave it (not normalised)."""
    image_embedding: np.ndarray
    """f, `float32` (d_image,), as the image embedder gave it (not normalised)."""
    rain_type: str | None = None
    """Degradation type the source states, or `None`."""


@dataclass(frozen=True, eq=False)
class RetrievedReference:
    """One member of the retrieved set S(q), with the score of each level."""

    reference: Triplet
    semantic_distance: float
    """s_txt: L2 distance of the embedded captions, smaller is nearer."""
    feature_similarity: float
    """s_vis: cosine of the visual features, in [-1, 1]."""
    structural_similarity: float
    """s_perc: SSIM of the images, in [-1, 1]."""


@dataclass(frozen=True, eq=False)
class JudgeCase:
    """What a judge is shown for one candidate pair. Query and target always have the same size."""

    pair_id: str
    query: Triplet
    """The rainy image I_q with its caption and embeddings."""
    target: np.ndarray
    """The clean image of the pair, `uint8` RGB, the query's shape. The paper's judges do not look at it."""
    references: tuple[RetrievedReference, ...]
    """S(q), the structurally most similar first; between 1 and K3 of them."""


@dataclass(frozen=True)
class Vote:
    """One judge's answer to one case."""

    judge: str
    """Name of the judge."""
    decision: bool | None
    """`True` keeps the pair, `False` rejects it, `None` abstains (an unparsable answer, or nothing to measure)."""
    raw_answer: str = ""
    """What the model answered, word for word; empty where no model spoke."""
    reason: str = ""
    """One sentence a person can read."""
    scores: dict[str, float] = field(default_factory=dict)
    """What was measured, so that a threshold can be changed later without measuring again."""


class Backend(Protocol):
    """What every backend has."""

    name: str
    """Short, fit for a folder name (`[a-z0-9._-]+`), unique among the judges of a run."""

    fingerprint: str
    """Changes whenever a setting changes that changes the results (model, revision, prompt, thresholds, ...), and never
    with what does not (device, batch size, URL of the same model). Part of the stage's hash. An attribute or a
    property."""

    def check(self) -> None:
        """Raise `ValueError` or `OSError`, with one clear sentence, if the backend cannot work (weights out of reach,
        a bad prompt, a missing package). Called before any time is spent; must not load weights."""

    def release(self) -> None:
        """Give memory back: the stage is over. A later call loads the weights again."""


class Captioner(Backend, Protocol):
    """T: describes an image in words. The paper's is BLIP."""

    def caption(self, images: Sequence[np.ndarray]) -> list[str]:
        """One caption per image, in order."""
        ...


class TextEmbedder(Backend, Protocol):
    """φ_T: embeds a caption. The paper's is CLIP's text encoder."""

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """`float32` (n, d_text), one row per text, in order."""
        ...


class ImageEmbedder(Backend, Protocol):
    """f: the visual feature of an image. The paper's is CLIP's image encoder."""

    def embed_images(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """`float32` (n, d_image), one row per image, in order."""
        ...


class Judge(Backend, Protocol):
    """V: decides whether a pair is reliable training data, beside retrieved real rain."""

    def fit(self, references: Iterable[Triplet]) -> dict[str, np.ndarray]:
        """Statistics over all real references; computed once, saved in the work folder, given to `load_statistics`
        of every process (the one that fitted included). `references` streams from disk and can be iterated once. A
        judge that needs none inherits this and the references are never read."""
        return {}

    def load_statistics(self, statistics: Mapping[str, np.ndarray]) -> None:
        """Take what `fit` returned. Called once before `judge`."""

    def judge(self, cases: Sequence[JudgeCase]) -> list[Vote]:
        """One vote per case, in order, each independent of the other cases of the batch."""
        ...
