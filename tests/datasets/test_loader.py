"""Samplers, data sets and the loader: the same bits whatever the workers, each image where it belongs."""

import dataclasses
import functools
import gc
import multiprocessing
import multiprocessing.queues
import os
import pickle
import random
import signal

import numpy as np
import pytest
import torch
from PIL import Image

from public.datasets.coco import Coco
from public.datasets.pictures import load_sample
from public.datasets.sample import SampleKey
from public.datasets.voc import Voc
from public.input import ImageError, InputSpec, to_image
from public.loading.detection import (
    DetectionDataset,
    EvaluationDataset,
    collate,
    load_readable_sample,
    make_detection_loader,
)
from public.loading.samplers import EvalBatches, TrainBatches
from public.loading.workers import DeadWorkerError, forbid_global_random, make_loader
from public.random_streams import stream
from public.transforms.detection import BatchRandomResize, ColorDistort, RandomCrop, RandomExpand, Resize
from public.transforms.flip import RandomFlip
from tests.helpers.experiments import TinyExperiment
from tests.helpers.forked_training import signal_in_step, train
from tests.helpers.tiny_data import write_coco, write_picture, write_voc, write_voc_xml

TRANSFORMS = (
    ColorDistort(brightness=(0.5, 1.5), contrast=(0.5, 1.5), saturation=(0.5, 1.5), hue=(-18.0, 18.0), apply_prob=0.5),
    RandomExpand(ratio=(1.0, 4.0), fill=(124, 116, 104), apply_prob=0.5),
    RandomCrop(
        aspect_ratio=(0.5, 2.0), scale=(0.3, 1.0), thresholds=(0.0, 0.3, 0.7), num_attempts=20, allow_no_crop=True
    ),
    RandomFlip(prob=0.5),
)
BATCH_TRANSFORMS = (BatchRandomResize(sizes=(32, 64, 96), interpolations=("linear", "cubic")),)
SPEC = InputSpec(
    size=(64, 64),
    resize="letterbox",
    interpolation="linear",
    padding=0,
    color_order="rgb",
    scale=1 / 255,
    mean=(0.0, 0.0, 0.0),
    std=(1.0, 1.0, 1.0),
)
train_batches = functools.partial(
    TrainBatches, num_images=10, batch_size=4, seed=0, first_step=0, num_steps=7, rank=0, world_size=1
)
load = functools.partial(make_detection_loader, num_workers=0, prefetch_factor=2, pin_memory=False)


def read_voc(data_root, use_difficult=True):
    return Voc(
        sources=("VOCdevkit/VOC2007/train",), classes=None, use_difficult=use_difficult, keep_empty_images=True
    ).read(data_root)


@pytest.fixture
def annotations(tmp_path):
    write_voc(tmp_path, num_images=10)
    return read_voc(tmp_path)


def training_set(annotations, seed=0, transforms=TRANSFORMS, batch_transforms=BATCH_TRANSFORMS):
    return DetectionDataset(annotations, transforms=transforms, batch_transforms=batch_transforms, seed=seed)


def assert_equal_batches(first, second):
    assert len(first) == len(second) > 0
    for one, other in zip(first, second):
        assert torch.equal(one.images, other.images)
        assert (one.image_ids, one.indices, one.geometries) == (other.image_ids, other.indices, other.geometries)
        assert one.skipped == other.skipped
        for target, other_target in zip(one.targets, other.targets):
            assert target.keys() == other_target.keys() == {"boxes", "labels"}
            assert all(torch.equal(target[name], other_target[name]) for name in target)


# ------------------------------------------------------------------------------------------------ samplers


def test_train_batches_are_slices_of_the_epochs_orders():
    """10 images, batches of 4: two a epoch, the last two images of each order are left out."""
    batches = list(train_batches())
    assert len(batches) == len(train_batches()) == 7
    for step, keys in enumerate(batches):
        epoch, batch = divmod(step, 2)
        order = stream(0, "order", epoch).permutation(10)
        assert keys == [SampleKey(epoch, batch, index) for index in order[4 * batch : 4 * batch + 4]]
        assert all(type(value) is int for key in keys for value in key)
    first_epochs = [tuple(key.index for key in batches[2 * epoch]) for epoch in range(3)]
    assert len(set(first_epochs)) == 3


@pytest.mark.parametrize("first_step", range(8))
def test_starting_later_is_the_tail(first_step):
    assert list(train_batches(first_step=first_step)) == list(train_batches())[first_step:]


