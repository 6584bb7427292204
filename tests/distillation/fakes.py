"""Stand-ins for what is slow: models. Each computes something simple, real and deterministic from the picture."""

from collections.abc import Callable

import numpy as np

from modeling_unirain.distillation.protocols import Captioner, ImageEmbedder, Judge, JudgeCase, TextEmbedder, Vote


class FakeCaptioner(Captioner):
    """Names the brightness of the picture in eight words, so that many captions are equal."""

    name = "fake-captioner"

    def __init__(self, version: int = 1):
        self.fingerprint = f"fake-captioner-{version}"
        self.images_seen = 0

    def caption(self, images):
        self.images_seen += len(images)
        return [f"a scene of brightness {int(image.mean()) // 32}" for image in images]


class FakeTextEmbedder(TextEmbedder):
    """Five numbers from the caption's letters: equal captions embed equally."""

    name = "fake-text"
    fingerprint = "fake-text-1"

    def embed_texts(self, texts):
        return np.array([[len(text), *(ord(letter) for letter in text[-4:])] for text in texts], dtype=np.float32)


class FakeImageEmbedder(ImageEmbedder):
    """Mean colour of the four quarters, twelve numbers."""

    name = "fake-image"
    fingerprint = "fake-image-1"

    def embed_images(self, images):
        return np.stack([_quarters(image) for image in images])


class ScriptedJudge(Judge):
    """Votes as a function of the case says; counts the references it was fitted on."""

    def __init__(self, name: str, decide: Callable[[JudgeCase], bool | None], version: int = 1):
        self.name, self.decide = name, decide
        self.fingerprint = f"{name}-{version}"
        self.cases_seen = 0
        self.statistics = {}

    def fit(self, references):
        means = [reference.image.mean() for reference in references]
        return {"count": np.array([len(means)]), "brightness": np.array([np.mean(means)])}

    def load_statistics(self, statistics):
        self.statistics = dict(statistics)

    def judge(self, cases):
        self.cases_seen += len(cases)
        return [self._vote(case) for case in cases]

    def _vote(self, case):
        scores = {
            "from_references": float(case.query.image.mean() - self.statistics["brightness"][0]),
            "rain": float(np.abs(case.query.image.astype(float) - case.target).mean()),
        }
        decision = self.decide(case)
        return Vote(self.name, decision, f"said {decision}", f"{self.name} finds it {decision}", scores)


def _quarters(image):
    half = image.shape[0] // 2, image.shape[1] // 2
    parts = (
        image[: half[0], : half[1]],
        image[: half[0], half[1] :],
        image[half[0] :, : half[1]],
        image[half[0] :, half[1] :],
    )
    return np.concatenate([part.mean(axis=(0, 1)) for part in parts]).astype(np.float32)
