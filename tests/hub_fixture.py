"""The pytest fixture `hub`: a loopback Hub that this process and its children take for huggingface.co.

`tests/conftest.py` imports it, so every test may ask for `hub`. `hub.env` is the environment for a subprocess.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_server import Hub


@pytest.fixture(scope="session")
def hub_server() -> Iterator[Hub]:
    server = Hub().start()
    yield server
    server.stop()


@pytest.fixture
def hub(hub_server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """An empty Hub. In this process `huggingface_hub` (hence transformers) points at it; `datasets` reads the address
    at import, so `load_dataset` from the Hub belongs in a subprocess with `env=hub.env`."""
    from huggingface_hub import close_session, constants

    close_session()  # one that an earlier test opened keeps that test's proxies
    hub_server.reset()
    settings = {
        "HF_ENDPOINT": hub_server.url,
        "HF_TOKEN": "hf_dummy",
        "HF_HOME": str(tmp_path / "hf_home"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    hub_server.env = {**os.environ}
    monkeypatch.setattr(constants, "ENDPOINT", hub_server.url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub_server.url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf_home" / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "hf_home" / "token"))
    return hub_server
