"""What is handed in for a `.tflite` and is none: said, with how to take the `.tflite` out where one is inside."""

import zipfile
from pathlib import Path

import pytest

from pecore.errors import InputError
from pecore.runtime import open_model
from pecore.tflite_file import check_tflite_head
from pecore.validate.gpu import one_op_model
from pecore.validate.graph import read_graph

OPENERS = [check_tflite_head, open_model, read_graph]


def archive(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


@pytest.mark.parametrize("opener", OPENERS)
def test_a_task_names_the_models_inside(opener, tmp_path):
    """By their bytes: those of language models have no suffix."""
    path = archive(tmp_path / "m.task", METADATA=b"{}", TF_LITE_PREFILL_DECODE=one_op_model())
    with pytest.raises(InputError, match=rf"the \.tflite is inside: TF_LITE_PREFILL_DECODE; .*unzip {path}"):
        opener(path)


def test_many_models_are_counted(tmp_path):
    path = archive(tmp_path / "m.task", **{f"m{i}.tflite": one_op_model() for i in range(5)})
    with pytest.raises(InputError, match=r"m0\.tflite, m1\.tflite, m2\.tflite and 2 more"):
        check_tflite_head(path)


def test_a_zip_without_a_model_is_said_to_have_none(tmp_path):
    with pytest.raises(InputError, match=r"holds none either"):
        check_tflite_head(archive(tmp_path / "m.zip", readme=b"nothing here"))


def test_a_damaged_zip_is_an_input_error(tmp_path):
    path = archive(tmp_path / "m.task", model=one_op_model() * 50)
    content = bytearray(path.read_bytes())
    content[45:60] = bytes(15)
    path.write_bytes(content)
    with pytest.raises(InputError, match="zip archive"):
        check_tflite_head(path)


@pytest.mark.parametrize("opener", OPENERS)
def test_a_litertlm_says_how_to_take_its_models_out(opener, tmp_path):
    path = tmp_path / "m.litertlm"
    path.write_bytes(b"LITERTLM" + bytes(40) + one_op_model())
    with pytest.raises(InputError, match=r"LiteRT-LM container.*litert-lm-peek --litertlm_file"):
        opener(path)
