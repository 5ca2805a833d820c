"""Kinds of image files, each made by Pillow: what becomes of their pixels."""

import numpy as np
import pytest
from PIL import Image

from fastgan.data.decode import fit, read_image

HEIGHT, WIDTH = 24, 40
RAMP = np.tile(np.linspace(0, 1, WIDTH), (HEIGHT, 1))


def eight_bit(values):
    return np.rint(values * 255).astype(np.uint8)


def colour_image():
    return Image.fromarray(np.dstack([eight_bit(RAMP), eight_bit(RAMP[:, ::-1]), eight_bit(RAMP**2)]))


def read(path, channels=3, size=(HEIGHT, WIDTH), resize="crop"):
    return read_image(path, size, channels, resize).astype(int)


@pytest.mark.parametrize(
    ("name", "options", "tolerance"),
    [
        ("a.png", {}, 0),
        ("a.bmp", {}, 0),
        ("a.tif", {}, 0),
        ("a.ppm", {}, 0),
        ("a.webp", {"lossless": True}, 0),
        ("a.webp", {"quality": 95}, 3),
        ("a.jpg", {"quality": 95, "subsampling": 0}, 3),
        ("A.JPEG", {"quality": 95, "subsampling": 0}, 3),
    ],
)
def test_colour_files(tmp_path, name, options, tolerance):
    colour_image().save(tmp_path / name, **options)
    assert np.abs(read(tmp_path / name) - np.asarray(colour_image())).mean() <= tolerance


