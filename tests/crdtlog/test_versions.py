"""Dots, vectors and contexts."""

from crdtlog.versions import Head, Named, context_difference, covers, device_of, vector_of

A, B, C = (bytes([65 + n]) * 24 for n in range(3))


def head(seq: int) -> Head:
    return Head(seq, bytes([seq]) * 32)


def test_a_vector_covers_every_dot_up_to_its_number_and_none_of_an_unknown_writer() -> None:
    assert covers({A: 3}, A, 3)
    assert covers({A: 3}, A, 1)
    assert not covers({A: 3}, A, 4)
    assert not covers({A: 3}, B, 1)


def test_a_context_names_what_is_new_of_others_in_order_of_writers() -> None:
    named = context_difference({C: head(2), A: head(1), B: head(5)}, {B: 5, C: 1}, own=A)

    assert named == [Named(C, 2, bytes([2]) * 8)]
    assert context_difference({C: head(2), B: head(5)}, {}, own=A) == [
        Named(B, 5, bytes([5]) * 8),
        Named(C, 2, bytes([2]) * 8),
    ]


def test_a_context_never_names_the_authors_own_log() -> None:
    assert context_difference({A: head(7)}, {}, own=A) == []


def test_a_writer_begins_with_its_device() -> None:
    assert device_of(b"d" * 16 + b"incarnat") == b"d" * 16


def test_the_vector_of_some_heads() -> None:
    assert vector_of({A: head(7), B: head(1)}) == {A: 7, B: 1}
