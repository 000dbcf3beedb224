"""All allowed image formats are read correctly, and only damaged images are reported."""

import io
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image, ImageFile, ImageOps

from roadwork.data import images
from roadwork.data import images as resizing
from roadwork.data.formats import FORMAT_NAMES
from roadwork.data.images import (
    EVALUATION_SCALE,
    TRAINING_SCALE,
    FileImages,
    UnreadableImageError,
    decode_image,
    quick_check,
    resize_antialiased,
)


def encode(image, fmt="JPEG", **options):
    buffer = io.BytesIO()
    image.save(buffer, fmt, **options)
    return buffer.getvalue()


def photo(width=1200, height=900):
    """An image like a photo: large smooth shapes, edges and noise."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 255, (12, 16, 3), dtype=np.uint8)).resize((width, height), Image.BICUBIC)
    pixels = np.asarray(coarse, dtype=np.int16) + rng.normal(0, 6, (height, width, 3)).astype(np.int16)
    pixels[::90, :] -= 60
    pixels[:, ::110] += 50
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def corners(image):
    """The brightness near the four corners: top left, top right, bottom left, bottom right."""
    n = image.shape[0]
    near, far = n // 8, n - 1 - n // 8
    return [int(image[y, x].mean()) for y in (near, far) for x in (near, far)]


QUARTERS = np.kron(np.array([[0, 80], [160, 240]], dtype=np.uint8), np.ones((150, 200), dtype=np.uint8))


def check(tmp_path, data):
    path = tmp_path / "image"
    path.write_bytes(data)
    return quick_check(FileImages([path]), 0)


def difference_from_full_decode(data, size, *scale):
    """The mean, of 255."""
    with Image.open(io.BytesIO(data)) as image:
        full = np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC), dtype=float)
    ours = decode_image(data, size, *scale)
    assert ours.shape == (size, size, 3)
    assert ours.dtype == np.uint8
    return np.abs(ours - full).mean()


@pytest.mark.parametrize("size", [224, 96])
def test_close_to_a_full_decode(size):
    assert difference_from_full_decode(encode(photo(), quality=90), size) < 0.5


def test_training_decodes_coarser_than_the_evaluation_default():
    data = encode(photo(2016, 1512), quality=90)
    evaluation, training = (difference_from_full_decode(data, 180, s) for s in (EVALUATION_SCALE, TRAINING_SCALE))
    assert evaluation < 0.5 < training < 2
    np.testing.assert_array_equal(decode_image(data, 180), decode_image(data, 180, EVALUATION_SCALE))


@pytest.mark.parametrize(
    ("size", "scale", "decoded"),
    [  # of 1/1, 1/2, 1/4 and 1/8 of 1200 x 900, the smallest with both sides at least scale * size
        (112, TRAINING_SCALE, (150, 113)),
        (112, EVALUATION_SCALE, (300, 225)),
        (113, EVALUATION_SCALE, (600, 450)),
        (300, TRAINING_SCALE, (600, 450)),
        (300, EVALUATION_SCALE, (1200, 900)),
        (1000, TRAINING_SCALE, (1200, 900)),
    ],
)
def test_jpeg_is_decoded_at_the_smallest_sufficient_scale(monkeypatch, size, scale, decoded):
    sizes = []
    monkeypatch.setattr(images, "resize_antialiased", lambda image, to: sizes.append(image.size) or np.zeros(to))
    decode_image(encode(photo()), size, scale)
    assert sizes == [decoded]


@pytest.mark.parametrize("size", [(1200, 900), (224, 224), (64, 300), (1400, 1000), (1, 1)])
def test_resizing_equals_pillow(size):
    picture = photo()
    expected = np.asarray(picture.resize(size, Image.Resampling.BICUBIC), dtype=int)
    ours = resize_antialiased(picture, size)
    assert ours.dtype == np.uint8
    assert ours.flags.c_contiguous
    assert ours.shape == expected.shape
    difference = np.abs(ours - expected)
    assert difference.max() <= 2
    assert difference.mean() < 0.05


def test_pictures_too_large_to_copy_equal_pillow_exactly(monkeypatch):
    picture = photo(400, 300)
    monkeypatch.setattr(resizing, "MAX_COPIED_PIXELS", 400 * 300 - 1)
    expected = np.asarray(picture.resize((90, 80), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(resize_antialiased(picture, (90, 80)), expected)


@pytest.mark.parametrize("fmt", ["JPEG", "PNG", "WEBP", "HEIF", "AVIF", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_equals_pillow(orientation, fmt):
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(QUARTERS).convert("RGB")
    data = encode(image, fmt, quality=95, exif=exif.tobytes())  # HEIF and AVIF store the rotation beside it too
    image.getexif()[0x0112] = orientation
    upright = ImageOps.exif_transpose(image)
    expected = np.asarray(upright.resize((40, 40), Image.Resampling.BICUBIC))
    ours = decode_image(data, 40)  # 400 pixels to 40: a JPEG is decoded at a reduced size
    np.testing.assert_allclose(corners(ours), corners(expected), atol=3)
    assert images.upright_size(data) == upright.size
    if orientation == 6:
        np.testing.assert_allclose(corners(ours), [160, 0, 240, 80], atol=3)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_exif_keeps_the_image():
    data = encode(Image.fromarray(QUARTERS).convert("RGB"), exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff\x01")
    np.testing.assert_allclose(corners(decode_image(data, 40)), [0, 80, 160, 240], atol=4)


def kinds():
    grey = Image.fromarray(QUARTERS)
    rgb = grey.convert("RGB")
    rgba = rgb.convert("RGBA")
    rgba.putalpha(Image.fromarray(np.where(QUARTERS == 80, 0, 255).astype(np.uint8)))
    palette = grey.convert("P")
    sixteen = Image.fromarray(QUARTERS.astype(np.uint16) * 257)
    transparent = [0, 255, 160, 240]  # the second corner shows the white below
    return {
        "grey JPEG": (encode(grey), [0, 80, 160, 240]),
        "CMYK JPEG": (encode(rgb.convert("CMYK"), quality=95), [0, 80, 160, 240]),
        "16-bit PNG": (encode(sixteen, "PNG"), [0, 80, 160, 240]),
        "16-bit PNG with a transparent value": (encode(sixteen, "PNG", transparency=7), [0, 80, 160, 240]),
        "grey PNG": (encode(grey, "PNG"), [0, 80, 160, 240]),
        "1-bit PNG": (encode(grey.point(lambda v: 255 * (v > 100), "1"), "PNG"), [0, 0, 255, 255]),
        "palette PNG": (encode(palette, "PNG"), [0, 80, 160, 240]),
        "palette PNG with a transparent colour": (
            encode(palette, "PNG", transparency=palette.getpixel((300, 50))),
            transparent,
        ),
        "RGBA PNG": (encode(rgba, "PNG"), transparent),
        "grey PNG with alpha": (encode(rgba.convert("LA"), "PNG"), transparent),
        "WebP": (encode(rgb, "WEBP", quality=95), [0, 80, 160, 240]),
        "WebP with alpha": (encode(rgba, "WEBP", lossless=True), transparent),
        "progressive JPEG": (encode(rgb, progressive=True), [0, 80, 160, 240]),
        "HEIC": (encode(rgb, "HEIF", quality=95), [0, 80, 160, 240]),
        "HEIC with alpha": (encode(rgba, "HEIF", quality=-1), transparent),
        "AVIF": (encode(rgb, "AVIF", quality=95), [0, 80, 160, 240]),
        "AVIF with alpha": (encode(rgba, "AVIF", quality=95), transparent),
        "MPO": (encode(rgb, "MPO", save_all=True, append_images=[grey.convert("RGB")]), [0, 80, 160, 240]),
        "TIFF": (encode(rgb, "TIFF", compression="tiff_lzw"), [0, 80, 160, 240]),
        "CMYK TIFF": (encode(rgb.convert("CMYK"), "TIFF"), [0, 80, 160, 240]),
        "16-bit TIFF": (encode(sixteen, "TIFF"), [0, 80, 160, 240]),
    }


@pytest.mark.parametrize("kind", kinds())
def test_all_image_modes_are_read(tmp_path, kind):
    data, expected = kinds()[kind]
    np.testing.assert_allclose(corners(decode_image(data, 64)), expected, atol=4)
    assert check(tmp_path, data) is None


@pytest.mark.parametrize("fmt", ["GIF", "BMP"])
def test_other_formats_are_rejected(tmp_path, fmt):
    data = encode(photo(64, 48), fmt)
    with pytest.raises(UnreadableImageError, match=FORMAT_NAMES):
        decode_image(data, 32)
    assert FORMAT_NAMES in check(tmp_path, data)


def test_heic_without_its_package_names_the_install_command(tmp_path, monkeypatch):
    data = encode(photo(64, 48), "HEIF")
    monkeypatch.setattr(images, "HAS_HEIF", False)
    with pytest.raises(UnreadableImageError, match="pip install"):
        decode_image(data, 32)
    assert "pip install" in check(tmp_path, data)


def test_tiff_of_floats_is_rejected():
    data = encode(Image.fromarray(np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)), "TIFF")
    with pytest.raises(UnreadableImageError, match="float"):
        decode_image(data, 8)


def test_heic_thumbnail_is_not_read_instead_of_the_photo():
    data = encode(photo(640, 480), "HEIF", thumbnails=[320], quality=90)
    assert difference_from_full_decode(data, 96) < 1


@pytest.mark.parametrize("data", [b"", b"\xff\xd8\xff", b"<html>not found</html>", b"RIFF\x10\0\0\0WEBP"])
def test_no_images(tmp_path, data):
    with pytest.raises(UnreadableImageError):
        decode_image(data, 32)
    assert check(tmp_path, data)


@pytest.mark.parametrize("limit", [3000, 2000, 500])
def test_pixel_limit(monkeypatch, limit):
    data = encode(photo(64, 48))  # 3,072 pixels
    monkeypatch.setattr(images, "MAX_PIXELS", limit)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(UnreadableImageError, match=f"{limit:,}"):
        decode_image(data, 32)


def test_photos_of_200_megapixel_phones_are_within_the_limit():
    assert Image.MAX_IMAGE_PIXELS == images.MAX_PIXELS > 16320 * 12240


@pytest.mark.parametrize("fmt", ["JPEG", "PNG", "WEBP", "HEIF", "AVIF", "TIFF"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_cut_off_files_are_found_without_a_full_decode(tmp_path, fmt, share):
    data = encode(photo(600, 400), fmt)
    assert check(tmp_path, data[: int(share * len(data))])
    assert check(tmp_path, data) is None


@pytest.mark.parametrize("share", [0.5, 0.95])
def test_tiles_cut_off_a_heic_are_an_error_not_grey(share):
    data = encode(photo(640, 480), "HEIF", tile_size=256)
    with pytest.raises(UnreadableImageError, match="truncated"):
        decode_image(data[: int(share * len(data))], 64)


def test_whole_heic_files_are_checked_without_decoding(tmp_path, monkeypatch):
    data = encode(photo(64, 48), "HEIF")
    monkeypatch.setattr(images, "decode_image", lambda *_: pytest.fail("decoded"))
    assert check(tmp_path, data) is None


@pytest.mark.parametrize("fmt", ["JPEG", "PNG", "AVIF", "HEIF"])
def test_the_flag_of_another_library_does_not_hide_damage(monkeypatch, fmt):
    data = encode(photo(600, 400), fmt)
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)

    def is_damaged(_):
        with pytest.raises(UnreadableImageError):
            decode_image(data[: len(data) // 2], 64)
        return True

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(is_damaged, range(16)))
    assert ImageFile.LOAD_TRUNCATED_IMAGES


def test_jpeg_cut_off_and_padded_by_a_full_disk(tmp_path):
    data = encode(photo(600, 400))
    assert "truncated" in check(tmp_path, data[:5000] + bytes(len(data) - 5000))


TRAILERS = {
    "padding": bytes(5000),
    "newline": b"\n",
    "phone trailer": b"SEFH" + bytes(range(256)) * 10 + b"SEFT",
    "second picture": encode(photo(64, 48)),
    "motion photo": b"\0\0\0\x18ftypmp42" + bytes(range(1, 256)),
}


@pytest.mark.parametrize("extra", TRAILERS.values(), ids=TRAILERS)
def test_data_after_the_end_marker_is_allowed(tmp_path, extra):
    data = encode(photo(600, 400)) + extra
    assert check(tmp_path, data) is None
    assert decode_image(data, 64).std() > 10


@pytest.mark.parametrize("width", range(400, 720, 40))
def test_check_agrees_with_decode_without_end_marker(tmp_path, width):
    data = encode(photo(width, 300))[:-2]
    try:
        decode_image(data, 224)
    except UnreadableImageError:
        assert check(tmp_path, data)
    else:
        assert check(tmp_path, data) is None


def test_two_pictures_in_one_file_as_phones_write_them(tmp_path):
    first, second = photo(600, 400), Image.new("RGB", (60, 40))
    data = encode(first, "MPO", save_all=True, append_images=[second])
    assert check(tmp_path, data) is None
    np.testing.assert_array_less(np.abs(decode_image(data, 64).astype(int) - decode_image(encode(first), 64)).mean(), 1)


def test_header_larger_than_any_first_block(tmp_path):
    data = encode(photo(600, 400))
    comment = b"\xff\xfe\xff\xff" + bytes(65533)
    assert check(tmp_path, data[:2] + comment * 10 + data[2:] + b"trailer") is None


def test_damage_in_the_middle_is_found_at_decode(tmp_path):
    png = encode(photo(600, 400), "PNG")
    damaged = png[:9000] + np.random.default_rng(0).bytes(200) + png[9200:]
    assert check(tmp_path, damaged) is None  # its ends are whole
    with pytest.raises(UnreadableImageError, match="data stream"):
        decode_image(damaged, 64)


def test_threads_do_not_change_the_result():
    encoded = [encode(photo(200 + 8 * i, 150)) for i in range(8)]
    alone = [decode_image(data, 48) for data in encoded]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda i: decode_image(encoded[i % 8], 48), range(64)))
    for i, image in enumerate(together):
        np.testing.assert_array_equal(image, alone[i % 8])


def test_missing_file_names_its_path(tmp_path):
    source = FileImages([tmp_path / "gone.jpg"])
    assert quick_check(source, 0) == f"{tmp_path / 'gone.jpg'}: No such file or directory"
    with pytest.raises(UnreadableImageError, match="No such file"):
        source.read(0)
