"""Absorption where it is known: a child that writes its parent."""

import numpy as np
import pytest
from scipy import sparse

from saelab.analyses.absorption import absorbed

PARENT, CHILD, OTHER = range(3)


def hierarchy(absorbing: bool, rows: int = 400):
    """Codes, and what they write along the parent: every fourth row has the child too, which writes both where it absorbs."""
    child = np.arange(rows) % 4 == 0
    z = np.zeros((rows, 3))
    z[:, PARENT] = np.where(child & absorbing, 0.0, 1.0)
    z[:, CHILD] = child
    z[:, OTHER] = np.arange(rows) % 3 == 0
    writes = np.array([1.0, 1.0 if absorbing else 0.0, 0.0])
    cosines = np.array([1.0, 0.5**0.5 if absorbing else 0.0, 0.0])
    return absorbed(sparse.csr_array(z), writes, cosines, np.ones(rows), [PARENT]), child


def test_a_dictionary_of_the_true_features_absorbs_nothing():
    found, _ = hierarchy(absorbing=False)
    assert not found.silent.any()
    assert not found.full.any()
    assert not found.fraction.any()


def test_a_child_that_writes_its_parent_absorbs_it_on_its_own_rows_and_no_others():
    found, child = hierarchy(absorbing=True)
    assert (found.silent == child).all()
    assert (found.full == child).all()
    assert found.fraction == pytest.approx(child.astype(float))


def test_silence_without_anyone_who_writes_the_concept_is_no_absorption():
    codes = sparse.csr_array(np.array([[0.0, 0.0, 1.0], [0.0, 0.3, 0.0]]))
    found = absorbed(codes, np.array([1.0, 1.0, 0.0]), np.array([1.0, 1.0, 0.0]), np.ones(2), [PARENT])
    assert found.silent.all()
    assert not found.full.any(), "0.3 of the concept is too little"
    assert not found.fraction.any()


def test_half_written_by_another_is_half_absorbed():
    found = absorbed(sparse.csr_array([[0.5, 0.5, 0.0]]), np.array([1.0, 1.0, 0.0]), np.array([1.0, 1.0, 0.0]), np.ones(1), [PARENT])
    assert found.fraction.tolist() == [0.5]
    assert not found.silent.any()
