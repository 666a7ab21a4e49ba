"""The weight register: alphabets, order of bits, what is never prepared."""

import itertools
import math

import numpy as np
import pytest
from fivefold import UserError
from fivefold_quark import Alphabet, WeightRegister, WeightSpec
from fivefold_quark.engine.circuits.preparing import data_layer, reflection_to, weight_layer
from fivefold_quark.engine.weights import BIT, TERNARY
from qiskit.quantum_info import Statevector

MIXED = WeightRegister(
    (BIT, TERNARY, WeightSpec(Alphabet.FIXED, 3, fraction=1), WeightSpec(Alphabet.ANGLE, 2))
)


def test_bit_j_is_qubit_j_and_text_prints_the_highest_first():
    register = WeightRegister.of_bits(4)
    bits = register.bits(np.array([0b0110]))
    assert bits.tolist() == [[0, 1, 1, 0]]
    assert register.text([1, 0, 0, 0]) == "0001"
    assert register.parse("0001").tolist() == [1, 0, 0, 0]


def test_codes_bits_text_and_values_return_to_themselves():
    codes = MIXED.codes()
    bits = MIXED.bits(codes)
    assert MIXED.code(bits).tolist() == codes.tolist()
    assert MIXED.encode(MIXED.decode(bits)).tolist() == bits.tolist()
    for row in bits[::7]:
        assert MIXED.parse(MIXED.text(row)).tolist() == row.tolist()


def test_values_of_each_alphabet():
    assert BIT.values.tolist() == [0.0, 1.0]
    assert TERNARY.values[[0, 1, 3]].tolist() == [0.0, 1.0, -1.0]
    assert math.isnan(TERNARY.values[2])
    fixed = WeightSpec(Alphabet.FIXED, 3, fraction=1)
    assert fixed.values.tolist() == [0, 0.5, 1, 1.5, -2, -1.5, -1, -0.5]
    angle = WeightSpec(Alphabet.ANGLE, 2)
    assert angle.values == pytest.approx([0, math.pi / 2, math.pi, 3 * math.pi / 2])


def test_codes_in_use_are_all_products_of_the_parameters_codes():
    tables = [[0, 1], [0, 1, 3], range(8), range(4)]
    expected = sorted(a | b << 1 | c << 3 | d << 6 for a, b, c, d in itertools.product(*tables))
    assert MIXED.codes().tolist() == expected
    assert MIXED.size == len(expected) == 2 * 3 * 8 * 4


def test_a_code_that_is_not_in_use_is_never_prepared():
    state = Statevector(weight_layer(MIXED)).probabilities()
    expected = np.zeros(2**MIXED.num_bits)
    expected[MIXED.codes()] = 1 / MIXED.size
    assert state == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("count", [1, 3, 4, 5, 100])
@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize("uniform", [True, False])
def test_data_layer_prepares_the_distribution_and_can_be_undone(count, dense, uniform):
    bits = max((count - 1).bit_length(), 1)
    shares = np.ones(count) if uniform else np.arange(1, count + 1.0)
    circuit = data_layer(shares / shares.sum(), bits, dense=dense)
    amplitudes = np.zeros(2**bits)
    amplitudes[:count] = np.sqrt(shares / shares.sum())
    assert np.abs(Statevector(circuit).data - amplitudes).max() < 1e-9
    back = Statevector(circuit).evolve(circuit.inverse())
    assert abs(back.data[0] - 1) < 1e-9


def test_reflection_exchanges_zero_and_the_state():
    state = np.sqrt(np.array([0.1, 0.2, 0.3, 0.4]))
    made = reflection_to(state)
    assert made[:, 0] == pytest.approx(state)
    assert np.abs(made @ made - np.eye(4)).max() < 1e-12


def test_a_part_of_the_register_is_a_register():
    part = MIXED.subset([1, 3])
    assert part.size == 12
    assert MIXED.columns([1, 3]).tolist() == [1, 2, 6, 7]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: WeightRegister.of_bits(0), "nothing to train"),
        (lambda: WeightRegister.of_bits(40).codes(), "too many to list.*block_bits"),
        (lambda: WeightSpec(Alphabet.TERNARY, 3), "2 qubit"),
        (lambda: WeightSpec(Alphabet.ANGLE, 0), "1 to 16"),
        (lambda: MIXED.parse("01"), "no setting"),
    ],
)
def test_what_is_no_register_is_refused(make, said):
    with pytest.raises(UserError, match=said):
        make()
