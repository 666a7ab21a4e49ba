"""Problems: golden numbers, the images' pipeline, and what is refused."""

import itertools

import numpy as np
import pytest
from fivefold import UserError
from fivefold_quark import Padding, Samples, Weighting
from fivefold_quark.engine.models.angle import AngleModel
from fivefold_quark.engine.models.boolean import COLUMNS, DIAGONALS, ROWS, binary_perceptron
from fivefold_quark.engine.models.linear import LinearModel
from fivefold_quark.engine.problem import tabulate
from fivefold_quark.engine.problems.choosing import choose_problem, model_of
from fivefold_quark.engine.problems.edge import edge3, edge8, edge_with_distractors, every_pattern
from fivefold_quark.engine.problems.images import Images, bundled_digits, read_images, shrink, tiny
from fivefold_quark.engine.problems.warm_ups import not_and, xor
from fivefold_quark.engine.samples import collapse
from fivefold_quark.groups import ProblemConfig
from PIL import Image

DIGITS = bundled_digits()


def is_full(image, lines):
    return any(all(image[pixel] for pixel in line) for line in lines)


def test_edge3_is_what_its_description_says_image_by_image():
    groups, table = (ROWS, COLUMNS, DIAGONALS), tabulate(edge3())
    images = list(itertools.product((0, 1), repeat=9))
    for code in range(8):
        on = [line for bit, group in enumerate(groups) if code >> bit & 1 for line in group]
        right = np.mean([is_full(im, on) == is_full(im, ROWS) for im in images])
        assert table.accuracies[code] == pytest.approx(right, abs=1e-12)


def test_golden_accuracies_of_edge3():
    found = np.sort(tabulate(edge3()).accuracies)[::-1]
    assert found[:6] == pytest.approx([1.0, 0.9004, 0.8477, 0.7793, 0.6953, 0.6895], abs=1e-4)
    assert found.mean() == pytest.approx(0.78, abs=1e-3)
    assert edge3().train.labels.sum() == 169


def test_edge8_has_one_optimum_the_rows_and_a_runner_up():
    found = tabulate(edge8())
    order = np.argsort(found.accuracies)[::-1]
    assert found.codes[order[0]] == 0b111
    assert found.accuracies[order[:2]] == pytest.approx([1.0, 0.947], abs=1e-3)


@pytest.mark.parametrize("weights", [8, 10, 13])
def test_distractors_leave_the_optimum_alone_and_unique(weights):
    found = tabulate(edge_with_distractors(weights, seed=3))
    assert np.flatnonzero(found.accuracies == 1.0).tolist() == [0b111]


def test_distractors_follow_their_seed():
    one, again, other = (
        tabulate(edge_with_distractors(10, seed=seed)).accuracies for seed in (1, 1, 2)
    )
    assert (one == again).all()
    assert (one != other).any()


def test_digits_are_the_patterns_of_the_source():
    """28 patterns; best 0.821, six settings within 0.02; weighted 0.975, four."""
    for weighting, best, near in (
        (Weighting.UNIFORM, 0.821, 6),
        (Weighting.MULTIPLICITY, 0.975, 4),
    ):
        problem = tiny(DIGITS, (6, 7), weighting=weighting)
        accuracies = tabulate(problem).accuracies
        assert len(problem.train) == 28
        assert accuracies.max() == pytest.approx(best, abs=1e-3)
        assert (accuracies >= accuracies.max() - 0.02).sum() == near


def test_every_pair_of_digits_is_a_problem():
    for pair in itertools.combinations(range(10), 2):
        problem = tiny(DIGITS, pair)
        assert problem.register.size == 1024
        assert len(np.unique(problem.train.features, axis=0)) == len(problem.train)


def test_swapping_the_classes_flips_the_last_weight_of_the_optimum():
    one, other = (tabulate(tiny(DIGITS, pair)).accuracies for pair in ((6, 7), (7, 6)))
    flipped = np.arange(1024) ^ 1 << 9
    assert one == pytest.approx(other[flipped], abs=1e-12)


def test_marked_pads_are_never_right_and_lower_every_accuracy_alike():
    exact, marked = tiny(DIGITS, (6, 7)), tiny(DIGITS, (6, 7), padding=Padding.MARK)
    one, other = tabulate(exact), tabulate(marked)
    assert other.right.shape == (1024, 32)
    assert not other.right[:, 28:].any()
    assert other.accuracies == pytest.approx(one.accuracies * 28 / 32, abs=1e-12)