def test_another_seed_is_another_order():
    assert list(train_batches(seed=1)) != list(train_batches())


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_the_ranks_shares_are_the_global_batch_in_order(world_size):
    shares = [list(train_batches(rank=rank, world_size=world_size)) for rank in range(world_size)]
    joined = [[key for part in parts for key in part] for parts in zip(*shares)]
    assert joined == list(train_batches())
    assert {len(share) for rank in shares for share in rank} == {4 // world_size}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"world_size": 3}, "batch_size 4 cannot be split evenly over 3 processes"),
        ({"num_images": 3}, "3 images, fewer than one batch of 4"),
        ({"first_step": 8}, "first_step 8 is not between 0 and num_steps 7"),
        ({"batch_size": 0}, "batch_size 0"),
    ],
)
def test_batches_that_cannot_be_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        train_batches(**arguments)


@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
@pytest.mark.parametrize("num_images", [1, 8, 9, 10])
def test_evaluation_batches_hold_each_image_once_and_do_not_depend_on_the_ranks(world_size, num_images):
    ranks = [EvalBatches(num_images=num_images, batch_size=3, rank=r, world_size=world_size) for r in range(world_size)]
    alone = list(EvalBatches(num_images=num_images, batch_size=3, rank=0, world_size=1))
    for rank, batches in enumerate(ranks):
        assert list(batches) == alone[rank::world_size]
        assert len(batches) == len(alone[rank::world_size])
    assert [key.index for batch in alone for key in batch] == list(range(num_images))
    assert all(len(batch) == 3 for batch in alone[:-1])
    assert all(key.batch == number for number, batch in enumerate(alone) for key in batch)


# ------------------------------------------------------------------------------------------------ data sets


def test_crowd_and_unwanted_difficult_objects_are_not_trained_on_and_empty_images_stay(tmp_path):
    written = write_voc(tmp_path, num_images=12)
    assert any(any(image.difficult) and not all(image.difficult) for image in written)
    for use_difficult in (True, False):
        dataset = training_set(read_voc(tmp_path, use_difficult), transforms=(), batch_transforms=())
        assert len(dataset) == 12
        for i, image in enumerate(written):
            sample = dataset[SampleKey(0, 0, i)]
            kept = [box for box, difficult in zip(image.boxes, image.difficult) if use_difficult or not difficult]
            assert sample.boxes.tolist() == [list(map(float, box)) for box in kept]
    written = write_coco(tmp_path, num_images=12)
    data = Coco(annotations="annotations/train.json", images="images", classes=None, keep_empty_images=True)
    dataset = training_set(data.read(tmp_path), transforms=(), batch_transforms=())
    assert any(any(image.crowd) for image in written)
    for i, image in enumerate(written):
        expected = [label for label, crowd in zip(image.labels, image.crowd) if not crowd]
        assert dataset[SampleKey(0, 0, i)].labels.tolist() == expected


def test_evaluation_sees_all_objects_in_network_pixels_and_they_find_back(tmp_path):
    written = write_voc(tmp_path, num_images=5)
    dataset = EvaluationDataset(read_voc(tmp_path, use_difficult=False), spec=SPEC)
    batch = collate([dataset[SampleKey(0, 0, i)] for i in range(5)])
    assert batch.images.shape == (5, 64, 64, 3)
    assert batch.indices == list(range(5))
    assert batch.image_ids == [image.image_id for image in written]
    back = to_image(batch.targets, batch.geometries)
    for image, target in zip(written, back):
        np.testing.assert_allclose(target["boxes"].numpy(), np.array(image.boxes).reshape(-1, 4), atol=1e-4)
    # 48 x 64 letterboxed to 64 x 64: as it is, with 16 rows of padding
    assert (batch.images[:, 48:] == 0).all()
    assert batch.geometries[0].scale_x == batch.geometries[0].scale_y == 1


def test_a_picture_of_another_size_than_annotated_is_named_with_both(tmp_path):
    write_voc(tmp_path, num_images=2)
    folder = tmp_path / "VOCdevkit/VOC2007"
    write_voc_xml(folder / "Annotations/train_0001.xml", size=(64, 48), objects=[("cat", (1, 1, 9, 9), False)])
    annotations = read_voc(tmp_path)
    load_sample(annotations, 0)
    with pytest.raises(ImageError, match=r"train_0001\.png: .* 64 x 48 pixels .* says 48 x 64"):
        load_sample(annotations, 1)


