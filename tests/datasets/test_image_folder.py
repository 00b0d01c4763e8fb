"""Class folders: order, counts, what is refused, unreadable pictures; the evaluation's resize and cut."""

import shutil

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import ImageFolder as TorchvisionFolder
from torchvision.transforms import functional as tv

from public.datasets.image_folder import ImageFolder
from public.datasets.imagenet_names import NUM_CLASSES, imagenet_words
from public.datasets.sample import SampleKey
from public.input import ClassificationInput, ImageError, normalise, prepare_crop
from public.loading.classification import EvaluationPictures, TrainingPictures, make_classification_loader
from public.loading.samplers import EvalBatches, TrainBatches
from public.transforms.classification import RandomResizedCrop
from tests.helpers.tiny_cifar import tiny_images, write_class_folders

CROP = RandomResizedCrop(
    size=(16, 16), area=(0.08, 1.0), aspect_ratio=(0.75, 1.3333), interpolation="area", num_attempts=10
)


def make_spec(**changes):
    values = {"size": (16, 16), "shorter_side": 18, "interpolation": "linear", "color_order": "rgb", "scale": 1 / 255}
    return ClassificationInput(**({**values, "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)} | changes))


def read(data_root, class_names=None, **changes):
    return ImageFolder(**({"folder": "train", "classes": None, "num_classes": None} | changes)).read(
        data_root, class_names
    )


def test_the_set_is_torchvisions(tmp_path):
    pictures = write_class_folders(tmp_path / "train")
    found, expected = read(tmp_path), TorchvisionFolder(tmp_path / "train")
    assert [found.image_path(i) for i in range(len(found))] == [path for path, _ in expected.samples]
    assert found.labels.tolist() == expected.targets
    assert list(found.class_names) == expected.classes
    for i, picture in enumerate(pictures):
        np.testing.assert_array_equal(found.load_picture(i), picture)
    assert found.summary() == "class folders train: 6 images, 3 classes, 2 to 2 images a class"


def test_named_classes_give_the_order_and_leave_others_out(tmp_path):
    write_class_folders(tmp_path / "train")
    found = read(tmp_path, classes=("n002", "n000"))
    assert found.class_names == ("n002", "n000")
    assert [found.image_id(i) for i in (0, 3)] == ["n002/a0.png", "n000/a1.png"]
    assert found.labels.tolist() == [0, 0, 1, 1]
    assert found.summary().endswith("1 other class folders left out")
    with pytest.raises(FileNotFoundError, match=r"lacks 1 of 2 class folders, the first is \['n009'\]"):
        read(tmp_path, classes=("n000", "n009"))
    with pytest.raises(ValueError, match="num_classes is 3, but classes names 2"):
        read(tmp_path, classes=("n000", "n001"), num_classes=3)
    with pytest.raises(ValueError, match="classes names no class"):
        read(tmp_path, classes=())


def test_the_recipes_number_of_classes_is_demanded(tmp_path):
    write_class_folders(tmp_path / "train")
    assert len(read(tmp_path, num_classes=3)) == 6
    with pytest.raises(ValueError, match="has 3 class folders, num_classes is 1000"):
        read(tmp_path, num_classes=1000)
    with pytest.raises(ValueError, match=r"lacks 0 \[\] and has 1 others \['n002'\]"):
        read(tmp_path, class_names=("n000", "n001"))
    with pytest.raises(ValueError, match=r"has 3 class folders.* agree with 4 classes.* lacks 1 \['m'\] and has 0 oth"):
        read(tmp_path, class_names=("n000", "n001", "n002", "m"))
    with pytest.raises(FileNotFoundError, match=r"no folder .*val"):
        read(tmp_path, folder="val")


def test_a_set_follows_the_numbers_of_the_names_it_has_to_agree_with(tmp_path):
    """The weights number n002 as 0: so does the set that they are evaluated on."""
    write_class_folders(tmp_path / "train")
    found = read(tmp_path, class_names=("n002", "n000", "n001"))
    assert found.class_names == ("n002", "n000", "n001")
    assert [found.class_names[label] for label in found.labels] == [found.image_id(i)[:4] for i in range(6)]


def test_imagenets_words_agree_with_its_folders(tmp_path):
    """Converted weights call the 1000 classes by words, a set by folders; sorted, these have the order of the words."""
    names = [f"n{1000 + 3 * k:08d}" for k in range(NUM_CLASSES)]
    for name in names:
        (tmp_path / "train" / name).mkdir(parents=True)
        (tmp_path / "train" / name / "a.jpg").touch()  # listed, not read
    found = read(tmp_path, imagenet_words(), num_classes=NUM_CLASSES)
    assert found.class_names == tuple(names)
    assert found.labels.tolist() == list(range(NUM_CLASSES))
    with pytest.raises(ValueError, match=r"lacks 1000 .* and has 1000 others"):
        read(tmp_path, imagenet_words()[::-1])
    (tmp_path / "train" / names[7]).rename(tmp_path / "train" / "cat")
    with pytest.raises(ValueError, match=r"lacks 1000 .* and has 1000 others") as caught:
        read(tmp_path, imagenet_words())
    assert len(str(caught.value)) < 600, "a thousand names are no message"


def test_pictures_outside_of_class_folders_are_counted(tmp_path):
    write_class_folders(tmp_path / "train")
    for name in ("a.jpg", "b.PNG", "notes.txt", ".hidden.jpg"):
        (tmp_path / "train" / name).touch()
    assert read(tmp_path).summary().endswith(", 2 pictures outside of class folders left out")
    with pytest.raises(FileNotFoundError, match="n001 holds no class folders, but 2 pictures"):
        read(tmp_path, folder="train/n001")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "readme.txt").write_text("x"), r"n001/readme.txt is not a picture .*1 such entries"),
        (lambda folder: (folder / "more").mkdir(), "n001/more is not a picture"),
        (lambda folder: [path.unlink() for path in folder.iterdir()], "n001 holds no picture"),
    ],
)
def test_what_is_no_picture_is_named(tmp_path, change, message):
    write_class_folders(tmp_path / "train")
    (tmp_path / "train" / "n001" / ".DS_Store").write_text("passed over")
    assert len(read(tmp_path)) == 6
    change(tmp_path / "train" / "n001")
    with pytest.raises(ValueError, match=message):
        read(tmp_path)


