"""A hub that is not there costs one look: what is cached is used, what is not is named."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from socketserver import BaseRequestHandler, ThreadingTCPServer
from threading import Thread

import pytest

from rlvr import reach
from tests.run import launch


@pytest.fixture
def visits(tmp_path, monkeypatch) -> Iterator[list[str]]:
    """Put a hub in place that hangs up on everyone; return who came, as it grows."""
    import datasets
    from huggingface_hub import constants

    came: list[str] = []

    class HangsUp(BaseRequestHandler):
        def handle(self) -> None:
            came.append(self.request.recv(1000).decode().partition("\r\n")[0])

    server = ThreadingTCPServer(("127.0.0.1", 0), HangsUp)
    server.daemon_threads = True
    Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(
        constants,
        "HUGGINGFACE_CO_URL_TEMPLATE",
        address + constants.HUGGINGFACE_CO_URL_TEMPLATE[len("https://huggingface.co") :],
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    reach._is_reachable.cache_clear()
    yield came
    reach._is_reachable.cache_clear()
    server.shutdown()
    server.server_close()


def cached(cache: Path, name: str) -> None:
    """Put the base policy into the hub's cache under a name."""
    folder, commit = cache / f"models--{name.replace('/', '--')}", "1" * 40
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(commit)
    shutil.copytree(launch.BASE, folder / "snapshots" / commit)


def test_a_model_in_the_cache_is_trained_after_one_look(visits, tmp_path):
    cached(tmp_path / "cache", "somebody/model")
    arguments = (*launch.UNEVALUATED, "model.path=somebody/model", "training.updates=1")
    result = launch.train(tmp_path / "run", *arguments)
    assert result.out.count("cannot be reached: only what is in the cache is found") == 1
    assert len(visits) == 1
    assert (tmp_path / "run" / "final" / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["model.path=somebody/model"],
            ["model.path: no tokenizer at 'somebody/model'", "hf download"],
        ),
        (
            ["data.task=null", "data.size=null", "data.path=somebody/data"],
            [
                "data.path: somebody/data: could not be loaded from the hub",
                "hf download somebody/data",
            ],
        ),
    ],
    ids=["model", "data"],
)
def test_what_is_not_in_the_cache_is_named_after_one_look(visits, tmp_path, arguments, said):
    arguments = (*launch.SMALL, *launch.UNEVALUATED, f"output={tmp_path / 'run'}", *arguments)
    result = launch.command("train", "demo", *arguments)
    assert result.code == 2
    for text in said:
        assert text in result.err
    assert "Traceback" not in result.err
    assert len(visits) == 1
