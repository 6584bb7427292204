"""The loopback Hub behaves as the real one does where the other tests lean on it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError


@pytest.fixture
def folder(tmp_path):
    source = tmp_path / "source"
    (source / "deep").mkdir(parents=True)
    (source / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    (source / "deep" / "weights.safetensors").write_bytes(bytes(range(256)) * 100)
    return source


def test_a_folder_comes_back_as_it_was_sent(hub, folder, tmp_path):
    api = HfApi()
    api.create_repo("me/there", private=True)
    first = api.upload_folder(folder_path=folder, repo_id="me/there")
    back = snapshot_download("me/there", local_dir=tmp_path / "back")
    for path in ("README.md", "deep/weights.safetensors"):
        assert (tmp_path / "back" / path).read_bytes() == (folder / path).read_bytes(), back
    (folder / "README.md").write_text("second")
    api.upload_folder(folder_path=folder, repo_id="me/there")
    api.create_tag("me/there", tag="v1", revision=first.oid)
    assert "license" in Path(hf_hub_download("me/there", "README.md", revision="v1")).read_text()
    assert Path(hf_hub_download("me/there", "README.md")).read_text() == "second"
    with pytest.raises(RevisionNotFoundError):
        hf_hub_download("me/there", "README.md", revision="v2")


def test_private_means_private(hub, folder):
    HfApi().create_repo("me/secret", private=True)
    with pytest.raises(RepositoryNotFoundError):
        HfApi(token=False).model_info("me/secret")
    assert HfApi(token="hf_readonly").model_info("me/secret").private


def test_tokens_and_faults_answer_with_the_right_status(hub, folder):
    def status(call):
        with pytest.raises(HfHubHTTPError) as caught:
            call()
        return caught.value.response.status_code

    assert status(lambda: HfApi(token="hf_wrong").create_repo("me/x")) == 401
    assert status(lambda: HfApi(token="hf_readonly").create_repo("me/x")) == 403
    HfApi().create_repo("me/x")
    assert status(lambda: HfApi().create_repo("me/x")) == 409
    hub.fail("POST", "/commit/", 500)
    assert status(lambda: HfApi().upload_folder(folder_path=folder, repo_id="me/x")) == 500


def test_dropped_connections_are_tried_again_by_the_client(hub, folder):
    HfApi().create_repo("me/x")
    hub.fail("PUT", "^/lfs/", "drop")
    hub.fail("POST", "/preupload/", "drop")
    HfApi().upload_folder(folder_path=folder, repo_id="me/x")
    assert "deep/weights.safetensors" in hub.files("me/x")
    assert all(fault["times"] == 0 for fault in hub.faults)


def test_a_pushed_dataset_loads_whole_and_streamed(hub):
    code = """
import json
from datasets import Dataset, load_dataset
Dataset.from_dict({"n": list(range(9))}).push_to_hub("me/numbers", private=True)
whole = load_dataset("me/numbers", split="train")
streamed = load_dataset("me/numbers", split="train", streaming=True)
print(json.dumps([sum(whole["n"]), sum(row["n"] for row in streamed)]))
"""
    done = subprocess.run([sys.executable, "-c", code], env=hub.env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1]) == [36, 36]
