"""Detection in videos and before cameras: what is read, what is written, and what is reported."""

import json
import struct

import cv2
import numpy as np
import pytest
import torch

import public
from public.inference import video, window
from public.inference.detector import Detector
from public.inference.sources import camera_number
from public.inference.video import VideoError, VideoFile, open_video
from public.test_scripts import detect as command
from tests.helpers.tiny_detector import assert_same, picture, run_detect, write_checkpoint, write_video


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("weights") / "tiny.pth")


@pytest.fixture(scope="module")
def detector(checkpoint):
    torch.set_num_threads(1)
    return public.load(checkpoint, device="cpu")


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    """Results go to the working folder unless another is named; no test may find a display."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    return folder


def read_frames(path) -> tuple[list[np.ndarray], float]:
    capture = cv2.VideoCapture(str(path))
    frames = []
    while (read := capture.read())[0]:
        frames.append(read[1][..., ::-1])
    return frames, capture.get(cv2.CAP_PROP_FPS)


@pytest.mark.parametrize(
    ("size", "fps", "ending"),
    [((64, 48), 29.97, "mp4"), ((65, 49), 30000 / 1001, "avi"), ((33, 20), 12.5, "avi"), ((1, 1), 24.0, "avi")],
)
def test_a_video_keeps_its_size_its_frames_and_its_rate(checkpoint, detector, own_folder, tmp_path, size, fps, ending):
    """Also odd sizes and broken rates, which OpenCV's own writers would round; each frame has its entry."""
    odd = {"fourcc": "MJPG", "backend": cv2.CAP_OPENCV_MJPEG}
    write_video(tmp_path / f"clip.{ending}", size=size, fps=fps, **(odd if ending == "avi" else {}))
    source, _ = read_frames(tmp_path / f"clip.{ending}")
    results = run_detect(
        checkpoint, tmp_path / f"clip.{ending}", "--score_threshold", 0.01, "--batch_size", 3, "--fps", fps
    )
    output = own_folder / "clip_detections"
    frames, written_fps = read_frames(output / f"clip.{ending}")
    assert len(frames) == len(source) == 7
    assert frames[0].shape == source[0].shape == (size[1], size[0], 3)
    assert written_fps == pytest.approx(fps, rel=1e-5)
    entries = json.loads((output / "detections.json").read_text())["images"]
    assert entries == results.entries
    assert [entry["frame"] for entry in entries] == list(range(7))
    for number, (entry, frame) in enumerate(zip(entries, source)):
        assert entry["seconds"] == pytest.approx(number / fps)
        assert_same(entry, detector, np.ascontiguousarray(frame))
    assert sorted(path.name for path in output.iterdir()) == [
        f"clip.{ending}",
        "detections.json",
        "detections_coco.json",
    ]


def test_a_video_keeps_the_rate_it_states(checkpoint, own_folder, tmp_path):
    write_video(tmp_path / "clip.mp4", fps=12.5)
    run_detect(checkpoint, tmp_path / "clip.mp4")
    assert read_frames(own_folder / "clip_detections" / "clip.mp4")[1] == 12.5


def test_boxes_are_drawn_into_the_video(checkpoint, own_folder, tmp_path):
    """A frame with boxes differs from the source where they are; with the threshold at 1 it is the source's, recoded."""
    write_video(tmp_path / "clip.mp4")
    source, _ = read_frames(tmp_path / "clip.mp4")
    changes = []
    for threshold in (0.01, 1.0):
        run_detect(checkpoint, tmp_path / "clip.mp4", "--score_threshold", threshold)
        frames, _ = read_frames(own_folder / "clip_detections" / "clip.mp4")
        changes.append(np.abs(frames[3].astype(int) - source[3]).mean())
    assert changes[0] > 10 * changes[1]


def test_every_third_frame_is_looked_at_and_all_are_written(checkpoint, detector, own_folder, tmp_path):
    write_video(tmp_path / "clip.mp4")
    results = run_detect(checkpoint, tmp_path / "clip.mp4", "--every", 3, "--batch_size", 2, "--score_threshold", 0.01)
    assert [entry["frame"] for entry in results.entries] == [0, 3, 6]
    source, _ = read_frames(tmp_path / "clip.mp4")
    for entry in results.entries:
        assert_same(entry, detector, np.ascontiguousarray(source[entry["frame"]]))
    assert len(read_frames(own_folder / "clip_detections" / "clip.mp4")[0]) == 7
    arguments = command.make_parser().parse_args(["-", "-", "--every", "3", "--batch_size", "2"])
    clip = open_video(tmp_path / "clip.mp4")
    held = [id(found["boxes"]) for _, found in command._looked_at(clip, detector, arguments)]
    assert held[0] == held[1] == held[2] != held[3] == held[4] == held[5] != held[6]


def test_the_first_frames_only(checkpoint, own_folder, tmp_path):
    write_video(tmp_path / "clip.mp4")
    assert len(run_detect(checkpoint, tmp_path / "clip.mp4", "--max_frames", 4).entries) == 4
    assert len(read_frames(own_folder / "clip_detections" / "clip.mp4")[0]) == 4