def test_images_of_different_sizes_cannot_be_one_batch(tmp_path):
    write_voc(tmp_path, num_images=2)
    write_picture(tmp_path / "VOCdevkit/VOC2007/JPEGImages/train_0001.png", np.zeros((20, 30, 3), dtype=np.uint8))
    write_voc_xml(tmp_path / "VOCdevkit/VOC2007/Annotations/train_0001.xml", size=(20, 30), objects=[])
    dataset = training_set(read_voc(tmp_path), transforms=(), batch_transforms=())
    samples = [dataset[SampleKey(0, 0, i)] for i in range(2)]
    with pytest.raises(ValueError, match=r"'train_0000' has \(48, 64\) and 'train_0001' has \(20, 30\)"):
        collate(samples)


def test_a_batch_holds_the_samples_it_was_made_of(annotations):
    dataset = training_set(annotations)
    keys = [SampleKey(1, 2, index) for index in (3, 9, 0)]  # image 9 has no object
    samples = [dataset[key] for key in keys]
    batch = collate(samples)
    assert batch.images.dtype == torch.uint8
    assert batch.geometries is None
    assert batch.indices == [3, 9, 0]
    for sample, image, target in zip(samples, batch.images, batch.targets):
        np.testing.assert_array_equal(image.numpy(), sample.image)
        np.testing.assert_array_equal(target["boxes"].numpy(), sample.boxes)
        np.testing.assert_array_equal(target["labels"].numpy(), sample.labels)
        assert target["boxes"].dtype == torch.float32
        assert target["labels"].dtype == torch.int64
    assert batch.targets[1]["boxes"].shape == (0, 4)
    moved = batch.to("meta")
    assert moved.images.is_meta
    assert all(value.is_meta for target in moved.targets for value in target.values())
    assert moved.image_ids == batch.image_ids


# --------------------------------------------------------------------------------------------------- loader


def test_workers_change_no_bit(annotations):
    dataset = training_set(annotations)
    alone = list(load(dataset, train_batches()))
    assert_equal_batches(alone, list(load(dataset, train_batches())))
    for num_workers, prefetch_factor in ((1, 4), (2, 1)):
        loader = load(dataset, train_batches(), num_workers=num_workers, prefetch_factor=prefetch_factor)
        assert_equal_batches(alone, list(loader))
    late = list(load(dataset, train_batches(first_step=3), num_workers=2))
    assert_equal_batches(alone[3:], late)
    assert len({batch.images.shape for batch in alone}) > 1


def test_evaluation_with_workers_is_the_same_each_time(annotations):
    batches = EvalBatches(num_images=10, batch_size=4, rank=0, world_size=1)
    dataset = EvaluationDataset(annotations, spec=SPEC)
    alone = list(load(dataset, batches))
    loader = load(dataset, batches, num_workers=2)
    assert_equal_batches(alone, list(loader))
    assert_equal_batches(alone, list(loader))
    assert [len(batch.images) for batch in alone] == [4, 4, 2]


def test_seeds_and_epochs_give_other_pictures(annotations):
    def pictures(seed, epoch):
        dataset = training_set(annotations, seed=seed)
        return dataset[SampleKey(epoch, 0, 2)].image.tobytes()

    assert len({pictures(0, 0), pictures(1, 0), pictures(0, 1)}) == 3
    assert pictures(0, 0) == pictures(0, 0)


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_both_ways_to_start_workers_work(annotations, monkeypatch, method):
    monkeypatch.setattr(multiprocessing, "get_start_method", lambda allow_none: method)
    fixed = (Resize(size=(32, 32), interpolation="linear"),)
    dataset = training_set(annotations, transforms=fixed, batch_transforms=())
    loader = load(dataset, train_batches(num_steps=2), num_workers=1)
    assert loader.multiprocessing_context.get_start_method() == method
    assert_equal_batches(list(load(dataset, train_batches(num_steps=2))), list(loader))
    evaluation = EvaluationDataset(annotations, spec=SPEC)
    assert pickle.loads(pickle.dumps(evaluation)).spec == SPEC


def test_the_loader_draws_from_no_global_generator(annotations):
    random.seed(1)
    np.random.seed(1)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    for num_workers in (0, 1):
        with forbid_global_random():
            list(load(training_set(annotations), train_batches(num_steps=2), num_workers=num_workers))
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    assert before[:2] == after[:2]
    assert torch.equal(before[2], after[2])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Careless:
    """A transform that draws from where it should not."""

    source: str

    def __call__(self, sample, rng):
        draw = {"python": lambda: random.shuffle([1, 2]), "numpy": lambda: np.random.rand(2)}[self.source]
        draw()
        return sample


