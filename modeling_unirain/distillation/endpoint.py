"""Judges behind an OpenAI-compatible endpoint (vLLM, TGI, ...), for those who outgrow one machine.

What can pass (timeouts, cut connections, 408, 429, 5xx, answers that are not the protocol) is tried again, later and later. A
case that still has no answer, or that is refused (400, 413, 422: servers do not take every picture), is an abstention with the
reason. Any other refusal (of a key, 401 and 403; of a model, 404; for want of money, 402), and an endpoint that answers no case
of a batch nor one of ordinary pictures, stop the run with one sentence: finished shards stay, and the next run goes on there.
"""

import base64
import email.utils
import io
import logging
import os
import random
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime

import httpx
import numpy as np

from modeling_unirain.distillation.judging import MAX_IMAGE_SIDE, MAX_NEW_TOKENS, Prompt, bounded, slug, vote_of
from modeling_unirain.distillation.protocols import Judge, JudgeCase, Triplet, Vote


logger = logging.getLogger(__name__)

API_KEY_VARIABLE = "UNIRAIN_API_KEY"
"""Environment variable with the endpoint's key. It is sent as a bearer token, and written nowhere."""
RETRIED = frozenset({408, 409, 425, 429})
"""Beside all of 500 and above: of servers and the proxies before them."""
REFUSED_CASE = frozenset({400, 413, 422})
LONGEST_WAIT = 60.0
LONGEST_RETRY_AFTER = 600.0


