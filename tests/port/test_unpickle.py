"""Files of the layouts that PyTorch and numpy write are read to the right values."""

import io
import os
import pickle
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from nofa_jax.errors import UserError
from nofa_jax.port.pickle_values import opaque, ordered_dict
from nofa_jax.port.unpickle import load_checkpoint, tensors
from tests.port.torch_files import Call, Name, Stored, legacy_bytes, save_legacy, save_zip, tensor, zip_bytes
from tests.shared import shared_path

SAVERS = pytest.mark.parametrize("save", [save_zip, save_legacy])


def state() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "conv.weight": rng.normal(size=(4, 3, 2, 2)).astype(np.float32),
        "conv.bias": rng.normal(size=4),
        "half": rng.normal(size=(3, 5)).astype(np.float16),
        "brain": rng.normal(size=(2, 2)).astype(ml_dtypes.bfloat16),
        "steps": np.array(7, np.int64),
        "flags": np.array([True, False]),
        "bytes": np.arange(5, dtype=np.uint8),
        "empty": np.zeros((0, 3), np.float32),
    }


def assert_same(got: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    assert list(got) == list(wanted)
    for name, value in wanted.items():
        assert got[name].dtype == value.dtype
        assert got[name].shape == value.shape
        assert got[name].tobytes() == value.tobytes()


@SAVERS
def test_state_dict(tmp_path: Path, save) -> None:
    path = save(tmp_path / "model.pth", {"state_dict": state(), "epoch": 3, "name": "net", "lr": 0.5})
    tree = load_checkpoint(path)
    assert_same(tensors(tree, path, "state_dict"), state())
    assert (tree["epoch"], tree["name"], tree["lr"]) == (3, "net", 0.5)


@SAVERS
def test_views_parameters_and_shared_storages(tmp_path: Path, save) -> None:
    base = np.arange(24, dtype=np.float32)
    stored = Stored(base, "0")

    def view(offset: int, shape: tuple, strides: tuple) -> Call:
        return Call(Name("torch._utils", "_rebuild_tensor_v2"), stored, offset, shape, strides, False, {})

    tree = {
        "transposed": view(0, (4, 6), (1, 4)),
        "tail": view(20, (4,), (1,)),
        "every_other": view(1, (2, 3), (12, 4)),
        "parameter": Call(Name("torch._utils", "_rebuild_parameter"), view(0, (24,), (1,)), True, {}),
    }
    got = load_checkpoint(save(tmp_path / "views.pth", tree))
    np.testing.assert_array_equal(got["transposed"], base.reshape(6, 4).T)
    np.testing.assert_array_equal(got["tail"], base[20:])
    np.testing.assert_array_equal(got["every_other"], base[1:].reshape(-1)[[[0, 4, 8], [12, 16, 20]]])
    np.testing.assert_array_equal(got["parameter"], base)
    assert not got["tail"].flags.writeable


def test_legacy_storage_views(tmp_path: Path) -> None:
    base = np.arange(10, dtype=np.float32)
    tree = {"a": tensor(base, "0"), "b": tensor(base, "0", view=("1", 4, 3), shape=(3,))}
    path = tmp_path / "views.pth"
    path.write_bytes(legacy_bytes(tree))
    np.testing.assert_array_equal(load_checkpoint(path)["b"], base[4:7])


@SAVERS
def test_options_and_metadata_are_kept_inert(tmp_path: Path, save) -> None:
    class Namespace:  # what argparse.Namespace pickles to: NEWOBJ without arguments, BUILD with its dict
        def __reduce_ex__(self, protocol) -> tuple:
            return Name("argparse", "Namespace"), (), {"lr": 0.1, "device": Call(Name("torch", "device"), "cuda", 0)}

    sized = Call(Name("torch", "Size"), [2, 3])
    tree = {"opts": Namespace(), "size": sized, "dtype": Name("torch", "float32"), "kinds": {1, "a"}}
    got = load_checkpoint(save(tmp_path / "opts.pt", tree))
    assert got["opts"].name == "argparse.Namespace"
    assert got["opts"].state == {"lr": 0.1, "device": "cuda:0"}
    assert got["size"] == (2, 3)
    assert got["dtype"].name == "torch.float32"
    assert got["kinds"] == {1, "a"}


@pytest.mark.parametrize("protocol", range(6))
def test_plain_pickles_of_numpy_arrays(tmp_path: Path, protocol: int) -> None:
    arrays = {k: v for k, v in state().items() if k != "brain"}
    arrays["fortran"] = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    tree = {"arrays": arrays, "again": arrays["half"], "gain": np.float64(1.5), "list": [1, -(10**9), 2**70, None, "ü"]}
    path = tmp_path / "arrays.pkl"
    path.write_bytes(pickle.dumps(tree, protocol))
    got = load_checkpoint(path)
    for name, value in arrays.items():
        np.testing.assert_array_equal(got["arrays"][name], value)
        assert got["arrays"][name].dtype == value.dtype
    assert got["again"] is got["arrays"]["half"]
    assert got["gain"] == 1.5
    assert got["list"] == tree["list"]


def test_own_names_of_a_porter(tmp_path: Path) -> None:
    """The hook for formats with classes of their own, and tensors kept as legacy files inside bytes."""
    weight = np.arange(6, dtype=np.float32).reshape(2, 3)

    class Module:
        def __reduce_ex__(self, protocol) -> tuple:
            content = legacy_bytes(Stored(weight.ravel(), "17"))
            storage = Call(Name("torch.storage", "_load_from_bytes"), content)
            rebuilt = Call(Name("torch._utils", "_rebuild_tensor_v2"), storage, 0, (2, 3), (3, 1), False, {})
            return Name("training.triplane", "Decoder"), (), {"weight": rebuilt, "kwargs": Call(easy)}

    easy = Name("dnnlib.util", "EasyDict")
    path = tmp_path / "network.pkl"
    plain = zip_plain(Module())
    path.write_bytes(plain)
    names = {"training.triplane.Decoder": opaque("training.triplane.Decoder"), "dnnlib.util.EasyDict": ordered_dict}
    got = load_checkpoint(path, names)
    np.testing.assert_array_equal(got.state["weight"], weight)
    assert got.state["kwargs"] == {}
    with pytest.raises(UserError, match=r"network.pkl.*'training.triplane.Decoder'.*not on the list"):
        load_checkpoint(path)


def zip_plain(tree: object) -> bytes:
    """The plain pickle inside the zip layout."""
    with zipfile.ZipFile(io.BytesIO(zip_bytes(tree))) as archive:
        return archive.read("archive/data.pkl")


def test_tensors_names_what_is_there(tmp_path: Path) -> None:
    path = save_zip(tmp_path / "model.pth", {"params_ema": state(), "epoch": 3})
    tree = load_checkpoint(path)
    with pytest.raises(UserError, match=r"model.pth has no entry 'state_dict' \(it holds: params_ema, epoch\)"):
        tensors(tree, path, "state_dict")
    with pytest.raises(UserError, match="other things than tensors: params_ema, epoch"):
        tensors(tree, path)


@pytest.mark.parametrize("what", ["missing", "directory", "empty", "pipe"])
def test_not_a_file(tmp_path: Path, what: str) -> None:
    path = tmp_path / "x.pth"
    if what == "directory":
        path.mkdir()
    elif what == "empty":
        path.touch()
    elif what == "pipe":
        os.mkfifo(path)
    with pytest.raises(UserError, match=r"x\.pth"):
        load_checkpoint(path)


def test_network_pickle_of_the_parity_data() -> None:
    """A file with the published layout asks for classes of its own, and is readable once they have stand-ins."""
    path = shared_path("golden/eg3d/tiny_lookalike.pkl")
    with pytest.raises(UserError, match=r"_reconstruct_persistent_obj.*not on the list"):
        load_checkpoint(path)
    rendering, modules = "training.volumetric_rendering.", "torch.nn.modules."
    classes = [
        "torch_utils.persistence._reconstruct_persistent_obj",
        "training.triplane.OSGDecoder",
        *(rendering + n for n in ("renderer.ImportanceRenderer", "ray_sampler.RaySampler")),
        rendering + "ray_marcher.MipRayMarcher2",
        *(modules + n for n in ("container.Sequential", "activation.Softplus")),
    ]
    names = {**{name: opaque(name) for name in classes}, "dnnlib.util.EasyDict": ordered_dict}
    tree = load_checkpoint(path, names)
    meta = tree["G_ema"].args[0]
    assert meta["class_name"] == "TriPlaneGenerator"
    assert meta["state"]["_init_kwargs"]["z_dim"] == meta["state"]["z_dim"]


def test_names_that_cannot_be_printed(tmp_path: Path) -> None:
    path = save_zip(tmp_path / "model.pth", {"a\nerror: \x1b[31m": np.zeros(1)})
    with pytest.raises(UserError) as error:
        tensors(load_checkpoint(path), path)
    assert str(error.value).isprintable()
