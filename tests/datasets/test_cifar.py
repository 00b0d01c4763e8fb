"""CIFAR's archives: against torchvision's reader, Python's pickles, hostile files; the drawn set; the download."""

import hashlib
import io
import pickle
import re
import struct
import tarfile

import numpy as np
import pytest
from torchvision.datasets import CIFAR10, CIFAR100

from public.datasets import cifar, drawn_cifar
from public.datasets.cifar import Cifar, read_pickle
from public.datasets.drawn_cifar import DRAWN_CLASSES, draw_cifar, draw_picture
from public.datasets.preparing import download_cifar
from public.datasets.preparing.cifar_writer import rows_of, write_cifar100_part, write_pickle
from public.datasets.preparing.download import Archive
from public.datasets.preparing.download_cifar import ARCHIVES, CifarArchive
from public.files import REPOSITORY
from public.random_streams import stream
from public.test_scripts import download_cifar as command
from tests.datasets.test_download import server  # noqa: F401, a fixture
from tests.helpers.tiny_cifar import TINY_NAMES, tiny_images, write_cifar10, write_cifar100


def md5(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


def by_torchvision(kind, folder, split):
    """The set as torchvision's reader, which executes the pickles, has it."""
    layout = {"meta": ("meta", "fine_label_names"), "batches.meta": ("batches.meta", "label_names")}
    meta = next(name for name in layout if (folder / name).exists())

    def listed(names):
        return [[name, md5(folder / name)] for name in names]

    files = cifar.find_layout(folder).splits
    members = {
        "base_folder": folder.name,
        "train_list": listed(files["train"]),
        "test_list": listed(files["test"]),
        "meta": {"filename": meta, "key": layout[meta][1], "md5": md5(folder / meta)},
    }
    return type("Local", (kind,), members)(folder.parent, train=split == "train")


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("kind", [CIFAR10, CIFAR100])
def test_the_reader_agrees_with_torchvisions(tmp_path, kind, split):
    folder = tmp_path / "small"
    if kind is CIFAR100:
        write_cifar100(folder)
    else:
        labels = np.arange(20) % 4
        write_cifar10(folder, (tiny_images(20), labels), (tiny_images(8, seed=1), labels[:8]), TINY_NAMES)
    ours, theirs = Cifar(archive="small", split=split).read(tmp_path), by_torchvision(kind, folder, split)
    np.testing.assert_array_equal(ours.images, theirs.data)
    assert ours.labels.tolist() == theirs.targets
    assert list(ours.class_names) == theirs.classes
    assert ours.images.flags.c_contiguous


def test_a_pickle_as_python_2_wrote_it(tmp_path):
    """Byte by byte, as documented by pickletools: {'data': array([[1, 2, 3]], uint8), 'labels': [300, -1]}."""
    array = b"cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\nq\x02K\x00\x85q\x03U\x01bq\x04\x87q\x05Rq\x06"
    kind = b"cnumpy\ndtype\nq\x07U\x02u1q\x08K\x00K\x01\x87q\x09Rq\x0a(K\x03U\x01|q\x0b"
    kind += b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tq\x0cb"
    state = b"(K\x01K\x01K\x03\x86q\x0d" + kind + b"\x89T" + struct.pack("<i", 3) + b"\x01\x80\xffq\x0etq\x0fb"
    path = tmp_path / "part"
    path.write_bytes(
        b"\x80\x02}q\x00(U\x04dataq\x10" + array + state + b"U\x06labelsq\x11]q\x12(M\x2c\x01J\xff\xff\xff\xffeu."
    )
    content = read_pickle(path)
    assert content["data"].tolist() == [[1, 128, 255]]
    assert content["labels"] == [300, -1]
    python = pickle.loads(path.read_bytes(), encoding="latin1")
    np.testing.assert_array_equal(python["data"], content["data"])


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_pickles_of_python_3_are_read(tmp_path, protocol):
    write_cifar100(tmp_path / "set")
    content = read_pickle(tmp_path / "set" / "train")
    (tmp_path / "set" / "train").write_bytes(pickle.dumps(content, protocol=protocol))
    again = Cifar(archive="set", split="train").read(tmp_path)
    np.testing.assert_array_equal(rows_of(again.images), content["data"])


class Evil:
    """Unpickled, it makes the file `trap`."""

    def __init__(self, trap):
        self.trap = trap

    def __reduce__(self):
        return (open, (str(self.trap), "w"))


@pytest.mark.parametrize("protocol", [2, 4])
def test_nothing_in_a_pickle_is_executed(tmp_path, protocol):
    write_cifar100(tmp_path / "set")
    trap = tmp_path / "trap"
    path = tmp_path / "set" / "train"
    path.write_bytes(pickle.dumps({**read_pickle(path), "more": Evil(trap)}, protocol=protocol))
    with pytest.raises(ValueError, match=rf"{path}: names '.*open'.*nothing of it was imported or executed"):
        Cifar(archive="set", split="train").read(tmp_path)
    assert not trap.exists()
    pickle.loads(path.read_bytes())["more"].close()
    assert trap.exists()  # what Python's own reader does with it


def rewrite(path, **changes):
    content = {**read_pickle(path), **changes}
    write_pickle(path, {key: value for key, value in content.items() if value is not None})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda train: train.unlink(), "there is no file .*train"),
        (lambda train: train.write_bytes(b""), "train is empty"),
        (lambda train: train.write_bytes(train.read_bytes()[:5000]), "train: not a whole pickle of labelled pictures"),
        (lambda train: rewrite(train, data=None), "'data' is missing, not a ndarray; it has"),
        (lambda train: rewrite(train, data=np.zeros((20, 3071), np.uint8)), r"data is uint8 \(20, 3071\), has to be"),
        (lambda train: rewrite(train, fine_labels=[0] * 19), "20 pictures, 19 labels, 20 names"),
        (
            lambda train: rewrite(train, fine_labels=[0] * 19 + [4]),
            "1 labels are not classes, the first is 4; meta names 4",
        ),
        (lambda train: rewrite(train, fine_labels=[0] * 19 + ["a"]), "1 labels are not classes, the first is a str"),
        (lambda train: train.with_name("meta").unlink(), "neither meta nor batches.meta"),
    ],
)
def test_a_damaged_archive_is_named(tmp_path, damage, message):
    write_cifar100(tmp_path / "set")
    damage(tmp_path / "set" / "train")
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        Cifar(archive="set", split="train").read(tmp_path)


