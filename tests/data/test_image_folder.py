from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from runmodel_ext.data import ImageFolder
from runmodel_ext.errors import ConfigError, NotFoundError
from runmodel_ext.modules import ClassificationModule
from runmodel_ext.networks import CNN


def draw(folder: Path, count: int, level: int, name: str = "image") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.new("RGB", (12, 10), (level, number, 0)).save(folder / f"{name}{number}.png")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    draw(tmp_path / "train" / "cat", 20, 200)
    draw(tmp_path / "train" / "ant", 10, 20)
    return tmp_path


def paths(part: Any) -> list[str]:
    return [path.name for path, _ in part.samples]


def test_classes_are_numbered_by_name_and_missing_parts_split_off_by_class(root):
    data = ImageFolder(str(root), image_size=8, val_fraction=0.2, test_fraction=0.1)
    data.setup()
    assert data.class_names == ["ant", "cat"]
    assert [len(part) for part in (data.train_set, data.val_set, data.test_set)] == [21, 6, 3]
    labels = [label for part in (data.val_set, data.test_set) for _, label in part.samples]
    assert labels == [0, 0, 1, 1, 1, 1, 0, 1, 1]
    image, label = data.train_set[0]
    assert image.shape == (3, 8, 8)
    assert image[0].mean() == pytest.approx(20 / 255)
    assert label == 0


def test_folders_that_are_there_are_used_as_they_are(root):
    draw(root / "test" / "ant", 3, 20, name="test")
    data = ImageFolder(str(root), val_fraction=0.2)
    data.setup()
    assert paths(data.test_set) == ["test0.png", "test1.png", "test2.png"]
    assert [len(data.train_set), len(data.val_set)] == [24, 6]


def test_class_folders_may_lie_in_the_root_itself(root):
    data = ImageFolder(str(root / "train"))
    data.setup()
    assert data.num_classes == 2
    assert len(data.train_set) + len(data.val_set) + len(data.test_set) == 30


def test_gray_images_have_one_channel_and_a_flip_mirrors_some(root):
    left = Image.new("L", (4, 4))
    left.putpixel((0, 0), 255)
    for file in (root / "train" / "cat").iterdir():
        left.save(file)
    data = ImageFolder(str(root), image_size=4, mode="gray", flip=True, batch_size=100)
    data.setup()
    images, labels = next(iter(data.train_dataloader()))
    cats = images[labels == 1]
    assert cats.shape[1:] == (1, 4, 4)
    assert 0 < cats[:, 0, 0, 3].sum() < len(cats)
    assert torch.equal(cats[:, 0, 0, 0] + cats[:, 0, 0, 3], torch.ones(len(cats)))


def test_a_network_learns_from_folders(root, make_trainer):
    data = ImageFolder(str(root), image_size=(6, 8), batch_size=8)
    module = ClassificationModule(CNN(in_channels=3, num_classes=2, width=4), num_classes=2, lr=0.01)
    trainer = make_trainer(max_epochs=8)
    trainer.fit(module, data)
    assert trainer.test(module, data, verbose=False)[0]["test/acc"] == 1


def test_a_missing_root_an_empty_one_and_an_unknown_class_are_named(root, tmp_path):
    with pytest.raises(NotFoundError, match=r"^There is no folder 'nowhere' with images\. Set `root` to one\.$"):
        ImageFolder("nowhere").setup()
    (tmp_path / "empty" / "cat").mkdir(parents=True)
    with pytest.raises(NotFoundError, match=r"^There is no image in the class folders of '.*empty'\. Images lie"):
        ImageFolder(str(tmp_path / "empty")).setup()
    draw(root / "val" / "bee", 1, 3)
    with pytest.raises(ConfigError, match=r"has the class 'bee', which the training images do not have; they have"):
        ImageFolder(str(root)).setup()


@pytest.mark.parametrize("content", [b"", b"not an image", None])
def test_an_unreadable_image_is_named(root, content):
    broken = root / "train" / "ant" / "image0.png"
    broken.write_bytes(broken.read_bytes()[:45] if content is None else content)
    data = ImageFolder(str(root), val_fraction=0, test_fraction=0)
    data.setup()
    with pytest.raises(ConfigError, match=r"^The image '.*ant/image0\.png' cannot be read: .*\. Mend or remove it\.$"):
        list(data.train_dataloader())


@pytest.mark.parametrize(("val", "test"), [(0.5, 0.5), (-0.1, 0.1)])
def test_shares_that_leave_nothing_to_train_are_refused(val, test):
    message = rf"^`val_fraction` and `test_fraction` must be at least 0 and .* but are {val:g} and {test:g}\.$"
    with pytest.raises(ConfigError, match=message):
        ImageFolder("x", val_fraction=val, test_fraction=test)