def test_collapsed_patterns_have_the_majoritys_label_and_ties_are_dropped():
    features = np.array([[0, 1], [0, 1], [0, 1], [1, 1], [1, 1], [1, 0]], dtype=np.uint8)
    labels = np.array([1, 1, 0, 0, 1, 0], dtype=np.uint8)
    found = collapse(features, labels, Weighting.MULTIPLICITY)
    assert found.features.tolist() == [[0, 1], [1, 0]]
    assert found.labels.tolist() == [1, 0]
    assert found.probabilities == pytest.approx([0.75, 0.25])


def test_held_out_images_are_not_trained_on():
    problem = tiny(DIGITS, (6, 7), test_share=0.25, seed=1)
    assert problem.test is not None
    assert len(problem.test) == 90
    assert edge3(split_seed=0).about["patterns"] == 512
    assert (len(edge3(0).train), len(edge3(0).test)) == (400, 112)


def test_a_perceptron_counts_equal_inputs():
    model, patterns = binary_perceptron(5), every_pattern(5)
    found = model.predict(patterns, patterns)
    for w, x in itertools.product(range(32), range(32)):
        assert found[w, x] == ((patterns[w] == patterns[x]).sum() >= 3)


def test_a_linear_model_weighs_its_inputs():
    model, patterns = LinearModel(2), every_pattern(2)
    bits = model.register.bits(model.register.codes())
    values = model.register.decode(bits)
    expected = [[float(v[:2] @ x + v[2] > 0) for x in patterns] for v in values]
    assert model.predict(bits, patterns).tolist() == expected
    assert set(np.unique(values)) == {-1.0, 0.0, 1.0}


def test_an_angle_model_is_the_rotation_that_its_gates_make():
    model, patterns = AngleModel(2, 2), every_pattern(2)
    bits = model.register.bits(model.register.codes())
    for row, x in itertools.product(range(0, 64, 5), patterns):
        angle = sum(
            turn.angle
            for turn in model.rotations
            if bits[row, turn.weight] and (turn.feature is None or x[turn.feature])
        )
        made = model.predict(bits[row : row + 1], x[None])[0, 0]
        assert made == pytest.approx(np.sin(angle / 2) ** 2, abs=1e-12)


def test_a_folder_of_images_is_a_problem(tmp_path):
    random = np.random.default_rng(0)
    for name, dark in (("4", 40), ("9", 200)):
        (tmp_path / name).mkdir()
        for i in range(6):
            picture = random.integers(0, 50, (9, 12)) + dark * (np.arange(12) > 5)
            Image.fromarray(picture.astype(np.uint8)).save(tmp_path / name / f"{i}.png")
    found = read_images(tmp_path)
    assert found.pixels.shape == (12, 9, 12)
    assert set(found.labels) == {4, 9}
    assert choose_problem(ProblemConfig(name=str(tmp_path), digits=[4, 9], split=False)).train


def test_images_of_sixteen_bits_are_not_clipped(tmp_path):
    small = np.random.default_rng(0).integers(0, 256, (2, 6, 6))
    for name, image in zip("01", small, strict=True):
        for folder, picture in (
            ("8", image.astype(np.uint8)),
            ("16", (image * 256).astype(np.uint16)),
            ("float", image.astype(np.float32)),
        ):
            (tmp_path / folder / name).mkdir(parents=True)
            suffix = "tif" if folder == "float" else "png"
            Image.fromarray(picture).save(tmp_path / folder / name / f"0.{suffix}")
    eight = read_images(tmp_path / "8").pixels
    assert np.array_equal(read_images(tmp_path / "16").pixels, eight * 256)
    assert np.array_equal(read_images(tmp_path / "float").pixels, eight)


def test_folders_that_hold_no_images_are_no_classes(tmp_path):
    for name in ("4", "9", ".git", "notes"):
        (tmp_path / name).mkdir()
    for name in ("4/a.png", "9/a.png", ".git/a.png", "9/.a.png"):
        Image.fromarray(np.eye(4, dtype=np.uint8)).save(tmp_path / name)
    assert list(read_images(tmp_path).labels) == [4, 9]


