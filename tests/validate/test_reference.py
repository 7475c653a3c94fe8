import numpy as np
import pytest

from pecore.errors import InputError
from pecore.runtime import TensorSpec
from pecore.validate.reference import load_reference, save_reference

FLOAT = np.dtype(np.float32)
INPUTS = {"image": TensorSpec((1, 2, 2), FLOAT)}
OUTPUTS = {"embedding": TensorSpec((1, 3), FLOAT)}


def sample(value: float) -> tuple[dict, dict]:
    return {"image": np.full((1, 2, 2), value, np.float32)}, {"embedding": np.full((1, 3), value, np.float32)}


def test_what_is_saved_is_loaded(tmp_path):
    pairs = [sample(1.0), sample(2.0)]
    save_reference(tmp_path / "r.npz", [i for i, _ in pairs], [o for _, o in pairs])
    inputs, outputs = load_reference(tmp_path / "r.npz", INPUTS, OUTPUTS)
    assert [i["image"][0, 0, 0] for i in inputs] == [o["embedding"][0, 0] for o in outputs] == [1.0, 2.0]


def test_the_same_samples_give_the_same_bytes(tmp_path):
    image, embedding = sample(1.0)
    for name in ("a.npz", "b.npz"):
        save_reference(tmp_path / name, [image], [embedding])
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"image": np.zeros((1, 1, 2, 2))}, "holds no array 'embedding'"),
        ({"image": np.zeros((1, 1, 2, 3)), "embedding": np.zeros((1, 1, 3))}, "'image' in .* has shape"),
        ({"image": np.zeros((0, 1, 2, 2)), "embedding": np.zeros((0, 1, 3))}, "'image' in .* has shape"),
        ({"image": np.zeros((2, 1, 2, 2)), "embedding": np.zeros((1, 1, 3))}, "different numbers of samples"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(tmp_path, arrays, words):
    np.savez(tmp_path / "r.npz", **arrays)
    with pytest.raises(InputError, match=words):
        load_reference(tmp_path / "r.npz", INPUTS, OUTPUTS)


@pytest.mark.parametrize("content", [b"", b"not an archive", b"PK\x03\x04 cut off"])
def test_no_archive_is_refused(tmp_path, content):
    (tmp_path / "r.npz").write_bytes(content)
    with pytest.raises(InputError, match="can't be read"):
        load_reference(tmp_path / "r.npz", INPUTS, OUTPUTS)


def test_a_bare_array_is_refused(tmp_path):
    np.save(tmp_path / "r.npy", np.zeros(3))
    with pytest.raises(InputError, match="can't be read"):
        load_reference(tmp_path / "r.npy", INPUTS, OUTPUTS)


def test_damaged_arrays_are_refused(tmp_path):
    path = tmp_path / "r.npz"
    np.savez_compressed(path, image=np.random.default_rng(0).normal(size=1000))
    content = bytearray(path.read_bytes())
    content[200:210] = bytes(10)
    path.write_bytes(content)
    with pytest.raises(InputError, match="can't be read"):
        load_reference(path, INPUTS, OUTPUTS)


def test_pickled_arrays_are_refused(tmp_path):
    np.savez(tmp_path / "r.npz", image=np.array([object()], dtype=object))
    with pytest.raises(InputError, match="can't be read"):
        load_reference(tmp_path / "r.npz", INPUTS, OUTPUTS)
