"""Vision language models as judges (section 3.2 of the paper): the prompt, its answer, and the model that is asked.

The paper does not print its prompt: ours lies in `prompts/judge.txt` and can be replaced by any text file. An answer counts only
when it is unmistakable. Whatever else a model says is an abstention, never a yes.
"""

import json
import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from modeling_unirain.distillation.pretrained import Pretrained, slug
from modeling_unirain.distillation.protocols import Judge, JudgeCase, Vote


DEFAULT_PROMPT = Path(__file__).parent / "prompts" / "judge.txt"
IMAGE_PLACES = ("query", "references")
TEXT_PLACES = ("num_references", "caption")
MAX_IMAGE_SIDE = 672
"""Pictures shown to a model are at most this large: what LLaVA-NeXT sees at most, and a bound on tokens and on requests."""
MAX_NEW_TOKENS = 96

_WORD = re.compile(r"(yes|no)\s*(?:[.,:;!\n]|$)", re.IGNORECASE)
_FENCE = re.compile(r"```(?:json)?\s*(.*?)\s*```", re.DOTALL)


@dataclass(frozen=True)
class Prompt:
    """A template in which `{query}` and `{references}` stand where the pictures go, in this order and once each.

    `{num_references}` and `{caption}` (of the query) may stand anywhere; a literal brace is doubled.
    """

    template: str

    @classmethod
    def from_file(cls, path: str | Path = DEFAULT_PROMPT) -> "Prompt":
        """Raises `ValueError`, naming the file, when it cannot be read or its places are not as described."""
        try:
            template = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"the prompt file {path} cannot be read ({type(error).__name__})") from error
        try:
            places = [place for _, place, _, _ in string.Formatter().parse(template) if place is not None]
        except ValueError as error:
            raise ValueError(
                f"the prompt file {path} has unbalanced braces ({error}); double a literal one"
            ) from error
        unknown = sorted(set(places) - {*IMAGE_PLACES, *TEXT_PLACES})
        if unknown:
            allowed = ", ".join(f"{{{place}}}" for place in (*IMAGE_PLACES, *TEXT_PLACES))
            raise ValueError(f"the prompt file {path} has the unknown place {{{unknown[0]}}}; it may use {allowed}")
        if tuple(place for place in places if place in IMAGE_PLACES) != IMAGE_PLACES:
            raise ValueError(f"the prompt file {path} must hold {{query}} and then {{references}}, once each")
        return cls(template.strip())

    def render(self, case: JudgeCase) -> list[str | np.ndarray]:
        """The prompt's parts in order: text, and images of shape (height, width, 3), `uint8`."""
        images = {
            "query": [case.query.image],
            "references": [retrieved.reference.image for retrieved in case.references],
        }
        words = {"num_references": str(len(case.references)), "caption": case.query.caption}
        parts: list[str | np.ndarray] = [""]
        for text, place, _, _ in string.Formatter().parse(self.template):
            parts = _with_text(parts, text + words.get(place, ""))
            parts += images.get(place, [])
        return [part for part in parts if not isinstance(part, str) or part.strip()]


def parse_answer(answer: str) -> tuple[bool | None, str]:
    """The decision in a model's answer and the reason it gave.

    Accepted are one JSON object with a boolean `reliable` (fenced or bare, nothing around it), and an answer whose first word is
    yes or no, ended by punctuation, a line break or the end. Anything else is an abstention: `(None, why)`.
    """
    text = answer.strip()
    fenced = _FENCE.fullmatch(text)
    try:
        value = json.loads(fenced[1] if fenced else text)
    except (ValueError, RecursionError):  # the second from nothing but brackets, as of a model that repeats itself
        word = _WORD.match(text)
        if word is None:
            return None, "the answer is neither the JSON object asked for nor begins with yes or no"
        return word[1].lower() == "yes", text[word.end() :].strip()
    if isinstance(value, dict) and isinstance(value.get("reliable"), bool):
        return value["reliable"], str(value.get("reason", ""))
    return None, "the answer is JSON without a boolean `reliable`"


def vote_of(judge: str, answer: str) -> Vote:
    """The vote that an answer is."""
    decision, reason = parse_answer(answer)
    return Vote(judge, decision, raw_answer=answer, reason=reason)


def bounded(image: np.ndarray) -> Image.Image:
    """The picture for a model, its longer side at most `MAX_IMAGE_SIDE`."""
    picture = Image.fromarray(image)
    picture.thumbnail((MAX_IMAGE_SIDE, MAX_IMAGE_SIDE), Image.Resampling.LANCZOS)
    return picture


class VlmJudge(Pretrained, Judge):
    """Any vision language model that transformers loads for several images in one prompt.

    Args:
        model (`str`): Hub id (`ORG/NAME` or `ORG/NAME@revision`) or folder.
        prompt (`Prompt`)
        device (`str`, *optional*): default: CUDA, else MPS, else the CPU.
    """

    def __init__(self, model: str, prompt: Prompt, device: str | None = None):
        super().__init__(model, "AutoModelForImageTextToText", device)
        self.prompt = prompt
        self.name = slug(model)

    @property
    def fingerprint(self) -> str:
        return f"{super().fingerprint} {MAX_IMAGE_SIDE} {MAX_NEW_TOKENS} {self.prompt.template}"

    def check(self) -> None:
        super().check()
        if not getattr(self.load_processor(), "chat_template", None):
            raise ValueError(f"{self.model} has no chat template, so it cannot be asked about several images")

    def judge(self, cases: Sequence[JudgeCase]) -> list[Vote]:
        model, processor = self.load()
        processor.tokenizer.padding_side = "left"  # what is generated must follow the prompt, not its padding
        inputs = processor.apply_chat_template(
            [[{"role": "user", "content": self._content(case)}] for case in cases],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True},
        ).to(model.device, dtype=model.dtype)
        with torch.inference_mode():
            tokens = model.generate(**inputs, max_new_tokens=MAX_NEW_TOKENS, do_sample=False)
        answers = processor.batch_decode(tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        return [vote_of(self.name, answer.strip()) for answer in answers]

    def _content(self, case: JudgeCase) -> list[dict]:
        return [
            {"type": "text", "text": part} if isinstance(part, str) else {"type": "image", "image": bounded(part)}
            for part in self.prompt.render(case)
        ]


def _with_text(parts: list, text: str) -> list:
    if isinstance(parts[-1], str):
        return [*parts[:-1], parts[-1] + text]
    return [*parts, text]
