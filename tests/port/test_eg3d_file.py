"""EG3D's network files: state dict and arguments come out, their source code is never run, odd files are refused."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from nofa_jax.errors import UserError
from nofa_jax.port.eg3d import generator_config_from
from nofa_jax.port.eg3d_file import NAMES, read_generator
from nofa_jax.port.source import looks_like, read_source
from nofa_jax.port.unpickle import load_checkpoint
from tests import eg3d_golden
from tests.port.eg3d_files import PLANE_AXES, module, network_file, save_network, write
from tests.port.torch_files import Call, Name
from tests.shared import shared_path

RENDERING = {"ray_start": 2.25, "ray_end": 3.3, "box_warp": 1, "avg_camera_pivot": [0, 0, 0.2], "white_back": True}
KWARGS = {"z_dim": 8, "w_dim": 8, "c_dim": 25, "mapping_kwargs": {"num_layers": 2}, "rendering_kwargs": RENDERING}


def toy_tensors() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {
        "backbone.mapping.w_avg": (8,),
        "backbone.mapping.fc0.weight": (8, 16),
        "backbone.synthesis.b4.conv1.noise_const": (4, 4),
        "decoder.net.0.weight": (4, 8),
        "decoder.net.2.bias": (5,),
        "dataset_label_std": (25,),
    }
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def test_state_and_arguments(tmp_path: Path) -> None:
    tensors = toy_tensors()
    path = save_network(tmp_path / "network.pkl", tensors, KWARGS, 48)
    file = read_generator(load_checkpoint(path, NAMES), path)
    assert file.state.keys() == tensors.keys()
    for name, value in tensors.items():
        np.testing.assert_array_equal(file.state[name], value)
    assert file.init_kwargs == KWARGS
    assert file.rendering_kwargs == RENDERING
    assert file.rendering_resolution == 48
    np.testing.assert_array_equal(file.plane_axes, PLANE_AXES)
    assert looks_like(read_source(path).tree) == "eg3d"


def test_attributes_win_over_the_constructor(tmp_path: Path) -> None:
    """Training changes `rendering_kwargs` after construction; copies hold positional arguments."""
    changed = RENDERING | {"box_warp": 2}
    path = save_network(
        tmp_path / "network.pkl",
        toy_tensors(),
        {"rendering_kwargs": RENDERING},
        64,
        rendering_kwargs=changed,
        _init_args=(16, 25, 32),
    )
    file = read_generator(load_checkpoint(path, NAMES), path)
    assert file.rendering_kwargs["box_warp"] == 2
    assert (file.init_kwargs["z_dim"], file.init_kwargs["c_dim"], file.init_kwargs["w_dim"]) == (16, 25, 32)


def test_buffers_that_are_not_saved_stay_out(tmp_path: Path) -> None:
    path = save_network(
        tmp_path / "x.pkl", toy_tensors(), KWARGS, 64, _non_persistent_buffers_set={"dataset_label_std"}
    )
    assert "dataset_label_std" not in read_generator(load_checkpoint(path, NAMES), path).state


def test_published_layout() -> None:
    """G_ema of the look-alike, not G, which is a different network."""
    path = shared_path("golden/eg3d/tiny_lookalike.pkl")
    file = read_generator(load_checkpoint(path, NAMES), path)
    expected = eg3d_golden.state("tiny")
    assert file.state.keys() - expected.keys() == {"dataset_label_std"}
    assert all(np.array_equal(file.state[name], value) for name, value in expected.items())
    assert file.init_kwargs == eg3d_golden.golden("tiny").meta["config"]["init_kwargs"]


def generator(**attributes):
    return module(toy_tensors(), **{"_init_kwargs": {}, "rendering_kwargs": {}, **attributes})


@pytest.mark.parametrize(
    ("tree", "reason"),
    [
        ({"G_ema": module(toy_tensors(), class_name="Generator")}, "its G_ema is a 'Generator', not EG3D's"),
        ({"D": None}, "has no entry G_ema"),
        ({"G_ema": module(toy_tensors())}, "a generator without _init_kwargs"),
        ({"G_ema": generator(rendering_kwargs=3)}, "a generator without rendering_kwargs"),
        ({"G_ema": generator(_buffers={"x": 3})}, "is no tensor"),
        ({"G_ema": generator(_modules=[3])}, "malformed _modules"),
        (
            {"G_ema": generator(_modules={"a": 3})},
            "is no module: 'a'",
        ),
        (
            {"G_ema": Call(Name("torch_utils.persistence", "_reconstruct_persistent_obj"), {})},
            "without the name of its",
        ),
        ({"G_ema": Call(Name("os", "system"), "touch executed")}, "'os.system', which is not on the list"),
    ],
)
def test_what_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tree: dict, reason: str) -> None:
    monkeypatch.setattr(os, "system", lambda *args: pytest.fail("executed"))
    path = tmp_path / "odd.pkl"
    path.write_bytes(write(tree))
    with pytest.raises(UserError, match=reason) as error:
        read_generator(load_checkpoint(path, NAMES), path)
    assert str(path) in str(error.value)


def test_values_of_other_types_are_refused() -> None:
    state = eg3d_golden.state("mini")
    config = eg3d_golden.golden("mini").meta["config"]["init_kwargs"]
    rendering = config["rendering_kwargs"]
    with pytest.raises(UserError, match="num_layers 1000000"):
        generator_config_from({**config, "mapping_kwargs": {"num_layers": 1_000_000}}, rendering, state)
    with pytest.raises(UserError, match=r"mapping_kwargs: activation 'relu' is not supported"):
        generator_config_from({**config, "mapping_kwargs": {"activation": "relu"}}, rendering, state)
    with pytest.raises(UserError, match="activation 'relu' is not supported"):
        generator_config_from({**config, "activation": "relu"}, rendering, state)


def test_plane_axes_are_those_of_the_file() -> None:
    """EG3D's own, those of its later correction, and none that are not along the axes."""
    state = eg3d_golden.state("mini")
    config = eg3d_golden.golden("mini").meta["config"]["init_kwargs"]
    arguments = (config, config["rendering_kwargs"], state, 64)
    assert generator_config_from(*arguments, PLANE_AXES)["renderer"]["plane_axes"] == ((0, 1), (0, 2), (2, 0))
    corrected = np.stack([*PLANE_AXES[:2], np.float32([[0, 0, 1], [0, 1, 0], [1, 0, 0]])])
    assert generator_config_from(*arguments, corrected)["renderer"]["plane_axes"][2] == (2, 1)
    with pytest.raises(UserError, match="not three planes along the coordinate axes"):
        generator_config_from(*arguments, PLANE_AXES * 0.5)


def test_nothing_of_the_source_runs(tmp_path: Path) -> None:
    """Python's own pickle would need the classes; ours has no way to import."""
    content = network_file(toy_tensors(), KWARGS, 64)
    assert b"SystemExit" in content
    with pytest.raises(ModuleNotFoundError):
        pickle.loads(content)
    (tmp_path / "network.pkl").write_bytes(content)
    read_generator(load_checkpoint(tmp_path / "network.pkl", NAMES), "network")
