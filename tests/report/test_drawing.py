"""What is drawn of objects: where, in which colour, and that no shape of image or mask is too odd for it."""

from __future__ import annotations

import logging

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageDraw

from hiera_det.predict.prediction import found_objects
from hiera_det.report import fonts
from hiera_det.report.drawing import PALETTE, Mask, Objects, class_name, draw_objects
from hiera_det.report.labels import Labels
from hiera_det.report.sheet import captioned, justified, lay_out

GREY = 100


def image(height: int, width: int) -> npt.NDArray[np.uint8]:
    return np.full((height, width, 3), GREY, dtype=np.uint8)


def drawn(height: int, width: int, box: list[float], mask: Mask | None, label: str = "") -> npt.NDArray[np.uint8]:
    objects = Objects(np.array([box], dtype=np.float64), [label], [0], None if mask is None else [mask])
    return np.asarray(draw_objects(image(height, width), objects))


def test_a_hole_in_a_mask_is_drawn_as_a_hole() -> None:
    mask = np.zeros((60, 60), dtype=np.uint8)
    mask[10:50, 10:50] = 1
    mask[20:40, 20:40] = 0
    picture = drawn(60, 60, [10, 10, 50, 50], mask)
    tint = np.round(0.65 * GREY + 0.35 * 255 * np.array(PALETTE[0]))
    np.testing.assert_allclose(picture[15, 15], tint, atol=1)
    assert (picture[22:38, 22:38] == GREY).all()  # the hole
    np.testing.assert_allclose(picture[30, 19], np.round(255 * np.array(PALETTE[0])), atol=1)  # the hole's edge
    assert (picture[52:, 52:] == GREY).all()


@pytest.mark.parametrize(("height", "width"), [(3, 2), (1, 1), (2, 3000), (5000, 1), (1, 2), (2, 2)])
def test_slivers_and_images_two_pixels_wide_are_drawn(height: int, width: int) -> None:
    mask = np.ones((height, width), dtype=np.uint8)
    picture = drawn(height, width, [0, 0, width, height], mask, "fig 0.98")
    assert picture.shape == (height, width, 3)
    assert (picture != GREY).any()
    polygon = [np.array([0, 0, width, 0, width, height, 0, height], dtype=np.float64)]
    assert drawn(height, width, [0, 0, width, height], polygon).shape == (height, width, 3)


def test_polygons_fill_their_area_and_several_are_one_object() -> None:
    mask = [np.array([10.0, 10, 30, 10, 30, 30, 10, 30]), np.array([40.0, 40, 50, 40, 50, 50, 40, 50])]
    changed = (drawn(60, 60, [0, 0, 0, 0], mask) != GREY).any(axis=2)
    assert changed[11:29, 11:29].all()
    assert changed[41:49, 41:49].all()
    assert abs(int(changed[5:, 5:].sum()) - 500) <= 80


@pytest.mark.parametrize("box", [[-50, -50, 500, 500], [20, 20, 20, 20], [1e9, 1e9, 2e9, 2e9], [70, 5, 80, 9]])
def test_boxes_of_any_place_and_size_are_drawn(box: list[float]) -> None:
    assert drawn(60, 60, box, [], "x").shape == (60, 60, 3)


def test_no_objects_leave_the_image_as_it_is() -> None:
    for masks in (None, []):
        empty = Objects(np.zeros((0, 4)), [], [], masks)
        np.testing.assert_array_equal(np.asarray(draw_objects(image(20, 30), empty)), image(20, 30))


def test_the_image_itself_is_not_written_to() -> None:
    own = image(20, 20)
    own.flags.writeable = False
    draw_objects(own, Objects(np.array([[2.0, 2, 9, 9]]), ["a"], [0], [np.ones((20, 20), dtype=np.uint8)]))


def test_a_class_has_its_colour_whatever_else_is_drawn() -> None:
    boxes = np.array([[0.0, 0, 10, 10], [20, 20, 30, 30], [40, 40, 50, 50]])
    picture = np.asarray(draw_objects(image(60, 60), Objects(boxes, [""] * 3, [1, 0, 1 + len(PALETTE)])))
    colors = [tuple(picture[place, place]) for place in (0, 20, 40)]
    assert colors == [tuple(round(255 * part) for part in PALETTE[index]) for index in (1, 0, 1)]


def test_names_that_would_hide_letters_are_shown_by_their_codes() -> None:
    assert class_name(0, ["a\x1b[31m\nb\u202ec"]) == r"a\x1b[31m\nb\u202ec"
    assert class_name(3, ["a"]) == class_name(3, None) == "class 3"


