"""Runs that start from ported weights: every tensor in its place, and mismatches named."""

import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from ml_collections import ConfigDict

from nofa_jax import build
from nofa_jax.cli import load_config
from nofa_jax.errors import UserError
from nofa_jax.models.irse import IRSETrunk
from nofa_jax.port.eg3d import abstract_variables, generator_config_from, model_from
from nofa_jax.port.files import save_ported
from nofa_jax.port.init import _check, _take, load_initial
from nofa_jax.port.kinds import port_source
from nofa_jax.port.networks import irse50_network
from nofa_jax.port.source import read_source
from tests.eg3d_golden import golden
from tests.fakes import tiny_config
from tests.port import published

TRUNK = {"units": (1, 1, 1, 1), "widths": (4, 4, 8, 8), "stem_width": 4}


def mini_config() -> ConfigDict:
    """NOFA around the parity data's small EG3D."""
    config = tiny_config().unlock()
    config.model.update({"source_size": 32, "output_size": 128, "rendering_resolution": 32, "id_coeffs": 5})
    config.model.exp_coeffs = 6
    config.data.size = 128
    config.model.encoder.update(TRUNK)
    config.model.generator.update({"z_dim": 32, "w_dim": 32, "plane_resolution": 64, "plane_channels": 32})
    config.model.generator.update({"channel_base": 1024, "channel_max": 24})
    config.model.compensation.update({"channels": (24, 8, 8, 8)})
    config.model.renderer.update({"decoder_width": 64, "decoder_features": 32})
    config.model.superres.update({"channels": (24, 16)})
    return config.lock()


def empty(config: ConfigDict):
    """Model, and its variables all zero: nothing is computed or compiled."""
    model = build.build_model(config)
    shapes = jax.eval_shape(lambda key: build.init_variables(config, model, (5, 6), key), jax.random.key(0))
    return model, jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)


@pytest.fixture(scope="module")
def eg3d(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("eg3d")
    ported = port_source("eg3d", read_source(published.eg3d(folder, "mini").file))
    path = folder / "mini.safetensors"
    save_ported(path, ported.variables, {"kind": "eg3d", "options": ported.options, "porter_version": "0"})
    return path


def trunk_variables(seed: int = 0) -> dict:
    """Rule-made numbers in the structure of the small trunk."""
    shapes = jax.eval_shape(IRSETrunk(**TRUNK).init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), dict(shapes))


def save(path: Path, variables: dict, kind: str, **options) -> Path:
    save_ported(path, variables, {"kind": kind, "options": options, "porter_version": "0"})
    return path


def face_network(folder: Path, kind: str) -> Path:
    """The small trunk as each kind of file holds it."""
    trunk = trunk_variables()
    if kind == "ir_se50":
        return save(folder / "trunk.safetensors", trunk, kind, codes=0)
    head = {"params": {"head": {"linear": {"bias": np.zeros(3, np.float32)}}}, "batch_stats": {"head": {}}}
    return save(folder / "face.safetensors", {k: {"trunk": v, **head[k]} for k, v in trunk.items()}, kind)


@pytest.mark.parametrize("kind", ["ir_se50", "arcface-irse50"])
def test_every_tensor_is_in_its_place(tmp_path: Path, eg3d: Path, kind: str) -> None:
    model, variables = empty(mini_config())
    names = {"generator": str(eg3d), "encoder": str(face_network(tmp_path, kind))}
    loaded = load_initial(variables, model, names)
    assert jax.tree.structure(loaded) == jax.tree.structure(variables)
    source = port_source("eg3d", read_source(eg3d.with_suffix(".pkl"))).variables
    for collection, tree in source.items():
        for module, inside in tree.items():
            jax.tree.map(np.testing.assert_array_equal, loaded[collection][module], inside)
    for collection, tree in trunk_variables().items():
        jax.tree.map(np.testing.assert_array_equal, loaded[collection]["encoder"]["trunk"], tree)
    w_avg = model.apply(loaded, method=lambda nofa: nofa.generator.w_avg)
    np.testing.assert_array_equal(w_avg, source["buffers"]["generator"]["mapping"]["w_avg"])
    assert not np.any(loaded["params"]["encoder"]["heads_0"]["weight"])  # not in a face network: as it was


def test_e4e_fills_the_whole_encoder(tmp_path: Path) -> None:
    model, variables = empty(mini_config())
    kinds = [kind for kind, tree in variables.items() if "encoder" in tree]
    encoder = {kind: jax.tree.map(lambda x: np.ones(x.shape, x.dtype), variables[kind]["encoder"]) for kind in kinds}
    average = {"buffers": {"latent_avg": np.zeros((10, 512), np.float32)}}
    path = save(tmp_path / "e4e.safetensors", {**encoder, **average}, "e4e", codes=10)
    loaded = load_initial(variables, model, {"encoder": str(path), "generator": ""})
    assert all(np.all(leaf == 1) for leaf in jax.tree.leaves(loaded["params"]["encoder"]))
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(loaded["params"]["generator"]))


