"""The C interface of the library as ctypes sees it: the structs and functions of `library.cpp`."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, c_double, c_float, c_int32, c_int64, c_void_p
from typing import ClassVar


class Matrix(ctypes.Structure):
    """A packed matrix (`linear/cpu.hpp`)."""

    _fields_: ClassVar = [
        ("format", c_int32),
        ("out", c_int64),
        ("inputs", c_int64),
        ("data", c_void_p),
        ("scales", c_void_p),
        ("bias", c_void_p),
    ]


class Nodes(ctypes.Structure):
    """What attention needs to know of a pass (`attention/tree.hpp`)."""

    _fields_: ClassVar = [
        ("batch", c_int64),
        ("nodes", c_int64),
        ("pending", c_int64),
        ("heads", c_int64),
        ("kv_heads", c_int64),
        ("dim", c_int64),
        ("lengths", c_void_p),
        ("visible", c_void_p),
        ("batch_stride", c_int64),
        ("head_stride", c_int64),
        ("is_bf16", c_int32),
    ]


class Layer(ctypes.Structure):
    """One layer's weights (`decoder/cpu.hpp`)."""

    _fields_: ClassVar = [
        ("input_norm", c_void_p),
        ("post_norm", c_void_p),
        ("query_norm", c_void_p),
        ("key_norm", c_void_p),
        ("query", POINTER(Matrix)),
        ("key", POINTER(Matrix)),
        ("value", POINTER(Matrix)),
        ("output", POINTER(Matrix)),
        ("gate", POINTER(Matrix)),
        ("up", POINTER(Matrix)),
        ("down", POINTER(Matrix)),
    ]


class Decoder(ctypes.Structure):
    """A Llama-family decoder (`decoder/cpu.hpp`)."""

    _fields_: ClassVar = [
        ("layers", c_int64),
        ("hidden", c_int64),
        ("heads", c_int64),
        ("kv_heads", c_int64),
        ("dim", c_int64),
        ("ffn", c_int64),
        ("eps", c_float),
        ("scale", c_float),
        ("layer", POINTER(Layer)),
        ("final_norm", c_void_p),
        ("head", POINTER(Matrix)),
    ]


class Call(ctypes.Structure):
    """One pass (`decoder/cpu.hpp`)."""

    _fields_: ClassVar = [
        ("batch", c_int64),
        ("nodes", c_int64),
        ("pending", c_int64),
        ("input", c_void_p),
        ("cosine", c_void_p),
        ("sine", c_void_p),
        ("lengths", c_void_p),
        ("visible", c_void_p),
        ("keys", c_void_p),
        ("values", c_void_p),
        ("layer_stride", c_int64),
        ("batch_stride", c_int64),
        ("head_stride", c_int64),
        ("is_bf16", c_int32),
        ("hidden", c_void_p),
        ("logits", c_void_p),
        ("seconds", c_void_p),
        ("first", c_int64),
        ("last", c_int64),
    ]


def declare(library: ctypes.CDLL) -> ctypes.CDLL:
    """Give each function of the library its argument and result types."""
    matrix, i32, i64, ptr = POINTER(Matrix), c_int32, c_int64, c_void_p
    functions = {
        "ff_lanes": (i32, []),
        "ff_tile": (i64, [i32]),
        "ff_packed_bytes": (i64, [i32, i64, i64]),
        "ff_pack": (None, [i32, i32, ptr, i64, i64, ptr, ptr]),
        "ff_unpack": (None, [matrix, ptr, i64, ptr]),
        "ff_linear": (i32, [matrix, ptr, i64, ptr, i32]),
        "ff_attention": (i32, [POINTER(Nodes), ptr, ptr, ptr, ptr, i32]),
        "ff_move_slots": (None, [ptr, i32, i32, i64, i64, i64, i64, i64, ptr, ptr, i64]),
        "ff_rms_norm": (None, [ptr, ptr, i64, i64, c_float, ptr]),
        "ff_rotate": (None, [ptr, ptr, ptr, i64, i64, i64]),
        "ff_silu_mul": (None, [ptr, ptr, i64, ptr]),
        "ff_pass_new": (ptr, []),
        "ff_pass_free": (None, [ptr]),
        "ff_pass_run": (i32, [ptr, POINTER(Decoder), POINTER(Call), i32]),
        "ff_read": (c_double, [ptr, i64, i32]),
    }
    for name, (result, arguments) in functions.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library