def test_letters_that_the_plain_font_lacks_come_from_an_installed_one(monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib import font_manager

    letters = {"plain": frozenset("abc"), "other": frozenset("é干净") | fonts.PLAIN_LETTERS, "odd": frozenset("干")}
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: ["odd", "other"])
    monkeypatch.setattr(fonts, "plain_font", lambda: "plain")
    monkeypatch.setattr(fonts, "letters_of", letters.__getitem__)
    fonts.best_font.cache_clear()
    assert fonts.best_font(frozenset("干净")) == "other"
    assert fonts.best_font(frozenset()) == "plain"
    fonts.best_font.cache_clear()


def test_letters_that_no_font_has_are_said_once(caplog: pytest.LogCaptureFixture) -> None:
    name = "\U0001fae8\U0001fae9"
    fonts.best_font.cache_clear()
    with caplog.at_level(logging.WARNING, logger="hiera_det.pictures"):
        for score in ("0.91", "0.92"):
            assert drawn(60, 200, [5, 30, 50, 50], None, f"{name} {score}").any()
    assert len(caplog.messages) == 1
    assert f"no installed font has the letters {name}" in caplog.messages[0]


def test_a_sheet_has_columns_of_one_width_and_rows_of_their_own_height() -> None:
    pictures = [Image.new("RGB", size, "red") for size in ((30, 10), (20, 40), (30, 20))]
    sheet = lay_out(pictures, columns=2, gap=5)
    assert sheet.size == (65, 65)
    assert sheet.getpixel((36, 1)) == (255, 0, 0)
    assert sheet.getpixel((1, 46)) == (255, 0, 0)
    assert lay_out(pictures[:1], columns=4, gap=5).size == (30, 10)


@pytest.mark.parametrize(("count", "width"), [(1, 128), (2, 220), (3, 220), (7, 240), (8, 240)])
def test_rows_of_a_page_are_as_wide_as_the_page(count: int, width: int) -> None:
    sizes = [(128, 67), (86, 67), (128, 40), (128, 67), (95, 67), (74, 67), (128, 46), (110, 67)]
    page = justified([Image.new("RGB", size, "red") for size in sizes[:count]], columns=2, width=240, gap=6)
    assert page.width == width
    white = (np.asarray(page) == 255).all(axis=2).mean()
    assert white < 0.1  # the gaps


def test_a_narrow_picture_has_room_for_its_caption() -> None:
    page = captioned(Image.new("RGB", (10, 20), "red"), "a\nb", height=30, least_width=100)
    assert page.size == (100, 50)
    assert page.getpixel((50, 40)) == (255, 0, 0)
    assert page.getpixel((5, 40)) == (255, 255, 255)


def test_a_label_hides_no_picture_that_is_too_small_for_it() -> None:
    for size in ((8, 200), (200, 8), (2, 3000)):
        np.testing.assert_array_equal(drawn(*size, [0, 0, 8, 2], None, "fig 0.98"), drawn(*size, [0, 0, 8, 2], None))
    assert (drawn(60, 200, [5, 30, 50, 50], None, "fig") != drawn(60, 200, [5, 30, 50, 50], None)).any()


def test_labels_of_neighbours_do_not_cover_each_other() -> None:
    picture = Image.new("RGB", (200, 100))
    labels = Labels(ImageDraw.Draw(picture), picture.size, 1.0)
    for number in range(3):
        labels.add([20.0 + number, 40.0 + number, 80.0, 70.0], f"object {number}", (255, 255, 255))
    first, second, third = labels.taken
    assert len({first[1], second[1], third[1]}) == 3
    assert not any(a[1] < b[3] and b[1] < a[3] for a, b in ((first, second), (first, third), (second, third)))


def test_labels_that_have_no_room_are_left_out_and_none_covers_another() -> None:
    picture = Image.new("RGB", (160, 120))
    labels = Labels(ImageDraw.Draw(picture), picture.size, 1.0)
    for number in range(40):
        labels.add([60.0, 50.0, 110.0, 80.0], f"object {number}", (255, 255, 255))
    assert 4 < len(labels.taken) < 40
    for index, (x0, y0, x1, y1) in enumerate(labels.taken):
        assert x0 >= 0
        assert y0 >= 0
        assert x1 <= 160
        assert y1 <= 120
        for a0, b0, a1, b1 in labels.taken[:index]:
            assert not (x0 < a1 and a0 < x1 and y0 < b1 and b0 < y1)


def test_a_long_name_is_cut_and_its_score_stays() -> None:
    names = ["fig", "a class that was called by a whole sentence"]
    assert class_name(0, names) == "fig"
    assert class_name(1, names) == "a class that was called by …"
    found = {"boxes": np.zeros((1, 4)), "scores": np.array([0.5]), "classes": np.array([1])}
    assert found_objects(found, names).labels == ["a class that was called by … 0.50"]
