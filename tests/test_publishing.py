"""Publishing to a Hub on loopback: what is sent, what is refused, and what the user reads when the Hub says no."""

import json
import logging
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import HfApi, snapshot_download
from PIL import Image
from typer.testing import CliRunner

from modeling_unirain import UniRainConfig, UniRainForImageDeraining, UniRainImageProcessor, load_derainer
from modeling_unirain.hub import save_model
from modeling_unirain.publishing import PublishingError, publish


ROOT = Path(__file__).parents[1]
CARD = '---\nlicense: apache-2.0\n---\n# A model\nload it as "REPOSITORY"\n'


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """The smallest folder that passes for an exported checkpoint; its weights are bytes nobody loads here."""
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "README.md").write_text(CARD)
    config = {"auto_map": {"AutoConfig": "configuration_unirain.UniRainConfig"}, "custom_pipelines": {}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "preprocessor_config.json").write_text("{}")
    for module in ("configuration_unirain.py", "pipeline_unirain.py"):
        (folder / module).write_text("")
    (folder / "model.safetensors").write_bytes(os.urandom(5000))
    return folder


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    import datasets

    folder = tmp_path / "corpus"
    (folder / "data").mkdir(parents=True)
    picture = Image.new("RGB", (8, 8), (10, 20, 30))
    columns = {"input": datasets.Image(), "target": datasets.Image(), "pair_id": datasets.Value("string")}
    for shard in range(2):
        rows = [{"input": picture, "target": picture, "pair_id": f"{shard}-{n}"} for n in range(3)]
        data = datasets.Dataset.from_list(rows, features=datasets.Features(columns))
        data.to_parquet(str(folder / "data" / f"distilled-0000{shard}-of-00002.parquet"))
    data_files = "configs:\n- config_name: default\n  data_files:\n  - split: distilled\n    path: data/distilled-*\n"
    (folder / "README.md").write_text(f"---\nlicense: cc-by-4.0\n{data_files}---\n# A corpus\n")
    (folder / "distillation.json").write_text("{}")
    return folder