def test_classes_of_named_folders_are_listed_by_name(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        Image.fromarray(np.eye(4, dtype=np.uint8)).save(tmp_path / name / "a.png")
    with pytest.raises(UserError, match=r"choose two of 0 \(cat\), 1 \(dog\)"):
        choose_problem(ProblemConfig(name=str(tmp_path)))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "it is empty"),
        (b"hello\n", "it is no .npz"),
        (b"PK\x03\x04 cut off", "cannot read images.npz"),
    ],
)
def test_a_file_that_is_no_archive_is_refused(tmp_path, content, said):
    file = tmp_path / "images.npz"
    file.write_bytes(content)
    with pytest.raises(UserError, match=said) as refused:
        read_images(file)
    assert "pickle" not in str(refused.value)


def test_an_archive_without_names_or_whole_labels_is_refused(tmp_path):
    images = np.zeros((2, 4, 4))
    np.save(tmp_path / "images.npy", images)
    with pytest.raises(UserError, match="one array, without names"):
        read_images(tmp_path / "images.npy")
    np.savez(tmp_path / "text.npz", images=images, labels=np.array(["a", "b"]))
    with pytest.raises(UserError, match=r"labels of type <U1.*whole numbers"):
        read_images(tmp_path / "text.npz")


def test_an_archive_of_images_is_the_same_as_the_arrays(tmp_path):
    file = tmp_path / "images.npz"
    np.savez(file, images=DIGITS.pixels, labels=DIGITS.labels)
    one = choose_problem(ProblemConfig(name=str(file), split=False))
    other = choose_problem(ProblemConfig(name="tiny_mnist", split=False))
    assert (one.train.features == other.train.features).all()


def test_an_archive_with_pickled_objects_is_never_opened(tmp_path):
    file = tmp_path / "images.npz"
    np.savez(file, images=np.array([{}], dtype=object), labels=np.zeros(1))
    with pytest.raises(UserError, match=r"cannot read images.npz"):
        read_images(file)


def test_blocks_are_whole_pixels_the_longer_first():
    image = np.arange(64.0).reshape(1, 8, 8)
    found = shrink(image, 3)[0]
    cuts = ((0, 3), (3, 6), (6, 8))
    expected = [[image[0, a:b, c:d].mean() for c, d in cuts] for a, b in cuts]
    assert found == pytest.approx(np.array(expected))


@pytest.mark.parametrize(
    ("features", "labels", "said"),
    [
        (np.zeros((0, 2)), [], "no samples"),
        ([[0, 1], [1, 2]], [0, 1], "other than 0 and 1"),
        ([[0, 1], [1, np.nan]], [0, 1], "NaN"),
        ([[0, 1], [1, 0], [1, 1]], [0, 1, 2], "labels that are not 0 and 1"),
        ([[0, 1], [1, 0]], [1, 1], "same label"),
        ([[0, 1], [1, 0]], [1], "no samples"),
    ],
)
def test_samples_that_cannot_be_learnt_are_refused(features, labels, said):
    with pytest.raises(UserError, match=said):
        Samples.of(np.array(features), np.array(labels))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"name": "edge4"}, "no such problem.*edge3"),
        ({"name": "tiny_mnist", "digits": [6, 12]}, "no image of class 12.*digits"),
        ({"name": "tiny_mnist", "digits": [6, 6]}, "cannot be told"),
        ({"name": "edge_distractors", "weights": 5}, "fewer than the 8 lines"),
        ({"name": "edge3", "model": "perceptron"}, "not a setting of edge3.*model=perceptron"),
        ({"name": "edge8", "weights": 12}, "not a setting of edge8.*edge_distractors"),
        ({"name": "tiny_mnist", "weights": 12}, "not a setting of tiny_mnist"),
    ],
)
def test_settings_that_make_no_problem_are_refused(settings, said):
    with pytest.raises(UserError, match=said):
        choose_problem(ProblemConfig(**settings))


def test_images_that_cannot_be_read_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no images in sub-folders"):
        read_images(tmp_path)
    (tmp_path / "empty" / "broken.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"cannot read the image broken\.png"):
        read_images(tmp_path)
    with pytest.raises(UserError, match="below 3 x 3"):
        shrink(np.zeros((1, 2, 8)), 3)
    with pytest.raises(UserError, match="not numbers"):
        shrink(np.full((1, 8, 8), np.nan), 3)
    odd = Images(DIGITS.pixels, DIGITS.labels, "here")
    with pytest.raises(UserError, match="no such model"):
        model_of("transformer", odd.pixels.shape[1])


def test_warm_ups_have_the_optimum_11():
    for problem in (xor(), not_and()):
        accuracies = tabulate(problem).accuracies
        assert np.flatnonzero(accuracies == 1.0).tolist() == [0b11]
