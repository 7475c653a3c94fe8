import numpy as np
import pytest
from PIL import Image

from pecore.errors import InputError
from pecore.video import evenly, mean_embedding, video_frames


@pytest.fixture
def clip(shots):
    """Nine frames, a photograph sliding by."""
    photo = shots[1].resize((120, 80))
    return [photo.crop((i * 5, 0, 64 + i * 5, 64)) for i in range(9)]


@pytest.mark.parametrize(
    ("total", "frames", "places"),
    [(9, 3, [0, 4, 8]), (9, None, list(range(9))), (3, 8, [0, 1, 2]), (9, 1, [4]), (1, 8, [0])],
)
def test_frames_are_evenly_spaced(total, frames, places):
    assert evenly(total, frames) == places


def test_a_list_an_animation_and_a_folder_give_the_same_frames(clip, tmp_path):
    clip[0].save(tmp_path / "clip.webp", save_all=True, append_images=clip[1:], lossless=True)
    (tmp_path / "frames").mkdir()
    for i, frame in enumerate(clip):
        frame.save(tmp_path / "frames" / f"{i:03}.png")
    expected = [np.asarray(frame) for frame in video_frames(clip, 4)]
    assert len(expected) == 4
    np.testing.assert_array_equal(expected[-1], np.asarray(clip[-1]))
    for video in (tmp_path / "clip.webp", str(tmp_path / "frames")):
        np.testing.assert_array_equal(expected, [np.asarray(frame) for frame in video_frames(video, 4)])


def test_a_gif_and_a_still_image_are_clips(clip, tmp_path):
    clip[0].save(tmp_path / "clip.gif", save_all=True, append_images=clip[1:])
    clip[0].save(tmp_path / "still.png")
    assert len(video_frames(tmp_path / "clip.gif", None)) == 9
    assert [frame.mode for frame in video_frames(tmp_path / "clip.gif", 3)] == ["RGB"] * 3
    assert len(video_frames(tmp_path / "still.png")) == 1


def test_the_mean_is_a_direction():
    rows = np.eye(3, dtype=np.float32)[:2]
    np.testing.assert_allclose(mean_embedding(rows), [0.5**0.5, 0.5**0.5, 0], rtol=1e-6)


@pytest.mark.parametrize(
    ("video", "frames", "said"),
    [
        ([], 8, "empty list"),
        (3, 8, "not int"),
        ("none.gif", 8, "there is no image file none.gif"),
        (["none.png"], 8, "none.png"),
        ([Image.new("RGB", (2, 2))], 0, "0 frames"),
    ],
)
def test_what_is_no_clip_is_refused(video, frames, said):
    with pytest.raises(InputError, match=said):
        video_frames(video, frames)


def test_damaged_and_other_files_are_refused(clip, tmp_path):
    (tmp_path / "text.gif").write_text("no picture")
    with pytest.raises(InputError, match=r"text\.gif is not an image"):
        video_frames(tmp_path / "text.gif")
    clip[0].save(tmp_path / "cut.gif", save_all=True, append_images=clip[1:])
    (tmp_path / "cut.gif").write_bytes((tmp_path / "cut.gif").read_bytes()[:900])
    with pytest.raises(InputError, match=r"cut\.gif|the image"):
        video_frames(tmp_path / "cut.gif")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no image file"):
        video_frames(tmp_path / "empty")
