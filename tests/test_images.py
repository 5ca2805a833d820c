import pytest
import torch
from PIL import Image

from fastgan.images import cut_grid, image_grid, save_image


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB"), (4, "RGBA")])
def test_grid_shows_every_image_in_its_place(channels, mode):
    values = torch.linspace(-1, 1, 5)
    picture = image_grid(values[:, None, None, None].expand(5, channels, 64, 64), columns=3)
    assert picture.mode == mode and picture.size == (3 * 66 - 2, 2 * 66 - 2)
    for index, value in enumerate(values):
        row, column = divmod(index, 3)
        pixel = picture.getpixel((column * 66 + 63, row * 66))
        expected = round((value.item() + 1) * 127.5)
        assert all(abs(part - expected) <= 1 for part in (pixel if channels > 1 else (pixel,)))


@pytest.mark.parametrize(("size", "count", "expected"), [((28, 28), 64, (462, 462)), ((100, 50), 8, (206, 202))])
def test_small_images_are_enlarged_and_the_picture_is_about_square(size, count, expected):
    assert image_grid(torch.zeros(count, 1, *size)).size == expected


@pytest.mark.parametrize("size", [(16, 24), (64, 64), (100, 50)])
def test_a_grid_is_cut_into_its_images(size):
    tones = torch.arange(0, 210, 30)
    images = (tones / 127.5 - 1)[:, None, None, None].expand(7, 1, *size)
    found = [tile.getextrema() for tile in cut_grid(image_grid(images, columns=3), size)]
    assert found[:7] == [(tone, tone) for tone in tones.tolist()]
    assert found[7:] == [(128, 128)] * 2


def test_saves_whole_or_not_at_all(tmp_path):
    picture = image_grid(torch.zeros(1, 1, 16, 16))
    save_image(picture, tmp_path / "a.png")
    assert Image.open(tmp_path / "a.png").size == picture.size
    with pytest.raises(OSError):
        save_image(picture, tmp_path / "missing" / "a.png")
    with pytest.raises(ValueError):
        save_image(picture, tmp_path / "a.nonsense")
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