@pytest.mark.parametrize(("source", "name"), [("python", r"random\.shuffle"), ("numpy", r"numpy\.random\.rand")])
def test_global_generators_raise_in_workers(annotations, source, name):
    dataset = training_set(annotations, transforms=(Careless(source=source),))
    with pytest.raises(RuntimeError, match=f"{name} draws from a global generator"):
        list(load(dataset, train_batches(), num_workers=1))


def test_global_generators_raise_where_they_are_forbidden_and_only_there():
    draws = [random.random, lambda: random.choice([1]), lambda: random.gauss(0, 1), lambda: np.random.normal()]
    draws += [lambda: np.random.permutation(3), np.random.ranf, lambda: np.random.sample(2), lambda: random.random()]
    with forbid_global_random():
        for draw in draws[1:5] + draws[6:]:
            with pytest.raises(RuntimeError, match="draws from a global generator"):
                draw()
        np.random.default_rng(0).normal()  # a generator of one's own is fine
        random.Random(0).random()
    for draw in draws:
        draw()
    with pytest.raises(KeyError), forbid_global_random():
        raise KeyError
    random.random()


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_broken_picture_arrives_with_its_name(annotations, tmp_path, num_workers):
    (tmp_path / "VOCdevkit/VOC2007/JPEGImages/train_0004.png").write_bytes(b"not a picture")
    with pytest.raises(ImageError, match=r"train_0004\.png: no picture"):
        list(load(training_set(annotations), train_batches(num_steps=20), num_workers=num_workers))


# ------------------------------------------------------------------------------------- pictures that cannot be used

BAD = {2: b"", 3: b"not a picture", 9: b"\xff\xd8\xff"}  # position in the set: what its file holds


@pytest.fixture
def damaged(annotations):
    """Ten images, of which 2, 3 and 9 cannot be read."""
    for index, content in BAD.items():
        with open(annotations.image_path(index), "wb") as file:
            file.write(content)
    return annotations


def skipping_set(annotations, transforms=TRANSFORMS):
    return DetectionDataset(
        annotations, transforms=transforms, batch_transforms=BATCH_TRANSFORMS, seed=0, on_bad_sample="skip"
    )


def test_the_next_readable_picture_takes_the_place(damaged):
    taken = {index: load_readable_sample(damaged, index)[0].index for index in range(10)}
    assert taken == {index: {2: 4, 3: 4, 9: 0}.get(index, index) for index in range(10)}
    sample, line = load_readable_sample(damaged, 3)
    np.testing.assert_array_equal(sample.image, load_sample(damaged, 4).image)
    assert line.startswith(f"{damaged.image_path(3)}: no picture")
    assert line.endswith(f"Skipped; {damaged.image_path(4)} takes its place.")
    assert load_readable_sample(damaged, 4)[1] is None


def test_what_takes_the_place_has_the_random_numbers_of_the_place(damaged):
    """So the replacement is not the same sample twice, and depends on (seed, epoch, index) and the data only."""
    dataset = skipping_set(damaged)
    replaced, itself = dataset[SampleKey(0, 0, 2)], dataset[SampleKey(0, 0, 4)]
    assert replaced.index == itself.index == 4
    assert replaced.skipped is not None
    assert itself.skipped is None
    assert replaced.image.shape == itself.image.shape
    assert not np.array_equal(replaced.image, itself.image)
    np.testing.assert_array_equal(replaced.image, dataset[SampleKey(0, 0, 2)].image)
    assert not np.array_equal(replaced.image, dataset[SampleKey(1, 0, 2)].image)


def test_skipping_changes_no_sample_that_can_be_read(annotations):
    whole = {index: training_set(annotations)[SampleKey(0, 0, index)].image for index in range(10)}
    for index, content in BAD.items():
        with open(annotations.image_path(index), "wb") as file:
            file.write(content)
    dataset = skipping_set(annotations)
    for index in set(range(10)) - BAD.keys():
        np.testing.assert_array_equal(dataset[SampleKey(0, 0, index)].image, whole[index])


