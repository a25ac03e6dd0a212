"""`hf://owner/name` where a folder or file may stand: no network is used here."""

import shutil
import sys
import types

import numpy as np
import pytest

from diffusionflow import interop
from diffusionflow.interop import hub
from tests.helpers import pretrained_weights

pytest.importorskip("safetensors")

PIPELINE = pretrained_weights.FOLDER / "pipeline"
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


class Hub(types.SimpleNamespace):
    """A hub whose repositories are folders; what is asked of it is kept."""

    def __init__(self, cache, online=True):
        super().__init__(cache=cache, online=online, asked=[], HfApi=lambda: self)

    def list_repo_files(self, repo_id, revision):
        if not self.online:
            raise ConnectionError("no route\nto host")
        self.asked.append((repo_id, revision))
        files = (path for path in PIPELINE.rglob("*") if path.is_file())
        more = ["unet/diffusion_pytorch_model.bin", "text_encoder/model.safetensors"]
        return [path.relative_to(PIPELINE).as_posix() for path in files] + more

    def snapshot_download(self, repo_id, revision, allow_patterns=None, **options):
        if not self.online:
            if options != dict(local_files_only=True) or not self.cache.exists():
                raise FileNotFoundError("not in the cache")
            return str(self.cache)
        self.asked.append(sorted(allow_patterns))
        for name in allow_patterns:
            if (PIPELINE / name).is_file():
                (self.cache / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(PIPELINE / name, self.cache / name)
        return str(self.cache)


@pytest.fixture
def online(tmp_path, monkeypatch):
    found = Hub(tmp_path / "cache")
    monkeypatch.setitem(sys.modules, "huggingface_hub", found)
    return found


@pytest.mark.ci
def test_a_repository_is_opened_and_no_more_is_fetched_than_is_read(online):
    model = interop.load("hf://owner/name@main")
    assert model.shape == (8, 8, 3)
    assert online.asked[0] == ("owner/name", "main")
    configs = ["model_index.json", "scheduler/scheduler_config.json"]
    assert online.asked[1] == [*configs, "unet/config.json", WEIGHTS]
    online.online = False  # then the cache serves
    assert interop.load("hf://owner/name").shape == (8, 8, 3)


def test_a_file_and_a_folder_of_a_repository_are_read(online):
    exact = interop.read_weights(PIPELINE / "unet")
    for place in ("hf://owner/name/unet", f"hf://owner/name@v1/{WEIGHTS}"):
        found = interop.read_weights(place)
        assert found.keys() == exact.keys()
        np.testing.assert_array_equal(found["conv_in.bias"], exact["conv_in.bias"])
    with pytest.raises(ValueError, match=r"no 'net\.pt' in this repository"):
        interop.load_dit("hf://owner/name/net.pt")


def test_one_line_says_what_is_missing(tmp_path, monkeypatch):
    offline = Hub(tmp_path / "nothing", online=False)
    monkeypatch.setitem(sys.modules, "huggingface_hub", offline)
    for open_fn in (interop.load, interop.load_autoencoder, interop.load_edm):
        with pytest.raises(ValueError, match="not in the cache.*; no route to host$"):
            open_fn("hf://owner/name")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ValueError, match="pip install huggingface_hub, or give"):
        interop.load("hf://owner/name")
    for wrong in ("hf://name", "hf://", "hf://owner/name@a@b"):
        with pytest.raises(ValueError, match="must be hf://owner/name"):
            interop.load(wrong)


def test_weights_in_parts_are_fetched_whole():
    files = [f"diffusion_pytorch_model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    files += ["diffusion_pytorch_model.safetensors.index.json", "config.json", "a.bin"]
    files += ["diffusion_pytorch_model-00001-of-00001.bin", "vae/config.json"]
    wanted = hub._wanted(files, ("vae/", ""))
    assert sorted(wanted) == sorted([*files[:4], "vae/config.json"])
