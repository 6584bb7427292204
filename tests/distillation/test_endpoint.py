"""The endpoint judge against a real HTTP server on loopback that speaks the OpenAI protocol, and fails in every way."""

import base64
import io
import json
import logging
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from distillation.tiny_corpus import contents, distil
from PIL import Image

from modeling_unirain.distillation.endpoint import API_KEY_VARIABLE, EndpointJudge
from modeling_unirain.distillation.judging import Prompt
from modeling_unirain.distillation.protocols import JudgeCase, RetrievedReference, Triplet


YES = '{"reliable": true, "reason": "believable"}'
IMPATIENCE = 1.5
"""Seconds after which the judge gives up on an answer, where that is tested; a busy machine answers sooner."""


class Server(ThreadingHTTPServer):
    """Answers each request with the next fault of `faults`, and with `answer` when there is none left."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.faults: list[str] = []
        self.lock = threading.Lock()
        self.requests: list[dict] = []
        self.arrivals: list[float] = []
        self.keys: list[str | None] = []
        self.running = self.most_running = 0
        self.answer = lambda request: YES
        self.delay = 0.0
        self.has_models = True

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_GET(self):
        if self.server.has_models and self.path == "/v1/models":
            return self.reply(200, {"object": "list", "data": [{"id": "vlm"}, {"id": "other"}]})
        return self.reply(404, {"error": "no such path"})

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server = self.server
        with server.lock:
            server.requests.append(request)
            server.arrivals.append(time.monotonic())
            server.keys.append(self.headers.get("Authorization"))
            server.running += 1
            server.most_running = max(server.most_running, server.running)
            fault = server.faults.pop(0) if server.faults else ""
        try:
            time.sleep(server.delay)
            self.fail(fault) if fault else self.complete(server.answer(request))
        except (BrokenPipeError, ConnectionResetError):
            pass  # the client gave up on this attempt, which is what a timeout is
        finally:
            with server.lock:
                server.running -= 1

    def complete(self, text):
        message = {"role": "assistant", "content": text}
        self.reply(200, {"object": "chat.completion", "choices": [{"index": 0, "message": message}]})

    def fail(self, fault):
        if fault == "cut":
            self.close_connection = True
            self.connection.close()
        elif fault == "half":
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4000\r\n\r\n{")
            self.wfile.flush()
            self.close_connection = True
            self.connection.close()
        elif fault == "slow":
            time.sleep(3 * IMPATIENCE)
            self.complete(YES)
        elif fault == "garbage":
            self.reply(200, b"<html>not the protocol</html>")
        elif fault == "brackets":
            self.reply(200, b"[" * 100_000)
        elif fault == "empty":
            self.reply(200, {"choices": []})
        elif fault == "null":
            self.complete(None)
        elif fault.startswith("429"):
            self.reply(429, {"error": "slow down"}, {"Retry-After": fault.partition(" ")[2]})
        else:
            self.reply(int(fault), {"error": f"failed with key {self.headers.get('Authorization')}"})

    def reply(self, code, body, headers=()):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(code)
        for name, value in dict(headers).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def server():
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def picture(seed, height=40, width=56):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def case(number):
    def triplet(name, seed):
        return Triplet(name, picture(seed), "rain at dusk", np.zeros(2, np.float32), np.zeros(2, np.float32))

    references = tuple(RetrievedReference(triplet(f"r{k}", 100 + k), 0.1, 0.9, 0.5) for k in range(2))
    return JudgeCase(f"source/DRS/{number}", triplet(f"source/DRS/{number}", number), picture(number), references)


def judge_of(server, **settings):
    settings = {"timeout": 60, "attempts": 4, "first_wait": 0.01} | settings
    return EndpointJudge(server.url, "vlm", Prompt("{query} like {references}? {caption}"), **settings)


def test_the_query_and_its_references_are_sent_in_the_prompts_order_without_loss(server):
    votes = judge_of(server).judge([case(7)])
    assert [vote.decision for vote in votes] == [True]
    assert votes[0].raw_answer == YES and votes[0].reason == "believable"
    content = server.requests[0]["messages"][0]["content"]
    assert [part["type"] for part in content] == ["image_url", "text", "image_url", "image_url", "text"]
    assert content[4]["text"] == "? rain at dusk"
    sent = [part["image_url"]["url"] for part in content if part["type"] == "image_url"]
    images = [np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))) for url in sent]
    for image, seed in zip(images, (7, 100, 101), strict=True):
        np.testing.assert_array_equal(image, picture(seed))
    assert server.requests[0]["temperature"] == 0


@pytest.mark.parametrize(
    "fault", ["500", "503", "520", "429 0", "408", "cut", "half", "slow", "garbage", "brackets", "empty", "null"]
)
def test_a_fault_that_passes_is_asked_again_and_changes_nothing(server, fault):
    server.faults = [fault, fault]
    votes = judge_of(server, **({"timeout": IMPATIENCE} if fault == "slow" else {})).judge([case(1)])
    assert votes[0].decision is True
    assert len(server.requests) == 3
    assert server.requests[0] == server.requests[2]


def test_the_server_says_how_long_to_wait(server):
    server.faults = ["429 0.6"]
    assert judge_of(server).judge([case(1)])[0].decision is True
    assert server.arrivals[1] - server.arrivals[0] >= 0.6


def test_waits_grow_between_attempts(server):
    server.faults = ["500"] * 4
    judge_of(server, attempts=5, first_wait=0.1).judge([case(1)])
    waits = np.diff(server.arrivals)
    assert all(wait >= 0.05 * 2**k for k, wait in enumerate(waits))


def test_a_case_that_never_gets_an_answer_is_an_abstention_with_the_reason(server):
    server.faults = ["500"] * 4
    votes = judge_of(server, concurrency=1).judge([case(1), case(2)])
    assert votes[0].decision is None and "HTTP 500" in votes[0].reason and "4 attempts" in votes[0].reason
    assert votes[1].decision is True


def test_an_endpoint_that_answers_nothing_stops_the_run(server):
    server.faults = ["500"] * 99
    with pytest.raises(OSError, match="answered none of 3 requests.*HTTP 500"):
        judge_of(server).judge([case(k) for k in range(3)])


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("401", API_KEY_VARIABLE),
        ("403", API_KEY_VARIABLE),
        ("404", "no model 'vlm'"),
        ("400", "source/DRS/1.*HTTP 400"),
    ],
)
def test_what_will_not_pass_stops_the_run_at_once(server, fault, sentence, monkeypatch):
    monkeypatch.setenv(API_KEY_VARIABLE, "secret-key")
    server.faults = [fault] * 99
    with pytest.raises(OSError, match=sentence) as stopped:
        judge_of(server).judge([case(1)])
    assert len(server.requests) == (2 if fault == "400" else 1)
    assert "secret-key" not in str(stopped.value)


@pytest.mark.parametrize("fault", ["400", "413", "422"])
def test_a_case_that_is_refused_by_itself_is_an_abstention_with_the_reason(server, fault):
    server.faults = [fault]
    votes = judge_of(server, concurrency=1).judge([case(1)])  # one about ordinary pictures is answered
    assert votes[0].decision is None and f"HTTP {fault}" in votes[0].reason
    assert [_size(request) for request in server.requests] == [(56, 40), (672, 504)]


def test_an_endpoint_for_which_ordinary_pictures_are_too_large_stops_the_run(server):
    server.faults = ["400"] * 99
    with pytest.raises(OSError, match="answered none of 2 requests, nor one about ordinary pictures"):
        judge_of(server).judge([case(1), case(2)])


@pytest.mark.parametrize("fault", ["402", "405"])
def test_what_is_no_fault_of_the_case_is_no_abstention(server, fault):
    server.faults = ["", fault]
    with pytest.raises(OSError, match=f"HTTP {fault}"):
        judge_of(server, concurrency=1).judge([case(1), case(2)])


def test_a_case_that_alone_in_its_batch_gets_no_answer_does_not_stop_the_run(server):
    server.faults = ["500"] * 4
    votes = judge_of(server).judge([case(1)])
    assert votes[0].decision is None and "HTTP 500" in votes[0].reason and "4 attempts" in votes[0].reason
    assert len(server.requests) == 5


def test_the_key_is_sent_and_never_logged(server, monkeypatch, caplog):
    monkeypatch.setenv(API_KEY_VARIABLE, "secret-key")
    server.faults = ["500", "cut"]
    with caplog.at_level(logging.DEBUG):
        judge = judge_of(server)
        judge.judge([case(1)])
    assert server.keys[-1] == "Bearer secret-key"
    assert "secret-key" not in caplog.text
    assert "secret-key" not in judge.fingerprint


@pytest.mark.parametrize("key", ["secret\r", "sécret"])
def test_a_key_that_no_header_can_hold_is_named_and_not_shown(server, monkeypatch, key):
    monkeypatch.setenv(API_KEY_VARIABLE, key)
    with pytest.raises(ValueError, match=f"^{API_KEY_VARIABLE} holds what no key has") as raised:
        judge_of(server).check()
    assert "cret" not in str(raised.value)


def test_requests_in_flight_are_bounded_and_votes_keep_their_order(server):
    server.delay = 0.3
    server.answer = lambda request: "yes" if _brightness(request) > 127 else "no"
    cases = [case(k) for k in range(12)]
    bright = [k % 3 == 0 for k in range(12)]
    for number, (one, is_bright) in enumerate(zip(cases, bright, strict=True)):
        cases[number] = JudgeCase(
            one.pair_id,
            Triplet(one.pair_id, np.full((32, 32, 3), 250 if is_bright else 5, np.uint8), "", *[np.zeros(1)] * 2),
            one.target,
            one.references,
        )
    votes = judge_of(server, concurrency=3).judge(cases)
    assert [vote.decision for vote in votes] == bright
    assert 2 <= server.most_running <= 3


def test_unclear_answers_abstain(server):
    server.answer = lambda request: "It is hard to say."
    vote = judge_of(server).judge([case(1)])[0]
    assert vote.decision is None and vote.raw_answer == "It is hard to say."
    assert len(server.requests) == 1


def test_check_wants_the_model_to_be_there(server):
    judge_of(server).check()
    with pytest.raises(ValueError, match="has no model 'absent'; it has vlm, other"):
        EndpointJudge(server.url, "absent", Prompt("{query}{references}")).check()
    server.has_models = False
    judge_of(server).check()  # a server without a list is believed


def test_check_says_when_nothing_listens():
    with pytest.raises(OSError, match="cannot be reached"):
        EndpointJudge("http://127.0.0.1:9/v1", "vlm", Prompt("{query}{references}"), timeout=1).check()
    with pytest.raises(ValueError, match="URL#MODEL"):
        EndpointJudge("127.0.0.1:8000", "vlm", Prompt("{query}{references}"))


def test_a_run_that_the_endpoint_stopped_goes_on_with_the_cases_it_has_no_answer_to(server, data, tmp_path):
    judge = judge_of(server, attempts=1, timeout=30)
    server.faults = [""] * 8 + ["500"] * 99  # the first shard has eight cases
    with pytest.raises(OSError, match="answered none"):
        distil(data, tmp_path / "stopped", {"judges": (judge,)})
    server.faults, server.requests = [], []
    distil(data, tmp_path / "stopped", {"judges": (judge,)})
    assert len(server.requests) == 12
    distil(data, tmp_path / "unbroken", {"judges": (judge,)})
    assert contents(tmp_path / "stopped" / "output") == contents(tmp_path / "unbroken" / "output")


def _image(request):
    url = request["messages"][0]["content"][0]["image_url"]["url"]
    return Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))


def _brightness(request):
    return np.asarray(_image(request)).mean()


def _size(request):
    return _image(request).size
