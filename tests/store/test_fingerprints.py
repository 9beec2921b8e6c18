"""Fingerprints belong to layers, and go with them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from envstack.model import EnvId, Fingerprint, Layer, LayerId, LayerKind, LayerState
from envstack.store.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LAYERS = tuple(
    Layer(LayerId(letter * 16), LayerKind.DIR, LayerState.SEALED, letter, b"/" + letter.encode())
    for letter in "abc"
)
A, B, C = (layer.id for layer in LAYERS)
ONE = Fingerprint("11", 3, "1:2", 1_700_000_000_000_000_000)
TWO = Fingerprint("", 1 << 40, "1:18446744073709551615", 1)


@pytest.fixture
def store(home: Path) -> Iterator[Store]:
    with Store(os.fsencode(home)) as made:
        for layer in LAYERS:
            made.db.add_layer(EnvId("e" * 16), layer)
        yield made


def test_what_is_put_is_found_by_the_chain_that_has_it(store: Store, home: Path) -> None:
    store.fingerprints.put({A: ONE, B: TWO})
    assert store.fingerprints.of((A, B, C)) == {A: ONE, B: TWO}
    assert store.fingerprints.of((C, B)) == {B: TWO}
    with Store(os.fsencode(home)) as again:
        assert again.fingerprints.of((A,)) == {A: ONE}


def test_the_last_one_counts(store: Store) -> None:
    store.fingerprints.put({A: ONE})
    store.fingerprints.put({A: TWO})
    assert store.fingerprints.of((A,)) == {A: TWO}


def test_a_layer_that_is_gone_has_none(store: Store) -> None:
    store.fingerprints.put({A: ONE, B: ONE})
    store.discard(A)
    store.fingerprints.put({A: TWO})
    assert store.fingerprints.of((A, B)) == {B: ONE}
    store.db.add_layer(EnvId("e" * 16), LAYERS[0])
    assert store.fingerprints.of((A, B)) == {B: ONE}


def test_those_of_a_chain_are_forgotten_together(store: Store) -> None:
    store.fingerprints.put({A: ONE, B: ONE, C: ONE})
    store.fingerprints.forget((C, A))
    assert store.fingerprints.of((A, B, C)) == {B: ONE}