def test_the_fingerprint_follows_files_and_not_places(tmp_path):
    write_class_folders(tmp_path / "a" / "train")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    first = read(tmp_path / "a").fingerprint()
    assert read(tmp_path / "b").fingerprint() == first
    path = tmp_path / "b" / "train" / "n002" / "a1.png"
    listed = read(tmp_path / "b")
    path.write_bytes(path.read_bytes() + b"x")
    assert listed.fingerprint() != first
    path.unlink()
    with pytest.raises(ImageError, match=r"n002/a1.png: missing, though"):
        listed.fingerprint()
    assert len(listed.fingerprint(allow_missing=True)) == 64


def test_a_limited_set_has_every_class(tmp_path):
    write_class_folders(tmp_path / "train", num_classes=4, num_images=5)
    assert read(tmp_path).limit(4).labels.tolist() == [0, 1, 2, 3]


# ----------------------------------------------------------------------------------------- unreadable pictures


@pytest.fixture
def damaged(tmp_path):
    """Six pictures, of which 2 (n001/a0.png) is cut short."""
    write_class_folders(tmp_path / "train")
    path = tmp_path / "train" / "n001" / "a0.png"
    path.write_bytes(path.read_bytes()[:60])
    return read(tmp_path)


def test_a_corrupt_picture_is_named(damaged):
    for dataset in (
        TrainingPictures(damaged, transforms=(CROP,), seed=0),
        EvaluationPictures(damaged, spec=make_spec()),
    ):
        with pytest.raises(ImageError, match=r"n001/a0\.png"):
            dataset[SampleKey(0, 0, 2)]
    with pytest.raises(ValueError, match="on_bad_sample is 'ignore', has to be one of"):
        TrainingPictures(damaged, transforms=(), seed=0, on_bad_sample="ignore")


def test_a_skipped_picture_is_replaced_in_training_and_black_in_evaluation(damaged):
    train = TrainingPictures(damaged, transforms=(CROP,), seed=0, on_bad_sample="skip")
    sample, other = train[SampleKey(4, 0, 2)], train[SampleKey(4, 0, 3)]
    assert (sample.index, sample.label, sample.image_id) == (3, 1, "n001/a1.png")
    assert "n001/a0.png" in sample.skipped
    assert sample.skipped.endswith("n001/a1.png takes its place.")
    assert other.skipped is None
    assert not np.array_equal(sample.image, other.image)  # the random numbers are those of the place
    evaluation = EvaluationPictures(damaged, spec=make_spec(), on_bad_sample="skip")
    sample = evaluation[SampleKey(0, 0, 2)]
    assert (sample.index, sample.label, sample.image.max(), sample.image.shape) == (2, 1, 0, (16, 16, 3))
    assert sample.skipped.endswith("counts as wrong.")


def test_nothing_readable_is_an_error(damaged):
    for i in range(6):
        cut = damaged.image_path(i)
        open(cut, "wb").close()
    with pytest.raises(ImageError, match="none of the 6 pictures of class folders train can be used"):
        TrainingPictures(damaged, transforms=(), seed=0, on_bad_sample="skip")[SampleKey(0, 0, 1)]


# --------------------------------------------------------------------------------------------------- evaluation