class EndpointJudge(Judge):
    """Asks a model behind `URL/chat/completions`.

    Args:
        url (`str`): The endpoint's base, such as `http://127.0.0.1:8000/v1`.
        model (`str`): The model's name there.
        prompt (`Prompt`)
        concurrency (`int`): Requests in flight at a time.
        timeout (`float`): Seconds to wait for one answer.
        attempts (`int`): How often a case is asked before it counts as an abstention.
        first_wait (`float`): Seconds before the second attempt; doubled for each further one, at most 60, less a jitter of up to half.
    """

    def __init__(
        self,
        url: str,
        model: str,
        prompt: Prompt,
        concurrency: int = 8,
        timeout: float = 120.0,
        attempts: int = 6,
        first_wait: float = 1.0,
    ):
        if not url.startswith(("http://", "https://")) or not model:
            raise ValueError(
                f"an endpoint is written as URL#MODEL, such as http://127.0.0.1:8000/v1#NAME, not '{url}#{model}'"
            )
        self.url = url.rstrip("/")
        self.model = model
        self.prompt = prompt
        self.concurrency = concurrency
        self.timeout = timeout
        self.attempts = attempts
        self.first_wait = first_wait
        self.name = slug(model)
        self._client: httpx.Client | None = None

    @property
    def fingerprint(self) -> str:
        return f"endpoint {self.model} {MAX_NEW_TOKENS} {self.prompt.template}"

    def check(self) -> None:
        """Ask the endpoint which models it has. One that keeps no list (404) is believed."""
        try:
            response = self._connection().get("models", timeout=min(self.timeout, 10.0))
        except httpx.HTTPError as error:
            raise OSError(
                f"the endpoint {self.url} cannot be reached ({type(error).__name__}): is it running?"
            ) from error
        if response.status_code in (404, 405):
            return
        if response.is_error:
            raise self._refusal(response)
        try:
            names = [str(entry["id"]) for entry in response.json()["data"]]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise OSError(f"{self.url} does not speak the OpenAI protocol: its list of models is not one") from error
        if self.model not in names:
            raise ValueError(
                f"the endpoint {self.url} has no model '{self.model}'; it has {', '.join(names) or 'none'}"
            )

    def release(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    def judge(self, cases: Sequence[JudgeCase]) -> list[Vote]:
        self._connection()
        with ThreadPoolExecutor(self.concurrency) as pool:
            try:
                answers = list(pool.map(self._ask, cases))
            except (OSError, ValueError):
                pool.shutdown(cancel_futures=True)
                raise
        failed = all(isinstance(answer, Exception) for answer in answers)
        if answers and failed and isinstance(self._ask(_ordinary(cases[-1])), Exception):
            raise OSError(
                f"the endpoint {self.url} answered none of {len(answers)} requests, nor one about ordinary pictures "
                f"({cases[-1].pair_id}: {answers[-1]}); the next run goes on from here"
            )
        return [
            Vote(self.name, None, reason=str(answer)) if isinstance(answer, Exception) else vote_of(self.name, answer)
            for answer in answers
        ]

    def _ask(self, case: JudgeCase) -> "str | PassingFailure | RefusedCase":
        """The model's answer, or what the last attempt failed with."""
        request = {
            "model": self.model,
            "messages": [{"role": "user", "content": [_content(part) for part in self.prompt.render(case)]}],
            "temperature": 0,
            "seed": 0,
            "max_tokens": MAX_NEW_TOKENS,
        }
        jitter = random.Random(case.pair_id)
        for attempt in range(self.attempts):
            try:
                return self._complete(request)
            except RefusedCase as refused:
                logger.warning("%s: %s", case.pair_id, refused)
                return refused
            except PassingFailure as failure:
                last = failure
            if attempt + 1 < self.attempts:
                wait = min(self.first_wait * 2**attempt, LONGEST_WAIT) * jitter.uniform(0.5, 1)
                logger.info("%s: %s; asking again about %s", self.url, last, case.pair_id)
                time.sleep(max(wait, last.retry_after))
        return PassingFailure(f"no answer after {self.attempts} attempts: {last}")

    def _complete(self, request: dict) -> str:
        try:
            response = self._connection().post("chat/completions", json=request)
        except httpx.TimeoutException as error:
            raise PassingFailure(f"no answer within {self.timeout:g} s") from error
        except httpx.HTTPError as error:
            raise PassingFailure(f"the connection failed ({type(error).__name__})") from error
        if response.status_code in RETRIED or response.status_code >= 500:
            raise PassingFailure(f"HTTP {response.status_code}", _retry_after(response))
        if response.status_code in REFUSED_CASE:
            raise RefusedCase(str(self._refusal(response)))
        if response.is_error:
            raise self._refusal(response)
        try:
            answer = response.json()["choices"][0]["message"]["content"]
        except (ValueError, KeyError, IndexError, TypeError, RecursionError) as error:
            raise PassingFailure("the answer is not a chat completion") from error
        if not isinstance(answer, str):
            raise PassingFailure("the answer holds no text")
        return answer.strip()

    def _refusal(self, response: httpx.Response) -> OSError:
        """What a person can do about an answer that will not change."""
        code = response.status_code
        if code in (401, 403):
            return OSError(f"the endpoint {self.url} refuses the key (HTTP {code}): set {API_KEY_VARIABLE}")
        if code == 404:
            return OSError(f"the endpoint {self.url} knows no model '{self.model}' or no chat completions (HTTP 404)")
        said = " ".join(response.text.split())[:200]
        return OSError(f"the endpoint {self.url} refuses the request (HTTP {code}): {self._without_key(said)}")

    def _without_key(self, text: str) -> str:
        key = os.environ.get(API_KEY_VARIABLE)
        return text.replace(key, "***") if key else text

    def _connection(self) -> httpx.Client:
        if self._client is None:
            key = os.environ.get(API_KEY_VARIABLE, "")
            if not (key.isascii() and key.isprintable()):
                raise ValueError(f"{API_KEY_VARIABLE} holds what no key has, a line break or a letter beyond ASCII")
            self._client = httpx.Client(
                base_url=self.url + "/",
                timeout=self.timeout,
                headers={"Authorization": f"Bearer {key}"} if key else {},
                limits=httpx.Limits(max_connections=self.concurrency),
            )
        return self._client


class PassingFailure(Exception):
    """One attempt failed in a way that may pass; the server may have said after how many seconds."""

    def __init__(self, message: str, retry_after: float = 0.0):
        super().__init__(message)
        self.retry_after = retry_after


class RefusedCase(Exception):
    """The endpoint does not take this request, however often it is asked."""


def _ordinary(case: JudgeCase) -> JudgeCase:
    """The case with noise in place of its pictures, of the size and shape that photographs are sent in and no smaller when encoded:
    an endpoint that does not answer this one either answers none, be it only that its context is too short."""
    noise = np.random.default_rng(0).integers(0, 256, (MAX_IMAGE_SIDE * 3 // 4, MAX_IMAGE_SIDE, 3), dtype=np.uint8)

    def ordinary(triplet: Triplet) -> Triplet:
        return replace(triplet, image=noise, caption="noise")

    references = tuple(replace(found, reference=ordinary(found.reference)) for found in case.references)
    return replace(case, query=ordinary(case.query), target=noise, references=references)


def _retry_after(response: httpx.Response) -> float:
    """Seconds, from a number or an HTTP date; 0 where the header is absent or not one of these."""
    value = response.headers.get("retry-after", "")
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = (email.utils.parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError):
            return 0.0
    return min(max(seconds, 0.0), LONGEST_RETRY_AFTER) if seconds == seconds else 0.0


def _content(part: str | np.ndarray) -> dict:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    data = io.BytesIO()
    bounded(part).save(data, "PNG")
    encoded = base64.b64encode(data.getvalue()).decode()
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{encoded}"}}