def test_skipping_gives_the_same_bits_with_any_number_of_workers(damaged):
    alone = list(load(skipping_set(damaged), train_batches()))
    lines = {line for batch in alone for line in batch.skipped if line}
    assert len(lines) == len(BAD)
    assert [len(batch.images) for batch in alone] == [4] * 7
    assert_equal_batches(alone, list(load(skipping_set(damaged), train_batches(), num_workers=1)))
    assert_equal_batches(alone, list(load(skipping_set(damaged), train_batches(), num_workers=2, prefetch_factor=1)))
    assert_equal_batches(alone[3:], list(load(skipping_set(damaged), train_batches(first_step=3), num_workers=2)))


def test_evaluation_keeps_the_objects_of_a_picture_that_cannot_be_read(damaged):
    dataset = EvaluationDataset(damaged, spec=SPEC, on_bad_sample="skip")
    batch = collate([dataset[SampleKey(0, 0, index)] for index in range(10)])
    assert batch.indices == list(range(10))
    assert {index for index, line in enumerate(batch.skipped) if line} == set(BAD)
    assert "its objects count as not found" in batch.skipped[3]
    assert not batch.images[2].any()
    back = to_image(batch.targets, batch.geometries)
    for index in BAD:
        np.testing.assert_allclose(back[index]["boxes"].numpy(), damaged.objects(index).boxes, atol=1e-4)
    assert len(back[3]["boxes"])
    with pytest.raises(ImageError, match=r"train_0002\.png: empty"):
        EvaluationDataset(damaged, spec=SPEC)[SampleKey(0, 0, 2)]


def test_a_set_without_a_readable_picture_and_an_unknown_choice_are_refused(damaged):
    for index in range(10):
        with open(damaged.image_path(index), "wb"):
            pass
    with pytest.raises(ImageError, match=r"none of the 10 pictures of VOC .* can be used: .*train_0006\.png: empty"):
        load_readable_sample(damaged, 6)
    with pytest.raises(ValueError, match="on_bad_sample is 'ignore'"):
        EvaluationDataset(damaged, spec=SPEC, on_bad_sample="ignore")


def test_a_size_that_fits_the_unturned_picture_is_explained(tmp_path):
    """A JPEG of 64 x 48 that EXIF turns: annotated as it is stored it is refused with that hint, turned it is read."""
    write_voc(tmp_path, num_images=1, extension=".jpg")
    annotations = read_voc(tmp_path)
    path = annotations.image_path(0)
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(path) as picture:
        picture.save(path, exif=exif)
    with pytest.raises(
        ImageError, match=r"48 x 64 pixels .* says 64 x 48\. That is its size as it is stored"
    ) as caught:
        load_sample(annotations, 0)
    assert caught.value.kind == "wrong size"
    annotations.heights, annotations.widths = annotations.widths, annotations.heights
    assert load_sample(annotations, 0).image.shape == (64, 48, 3)
    annotations.heights = annotations.heights + 1
    with pytest.raises(ImageError, match=r"says 48 x 65\. Correct one of them"):
        load_sample(annotations, 0)


@pytest.mark.slow
def test_a_run_that_skips_lists_what_it_skipped_and_repeats_its_bits(tmp_path):
    """Damage of every sort in training and validation data: two runs, one with workers, end in the same weights."""
    digests = []
    for number, workers in enumerate(("0", "1")):
        experiment = TinyExperiment.create(tmp_path / str(number))
        folder = experiment.data_root / "tiny"
        for name in ("train_0003", "train_0004", "val_0001"):
            (folder / f"JPEGImages/{name}.png").write_bytes(b"")
        (folder / "JPEGImages/train_0007.png").unlink()
        (folder / "Annotations/train_0005.xml").unlink()
        write_voc_xml(folder / "Annotations/train_0006.xml", size=(48, 64), objects=[("cow", (1, 1, 9, 9), False)])
        flags = ("--epochs", "1", "--num_workers", workers)
        failed = train(experiment, *flags, status=1)
        assert "error: " in failed
        settings = experiment.folder / "config.py"  # classes, which unknown ones are told from, need a prescription
        names = 'classes=("bird", "cat", "dog")'
        settings.write_text(settings.read_text().replace("classes=None", names).replace('"error"', '"skip"'))
        log = train(experiment, *flags)
        (run,) = experiment.runs
        listed = (run / "bad_samples.txt").read_text().splitlines()
        assert any(line.startswith("val: ") and "val_0001.png: empty" in line for line in listed)
        skipped = {
            name for name in ("train_0003", "train_0004", "train_0007") for line in listed if f"{name}.png" in line
        }
        assert len(listed) == len(set(listed))
        assert skipped
        left_out = (run / "bad_boxes.txt").read_text()
        assert "train_0005.xml: missing" in left_out
        assert "train_0006.xml: object 0 is a 'cow'" in left_out
        assert "3 defective entries left out" in log
        assert "1 pictures could not be used; their objects count as not found" in log
        num_train = sum(line.startswith("train: ") for line in listed)
        assert f"{num_train} training pictures could not be used, others took their places" in log
        digests.append(experiment.digests(run))
    assert digests[0] == digests[1]