@pytest.mark.parametrize("size", [(40, 60), (60, 40), (61, 33), (33, 34), (18, 18), (9, 31), (181, 257)])
def test_resize_and_cut_are_where_torchvisions_are(size):
    """A picture of its own coordinates, in floating point by torchvision, tells which part is cut out."""
    height, width = size
    ramp = np.zeros((height, width, 3), np.uint8)
    ramp[..., 0] = np.round(np.arange(height) * 255 / (height - 1))[:, None]
    ramp[..., 1] = np.round(np.arange(width) * 255 / (width - 1))[None]
    cut, geometry = prepare_crop(ramp, make_spec())
    tensor = torch.from_numpy(ramp.transpose(2, 0, 1).copy())
    resized = tv.resize(tensor, 18, antialias=False)
    expected = tv.center_crop(resized, 16).permute(1, 2, 0).numpy()
    assert abs(cut.astype(int) - expected).max() <= 1
    new_height, new_width = resized.shape[1:]
    assert geometry[:2] == (new_width / width, new_height / height)
    assert (-geometry.pad_top, -geometry.pad_left) == (round((new_height - 16) / 2), round((new_width - 16) / 2))


def test_a_picture_of_the_right_size_is_not_touched():
    image = tiny_images(1)[0]
    spec = make_spec(size=(32, 32), shorter_side=32, interpolation="area")
    np.testing.assert_array_equal(prepare_crop(image, spec)[0], image)


def test_area_reduces_like_pillow(shared):
    """On real pictures "area" is nearer to Pillow's reduction, which released networks were evaluated with."""
    differences = {"area": [], "linear": []}
    for path in sorted((shared / "data" / "imagenette_mini" / "val").rglob("*.JPEG"))[::10]:
        picture = Image.open(path).convert("RGB")
        expected = np.asarray(tv.center_crop(tv.resize(picture, 64), 56)).astype(int)
        for name, found in differences.items():
            spec = make_spec(size=(56, 56), shorter_side=64, interpolation=name)
            found.append(abs(prepare_crop(np.asarray(picture), spec)[0] - expected).mean())
    assert np.mean(differences["area"]) < 0.6 * np.mean(differences["linear"])
    assert np.mean(differences["area"]) < 3


def test_values_that_make_no_sense():
    with pytest.raises(ValueError, match="shorter_side is 15"):
        make_spec(shorter_side=15)
    with pytest.raises(ValueError, match="std"):
        make_spec(std=(0.2, 0.2, 0.0))
    with pytest.raises(ValueError, match="interpolation"):
        make_spec(interpolation="bilinear")


def test_normalise_takes_it():
    images = torch.from_numpy(tiny_images(2, height=16, width=16))
    spec = make_spec()
    expected = tv.normalize(images.permute(0, 3, 1, 2) / 255, spec.mean, spec.std)
    torch.testing.assert_close(normalise(images, spec), expected, atol=1e-5, rtol=1e-5)


# ------------------------------------------------------------------------------------------------- whole path


def test_imagenette_through_the_loaders(shared):
    data_root = shared / "data" / "imagenette_mini"
    train, val = read(data_root, num_classes=10), read(data_root, folder="val", num_classes=10)
    assert train.counts().tolist() == [60] * 10
    assert val.class_names == train.class_names
    train, val = train.limit(40), val.limit(20)
    batches = {}
    for num_workers in (0, 2):
        settings = {"num_workers": num_workers, "prefetch_factor": 2, "pin_memory": False}
        training = TrainBatches(num_images=40, batch_size=8, seed=3, first_step=0, num_steps=3, rank=0, world_size=1)
        dataset = TrainingPictures(train, transforms=(CROP,), seed=3)
        batches[num_workers] = list(make_classification_loader(dataset, training, **settings))
    for alone, by_workers in zip(batches[0], batches[2], strict=True):
        assert torch.equal(alone.images, by_workers.images)
        assert torch.equal(alone.labels, by_workers.labels)
        assert alone.image_ids == by_workers.image_ids
        assert [train.labels[i] for i in alone.indices] == alone.labels.tolist()
    evaluation = EvaluationPictures(val, spec=make_spec())
    loader = make_classification_loader(
        evaluation, EvalBatches(num_images=20, batch_size=8, rank=0, world_size=1), **settings
    )
    shown = list(loader)
    assert [batch.images.shape for batch in shown] == [(8, 16, 16, 3), (8, 16, 16, 3), (4, 16, 16, 3)]
    assert torch.cat([batch.labels for batch in shown]).tolist() == val.labels.tolist()
    picture = cv2.cvtColor(cv2.imread(val.image_path(9)), cv2.COLOR_BGR2RGB)
    np.testing.assert_array_equal(shown[1].images[1].numpy(), prepare_crop(picture, make_spec())[0])
