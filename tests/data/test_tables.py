"""Tables of numbers: what is read, and what is named that cannot be."""

import pickle

import numpy as np
import pytest
import torch

from pyro_jarzynski.data import load_table
from pyro_jarzynski.errors import ArgumentError, DataError

TABLE = [[1.0, -2.5], [3e-3, 4.0], [5.0, 6.0]]


@pytest.fixture
def write(tmp_path):
    def write(text, name="table.csv"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


@pytest.fixture
def save(tmp_path):
    def save(array):
        path = tmp_path / "table.npy"
        np.save(path, array)
        return path

    return save


@pytest.mark.parametrize(
    "text",
    [
        "1,-2.5\n3e-3,4\n5,6\n",
        "first,second\n1,-2.5\n3e-3,4\n5,6",
        "\ufeff1, -2.5\r\n\r\n3e-3, 4\r\n5, 6\r\n",
        '"a, b",c\n"1",-2.5\n0.003,4\n5,6\n',
    ],
    ids=["plain", "header", "spreadsheet", "quoted"],
)
def test_separated_values(text, write):
    found = load_table(write(text))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, torch.tensor(TABLE))


def test_one_column(write, save):
    expected = torch.tensor([[1.0], [2.0]])
    assert torch.equal(load_table(write("x\n1\n2\n")), expected)
    assert torch.equal(load_table(save(np.array([1, 2]))), expected)


@pytest.mark.parametrize("kind", ["float64", "float32", "int64", "uint8", "bool"])
def test_arrays_of_numbers(kind, save):
    array = np.array([[0, 1, 1], [1, 0, 1]]).astype(kind)
    found = load_table(str(save(array)), dtype=torch.float64)
    assert torch.equal(found, torch.as_tensor(array.astype(float)))


def test_big_endian_arrays_and_columns_in_fortran_order(save):
    array = np.asfortranarray(np.array(TABLE, dtype=">f8"))
    torch.testing.assert_close(load_table(save(array)), torch.tensor(TABLE))


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("1,2\n\n3\n", r"Line 3 of .* has 1 cells, line 1 has 2"),
        ("a,b\n1,2\n3,4,5\n", r"Line 3 of .* has 3 cells, line 2 has 2"),
        ("1,2\n3,x\n", r"Line 2 of .* has 'x' in column 2, which is no number"),
        ("1,2\n3,\n", r"Line 2 of .* has '' in column 2"),
        ("a,2\n3,4\n", r"Line 1 of .* has 'a' in column 1"),
        ("a,b\n1;2,3\n", r"Line 2 of .* has '1;2' in column 1"),
        ("a,b\n1,2\n3,nan\ninf,4\n", r"in 2 of 3 rows: line 3, 4[.]"),
        ("1,1e300\n", r"numbers too large for torch.float32 in 1 of 1 rows: line 1"),
        ("", r"has no numbers"),
        ("only,a header\n", r"has no numbers"),
        (b"1,2\n\xff\xfe,4\n", r"cannot be read as comma-separated text"),
    ],
)
def test_what_separated_values_cannot_be(text, match, write):
    with pytest.raises(DataError, match=match):
        load_table(write(text))


@pytest.mark.parametrize(
    ("array", "match"),
    [
        (np.zeros((2, 2, 2)), r"must have shape \(n, d\) or \(n,\), got \(2, 2, 2\)"),
        (np.array(3.0), r"must have shape"),
        (np.zeros((0, 3)), r"has no numbers: its table has shape \(0, 3\)"),
        (np.array([["a", "b"]]), r"must hold real numbers, got an array of <U1"),
        (np.array([1j]), r"must hold real numbers, got an array of complex128"),
        (np.array([[0, 1], [np.nan, 0], [0, np.inf]]), r"in 2 of 3 rows: row 1, 2[.]"),
        (np.array([{"a": 1}], dtype=object), r"Pickled objects are refused"),
    ],
    ids=["rank", "number", "empty", "text", "complex", "not finite", "objects"],
)
def test_what_arrays_cannot_be(array, match, save):
    with pytest.raises(DataError, match=match):
        load_table(save(array))


class Bomb:
    def __reduce__(self):
        return pytest.fail, ("the pickle was run",)


@pytest.mark.parametrize(
    "content",
    [pickle.dumps(Bomb()), b"", b"\x93NUMPY\x01\x00", b"1,2\n"],
    ids=["pickle", "empty", "cut off", "text"],
)
def test_files_that_are_no_arrays(content, write):
    with pytest.raises(DataError, match=r"table[.]npy cannot be read"):
        load_table(write(content, "table.npy"))


def test_an_archive_is_no_array(tmp_path):
    with (tmp_path / "table.npy").open("wb") as file:
        np.savez(file, a=np.zeros(3))
    with pytest.raises(DataError, match="is an archive of arrays"):
        load_table(tmp_path / "table.npy")


def test_names_of_files(tmp_path, write):
    with pytest.raises(ArgumentError, match=r"in [.]npy or [.]csv, got 'table.txt'"):
        load_table(write("1,2", "table.txt"))
    with pytest.raises(DataError, match=r"there is none at .*absent[.]csv"):
        load_table(tmp_path / "absent.csv")
