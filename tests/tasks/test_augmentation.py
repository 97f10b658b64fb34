"""Augmentation: against maps and bilinear sampling done by hand, and a task's independence of what stands beside it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from distmeta.config.problems import describe
from distmeta.core.philox import Purpose, uniform, words
from distmeta.errors import ConfigError
from distmeta.tasks.augmentation import augment, check_augmentation
from distmeta.tasks.options.augmentation import AugmentationOptions

IDS = [3, 0, 2**40 + 7, 11]
AFFINE = {"shift": 4, "rotation": 20, "scale": 0.25, "shear": 0.25, "crop": 0.7, "crop_probability": 0.5}
COLOUR = {"flip": 0.5, "grey": 0.3, "brightness": 0.4, "hue": 0.4, "dropout": 0.3}


def _images(tasks: int = 4, count: int = 6, shape: tuple[int, int, int] = (3, 13, 17)) -> torch.Tensor:
    return torch.rand(tasks, count, *shape, generator=torch.Generator().manual_seed(1))


def _augment(images, ids=IDS, seed=5, split="train", part="query", **settings):
    return augment(images, AugmentationOptions(**settings), seed=seed, split=split, ids=ids, part=part)


@pytest.mark.parametrize("settings", [AFFINE, COLOUR, {**AFFINE, **COLOUR}, {"shift": 2}, {"dropout": 0.5}])
@pytest.mark.parametrize("shape", [(3, 13, 17), (3, 28, 28)])
def test_a_task_has_the_same_bits_whatever_stands_beside_it(settings, shape):
    images = _images(shape=shape)
    together = _augment(images, **settings)
    order = [2, 0, 3, 1]
    assert torch.equal(_augment(images[order], [IDS[index] for index in order], **settings), together[order])
    for index, task in enumerate(IDS):
        assert torch.equal(_augment(images[index : index + 1], [task], **settings)[0], together[index])
    # A task's first images do not depend on how many there are.
    assert torch.equal(_augment(images[:, :2], **settings), together[:, :2])


def test_what_a_change_is_keyed_by():
    same = _images(1, 1).expand(4, 6, -1, -1, -1)
    one = _augment(same, **AFFINE)
    assert len(torch.unique(one.flatten(0, 1).flatten(1), dim=0)) == 24
    others = ({"seed": 6}, {"split": "test"}, {"part": "support"}, {"ids": [1, 2, 4, 5]})
    for other in others:
        assert not (_augment(same, **{**AFFINE, **other}) == one).flatten(1).all(1).any()


def test_a_setting_does_not_change_what_another_draws():
    """The map of an image is the same with and without what concerns its colours."""
    images = _images()
    moved = _augment(images, **AFFINE)
    masked = _augment(images, **AFFINE, dropout=0.5)
    assert torch.equal(masked[masked != 0], moved[masked != 0])


def _by_hand(image: np.ndarray, chance: np.ndarray, settings: dict[str, float]) -> np.ndarray:
    """One channel, moved pixel by pixel in float64; the map from an image to the result is inverted by NumPy."""
    height, width = image.shape
    u = 2 * chance - 1
    angle = math.radians(settings["rotation"]) * u[3]
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    scale, shear = settings["scale"] * u[5:7], settings["shear"] * u[7:9]
    stretch = np.array([[1 + scale[0], shear[0]], [shear[1], 1 + scale[1]]])
    share = 1 - (1 - settings["crop"]) * chance[9] * (chance[12] < settings["crop_probability"])
    middle = (1 - share) / 2 * np.array([width, height]) * u[10:12]
    inverse = np.linalg.inv(turn @ stretch)
    result = np.zeros_like(image)
    padded = np.pad(image, 1)
    for y in range(height):
        for x in range(width):
            place = np.array([x - (width - 1) / 2, y - (height - 1) / 2]) - settings["shift"] * u[0:2]
            sx, sy = share * (inverse @ place) + middle + np.array([(width - 1) / 2, (height - 1) / 2])
            left, top = math.floor(sx), math.floor(sy)
            for row, column in ((top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)):
                if -1 <= row <= height and -1 <= column <= width:
                    weight = (1 - abs(sy - row)) * (1 - abs(sx - column))
                    result[y, x] += weight * padded[row + 1, column + 1]
    return result


def test_the_map_is_that_of_the_docstring():
    images = _images(2, 3, (1, 9, 12))
    moved = _augment(images, [8, 9], **AFFINE)
    for task in range(2):
        chance = uniform(words(5, "train", [[8, 9][task]], Purpose.AUGMENT_QUERY, 60)).reshape(3, 20)
        for n in range(3):
            expected = _by_hand(images[task, n, 0].double().numpy(), chance[n], AFFINE)
            np.testing.assert_allclose(moved[task, n, 0].numpy(), expected, atol=2e-3)


def _many(image: torch.Tensor, **settings) -> torch.Tensor:
    """The image changed in 4,000 ways."""
    return _augment(image.expand(40, 100, *image.shape), range(40), **settings).flatten(0, 1)


def test_shares_are_those_asked_for():
    image = _images(1, 1)[0, 0]
    flipped = (_many(image, flip=0.3) == image.flip(-1)).flatten(1).all(1)
    assert 0.27 < flipped.float().mean() < 0.33
    black = _many(image, dropout=0.3) == 0
    assert abs(black.float().mean() - 0.3) < 0.005
    assert torch.equal(black[:, 0], black[:, 2])  # a pixel goes in all channels
    for name, amount in (("shift", 3), ("rotation", 30), ("crop", 0.5)):
        left = _many(image, **{name: amount, f"{name}_probability": 0.25})
        unmoved = ((left - image).abs() < 1e-5).flatten(1).all(1)
        assert 0.7 < unmoved.float().mean() < 0.8
    grey = _many(image, grey=0.5)
    assert 0.46 < (grey[:, 0] == grey[:, 2]).flatten(1).all(1).float().mean() < 0.54


def test_a_dot_moves_as_far_as_asked_for():
    dot = torch.zeros(1, 21, 21)
    dot[0, 10, 10] = 1
    moved = _many(dot, shift=4)
    torch.testing.assert_close(moved.sum((1, 2, 3)), torch.ones(4000))
    places = torch.arange(21.0)
    for axis in (2, 3):
        middle = (moved.sum((1, 5 - axis)) * places).sum(1) - 10
        assert -4 <= middle.min() < -3.9
        assert 3.9 < middle.max() <= 4
        assert abs(middle.mean()) < 0.15
    torch.testing.assert_close(_many(dot, rotation=180)[:, 0, 10, 10], torch.ones(4000), atol=1e-4, rtol=0)


def test_colours():
    image = _images(1, 1)[0, 0] / 2 + 0.25
    turned = _many(image, hue=0.05)
    torch.testing.assert_close(turned.mean(1), image.mean(0).expand(4000, -1, -1), atol=1e-4, rtol=0)
    assert (turned - image).abs().max() > 0.02
    third = torch.stack([image, image[[2, 0, 1]], image[[1, 2, 0]]])
    distance = (_many(image, hue=0.5)[:, None] - third).abs().flatten(2).amax(2).amin(0)
    assert distance.max() < 0.01  # a third of the circle exchanges the channels
    light = (_many(image, brightness=0.2) - image).flatten(1)
    torch.testing.assert_close(light, light[:, :1].expand_as(light))
    assert -0.2 <= light.min() < -0.19
    assert 0.19 < light.max() <= 0.2
    strong = _many(image, brightness=1, hue=0.5, grey=0.2)
    assert strong.min() == 0
    assert strong.max() == 1


def test_nothing_to_change_changes_nothing():
    images = _images()
    assert _augment(images) is images
    assert not AugmentationOptions(rotation=5, rotation_probability=0).active


def _problem(**settings) -> str:
    with pytest.raises(ValueError, match="validation error") as raised:
        AugmentationOptions(**settings)
    return describe(raised.value, "tasks.augment", AugmentationOptions)[0]


def test_settings_that_make_no_sense_are_named():
    assert "tasks.augment.flip: input should be less than or equal to 1, got 2" in _problem(flip=2)
    assert "scale + shear = 0.6 + 0.5: expected less than 1" in _problem(scale=0.6, shear=0.5)
    assert "tasks.augment.rotate: there is no such setting; did you mean 'rotation'?" in _problem(rotate=3)
    with pytest.raises(ConfigError, match=r"tasks\.augment\.shift = 13: expected less than 13, .* 13 x 17 pixels"):
        check_augmentation(AugmentationOptions(shift=13), (3, 13, 17))
    for name in ("grey", "hue"):
        with pytest.raises(ConfigError, match=rf"x\.{name} = 0\.4: images of 1 channel have no colour"):
            check_augmentation(AugmentationOptions(**{name: 0.4}), (1, 28, 28), "x")
    check_augmentation(AugmentationOptions(shift=12, grey=1), (3, 13, 17))