def run_without_the_package(code: str, hub, folder: Path) -> str:
    """Run code in a fresh interpreter that can import everything but our package; returns its last line."""
    blocked = """
        import sys
        class Blocked:
            def find_spec(self, name, path=None, target=None):
                if name == "modeling_unirain" or name.startswith("modeling_unirain."):
                    raise ModuleNotFoundError(name)
        sys.meta_path.insert(0, Blocked())
        """
    program = textwrap.dedent(blocked) + textwrap.dedent(code)
    done = subprocess.run([sys.executable, "-c", program], env=hub.env, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()[-1]


def test_dry_run_lists_exactly_what_an_upload_sends_and_contacts_nobody(hub, checkpoint):
    (checkpoint / "__pycache__").mkdir()
    (checkpoint / "__pycache__" / "x.pyc").write_bytes(b"cached")
    (checkpoint / "odd [1] name*.txt").write_text("x")
    planned = publish("model", checkpoint, "me/rain", dry_run=True)
    assert not hub.requests and planned.url is None
    publish("model", checkpoint, "me/rain")
    arrived = {path: len(content) for path, content in hub.files("me/rain").items() if path != ".gitattributes"}
    assert arrived == planned.files
    assert hub.repos["model", "me/rain"].private
    assert b'load it as "me/rain"' in hub.files("me/rain")["README.md"]


def test_an_upload_can_be_repeated_and_replaces_what_is_gone(hub, corpus, tmp_path):
    publish("dataset", corpus, "me/corpus")
    commits = len(hub.repos["dataset", "me/corpus"].commits)
    publish("dataset", corpus, "me/corpus")
    assert len(hub.repos["dataset", "me/corpus"].commits) == commits, "an unchanged folder makes no new commit"
    stale = corpus / "data" / "distilled-00001-of-00002.parquet"
    stale.rename(corpus / "data" / "distilled-00000-of-00001.parquet")
    publish("dataset", corpus, "me/corpus")
    assert "data/distilled-00001-of-00002.parquet" not in hub.files("me/corpus", "dataset")
    assert snapshot_download("me/corpus", repo_type="dataset", local_dir=tmp_path / "back")
    assert (tmp_path / "back" / "README.md").read_text() == (corpus / "README.md").read_text()


def test_an_interrupted_upload_is_finished_by_the_next(hub, checkpoint):
    hub.fail("POST", "/commit/", "drop")
    with pytest.raises(PublishingError, match="cannot be reached"):
        publish("model", checkpoint, "me/rain")
    assert "config.json" not in hub.files("me/rain")
    sent = sum(method == "PUT" for method, _ in hub.requests)
    publish("model", checkpoint, "me/rain")
    assert "config.json" in hub.files("me/rain")
    assert sum(method == "PUT" for method, _ in hub.requests) == sent == 1, "weights that arrived are not sent again"


@pytest.mark.parametrize("kind", ["exported", "bundled", "saved"])
def test_a_published_model_works_where_the_package_is_not(hub, tmp_path, kind):
    torch.manual_seed(0)
    model = UniRainForImageDeraining(UniRainConfig.from_name("unirain-tiny"))
    if kind == "saved":  # as everything of transformers is
        model.save_pretrained(tmp_path / "export")
        UniRainImageProcessor(size_divisor=model.config.size_divisor).save_pretrained(tmp_path / "export")
    else:
        save_model(model, tmp_path / "export")
    (tmp_path / "export" / "README.md").write_text(CARD)
    if kind == "bundled":  # as the checkpoints in the package are, without code
        for module in (tmp_path / "export").glob("*.py"):
            module.unlink()
        config = tmp_path / "export" / "config.json"
        settings = json.loads(config.read_text())
        config.write_text(
            json.dumps({key: settings[key] for key in settings if key not in ("auto_map", "custom_pipelines")})
        )
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (37, 50, 3), dtype=np.uint8)).save(tmp_path / "rain.png")
    publish("model", tmp_path / "export", "me/rain")
    expected = load_derainer(tmp_path / "export", device="cpu")(str(tmp_path / "rain.png"))
    code = """
        import torch
        from PIL import Image
        from transformers import AutoImageProcessor, AutoModel, AutoModelForImageToImage, pipeline
        derain = pipeline("image-to-image", model="me/rain", trust_remote_code=True, device="cpu")
        derain("rain.png").save("by-pipeline.png")
        model = AutoModelForImageToImage.from_pretrained("me/rain", trust_remote_code=True)
        processor = AutoImageProcessor.from_pretrained("me/rain", trust_remote_code=True)
        inputs = processor(Image.open("rain.png"), return_tensors="pt")
        with torch.no_grad():
            (image,) = processor.post_process_image_deraining(model(**inputs), [(37, 50)])
        Image.fromarray((image * 255).round().byte().permute(1, 2, 0).numpy()).save("by-hand.png")
        same = type(AutoModel.from_pretrained("me/rain", trust_remote_code=True)).__name__ == type(model).__name__
        print(same and type(model).__module__.startswith("transformers_modules"))
    """
    assert run_without_the_package(code, hub, tmp_path) == "True"
    for name in ("by-pipeline.png", "by-hand.png"):
        assert np.array_equal(np.asarray(Image.open(tmp_path / name)), np.asarray(expected)), name


def test_a_distilled_corpus_loads_from_the_hub_whole_and_streamed(hub, corpus, tmp_path):
    publish("dataset", corpus, "me/corpus")
    code = """
        from datasets import load_dataset
        rows = load_dataset("me/corpus", split="distilled")
        streamed = load_dataset("me/corpus", split="distilled", streaming=True)
        print([row["pair_id"] for row in streamed] == rows["pair_id"], len(rows), rows[0]["input"].getpixel((0, 0)))
    """
    assert run_without_the_package(code, hub, tmp_path) == "True 6 (10, 20, 30)"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("optimizer.bin", b"x"),
        ("model.pt", b"x"),
        ("deep/state.PTH", b"x"),
        ("run.ckpt", b"x"),
        ("random_states_0.pkl", b"x"),
        ("harmless.dat", b"\x80\x04\x95\x00"),
    ],
)
def test_pickles_are_refused_by_name_and_by_content(hub, checkpoint, name, content):
    path = checkpoint / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    with pytest.raises(PublishingError, match=f"^{re.escape(str(path))} is a pickle"):
        publish("model", checkpoint, "me/rain")
    assert not hub.requests


def test_a_renamed_torch_file_is_refused(hub, checkpoint):
    torch.save({"a": torch.zeros(1)}, checkpoint / "weights.data")
    with pytest.raises(PublishingError, match="is a pickle"):
        publish("model", checkpoint, "me/rain")


