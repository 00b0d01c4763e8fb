"""Detects the objects in an image, in the images of a folder, in a video, or before a camera.

    python -m public.test_scripts.detect detection_experiments/ppyoloe_s_voc street.jpg
    python -m public.test_scripts.detect detection_experiments/ppyoloe_s_voc photos/ --recursive --output found
    python -m public.test_scripts.detect runs/<time>/best.pth clip.mp4 --score_threshold 0.5
    python -m public.test_scripts.detect detection_experiments/ppyoloe_s_voc webcam --output recording
    python -m public.test_scripts.detect ppyoloe_plus_s street.jpg      # known weights, by the name of their network

Boxes are drawn into copies in the output folder: images under their own names, a video as <name>.mp4 with the same
frames, size and frame rate (as Motion JPEG in <name>.avi where a side is odd, which MPEG-4 cannot hold).  Beside them lie
detections.json, with every file or frame, and detections_coco.json, with images, categories and annotations as COCO
writes them, plus scores.  Boxes are in pixels of the image, turned as its EXIF orientation says.

An image that cannot be read is named, the others go on, and the command ends with status 1.  Ctrl-C ends a video or a
recording early; what has been written until then can be used.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
from tqdm import tqdm

from public import commands, drawing
from public.decoding import nobody_listens
from public.inference import video
from public.inference.detector import Detector
from public.inference.places import open_detector
from public.inference.results import Results
from public.inference.sources import camera_number, find_images, is_image
from public.inference.window import Window, has_display
from public.input import ImageError, read_image
from public.text import let_everything_be_printed

RECORDING_FPS = 25.0  # of a camera that states none


def main() -> None:
    commands.call(detect, make_parser().parse_args())


def make_parser() -> argparse.ArgumentParser:
    parser = commands.make_parser("detect", __doc__, experiment=None)
    parser.add_argument("experiment", help="an experiment's folder, a run, a checkpoint, or a network's name")
    parser.add_argument("source", help="an image, a folder of images, a video, or a camera: webcam, webcam:1")
    commands.add_weights(parser)
    parser.add_argument("--score_threshold", type=float, default=0.4, help="lowest score that counts (0.4)")
    parser.add_argument(
        "--output", type=Path, help="folder to write into; without it ./<name>_detections, for a camera none"
    )
    parser.add_argument("--json", type=Path, help="where detections.json goes; without it, into the output folder")
    parser.add_argument("--no_drawing", action="store_true", help="write the JSON files only")
    parser.add_argument("--recursive", action="store_true", help="of a folder: the folders in it as well")
    parser.add_argument("--batch_size", type=int, default=8, help="images, or frames of a video, at once (8)")
    parser.add_argument("--every", type=int, default=1, help="of a video: look at every N-th frame, draw on all (1)")
    parser.add_argument("--max_frames", type=int, help="of a video or camera: stop after so many frames")
    parser.add_argument("--fps", type=float, help="frame rate of the written video; without it, the source's")
    commands.add_device(parser)
    return parser


def detect(arguments: argparse.Namespace) -> Results:
    """Runs the command and returns what it wrote to detections.json.

    Raises:
        SystemExit: Ctrl-C ended it early (status 130), or an image could not be read (status 1), after all was written.
    """
    let_everything_be_printed()
    _check(arguments)
    camera = camera_number(arguments.source)
    if camera is None and not Path(arguments.source).exists():
        raise FileNotFoundError(f"{arguments.source}: there is no such file, folder or camera (webcam, webcam:1)")
    if camera is not None and arguments.output is None and not has_display():
        raise ValueError(
            "no window can be shown here: there is no display ($DISPLAY and $WAYLAND_DISPLAY are empty), or OpenCV is a "
            "headless build; --output FOLDER records without a window"
        )
    detector, weights = open_detector(arguments.experiment, arguments.weights, arguments.device)
    detector = detector.fused()
    results = Results(
        class_names=detector.class_names,
        source=arguments.source,
        weights=str(weights),
        score_threshold=arguments.score_threshold,
    )
    if camera is not None:
        _detect_camera(arguments, camera, detector, results)
    elif Path(arguments.source).is_dir() or is_image(Path(arguments.source)):
        _detect_images(arguments, detector, results)
    else:
        _detect_video(arguments, detector, results)
    _finish(arguments, results)
    return results


def _check(arguments: argparse.Namespace) -> None:
    """Refuses numbers that make no sense, and settles the output folder."""
    if not 0 <= arguments.score_threshold <= 1:
        raise ValueError(f"--score_threshold is {arguments.score_threshold}; it must be from 0 to 1")
    for name in ("batch_size", "every", "max_frames"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name} is {value}; it must be at least 1")
    if arguments.output is None and camera_number(arguments.source) is None:
        source = Path(arguments.source).resolve()
        arguments.output = Path(f"{source.name if source.is_dir() else source.stem}_detections")
    if arguments.json is None and arguments.output is not None:
        arguments.json = arguments.output / "detections.json"


def _finish(arguments: argparse.Namespace, results: Results) -> None:
    """Writes the JSON files, says what was found, and ends with the status that fits."""
    if arguments.json is not None:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        coco = results.write(arguments.json)
        print(f"results: {arguments.json.resolve()}\nCOCO style: {coco.resolve()}")
    print(results.summary())
    if results.is_stopped:
        print("stopped by Ctrl-C; what was done until then is written", file=sys.stderr)
    for problem in results.problems:
        print(f"error: {problem}", file=sys.stderr)
    if results.is_stopped or results.problems:
        raise SystemExit(130 if results.is_stopped else 1)


def _refuse_overwriting(outputs: list[Path], sources: list[Path]) -> None:
    originals = {source.resolve() for source in sources}
    for output in outputs:
        if output.resolve() in originals:
            raise ValueError(f"{output} is an input file and would be overwritten; name another folder by --output")


def _draw(image: np.ndarray, found: dict, detector: Detector, min_side: int | None = None) -> np.ndarray:
    return drawing.draw_detections(
        image, found["boxes"], found["labels"], detector.class_names, found["scores"], min_side=min_side
    )


# Images


def _detect_images(arguments: argparse.Namespace, detector: Detector, results: Results) -> None:
    """One image, or those of a folder: the next ones are read and the last ones drawn while the network is at work."""
    source = Path(arguments.source)
    root = source if source.is_dir() else source.parent
    images = find_images(source, recursive=arguments.recursive, leave_out=arguments.output)
    outputs = [] if arguments.no_drawing else [_drawing_path(path, root, arguments.output) for path in images]
    _refuse_overwriting([*outputs, arguments.json], images)
    parts = [images[start : start + arguments.batch_size] for start in range(0, len(images), arguments.batch_size)]
    places = {} if arguments.no_drawing else dict(zip(images, outputs))
    try:
        with (
            tqdm(total=len(images), unit="image", disable=None) as progress,
            ThreadPoolExecutor(1) as reading,
            ThreadPoolExecutor(1) as drawing_thread,
        ):
            drawn = None
            for part, read in zip(parts, _read_ahead(reading, parts)):
                pictures = _told_unreadable(read, results)
                found = detector.many(
                    list(pictures.values()), arguments.score_threshold, batch_size=arguments.batch_size
                )
                for (path, image), one in zip(pictures.items(), found):
                    results.add(one, height=image.shape[0], width=image.shape[1], file=str(path))
                if drawn is not None:
                    drawn.result()
                drawn = drawing_thread.submit(_draw_all, pictures, found, detector, places)
                with nobody_listens():
                    progress.update(len(part))
            if drawn is not None:
                drawn.result()
    except KeyboardInterrupt:
        results.is_stopped = True
    if outputs and results.num_read > 0:
        print(f"drawn to {(outputs[0] if source.is_file() else arguments.output).resolve()}")


def _read_ahead(reading: Executor, parts: list[list[Path]]) -> Iterator[dict[Path, np.ndarray | ImageError]]:
    """The pictures of each part, or why they cannot be read; while a part is used the next one is read."""
    coming = reading.submit(_read, parts[0])
    for following in [*parts[1:], None]:
        read = coming.result()
        if following is not None:
            coming = reading.submit(_read, following)
        yield read


def _read(paths: list[Path]) -> dict[Path, np.ndarray | ImageError]:
    read: dict[Path, np.ndarray | ImageError] = {}
    for path in paths:
        try:
            read[path] = read_image(path)
        except ImageError as error:
            read[path] = error
    return read


def _told_unreadable(read: dict[Path, np.ndarray | ImageError], results: Results) -> dict[Path, np.ndarray]:
    """The pictures that could be read; the others are noted in `results`."""
    for path, picture in read.items():
        if isinstance(picture, ImageError):
            results.add_unreadable(str(path), str(picture))
    return {path: picture for path, picture in read.items() if not isinstance(picture, ImageError)}


def _draw_all(
    pictures: dict[Path, np.ndarray], found: list[dict], detector: Detector, places: dict[Path, Path]
) -> None:
    """Draws what was found into copies of the pictures; `places` says where they go, {}: nowhere."""
    for (path, image), one in zip(pictures.items(), found):
        if path in places:
            _save(places[path], _draw(image, one, detector, drawing.MIN_SIDE))


def _drawing_path(path: Path, root: Path, output: Path) -> Path:
    """Where the drawing of `path` goes: the same place under `output`, as .jpg where OpenCV cannot write the format."""
    target = output / path.relative_to(root)
    can_write = target.suffix.lower() in (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm")
    return target if can_write else target.with_name(target.name + ".jpg")


def _save(path: Path, picture: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    drawing.save_image(path, picture)


# Video files


def _detect_video(arguments: argparse.Namespace, detector: Detector, results: Results) -> None:
    source = Path(arguments.source)
    clip = video.open_video(source)
    fps = arguments.fps or clip.fps
    if fps is None:
        raise ValueError(f"{source} states no frame rate that makes sense; give one by --fps 25")
    stem = arguments.output / source.stem
    _refuse_overwriting(
        [arguments.json, *(stem.with_name(stem.name + codec.suffix) for codec in video.CODECS)], [source]
    )
    results.header["fps"] = fps
    if not arguments.no_drawing:
        arguments.output.mkdir(parents=True, exist_ok=True)
    total = min(filter(None, (clip.num_stated, arguments.max_frames)), default=None)
    with video.VideoFile(stem=stem, fps=fps) as written, tqdm(total=total, unit="frame", disable=None) as progress:
        try:
            for number, (image, found) in enumerate(_looked_at(clip, detector, arguments)):
                if not arguments.no_drawing:
                    written.write(_draw(image, found, detector))
                if number % arguments.every == 0:
                    results.add(found, height=image.shape[0], width=image.shape[1], frame=number, seconds=number / fps)
                progress.update()
        except KeyboardInterrupt:
            results.is_stopped = True
        finally:
            clip.close()
    _judge_video(clip, arguments, results)
    if written.path is not None:
        print(f"drawn to {written.path.resolve()}: {written.num_frames} frames, {fps:g} a second")


def _looked_at(
    clip: video.Video, detector: Detector, arguments: argparse.Namespace
) -> Iterator[tuple[np.ndarray, dict]]:
    """(frame, detections) of each frame; with --every N those of the frames between are those of the last one looked at."""
    frames = enumerate(islice(clip, arguments.max_frames))
    while chunk := list(islice(frames, arguments.batch_size)):
        looked_at = [image for number, image in chunk if number % arguments.every == 0]
        found = iter(detector.many(looked_at, arguments.score_threshold, batch_size=arguments.batch_size))
        for number, image in chunk:
            if number % arguments.every == 0:
                last = next(found)
            yield image, last


def _judge_video(clip: video.Video, arguments: argparse.Namespace, results: Results) -> None:
    """Reports frames that are missing: of the files whose number of frames is exact, as a problem."""
    if clip.num_read == 0 and not results.is_stopped:
        results.problems.append(f"{clip.name} holds no frame that can be read")
    expected = min(filter(None, (clip.num_stated, arguments.max_frames)), default=0)
    if results.is_stopped or clip.num_read == 0 or clip.num_read >= expected:
        return
    line = f"{clip.name} states {clip.num_stated} frames, but {clip.num_read} could be read"
    if Path(clip.name).suffix.lower() in video.COUNTED:
        results.problems.append(f"{line}; it is damaged or cut short")
    else:
        print(f"{line}; files of this kind state an estimate", file=sys.stderr)


# Cameras


def _detect_camera(arguments: argparse.Namespace, number: int, detector: Detector, results: Results) -> None:
    """Shows what camera `number` sees until q, Esc, Ctrl-C or --max_frames; records it where there is an output folder."""
    camera = video.open_camera(number)
    fps = arguments.fps or camera.fps or RECORDING_FPS
    results.header["fps"] = fps
    is_recording = arguments.output is not None and not arguments.no_drawing
    if is_recording:
        arguments.output.mkdir(parents=True, exist_ok=True)
        print(f"recording {camera.name} at {fps:g} frames a second until q, Esc or Ctrl-C", flush=True)
    stem = (arguments.output or Path()) / f"webcam_{number}"
    with video.VideoFile(stem=stem, fps=fps) as written, Window(f"Encore, {camera.name}: q ends") as window:
        try:
            start = time.monotonic()
            for count, image in enumerate(islice(camera, arguments.max_frames)):
                seconds = time.monotonic() - start
                found = detector(image, arguments.score_threshold)
                picture = _draw(image, found, detector)
                results.add(found, height=image.shape[0], width=image.shape[1], frame=count, seconds=seconds)
                if is_recording:
                    _record(written, picture, seconds)
                if window.show(picture):
                    break
        except KeyboardInterrupt:
            pass  # the usual end of a recording without a window
        finally:
            camera.close()
    if camera.num_read == 0:
        results.problems.append(f"{camera.name} gives no picture")
    if written.path is not None:
        print(f"recorded to {written.path.resolve()}: {written.num_frames} frames, {fps:g} a second")


def _record(written: video.VideoFile, picture: np.ndarray, seconds: float) -> None:
    """Appends a picture as often as the time since the start asks for, so that the recording plays at the true speed."""
    while written.num_frames <= seconds * written.fps:
        written.write(picture)


if __name__ == "__main__":
    main()
