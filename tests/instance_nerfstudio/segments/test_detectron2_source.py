"""The source for detectron2, on modules that stand in for it with its documented API."""

import builtins
import pickle
import sys
from collections import OrderedDict
from dataclasses import replace
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from source_contract import SIZES, check

from instance_nerfstudio.errors import InputError
from instance_nerfstudio.segments.class_table import load_class_table
from instance_nerfstudio.segments.photos import name_photos
from instance_nerfstudio.segments.segment import make_source, segment_images
from instance_nerfstudio.segments.settings import SegmentConfig
from instance_nerfstudio.segments.weights_file import read_weights


class Cfg(dict):
    """detectron2's CfgNode, as far as a config is read and written by attribute."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError as error:
            raise AttributeError(name) from error

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def merge_from_file(self, path: str) -> None:
        text = Path(path).read_text()
        if "UNKNOWN" in text:
            raise KeyError("Non-existent config key: UNKNOWN")
        self.MODEL.MASK_ON = "MASK_FORMER" not in text

    def freeze(self) -> None:
        pass


class FakeDetectron2Model(torch.nn.Module):
    """Answers in the format of detectron2's documentation ("Model Output Format")."""

    def __init__(self, cfg: Cfg) -> None:
        super().__init__()
        self.panoptic = "MASK_FORMER" in cfg.MODEL
        self.weight = torch.nn.Parameter(torch.zeros(2))
        self.register_buffer("pixel_mean", torch.zeros(3))
        self.seen: list[torch.Tensor] = []

    def forward(self, inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        (one,) = inputs
        self.seen.append(one["image"])
        height, width = one["height"], one["width"]
        if self.panoptic:
            segments = torch.zeros(height, width, dtype=torch.int32)
            segments[:10], segments[20:30, :10], segments[20:30, 20:30], segments[35:45, :20] = 1, 2, 2, 3
            infos = [
                {"id": 1, "isthing": False, "category_id": 131},  # wall-other-merged
                {"id": 2, "isthing": False, "category_id": 121},  # table-merged, in two pieces
                {"id": 3, "isthing": True, "category_id": 57},  # couch
            ]
            return [{"panoptic_seg": (segments, infos), "sem_seg": None}]
        masks = torch.zeros(3, height, width, dtype=torch.bool)
        masks[0, :20, :20], masks[1, 25:45, :20], masks[2] = True, True, True
        fields = {
            "pred_masks": masks,
            "scores": torch.tensor([0.9, 0.7, 0.2]),
            "pred_classes": torch.tensor([56, 57, 0]),
        }
        return [{"instances": SimpleNamespace(**fields)}]


@pytest.fixture
def detectron2(monkeypatch: pytest.MonkeyPatch) -> None:
    """Modules with the part of detectron2's and Mask2Former's API that the source uses."""
    names = load_class_table("coco").names
    metadata = SimpleNamespace(thing_classes=list(names[:80]), stuff_classes=list(names))

    class ResizeShortestEdge:
        def __init__(self, sides: list[int], longest: int) -> None:
            assert sides == [24, 24]
            assert longest == 100

        def get_transform(self, image: np.ndarray) -> Any:
            assert image.dtype == np.uint8
            return SimpleNamespace(apply_image=lambda picture: picture[::2, ::2])

    def get_cfg() -> Cfg:
        model = Cfg(WEIGHTS="detectron2://download", ROI_HEADS=Cfg(SCORE_THRESH_TEST=0.05), DEVICE="cuda")
        return Cfg(
            MODEL=model, DATASETS=Cfg(TEST=("coco_2017_val",)),
            INPUT=Cfg(MIN_SIZE_TEST=24, MAX_SIZE_TEST=100, FORMAT="BGR"),
        )  # fmt: skip

    def add_maskformer2_config(cfg: Cfg) -> None:
        test = Cfg(SEMANTIC_ON=True, INSTANCE_ON=True, PANOPTIC_ON=True, OBJECT_MASK_THRESHOLD=0.8)
        cfg.MODEL.MASK_FORMER = Cfg(TEST=test)

    def build_model(cfg: Cfg) -> FakeDetectron2Model:
        assert cfg.MODEL.WEIGHTS == ""
        assert cfg.MODEL.DEVICE == "cpu"
        return FakeDetectron2Model(cfg)

    modules: dict[str, dict[str, Any]] = {
        "detectron2": {"__version__": "0.6"},
        "detectron2.config": {"get_cfg": get_cfg},
        "detectron2.data": {
            "MetadataCatalog": SimpleNamespace(get=lambda name: metadata),
            "transforms": SimpleNamespace(ResizeShortestEdge=ResizeShortestEdge),
        },
        "detectron2.modeling": {"build_model": build_model},
        "detectron2.projects": {},
        "detectron2.projects.deeplab": {"add_deeplab_config": lambda cfg: None},
        "mask2former": {"add_maskformer2_config": add_maskformer2_config},
    }
    for name, content in modules.items():
        module = ModuleType(name)
        module.__spec__ = ModuleSpec(name, None)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A checkpoint as they are published: a pickle of NumPy arrays, and its config on another one."""
    weights = tmp_path / "model_final.pkl"
    weights.write_bytes(pickle.dumps({"model": OrderedDict(weight=np.ones(2, np.float32)), "__author__": "someone"}))
    (tmp_path / "base.yaml").write_text(
        'MODEL:\n  META_ARCHITECTURE: "MaskFormer"\n  MASK_FORMER:\n    DEC_LAYERS: 10\n'
    )
    (tmp_path / "panoptic.yaml").write_text("_BASE_: base.yaml\n")
    (tmp_path / "rcnn.yaml").write_text("MODEL:\n  MASK_ON: True\n")
    return weights


def test_detectron2_panoptic(photos: list[Path], tmp_path: Path, detectron2: None, published: Path) -> None:
    config = SegmentConfig("detectron2", str(published), detectron2_config=tmp_path / "panoptic.yaml")
    folder = segment_images(photos[:2], tmp_path / "out", config, "cpu")
    view = folder.view(photos[0])
    assert view.categories == ("table", "table", "sofa")
    np.testing.assert_allclose(view.scores, 0.8)
    assert view.ids.shape == SIZES[0]
    assert set(np.unique(view.ids[:10])) == {0}
    assert len({view.ids[25, 5], view.ids[25, 25], view.ids[40, 5]} - {0, -1}) == 3
    assert view.ids[47, 63] == -1


def test_detectron2_instances(photos: list[Path], tmp_path: Path, detectron2: None, published: Path) -> None:
    config = SegmentConfig("detectron2", str(published), detectron2_config=tmp_path / "rcnn.yaml")
    folder = segment_images(photos, tmp_path / "out", config, "cpu")
    check(folder, photos)
    assert folder.view(photos[0]).categories == ("chair", "sofa")
    source: Any = make_source(config, "cpu")
    list(source.segment(name_photos(photos)[:1], ()))
    (seen,) = source._model.seen
    # BGR, as the config says, channels first.
    expected = np.asarray(Image.open(photos[0]))[::2, ::2, ::-1].transpose(2, 0, 1)
    np.testing.assert_array_equal(seen.numpy(), expected.astype(np.float32))
    assert source._model.weight.tolist() == [1, 1]


def test_detectron2_files(tmp_path: Path, detectron2: None, published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = SegmentConfig("detectron2", str(published), detectron2_config=tmp_path / "panoptic.yaml")
    published.write_bytes(pickle.dumps({"model": {"other": np.ones(2)}}))
    with pytest.raises(InputError, match=r"model_final\.pkl: lacks weight of the model"):
        make_source(config, "cpu")
    published.write_bytes(pickle.dumps({"model": {"weight": np.ones(3)}}))
    with pytest.raises(InputError, match=r"model_final\.pkl: does not fit --detectron2-config"):
        make_source(config, "cpu")
    published.write_bytes(pickle.dumps({"model": {"weight": Path("/")}}))
    with pytest.raises(InputError, match=r"names pathlib\.PosixPath, which is refused"):
        make_source(config, "cpu")
    (tmp_path / "base.yaml").unlink()
    with pytest.raises(InputError, match=r"base\.yaml: no such file, named by .*panoptic\.yaml"):
        make_source(config, "cpu")
    (tmp_path / "rcnn.yaml").write_text("UNKNOWN: 1\n")
    with pytest.raises(InputError, match="is no config of detectron2 that is known here"):
        make_source(replace(config, detectron2_config=tmp_path / "rcnn.yaml"), "cpu")
    (tmp_path / "base.yaml").write_text("MODEL:\n  MASK_FORMER: {}\n")
    monkeypatch.setitem(sys.modules, "mask2former", None)
    with pytest.raises(InputError, match=r"needs Mask2Former .*; git clone .*Mask2Former .* sh make\.sh"):
        make_source(config, "cpu")
    with pytest.raises(InputError, match="needs --weights CHECKPOINT and --detectron2-config"):
        make_source(SegmentConfig("detectron2"), "cpu")


def test_detectron2_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"needs detectron2, which is not on PyPI; git clone .* pip install"):
        make_source(SegmentConfig("detectron2"), "cpu")


def test_pickles_run_nothing(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return builtins.exec, ("raise SystemExit('ran')",)

    path = tmp_path / "evil.pkl"
    path.write_bytes(pickle.dumps({"model": Evil()}))
    with pytest.raises(InputError, match=r"builtins\.exec, which is refused"):
        read_weights(path)
    whole = pickle.dumps({"weight": np.arange(6.0).reshape(2, 3), "epoch": 3})
    path.write_bytes(whole)
    assert {name: weight.tolist() for name, weight in read_weights(path).items()} == {"weight": [[0, 1, 2], [3, 4, 5]]}
    path.write_bytes(whole[:-20])
    with pytest.raises(InputError, match=r"evil\.pkl: cannot be read as weights"):
        read_weights(path)
    path.write_bytes(pickle.dumps({"epoch": 3}))
    with pytest.raises(InputError, match=r"evil\.pkl: holds no weights"):
        read_weights(path)