def test_a_video_that_is_stored_turned(checkpoint, own_folder, tmp_path):
    """The matrix in the track header asks for a quarter turn; frames, entries and the written video are upright."""
    write_video(tmp_path / "clip.mp4")
    data = (tmp_path / "clip.mp4").read_bytes()
    upright = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    quarter = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 48 << 16, 0, 1 << 30)
    start = data.index(upright, data.index(b"tkhd"))
    (tmp_path / "clip.mp4").write_bytes(data[:start] + quarter + data[start + 36 :])
    results = run_detect(checkpoint, tmp_path / "clip.mp4")
    assert {(entry["width"], entry["height"]) for entry in results.entries} == {(48, 64)}
    frames, _ = read_frames(own_folder / "clip_detections" / "clip.mp4")
    assert [frame.shape for frame in frames] == [(64, 48, 3)] * 7


def test_a_video_that_is_cut_short(checkpoint, own_folder, tmp_path, capsys):
    """Both numbers of frames are named, the status is 1, and what could be read is there."""
    path = tmp_path / "clip.avi"
    write_video(path, size=(65, 49), num_frames=20, fourcc="MJPG", backend=cv2.CAP_OPENCV_MJPEG)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(SystemExit) as ended:
        run_detect(checkpoint, path)
    assert ended.value.code == 1
    frames, _ = read_frames(own_folder / "clip_detections" / "clip.avi")
    assert 0 < len(frames) < 20
    assert f"error: {path} states 20 frames, but {len(frames)} could be read" in capsys.readouterr().err
    assert len(json.loads((own_folder / "clip_detections" / "detections.json").read_text())["images"]) == len(frames)


def test_ctrl_c_leaves_a_video_that_can_be_played(checkpoint, own_folder, tmp_path, monkeypatch, capsys):
    write_video(tmp_path / "clip.mp4", num_frames=9)
    many, calls = Detector.many, []

    def interrupted(self, images, *args, **kwargs):
        calls.append(len(images))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return many(self, images, *args, **kwargs)

    monkeypatch.setattr(Detector, "many", interrupted)
    with pytest.raises(SystemExit) as ended:
        run_detect(checkpoint, tmp_path / "clip.mp4", "--batch_size", 2)
    assert ended.value.code == 130
    assert "stopped by Ctrl-C" in capsys.readouterr().err
    output = own_folder / "clip_detections"
    assert len(read_frames(output / "clip.mp4")[0]) == 4
    assert [entry["frame"] for entry in json.loads((output / "detections.json").read_text())["images"]] == [0, 1, 2, 3]
    assert not list(output.glob(".*"))


def test_a_frame_of_another_size_is_refused_and_the_file_can_be_played(tmp_path):
    with VideoFile(stem=tmp_path / "clip", fps=10) as file:
        file.write(picture(0, 48, 64))
        with pytest.raises(VideoError, match="frame 1 has 62 x 48 pixels, the first one 64 x 48"):
            file.write(picture(0, 48, 62))
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["clip.mp4"]
    assert len(read_frames(tmp_path / "clip.mp4")[0]) == 1


def test_frames_lost_on_the_way_to_the_disk_are_noticed(tmp_path, monkeypatch):
    """OpenCV's writer says nothing when the disk is full; the file is counted, and is not given its name."""
    (tmp_path / "clip.mp4").write_text("the video of before")
    monkeypatch.setattr(video, "_count_frames", lambda path: 2)
    file = VideoFile(stem=tmp_path / "clip", fps=10)
    for number in range(3):
        file.write(picture(number))
    with pytest.raises(OSError, match=r"clip\.mp4 holds 2 of 3 frames; is the disk full\?"):
        file.close()
    assert (tmp_path / "clip.mp4").read_text() == "the video of before"
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["clip.mp4"]


def test_without_the_first_encoder_the_second_is_taken(tmp_path, monkeypatch):
    monkeypatch.setattr(video, "CODECS", (video.CODECS[0]._replace(fourcc="????"), video.CODECS[1]))
    with VideoFile(stem=tmp_path / "clip", fps=10) as file:
        file.write(picture(0))
    assert len(read_frames(tmp_path / "clip.avi")[0]) == 1
    monkeypatch.setattr(video, "CODECS", (video.CODECS[0]._replace(fourcc="????"),))
    with pytest.raises(VideoError, match=r"no video of 64 x 48 pixels .* tried \?\?\?\? in \.mp4"):
        VideoFile(stem=tmp_path / "clip", fps=10).write(picture(0))


# Cameras


class FakeCapture:
    """What cv2.VideoCapture would be: a camera with some pictures, then none."""

    def __init__(self, num_frames=5, fps=10.0, is_open=True):
        self.frames = [picture(number)[..., ::-1] for number in range(num_frames)]
        self.fps, self.is_open, self.is_released = fps, is_open, False

    def isOpened(self):  # noqa: N802
        return self.is_open

    def get(self, key):
        return {cv2.CAP_PROP_FPS: self.fps, cv2.CAP_PROP_FRAME_COUNT: -1.0}[key]

    def read(self):
        return (True, self.frames.pop(0)) if self.frames else (False, None)

    def release(self):
        self.is_released = True