def test_a_damaged_archive_is_refused(hub, checkpoint):
    (checkpoint / "notes.zip").write_bytes(b"PK\x03\x04 and nothing more")
    with pytest.raises(PublishingError, match="notes.zip is a damaged archive"):
        publish("model", checkpoint, "me/rain")


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_links_are_refused(hub, checkpoint, tmp_path, kind):
    outside = tmp_path / "private"
    outside.mkdir()
    (outside / "secret.txt").write_text("secret")
    (checkpoint / "notes").symlink_to(outside / "secret.txt" if kind == "file" else outside)
    with pytest.raises(PublishingError, match="is a link"):
        publish("model", checkpoint, "me/rain")
    assert not hub.requests


@pytest.mark.parametrize(
    ("card", "message"),
    [
        (None, "has no card"),
        ("# Only a title\n", "names no licence"),
        ("---\nlicense: unknown\n---\n", "names no licence"),
        ("---\nlicense: [\n---\n", "not valid YAML"),
    ],
)
def test_a_card_without_a_licence_is_refused(hub, checkpoint, card, message):
    (checkpoint / "README.md").unlink()
    if card:
        (checkpoint / "README.md").write_text(card)
    with pytest.raises(PublishingError, match=message):
        publish("model", checkpoint, "me/rain")
    assert not hub.requests


def test_a_folder_that_is_no_checkpoint_or_no_corpus_is_refused(hub, checkpoint, tmp_path):
    with pytest.raises(PublishingError, match="no Parquet files"):
        publish("dataset", checkpoint, "me/rain")
    (checkpoint / "configuration_unirain.py").unlink()
    with pytest.raises(PublishingError, match=r"configuration_unirain\.py missing"):
        publish("model", checkpoint, "me/rain")
    (checkpoint / "configuration_unirain.py").write_text("")
    (checkpoint / "pipeline_unirain.py").unlink()
    with pytest.raises(PublishingError, match="cannot be loaded as a checkpoint of unirain"):
        publish("model", checkpoint, "me/rain")
    for content in ("null", "{"):
        (checkpoint / "config.json").write_text(content)
        with pytest.raises(PublishingError, match="cannot be loaded as a checkpoint of unirain"):
            publish("model", checkpoint, "me/rain")
    (checkpoint / "weights").mkdir()
    (checkpoint / "model.safetensors").rename(checkpoint / "weights" / "model.safetensors")
    with pytest.raises(PublishingError, match=r"config\.json is not valid JSON"):
        publish("model", checkpoint, "me/rain")
    (checkpoint / "config.json").write_text("[]")
    with pytest.raises(PublishingError, match=r"config\.json is not a checkpoint's config"):
        publish("model", checkpoint, "me/rain")
    (checkpoint / "weights" / "model.safetensors").unlink()
    with pytest.raises(PublishingError, match="no weights in safetensors"):
        publish("model", checkpoint, "me/rain")
    with pytest.raises(PublishingError, match="is not a folder"):
        publish("model", tmp_path / "nowhere", "me/rain")
    with pytest.raises(PublishingError, match="write it as owner/name"):
        publish("model", checkpoint, "rain")


def test_the_folder_of_a_run_is_not_told_to_remove_its_states(hub, checkpoint, tmp_path):
    state = tmp_path / "run" / "checkpoint-00000004" / "optimizer.bin"
    state.parent.mkdir(parents=True)
    torch.save({"step": 4}, state)
    with pytest.raises(PublishingError, match=r"run is no checkpoint to publish: it has no config\.json\.$"):
        publish("model", tmp_path / "run", "me/rain")
    checkpoint.rename(tmp_path / "run" / "export")
    with pytest.raises(PublishingError, match=f"it has no config.json; publish {tmp_path / 'run' / 'export'}"):
        publish("model", tmp_path / "run", "me/rain")


def test_a_corpus_that_is_being_replaced_or_was_never_finished_is_refused(hub, corpus):
    building = corpus / ".building-0123456789ab" / "data"
    building.mkdir(parents=True)
    (building / ".distilled-00000-of-00002.parquet.0123abcd.part").write_bytes(b"half")
    with pytest.raises(PublishingError, match="not complete.*run the same command"):
        publish("dataset", corpus, "me/corpus", dry_run=True)
    shutil.rmtree(building.parent)
    publish("dataset", corpus, "me/corpus", dry_run=True)
    (corpus / "distillation.json").unlink()
    with pytest.raises(PublishingError, match="not complete"):
        publish("dataset", corpus, "me/corpus", dry_run=True)
    assert not hub.requests