def test_an_official_name_has_to_have_the_official_counts(tmp_path):
    write_cifar100(tmp_path / "cifar-100-python")
    with pytest.raises(ValueError, match=r"train has 20 images of 4 classes, .* has 50000 of 100"):
        Cifar(archive="cifar-100-python", split="train").read(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no folder .*download_cifar --classes 100`"):
        Cifar(archive="nowhere", split="train").read(tmp_path)
    with pytest.raises(ValueError, match=r"Cifar\.split is 'val'; it must be train or test"):
        Cifar(archive="cifar-100-python", split="val")


def test_class_names_have_to_agree(tmp_path):
    write_cifar100(tmp_path / "set")
    data = Cifar(archive="set", split="test")
    assert data.read(tmp_path, TINY_NAMES).class_names == TINY_NAMES
    with pytest.raises(ValueError, match="has to agree with"):
        data.read(tmp_path, TINY_NAMES[::-1])


def test_fingerprint_limit_and_summary(tmp_path):
    write_cifar100(tmp_path / "one" / "set")
    write_cifar100(tmp_path / "two" / "set")
    data = Cifar(archive="set", split="train")
    first, second = data.read(tmp_path / "one"), data.read(tmp_path / "two")
    assert first.fingerprint() == second.fingerprint()
    second.images[3, 4, 5, 1] ^= 1
    assert first.fingerprint() != second.fingerprint()
    second.images[3, 4, 5, 1] ^= 1
    second.labels[7] += -1 if second.labels[7] else 1
    assert first.fingerprint() != second.fingerprint()
    limited = first.limit(7)
    assert limited.image_ids.tolist() == [f"train_{i}.png" for i in (0, 2, 5, 8, 11, 14, 17)]
    np.testing.assert_array_equal(limited.images, first.images[[0, 2, 5, 8, 11, 14, 17]])
    assert limited.labels.tolist() == [0, 2, 1, 0, 3, 2, 1]
    assert first.limit(20) is first
    with pytest.raises(ValueError, match="at least 1"):
        first.limit(0)
    assert first.summary() == "CIFAR set/train: 20 images, 4 classes, 5 to 5 images a class"


def test_real_cifar_10_images(tmp_path, shared):
    """The exact pixels of the first training batch and of the first 2,000 test images, through the archive and back."""
    names = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    parts = {
        split: np.load(shared / "data" / "cifar10_mini" / f"{split}.npz") for split in ("train_10000", "test_2000")
    }
    train, test = ((part["images"], part["labels"]) for part in parts.values())
    write_cifar10(tmp_path / "cifar-10-mini", train, test, names)
    read = {split: Cifar(archive="cifar-10-mini", split=split).read(tmp_path) for split in ("train", "test")}
    np.testing.assert_array_equal(read["train"].images, train[0])
    np.testing.assert_array_equal(read["train"].labels, train[1])
    np.testing.assert_array_equal(read["test"].images, test[0])
    assert read["test"].labels[:5].tolist() == [3, 8, 8, 0, 6]  # cat, ship, ship, airplane, frog: the published order
    # the first number of CIFAR's own recipe: the mean of the reds is near 125.3
    assert abs(train[0][..., 0].mean() - 125.3) < 1


# -------------------------------------------------------------------------------------------------- the drawn set


def test_the_drawn_set(tmp_path):
    out = tmp_path / "data" / "cifar-shapes-python"
    assert draw_cifar(out, num_train=36, num_test=12, seed=0) is True
    assert draw_cifar(out, num_train=36, num_test=12, seed=0) is False
    with pytest.raises(ValueError, match=r"'seed': 0.*not with.*'seed': 1"):
        draw_cifar(out, num_train=36, num_test=12, seed=1)
    train, test = (Cifar(archive=out.name, split=split).read(out.parent) for split in ("train", "test"))
    assert train.class_names == test.class_names == DRAWN_CLASSES
    assert train.counts().tolist() == [3] * 12
    assert by_torchvision(CIFAR100, out, "test").targets == list(range(12))
    np.testing.assert_array_equal(train.images[17], draw_picture(stream(0, "drawn cifar", "train", 17), 17 % 12))
    assert not np.array_equal(train.images[0], test.images[0])
    assert sorted(path.name for path in out.parent.iterdir()) == ["cifar-shapes-python"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter").write_text("dear")
    with pytest.raises(ValueError, match=r"not empty and holds no drawn.json"):
        draw_cifar(tmp_path / "mine", num_train=1, num_test=1, seed=0)


def test_an_interrupted_drawing_leaves_nothing(tmp_path, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(drawn_cifar, "write_pickle", stop)
    with pytest.raises(KeyboardInterrupt):
        draw_cifar(tmp_path / "set", num_train=2, num_test=2, seed=0)
    assert list(tmp_path.iterdir()) == []


def test_drawn_colours_say_nothing_about_the_class():
    """The class means of the pictures' mean colour are as near to each other as chance allows."""
    means = np.array(
        [[draw_picture(stream(1, label, i), label).mean((0, 1)) for i in range(30)] for label in range(12)]
    )  # (class, picture, channel)
    between = means.mean(1).var(0)
    expected = means.var(1).mean(0) / 30  # of means of 30 draws of one distribution
    assert (between < 2.5 * expected).all()  # chi-square with 11 degrees of freedom: beyond 2.5 in 0.4 % of cases


# --------------------------------------------------------------------------------------------------- the download


@pytest.fixture
def small_archive(tmp_path, server):  # noqa: F811
    """A small CIFAR-100 as .tar.gz on a server."""
    folder = tmp_path / "source" / "small-python"
    write_cifar100(folder)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        tar.add(folder, arcname=folder.name)
    content = buffer.getvalue()
    server.files["small-python.tar.gz"] = content
    archive = Archive(
        url=f"{server.url}/small-python.tar.gz",
        size=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        mirror=None,
    )
    return CifarArchive(folder="small-python", archive=archive)


def get(small, data_root, **changes):
    data_root.mkdir(exist_ok=True)
    return download_cifar.download_cifar(
        small, data_root, **({"mirror": None, "keep_archive": False, "wait": 0.0} | changes)
    )


def test_an_archive_is_fetched_checked_and_unpacked(tmp_path, small_archive, server):  # noqa: F811
    data_root = tmp_path / "data"
    server.faults.append(1000)  # the first answer ends early
    assert get(small_archive, data_root) is True
    source = {path.name: path.read_bytes() for path in (tmp_path / "source" / "small-python").iterdir()}
    assert {path.name: path.read_bytes() for path in (data_root / "small-python").iterdir()} == source
    assert [path.name for path in data_root.iterdir()] == ["small-python"]
    assert [span for _, span in server.requests] == [None, "bytes=1000-"]
    assert get(small_archive, data_root) is False
    assert len(server.requests) == 2


def test_a_wrong_digest_unpacks_nothing(tmp_path, small_archive, server):  # noqa: F811
    content = bytearray(server.files["small-python.tar.gz"])
    content[200] ^= 1
    server.files["small-python.tar.gz"] = bytes(content)
    with pytest.raises(ValueError, match=r"its sha256 is .*has to be"):
        get(small_archive, tmp_path / "data")
    assert not (tmp_path / "data" / "small-python").exists()


def test_an_incomplete_folder_is_not_touched(tmp_path, small_archive):
    folder = tmp_path / "data" / "small-python"
    folder.mkdir(parents=True)
    (folder / "meta").write_bytes(b"mine")
    with pytest.raises(ValueError, match=r"is there but not whole: .*Move it away"):
        get(small_archive, tmp_path / "data")
    assert (folder / "meta").read_bytes() == b"mine"


def test_no_foreign_mirror_is_recommended(tmp_path, small_archive, server):  # noqa: F811
    server.files.clear()
    with pytest.raises(OSError, match=r"answers 404 .*--mirror") as caught:
        get(small_archive, tmp_path / "data")
    assert "pjreddie" not in str(caught.value)


def test_an_archive_with_other_content_leaves_nothing(tmp_path, server):  # noqa: F811
    write_cifar100_part(
        tmp_path / "train", tiny_images(1), [0], coarse_labels=[0], names=["one"], title="training batch"
    )
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        tar.add(tmp_path / "train", arcname="small-python/train")
    content = buffer.getvalue()
    server.files["a.tar.gz"] = content
    archive = Archive(
        url=f"{server.url}/a.tar.gz", size=len(content), sha256=hashlib.sha256(content).hexdigest(), mirror=None
    )
    with pytest.raises(ValueError, match=r"a.tar.gz: not a whole small-python: .*neither meta nor"):
        get(CifarArchive(folder="small-python", archive=archive), tmp_path / "data")
    assert not (tmp_path / "data" / "small-python").exists()


def test_the_known_archives():
    assert [len(bytes.fromhex(known.archive.sha256)) for known in ARCHIVES.values()] == [32, 32]
    assert set(known.folder for known in ARCHIVES.values()) == set(cifar.OFFICIAL)
    assert [known.archive.name for known in ARCHIVES.values()] == [CIFAR10.filename, CIFAR100.filename]


def test_the_cards_name_commands_that_are_accepted(tmp_path, monkeypatch):
    """Cards, pages and the message on a missing folder; each fetches the set that is needed."""
    cards = [path.read_text() for path in (REPOSITORY / "cifar100_experiments").glob("*/config.py")]
    texts = [
        *cards,
        (REPOSITORY / "cifar100_experiments" / "README.md").read_text(),
        (REPOSITORY / "docs" / "train.md").read_text(),
    ]
    for folder in ("cifar-100-python", "cifar-10-batches-py"):
        with pytest.raises(FileNotFoundError) as caught:
            Cifar(archive=folder, split="train").read(tmp_path)
        texts.append(str(caught.value))
    commands = [found for text in texts for found in re.findall(r"public\.test_scripts\.(download_cifar[ \w-]*)", text)]
    parsed = []
    monkeypatch.setattr(command.commands, "call", lambda function, arguments: parsed.append(arguments.classes))
    for words in commands:
        monkeypatch.setattr("sys.argv", words.removesuffix(" makes it").split())
        command.main()
    of_cifar_100 = sum("cifar-100-python" in card for card in cards)
    assert of_cifar_100 >= 5
    assert parsed == [[100]] * of_cifar_100 + [[100], [10, 100], [100], [10]]


def test_the_command(tmp_path, small_archive, monkeypatch, capsys):
    monkeypatch.setitem(ARCHIVES, 100, small_archive)
    monkeypatch.setattr("sys.argv", ["download_cifar", "--classes", "100", "--data_root", str(tmp_path / "new")])
    command.main()
    assert "small-python: complete; train 20 images, test 8 images, 4 classes" in capsys.readouterr().out
    command.main()
    assert "was there already" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["download_cifar", "--help"])
    with pytest.raises(SystemExit):
        command.main()
    assert "python -m public.test_scripts.download_cifar --classes 100" in capsys.readouterr().out