@pytest.mark.parametrize(
    ("name", "pixels"),
    [
        ("16.png", np.rint(RAMP * 65535).astype(np.uint16)),
        ("16.tif", np.rint(RAMP * 65535).astype(np.uint16)),
        ("16.pgm", np.rint(RAMP * 65535).astype(np.int32)),
        ("32-bit-in-16.tif", np.rint(RAMP * 65535).astype(np.int32)),
        ("32.tif", np.rint(RAMP * 2e9).astype(np.int32)),
        ("signed.tif", np.rint(RAMP * 4000 - 1000).astype(np.int32)),
        ("float.tif", RAMP.astype(np.float32)),
        ("float-other.tif", (RAMP * 300 - 50).astype(np.float32)),
        ("8.png", eight_bit(RAMP)),
        ("8.jpg", eight_bit(RAMP)),
        ("8.gif", eight_bit(RAMP)),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_grey_of_any_depth_is_scaled_not_clipped(tmp_path, name, pixels, channels):
    Image.fromarray(pixels).save(tmp_path / name)
    found = read(tmp_path / name, channels)
    tolerance = 2 if name.endswith("jpg") else 1
    assert found.shape == (HEIGHT, WIDTH, channels)
    assert np.abs(found - eight_bit(RAMP)[..., None].astype(int)).max() <= tolerance


def test_16_bit_white_point_is_full_scale_not_the_brightest_pixel(tmp_path):
    Image.fromarray(np.full((4, 4), 65535 // 2, np.uint16)).save(tmp_path / "a.png")
    assert set(read(tmp_path / "a.png", 1, (4, 4)).ravel()) == {127}


def test_constant_float_image_is_no_division_by_zero(tmp_path):
    Image.fromarray(np.full((4, 4), 7, np.float32)).save(tmp_path / "a.tif")
    assert set(read(tmp_path / "a.tif", 1, (4, 4)).ravel()) == {0}


def test_not_a_number_is_an_error(tmp_path):
    Image.fromarray(np.full((4, 4), np.nan, np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match="not finite"):
        read(tmp_path / "a.tif", 1, (4, 4))


def test_one_bit_is_black_and_white(tmp_path):
    Image.fromarray(RAMP > 0.5).save(tmp_path / "a.png")
    assert Image.open(tmp_path / "a.png").mode == "1"
    assert np.array_equal(read(tmp_path / "a.png", 1)[..., 0], np.where(RAMP > 0.5, 255, 0))


@pytest.mark.parametrize("name", ["a.jpg", "a.tif"])
def test_cmyk(tmp_path, name):
    colour_image().convert("CMYK").save(tmp_path / name, **({"quality": 98} if name == "a.jpg" else {}))
    assert np.abs(read(tmp_path / name) - np.asarray(colour_image())).mean() < 3


def test_palette(tmp_path):
    image = colour_image().quantize(256)
    image.save(tmp_path / "a.png")
    assert np.array_equal(read(tmp_path / "a.png"), np.asarray(image.convert("RGB")))


def transparent(mode):
    """Left half red or grey and opaque, right half transparent."""
    image = Image.new("RGBA", (WIDTH, HEIGHT), (200, 0, 0, 255))
    image.paste((0, 90, 0, 0), (WIDTH // 2, 0, WIDTH, HEIGHT))
    if mode == "P":  # a palette whose second entry is transparent
        image = Image.fromarray((np.arange(WIDTH) >= WIDTH // 2).astype(np.uint8)[None].repeat(HEIGHT, 0), mode="P")
        image.putpalette([200, 0, 0, 0, 90, 0])
        return image, {"transparency": 1}
    return image.convert(mode), {}


@pytest.mark.parametrize(
    ("mode", "name"), [("RGBA", "a.png"), ("RGBA", "a.webp"), ("LA", "a.png"), ("P", "a.png"), ("P", "a.gif")]
)
@pytest.mark.parametrize("channels", [1, 3])
def test_transparency_is_composited_on_white(tmp_path, mode, name, channels):
    image, options = transparent(mode)
    image.save(tmp_path / name, **options, **({"lossless": True} if name == "a.webp" else {}))
    found = read(tmp_path / name, channels)
    red = np.array([200, 0, 0]) if mode != "LA" and channels == 3 else np.full(channels, 60)  # 0.299 * 200
    assert np.array_equal(found[5, 5], red)
    assert np.array_equal(found[5, -5], np.full(channels, 255))


@pytest.mark.parametrize(("mode", "name"), [("RGBA", "a.png"), ("LA", "a.png"), ("P", "a.png"), ("P", "a.gif")])
def test_transparency_is_kept_for_4_channels(tmp_path, mode, name):
    image, options = transparent(mode)
    image.save(tmp_path / name, **options)
    found = read(tmp_path / name, 4)
    assert found[5, 5, 3] == 255 and found[5, -5, 3] == 0


def test_hidden_colour_does_not_bleed_through_resizing(tmp_path):
    image, _ = transparent("RGBA")
    image.save(tmp_path / "a.png")
    for channels in (3, 4):
        small = read(tmp_path / "a.png", channels, (6, 9))
        assert (small[..., 1] <= small[..., 2] + 1).all()  # the transparent half's green is nowhere


def test_gif_gives_its_first_frame(tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=50)
    assert set(map(tuple, read(tmp_path / "a.gif", 3, (8, 8)).reshape(-1, 3))) == {(255, 0, 0)}


def test_a_phones_two_pictures_in_one_jpeg_give_the_first(tmp_path):
    first, second = Image.new("RGB", (64, 48), (200, 0, 0)), Image.new("RGB", (64, 48), (0, 0, 200))
    first.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[second])
    assert np.abs(read(tmp_path / "a.jpg", 3, (8, 8)) - [200, 0, 0]).max() <= 2


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif", "a.webp"])
def test_exif_orientation_is_honoured(tmp_path, name, orientation):
    upright = colour_image()
    stored = {
        1: upright,
        2: upright.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        3: upright.transpose(Image.Transpose.ROTATE_180),
        4: upright.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
        5: upright.transpose(Image.Transpose.TRANSPOSE),
        6: upright.transpose(Image.Transpose.ROTATE_90),  # stored turned left, shown turned right
        7: upright.transpose(Image.Transpose.TRANSVERSE),
        8: upright.transpose(Image.Transpose.ROTATE_270),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / name, exif=exif, quality=95, lossless=True)
    assert np.abs(read(tmp_path / name) - np.asarray(upright)).mean() < 2


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_is_no_damaged_image(tmp_path):
    colour_image().save(tmp_path / "a.jpg", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff garbage")
    assert read(tmp_path / "a.jpg").shape == (HEIGHT, WIDTH, 3)


def test_large_jpeg_is_right_at_a_small_size(tmp_path):
    # Pillow decodes it at a fraction of its size; the colours and where they are must stay.
    x = np.linspace(0, 255, 1600)[None].repeat(900, 0)
    y = np.linspace(0, 255, 900)[:, None].repeat(1600, 1)
    Image.fromarray(np.dstack([x, y, x * 0 + 128]).astype(np.uint8)).save(tmp_path / "a.jpg", quality=95)
    small = read(tmp_path / "a.jpg", 3, (32, 32), "stretch")
    expected = (np.arange(32) + 0.5) * 255 / 32
    assert np.abs(small[..., 0] - expected).max() < 4
    assert np.abs(small[..., 1] - expected[:, None]).max() < 4


class TestFit:
    def test_sizes_are_height_first(self):
        for resize in ("crop", "pad", "stretch"):
            assert np.asarray(fit(Image.new("RGB", (50, 30)), (20, 10), resize)).shape == (20, 10, 3)

    def test_crop_takes_the_centre_at_full_height(self):
        columns = np.repeat(np.arange(9, dtype=np.uint8) * 28, 10)[None].repeat(30, 0)  # 30 high, 90 wide: 9 stripes
        found = np.asarray(fit(Image.fromarray(columns), (30, 30), "crop"))
        assert np.array_equal(found, columns[:, 30:60])

    def test_pad_keeps_everything_between_black_bars(self):
        found = np.asarray(fit(Image.new("L", (40, 20), 200), (40, 40), "pad"))
        assert (found[:10] == 0).all() and (found[10:30] == 200).all() and (found[30:] == 0).all()

    def test_stretch_fills(self):
        assert (np.asarray(fit(Image.new("L", (40, 20), 200), (16, 8), "stretch")) == 200).all()

    def test_reducing_is_antialiased(self):
        checkers = Image.fromarray((np.indices((512, 512)).sum(0) % 2 * 255).astype(np.uint8))
        found = np.asarray(fit(checkers, (37, 37), "crop")).astype(int)
        assert np.abs(found - 127).max() <= 8  # picking pixels would leave black and white ones

    @pytest.mark.parametrize("resize", ["crop", "pad", "stretch"])
    @pytest.mark.parametrize("size", [(1, 1), (1, 999), (999, 1), (3, 7), (641, 479)])
    def test_any_size_fits(self, size, resize):
        for target in [(64, 64), (28, 31), (1, 1)]:
            assert fit(Image.new("RGB", size), target, resize).size == target[::-1]


def test_padding_is_white_where_the_image_was_composited_and_transparent_with_4_channels(tmp_path):
    Image.new("RGBA", (20, 10), (10, 20, 30, 255)).save(tmp_path / "a.png")
    assert np.array_equal(read(tmp_path / "a.png", 3, (20, 20), "pad")[0, 0], [255, 255, 255])
    assert np.array_equal(read(tmp_path / "a.png", 4, (20, 20), "pad")[0, 0], [0, 0, 0, 0])
    assert np.array_equal(read(tmp_path / "a.png", 3, (20, 20), "pad")[10, 10], [10, 20, 30])
