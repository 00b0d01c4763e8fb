"""Random streams by name: equal names give equal numbers, anything else gives others."""

import itertools

import numpy as np
import pytest
import torch

from public.random_streams import derive, seed_torch, stream

CALLS = [
    (0,),
    (1,),
    (-1,),
    (0, 0),
    (0, ""),
    (0, 1),
    (0, "1"),
    (0, "1, 2"),
    (0, 1, 2),
    (0, 2, 1),
    (0, 12),
    (0, "1", "2"),
    (0, "12"),
    (0, "1", 2),
    (0, "sample", 1, 2),
    (0, "sample", 12),
    (0, "batch", 1, 2),
    (1, "sample", 1, 2),
    (0, "sample", 2, 1),
    (0, "sample", 1, 2, "RandomFlip"),
    (0, "sample", 1, 2, "RandomCrop"),
    (0, "a', 'b"),
    (0, "a", "b"),
    (2**63, "sample", 1, 2),
    (2**64, "sample", 1, 2),
]


def test_every_other_seed_name_type_or_order_is_another_stream():
    for one, other in itertools.combinations(CALLS, 2):
        assert derive(*one) != derive(*other), (one, other)
        assert stream(*one).random(4).tolist() != stream(*other).random(4).tolist(), (one, other)


@pytest.mark.parametrize("call", CALLS, ids=repr)
def test_an_equal_call_is_an_equal_stream_however_much_was_drawn_before(call):
    first = stream(*call).integers(0, 2**62, 100)
    np.random.default_rng(0).random(10)
    stream(*call).random(7)
    assert (stream(*call).integers(0, 2**62, 100) == first).all()


@pytest.mark.parametrize("kind", [np.int64, np.int32, np.uint8, lambda number: torch.tensor(number).item()])
def test_integers_of_other_kinds_are_the_same_integers(kind):
    assert derive(kind(3), "sample", kind(5)) == derive(3, "sample", 5)


@pytest.mark.parametrize("name", [1.5, 2.0, None, (1,), np.float32(1)])
def test_names_that_are_neither_integers_nor_words_are_refused(name):
    with pytest.raises(TypeError):
        derive(0, name)
    with pytest.raises(TypeError):
        derive(name, "sample")


def test_derived_numbers_are_64_bits_and_use_them_all():
    values = [derive(0, "bits", i) for i in range(200)]
    assert all(0 <= value < 2**64 for value in values)
    assert np.bitwise_or.reduce(np.array(values, dtype=np.uint64)) == 2**64 - 1


def test_a_stream_leaves_the_global_generators_alone():
    numpy_before, torch_before = np.random.get_state()[1].tolist(), torch.get_rng_state()
    stream(0, "anything").random(10)
    assert np.random.get_state()[1].tolist() == numpy_before
    assert torch.equal(torch.get_rng_state(), torch_before)


def test_seeding_torch_is_repeatable_by_name():
    def numbers(*call):
        seed_torch(*call)
        return torch.rand(8).tolist()

    first = numbers(0, "step", 5, 0)
    torch.rand(100)
    assert numbers(0, "step", 5, 0) == first
    assert numbers(0, "step", 5, 1) != first
    assert numbers(0, "step", 6, 0) != first
    assert numbers(1, "step", 5, 0) != first
    assert numbers(0, "model") != first


def test_seeding_torch_takes_any_derived_number():
    for i in range(20):  # half of them are above 2 ** 63
        seed_torch(0, "large", i)