def test_nothing_private_goes_to_a_public_repository_unasked(hub, checkpoint):
    publish("model", checkpoint, "me/rain", private=False)
    assert not hub.repos["model", "me/rain"].private
    (checkpoint / "config.json").write_text((checkpoint / "config.json").read_text() + "\n")
    with pytest.raises(PublishingError, match="is public; say --public"):
        publish("model", checkpoint, "me/rain")


@pytest.mark.parametrize(
    ("method", "path", "status", "message"),
    [
        ("POST", "/repos/create", 401, "does not accept your token"),
        ("POST", "/repos/create", 403, "may not write to me"),
        ("POST", "/preupload/", 404, "no such repository"),
        ("POST", "/commit/", 409, "at the same time"),
        ("POST", "/commit/", 412, "at the same time"),
        ("POST", "/commit/", 500, "fault at the moment"),
        ("POST", "/commit/", 413, "refused the upload"),
        ("POST", "/repos/create", "drop", "cannot be reached"),
    ],
)
def test_every_refusal_of_the_hub_is_one_sentence_without_the_token(hub, checkpoint, method, path, status, message):
    hub.fail(method, path, status)
    with pytest.raises(PublishingError, match=message) as caught:
        publish("model", checkpoint, "me/rain")
    assert "hf_dummy" not in str(caught.value) and "\n" not in str(caught.value)


def test_passing_faults_are_survived(hub, checkpoint):
    hub.fail("POST", "/preupload/", 500)
    hub.fail("PUT", "^/lfs/", "drop")
    publish("model", checkpoint, "me/rain")
    assert hub.files("me/rain")["model.safetensors"] == (checkpoint / "model.safetensors").read_bytes()


def test_wrong_missing_and_read_only_tokens(hub, checkpoint, monkeypatch):
    for token, message in (("hf_wrong", "does not accept"), ("hf_readonly", "may not write"), ("", "not logged in")):
        monkeypatch.setenv("HF_TOKEN", token)
        with pytest.raises(PublishingError, match=message):
            publish("model", checkpoint, "me/rain")


def test_without_network_it_says_so_at_once(hub, checkpoint, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(PublishingError, match="cannot be reached"):
        publish("model", checkpoint, "me/rain")


def test_command_line_shows_files_and_sizes_and_never_the_token(hub, checkpoint, caplog):
    from modeling_unirain.cli import app

    caplog.set_level(logging.DEBUG)
    runner = CliRunner()
    dry = runner.invoke(app, ["publish", "model", str(checkpoint), "me/rain", "--dry-run"])
    assert dry.exit_code == 0, dry.output
    assert "model.safetensors" in dry.output and "5.00kB" in dry.output and "private" in dry.output
    assert not hub.requests
    done = runner.invoke(app, ["publish", "model", str(checkpoint), "me/rain"])
    assert done.exit_code == 0 and f"{hub.url}/me/rain" in done.output, done.output
    hub.fail("POST", "/repos/create", 403)
    refused = runner.invoke(app, ["publish", "model", str(checkpoint), "me/other"])
    assert refused.exit_code == 1 and "may not write" in refused.output and "Traceback" not in refused.output
    assert "hf_dummy" not in dry.output + done.output + refused.output + caplog.text


def test_a_published_space_is_not_published_from_its_clone(hub, tmp_path):
    shutil.copytree(ROOT / "space", tmp_path / "space")
    (tmp_path / "space" / "modeling_unirain").mkdir()
    with pytest.raises(PublishingError, match="space holds modeling_unirain already"):
        publish("space", tmp_path / "space", "me/demo")


def test_keys_are_refused(hub, checkpoint):
    (checkpoint / ".env").write_text("HF_TOKEN=hf_secret")
    with pytest.raises(PublishingError, match=r"\.env may hold keys"):
        publish("model", checkpoint, "me/rain")


def test_a_space_carries_the_package_and_needs_no_release_of_it(hub, tmp_path):
    planned = publish("space", ROOT / "space", "me/demo", dry_run=True)
    for path in ("app.py", "README.md", "requirements.txt", "modeling_unirain/pipeline_unirain.py"):
        assert path in planned.files, path
    assert any(path.startswith("examples/") for path in planned.files)
    left_out = ("training/", "distillation/", "evaluation/", "batch.py", "cli.py", "__pycache__")
    assert not any(part in path for path in planned.files for part in left_out)
    publish("space", ROOT / "space", "me/demo")
    assert set(hub.files("me/demo", "space")) - {".gitattributes"} == set(planned.files)
    assert HfApi().space_info("me/demo").private