def test_another_size_is_named(tmp_path: Path, eg3d: Path) -> None:
    config = mini_config().unlock()
    config.model.generator.channel_max = 20
    config.model.compensation.channels = (20, 8, 8, 8)
    model, variables = empty(config)
    with pytest.raises(UserError, match=r"init_from\.generator=.*kernel is .*24\] in the file, .*20\] in"):
        load_initial(variables, model, {"generator": str(eg3d)})
    model, variables = empty(mini_config())
    smaller = trunk_variables()
    del smaller["params"]["unit_3"], smaller["batch_stats"]["unit_3"]
    path = save(tmp_path / "small.safetensors", smaller, "ir_se50", codes=0)
    with pytest.raises(UserError, match=r"encoder/trunk/unit_3/norm1/mean is missing in the file.* and \d+ more"):
        load_initial(variables, model, {"encoder": str(path)})


def test_other_meanings_of_the_same_sizes_are_named(eg3d: Path) -> None:
    """A box of another size or no clamp would give other pictures without any tensor of another shape."""
    model, variables = empty(mini_config())
    other = model.clone(
        renderer=model.renderer.clone(box_warp=2.0), superres=model.superres.clone(clamp=None, antialias=False)
    )
    with pytest.raises(UserError, match=r"renderer\.box_warp is 1\.0 in the file, 2\.0 in the model") as error:
        load_initial(variables, other, {"generator": str(eg3d)})
    assert "superres.antialias is True in the file, False" in str(error.value)
    assert "superres.clamp is 256.0 in the file, None" in str(error.value)


def test_wrong_files_and_names(tmp_path: Path, eg3d: Path) -> None:
    model, variables = empty(mini_config())
    for names, reason in (
        ({"generator": "eg3d"}, r"init_from\.generator=eg3d is not here: .*nofa weights fetch eg3d"),
        ({"generator": "eg4d"}, "unknown weights 'eg4d'; did you mean eg3d"),
        ({"generator": str(tmp_path / "no.safetensors")}, "which the config names"),
        ({"encoder": str(eg3d)}, "is of kind eg3d; the encoder starts from arcface-irse50, ir_se50 or e4e"),
        ({"deformation": str(eg3d)}, "only generator and encoder can start from a file"),
    ):
        with pytest.raises(UserError, match=reason):
            load_initial(variables, model, names)


def test_a_run_starts_from_them(tmp_path: Path, eg3d: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`build.initial_state` loads the files for a new run, and not for one that is resumed."""
    config = mini_config().unlock()
    config.init_from.update({"generator": str(eg3d), "encoder": str(face_network(tmp_path, "ir_se50"))})
    config.warm_start.update({"steps": 0, "encoder_batches": 0})
    model, variables = empty(config)
    monkeypatch.setattr(build, "init_variables", lambda *args: dict(variables))
    monkeypatch.setattr(build, "begin_stage", lambda config, stage, params, constants: (params, constants))

    data = types.SimpleNamespace(metadata={"n_id": 5, "n_exp": 6, "head": "procedural"})
    params, constants = build.initial_state(config, model, data, [None])
    assert np.any(params["generator"]["b4"]["const"])
    assert np.any(params["encoder"]["trunk"]["stem_conv"]["kernel"])
    assert np.any(constants["buffers"]["generator"]["mapping"]["w_avg"])
    params, _ = build.initial_state(config, model, data, [None], warm=False)
    assert not np.any(params["generator"]["b4"]["const"])


def test_the_published_files_fit_the_papers_configuration() -> None:
    """Shapes and meanings of ffhqrebalanced512-128.pkl and model_ir_se50.pth against configs/general.py."""
    config = load_config("configs/general.py")
    model = build.build_model(config)
    shapes = jax.eval_shape(lambda key: build.init_variables(config, model, (80, 64), key), jax.random.key(0))
    flat = traverse_util.flatten_dict(dict(shapes), sep="/")
    full = golden("full")
    tensors = {k: np.broadcast_to(np.float32(0), e["shape"]) for k, e in full.inventory()["tensors"].items()}
    init = full.meta["config"]["init_kwargs"]
    options = generator_config_from(init, init["rendering_kwargs"], tensors, 128)
    for part, kind, tree in (
        ("generator", "eg3d", abstract_variables(model_from(options))),
        ("encoder", "arcface-irse50", irse50_network({}).target),
    ):
        new, roots = _take(part, tree, {"kind": kind, "options": options if kind == "eg3d" else {}}, model, part)
        _check(flat, new, roots, part)
        assert len(new) > 100
