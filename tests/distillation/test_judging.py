"""The prompt's places, the strict reading of answers, and a real (tiny, random) LLaVA that is asked."""

import numpy as np
import pytest
from distillation.tiny_checkpoints import tiny_llava, tiny_tokenizer

from modeling_unirain.distillation.judging import DEFAULT_PROMPT, Prompt, VlmJudge, bounded, parse_answer, vote_of
from modeling_unirain.distillation.protocols import JudgeCase, RetrievedReference, Triplet


def triplet(name, seed, size=(40, 56)):
    image = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    return Triplet(name, image, f"rain in {name}", np.zeros(2, np.float32), np.zeros(2, np.float32))


def case(number, references=2):
    query = triplet(f"q{number}", number)
    found = tuple(RetrievedReference(triplet(f"r{k}", 50 + k), 0.1, 0.9, 0.5) for k in range(references))
    return JudgeCase(f"pair-{number}", query, query.image, found)


@pytest.mark.parametrize(
    ("answer", "decision", "reason"),
    [
        ('{"reliable": true, "reason": "natural streaks"}', True, "natural streaks"),
        (' {"reliable": false}\n', False, ""),
        ('```json\n{"reliable": true, "reason": "ok"}\n```', True, "ok"),
        ("Yes", True, ""),
        ("no.", False, ""),
        ("YES, the streaks look natural.", True, "the streaks look natural."),
        ("No\nThe rain is red.", False, "The rain is red."),
    ],
)
def test_clear_answers_count(answer, decision, reason):
    assert parse_answer(answer) == (decision, reason)


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "yes or no",
        "Yesterday it rained.",
        "Nothing speaks against it.",
        "I would say yes.",
        "The answer is: yes",
        '{"reliable": "true"}',
        '{"reliable": 1}',
        '{"reliable": null}',
        '{"trusted": true}',
        "[true]",
        "true",
        '{"reliable": true',
        'Sure! {"reliable": true}',
        '{"reliable": true} {"reliable": false}',
        "yes/no",
        "yes - no",
        "\x00",
        "[" * 100_000,
    ],
)
def test_anything_else_is_an_abstention_that_keeps_the_answer(answer):
    vote = vote_of("model", answer)
    assert vote.decision is None
    assert vote.raw_answer == answer and vote.reason


def test_our_prompt_puts_the_query_before_the_references():
    one = case(1, references=3)
    parts = Prompt.from_file().render(one)
    images = [part for part in parts if not isinstance(part, str)]
    assert images[0] is one.query.image
    assert [id(image) for image in images[1:]] == [id(r.reference.image) for r in one.references]
    text = "".join(part for part in parts if isinstance(part, str))
    assert "The 3 image(s)" in text and '{"reliable": true' in text


@pytest.mark.parametrize(
    ("template", "complaint"),
    [
        ("{references} then {query}", "must hold {query} and then {references}"),
        ("{query}", "must hold"),
        ("{query} {query} {references}", "must hold"),
        ("{query} {references} {model}", "unknown place {model}"),
        ("{query} {references} {", "unbalanced braces"),
        ("{query} {references} {}", "unknown place {}"),
    ],
)
def test_a_bad_prompt_file_is_named_with_what_is_wrong(tmp_path, template, complaint):
    file = tmp_path / "mine.txt"
    file.write_text(template)
    with pytest.raises(ValueError, match="mine.txt") as raised:
        Prompt.from_file(file)
    assert complaint in str(raised.value)


def test_a_prompt_file_that_is_not_text_is_named(tmp_path):
    file = tmp_path / "mine.txt"
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="mine.txt cannot be read"):
        Prompt.from_file(file)
    with pytest.raises(ValueError, match="none.txt cannot be read"):
        Prompt.from_file(tmp_path / "none.txt")


def test_pictures_are_bounded_and_small_ones_are_untouched():
    assert bounded(np.zeros((2000, 1000, 3), np.uint8)).size == (336, 672)
    small = case(1).query.image
    np.testing.assert_array_equal(np.asarray(bounded(small)), small)


@pytest.fixture(scope="module")
def llava(tmp_path_factory):
    return tiny_llava(tmp_path_factory.mktemp("models") / "tiny-llava")


def test_a_real_model_answers_cases_with_different_numbers_of_pictures(llava):
    judge = VlmJudge(str(llava), Prompt.from_file(), "cpu")
    judge.check()
    cases = [case(1, 2), case(2, 1), case(3, 3)]
    together = judge.judge(cases)
    alone = [judge.judge([one])[0] for one in cases]
    assert [vote.raw_answer for vote in together] == [vote.raw_answer for vote in alone]
    assert all(vote.judge == judge.name and vote.raw_answer for vote in together)
    judge.release()
    assert judge.judge(cases[:1])[0] == alone[0]  # weights come back after a release


def test_what_the_model_sees_are_the_pictures(llava):
    judge = VlmJudge(str(llava), Prompt("{query} {references}"), "cpu")
    model, processor = judge.load()
    seen = []
    model.model.vision_tower.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(args[0] if args else kwargs["pixel_values"]), with_kwargs=True
    )
    one = case(4, 2)
    judge.judge([one])
    expected = processor.image_processor(
        [bounded(one.query.image), *(bounded(r.reference.image) for r in one.references)], return_tensors="pt"
    )["pixel_values"]
    np.testing.assert_allclose(seen[0].numpy(), expected.numpy())


def test_the_fingerprint_follows_what_changes_answers(llava, tmp_path):
    judge = VlmJudge(str(llava), Prompt("{query} {references}"), "cpu")
    assert judge.fingerprint == VlmJudge(str(llava), Prompt("{query} {references}")).fingerprint
    assert judge.fingerprint != VlmJudge(str(llava), Prompt("{query} or {references}")).fingerprint
    other = tiny_llava(tmp_path / "tiny-llava", seed=1)
    assert judge.fingerprint != VlmJudge(str(other), Prompt("{query} {references}")).fingerprint


def test_a_model_without_a_chat_template_is_refused(tmp_path):
    folder = tiny_llava(tmp_path / "mute", chat_template=None)
    with pytest.raises(ValueError, match="no chat template"):
        VlmJudge(str(folder), Prompt.from_file()).check()


def test_weights_out_of_reach_name_the_preset_that_needs_none(monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with pytest.raises(OSError, match="--preset local"):
        VlmJudge("nobody/no-such-model", Prompt(DEFAULT_PROMPT.read_text())).check()


def test_an_empty_folder_is_named(tmp_path):
    with pytest.raises(OSError, match="holds no weights"):
        VlmJudge(str(tmp_path), Prompt.from_file()).check()


def test_a_model_that_transformers_does_not_know_is_one_short_sentence(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"")
    (tmp_path / "config.json").write_text('{"model_type": "llava"}')
    (tmp_path / "processor_config.json").write_text(
        '{"processor_class": "LlavaProcessor", "image_processor": {"image_processor_type": "FutureImageProcessor"}}'
    )
    tiny_tokenizer(ends_with_eos=False).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="processor of .* cannot be loaded") as raised:
        VlmJudge(str(tmp_path), Prompt.from_file()).check()
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 600