def test_what_was_skipped_before_a_kill_stays_listed(tmp_path):
    """Of the steps up to the checkpoint, which are not trained again; the list is that of an undisturbed run."""
    undisturbed = TinyExperiment.create(tmp_path / "undisturbed")
    for name in ("train_0003", "train_0004", "train_0007"):
        (undisturbed.data_root / f"tiny/JPEGImages/{name}.png").write_bytes(b"")
    settings = undisturbed.folder / "config.py"
    settings.write_text(settings.read_text().replace('"error"', '"skip"'))
    killed = undisturbed.copy(tmp_path / "killed")
    flags = ("--epochs", "1", "--checkpoint_minutes", "0")
    train(undisturbed, *flags)
    train(killed, *flags, change=signal_in_step, change_args=(3, signal.SIGKILL), status=-signal.SIGKILL)
    train(killed, *flags)
    lists = [(experiment.runs[0] / "bad_samples.txt").read_text() for experiment in (undisturbed, killed)]
    assert lists[0] == lists[1]
    assert "train: " in lists[0]


# ---------------------------------------------------------------------------------------------- workers that die


class _Ends:
    """Ten numbers; the worker that is asked for number 5 ends as `end` says.

    It ends while it holds the lock under which all workers write their batches, or while it does not: Python lets go of
    the lock a moment after the batch can be read, and a worker that dies in that moment keeps it.
    """

    def __init__(self, end, holds_the_lock=False):
        self.end, self.is_held = end, multiprocessing.Event() if holds_the_lock else None

    def __len__(self):
        return 10

    def __getitem__(self, key):
        if key.index == 4 and self.is_held:
            self.is_held.wait(20)  # number 4, of the other worker, is in nobody's hands before
        if key.index == 5:
            lock = _lock_of_batches()
            with lock:  # its own batches before are handed over
                pass
            if self.is_held:
                lock.acquire()
                self.is_held.set()
            self.end()
        return key.index


def _lock_of_batches():
    """The lock of the one queue that this worker writes to."""
    queues = [thing for thing in gc.get_objects() if type(thing) is multiprocessing.queues.Queue]
    (queue,) = [queue for queue in queues if queue._thread is not None]
    return queue._wlock


def _kill_self():
    os.kill(os.getpid(), signal.SIGKILL)


def _raise_image_error():
    raise ImageError("a.jpg: missing")


def _numbers(*args):
    batches = EvalBatches(num_images=10, batch_size=1, rank=0, world_size=1)
    settings = {"num_workers": 2, "prefetch_factor": 1, "pin_memory": False, "collate_fn": lambda samples: samples[0]}
    return make_loader(_Ends(*args), batches, **settings)


@pytest.mark.parametrize(
    ("end", "error", "text"),
    [
        (_kill_self, DeadWorkerError, r"process \d+ was killed by SIGKILL"),
        (functools.partial(os._exit, 3), DeadWorkerError, r"process \d+ ended with exit code 3"),
        (_raise_image_error, ImageError, r"a\.jpg: missing"),
    ],
)
def test_a_dead_worker_is_told_of_where_its_batch_is_missed(end, error, text):
    before = signal.getsignal(signal.SIGCHLD)
    loader = _numbers(end)
    seen = []
    with pytest.raises(error, match=text):
        seen.extend(loader)
    assert seen == [0, 1, 2, 3, 4]
    assert next(iter(loader)) == 0  # by new workers
    assert signal.getsignal(signal.SIGCHLD) == before  # else a death would raise in any line of the program


def test_a_worker_that_dies_while_it_hands_over_a_batch_is_told_of_too():
    """The other worker, which lives, cannot hand over its batches any more: one of them is the first that is missed."""
    loader = _numbers(_kill_self, True)
    seen = []
    with pytest.raises(DeadWorkerError, match=r"process \d+ was killed by SIGKILL"):
        seen.extend(loader)
    assert seen == [0, 1, 2, 3]
