# SPDX-License-Identifier: LGPL-2.1-or-later
"""`tapster.jsonutil`: what is of the right type is read, and an error says where."""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import Any

import pytest

from tapster import jsonutil
from tapster.jsonutil import JsonError, MissingAttribute


def refusal(read: jsonutil.Reader[Any], value: object) -> str:
    with pytest.raises(JsonError) as caught:
        read(value)
    return str(caught.value)


def test_value_of_the_right_type_is_returned_unchanged() -> None:
    assert jsonutil.string("a b\n") == "a b\n"
    assert jsonutil.word("a.b") == "a.b"
    assert jsonutil.boolean(False) is False
    assert jsonutil.integer(0)(0) == 0
    assert jsonutil.integer(-1, 5)(5) == 5
    assert jsonutil.floating(0.5) == 0.5
    assert jsonutil.optional(jsonutil.string)(None) is None
    assert jsonutil.optional(jsonutil.string)("a") == "a"
    assert jsonutil.array(jsonutil.string)(["a"]) == ["a"]
    assert jsonutil.mapping(jsonutil.boolean)({"a": True}) == {"a": True}
    assert jsonutil.text_as(IPv4Address)("192.0.2.1") == IPv4Address("192.0.2.1")
    assert jsonutil.json_object({"a": 1}) == {"a": 1}


@pytest.mark.parametrize(
    ("read", "value"),
    [
        (jsonutil.string, 5),
        (jsonutil.string, None),
        (jsonutil.word, "a b"),
        (jsonutil.word, "a\nb"),
        (jsonutil.word, 5),
        (jsonutil.boolean, 1),
        (jsonutil.boolean, "true"),
        (jsonutil.integer(0), True),
        (jsonutil.integer(0), 1.0),
        (jsonutil.integer(0), "1"),
        (jsonutil.integer(0), -1),
        (jsonutil.integer(0, 9), 10),
        (jsonutil.floating, 5),
        (jsonutil.floating, float("nan")),
        (jsonutil.floating, float("-inf")),
        (jsonutil.optional(jsonutil.string), 5),
        (jsonutil.array(jsonutil.string), "abc"),
        (jsonutil.array(jsonutil.string), {"a": 1}),
        (jsonutil.mapping(jsonutil.string), ["a"]),
        (jsonutil.json_object, []),
        (jsonutil.text_as(IPv4Address), 1),
    ],
)
def test_value_of_another_type_is_refused(
    read: jsonutil.Reader[Any], value: object
) -> None:
    assert repr(value)[:10] in refusal(read, value)


def test_message_shows_no_more_than_the_beginning_of_a_value() -> None:
    assert len(refusal(jsonutil.integer(0), "x" * 10_000)) < 100


def test_attribute_of_an_object_is_read() -> None:
    assert jsonutil.get({"uid": 5}, "uid", jsonutil.integer(0)) == 5


def test_error_names_the_attribute() -> None:
    with pytest.raises(JsonError, match=r"^uid: not an integer: '5'$"):
        jsonutil.get({"uid": "5"}, "uid", jsonutil.integer(0))


def test_error_names_the_place_in_values_within_values() -> None:
    read = jsonutil.mapping(jsonutil.array(jsonutil.mapping(jsonutil.string)))
    with pytest.raises(JsonError, match=r"^a\.b\[1\]\.c: not a string: 7$"):
        jsonutil.get({"a": {"b": [{}, {"c": 7}]}}, "a", read)


def test_error_of_a_function_that_is_no_reader_of_ours_names_the_attribute() -> None:
    with pytest.raises(JsonError, match=r"^ipv4: .*192\.0\.2\.256"):
        jsonutil.get({"ipv4": "192.0.2.256"}, "ipv4", IPv4Address)


def test_missing_attribute_is_named_and_is_a_key_error() -> None:
    with pytest.raises(MissingAttribute, match=r"^uid: missing$") as caught:
        jsonutil.get({}, "uid", jsonutil.integer(0))
    assert isinstance(caught.value, KeyError)


def test_attribute_of_what_is_no_object_is_refused() -> None:
    with pytest.raises(JsonError, match="not an object"):
        jsonutil.get(["uid"], "uid", jsonutil.integer(0))


READERS = {"name": jsonutil.string, "uid": jsonutil.integer(0)}


def test_attributes_are_read_each_by_its_reader() -> None:
    data = {"name": "web", "uid": 5}
    assert jsonutil.attributes(data, READERS) == data


def test_optional_attribute_may_be_missing() -> None:
    assert jsonutil.attributes({"uid": 5}, READERS, ("name",)) == {"uid": 5}


def test_optional_attribute_that_is_there_is_read() -> None:
    with pytest.raises(JsonError, match=r"^name: "):
        jsonutil.attributes({"uid": 5, "name": 5}, READERS, ("name",))


def test_attribute_that_nobody_reads_is_refused() -> None:
    with pytest.raises(JsonError, match=r"^more: unknown"):
        jsonutil.attributes({"uid": 5, "name": "web", "more": 1}, READERS)


def test_attribute_that_is_not_optional_must_be_there() -> None:
    with pytest.raises(MissingAttribute, match=r"^name: "):
        jsonutil.attributes({"uid": 5}, READERS)


def test_row_is_read_each_value_by_its_reader() -> None:
    read = jsonutil.string, jsonutil.integer(0)
    assert jsonutil.row(["web", 5], *read) == ["web", 5]
    with pytest.raises(JsonError, match=r"^\[1\]: not an integer"):
        jsonutil.row(["web", "5"], *read)
    with pytest.raises(JsonError, match="3 values instead of 2"):
        jsonutil.row(["web", 5, 5], *read)
    with pytest.raises(JsonError, match="not an array"):
        jsonutil.row({"web": 5}, *read)


def test_text_is_parsed() -> None:
    assert jsonutil.parse('{"a": [1, null]}') == {"a": [1, None]}


@pytest.mark.parametrize("text", ["", "{", "\0", "[1] 2", "[" * 100_000])
def test_text_that_is_no_json_is_refused(text: str) -> None:
    with pytest.raises(JsonError):
        jsonutil.parse(text)