def put_camera(monkeypatch, capture, seconds=0.1):
    """Camera 1 is `capture`, and a clock goes on by `seconds` at each look."""
    real = cv2.VideoCapture
    monkeypatch.setattr(cv2, "VideoCapture", lambda place: capture if place == 1 else real(place))
    times = (n * seconds for n in range(10_000))
    monkeypatch.setattr(command.time, "monotonic", lambda: next(times))


@pytest.mark.parametrize(
    ("source", "number"),
    [("webcam", 0), ("webcam:3", 3), ("2", 2), ("webcam.mp4", None), ("webcam:", None), ("photos", None)],
)
def test_which_camera_is_meant(source, number):
    assert camera_number(source) == number


def test_a_file_called_like_a_camera_is_a_file(own_folder):
    (own_folder / "2").write_text("a file")
    assert camera_number("2") is None


def test_recording_without_a_display_plays_at_the_true_speed(checkpoint, detector, own_folder, monkeypatch):
    """Pictures come every 0.3 s but the video has 10 frames a second: each stands for three."""
    capture = FakeCapture(num_frames=4)
    put_camera(monkeypatch, capture, seconds=0.3)
    results = run_detect(checkpoint, "webcam:1", "--output", "recording", "--score_threshold", 0.01)
    assert [entry["frame"] for entry in results.entries] == [0, 1, 2, 3]
    assert [entry["seconds"] for entry in results.entries] == pytest.approx([0.3, 0.6, 0.9, 1.2])
    for number, entry in enumerate(results.entries):
        assert_same(entry, detector, picture(number))
    frames, fps = read_frames(own_folder / "recording" / "webcam_1.mp4")
    assert fps == 10
    assert len(frames) == 13
    assert capture.is_released
    assert (own_folder / "recording" / "detections.json").is_file()


def test_the_window_ends_by_key_and_by_closing(checkpoint, own_folder, monkeypatch):
    shown, keys = [], iter([-1, ord("x"), ord("q")])
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(cv2, "imshow", lambda title, image: shown.append(image))
    monkeypatch.setattr(cv2, "waitKey", lambda _: next(keys))
    monkeypatch.setattr(cv2, "getWindowProperty", lambda *_: 1.0)
    monkeypatch.setattr(cv2, "destroyAllWindows", lambda: shown.append("closed"))
    put_camera(monkeypatch, FakeCapture())
    results = run_detect(checkpoint, "webcam:1", "--score_threshold", 1.0)
    assert len(results.entries) == 3
    assert shown[-1] == "closed"
    assert (shown[0] == picture(0)[..., ::-1]).all()  # OpenCV's windows take BGR
    assert not list(own_folder.iterdir()), "nothing was asked to be written"
    for key, visible in ((27, 1.0), (-1, 0.0)):
        monkeypatch.setattr(cv2, "waitKey", lambda _, key=key: key)
        monkeypatch.setattr(cv2, "getWindowProperty", lambda *_, visible=visible: visible)
        put_camera(monkeypatch, FakeCapture())
        assert len(run_detect(checkpoint, "webcam:1").entries) == 1


def test_a_display_needs_a_screen_and_an_opencv_with_windows(monkeypatch):
    monkeypatch.setattr(window.sys, "platform", "linux")
    assert not window.has_display()
    monkeypatch.setenv("WAYLAND_DISPLAY", "wayland-0")
    monkeypatch.setattr(cv2, "currentUIFramework", lambda: "QT")
    assert window.has_display()
    monkeypatch.setattr(cv2, "currentUIFramework", lambda: "")
    assert not window.has_display()


def test_a_camera_that_is_not_there_or_gives_nothing(checkpoint, monkeypatch, capsys):
    put_camera(monkeypatch, FakeCapture(is_open=False))
    with pytest.raises(VideoError, match="camera 1 cannot be opened"):
        run_detect(checkpoint, "webcam:1", "--output", "recording")
    put_camera(monkeypatch, FakeCapture(num_frames=0))
    with pytest.raises(SystemExit):
        run_detect(checkpoint, "webcam:1", "--output", "recording")
    assert "error: camera 1 gives no picture" in capsys.readouterr().err


def test_a_source_without_a_frame_rate_needs_one(checkpoint, own_folder, monkeypatch, tmp_path):
    """A camera is recorded at 25 frames a second; a video is refused until a rate is given."""
    put_camera(monkeypatch, FakeCapture(num_frames=1, fps=0.0))
    run_detect(checkpoint, "webcam:1", "--output", "recording")
    assert read_frames(own_folder / "recording" / "webcam_1.mp4")[1] == 25
    write_video(tmp_path / "clip.mp4")
    for fps in (0.0, float("nan"), 90_000.0):
        broken = video.Video(capture=FakeCapture(fps=fps), name="clip.mp4")
        monkeypatch.setattr(video, "open_video", lambda _, broken=broken: broken)
        with pytest.raises(ValueError, match="states no frame rate that makes sense; give one by --fps 25"):
            run_detect(checkpoint, tmp_path / "clip.mp4")
