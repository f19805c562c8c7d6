# SPDX-License-Identifier: LGPL-2.1-or-later
"""`tapster.client.reply`: what is made of any bytes and objects of a broker."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fakes.broker import NETWORK, error
from tapster import errors
from tapster.client import fields
from tapster.client.reply import check, check_list, parse_reply
from tapster.errors import ProtocolError

# How fast the machine is just now says nothing about the code.
PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.mark.parametrize(
    ("data", "kind", "text"),
    [
        (error("io.tapster.Broker.Strange"), errors.BrokerFailure, "Strange"),
        (error("io.tapster.Broker.Strange", message="m"), errors.BrokerFailure, "^m$"),
        (error("io.tapster.Broker.TapsterError"), errors.BrokerFailure, "answered"),
        (error("io.tapster.Broker.annotations"), errors.BrokerFailure, "annotations"),
        (
            error("io.tapster.Broker.NameInUse", message=3),
            errors.NameInUse,
            "NameInUse",
        ),
        (
            error("org.varlink.service.InvalidParameter", parameter="mac"),
            errors.InvalidRequest,
            "'mac'",
        ),
        (
            error("org.varlink.service.MethodNotFound", method="x"),
            ProtocolError,
            "MethodNotFound",
        ),
        (error("com.example.NotAuthorized"), ProtocolError, "com.example"),
        (error("NotAuthorized"), ProtocolError, "answered NotAuthorized"),
    ],
)
def test_error_that_is_not_of_this_version_is_told_by_its_name(
    data: bytes, kind: type[Exception], text: str
) -> None:
    with pytest.raises(kind, match=text):
        parse_reply(data[:-1])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)

WORDS = st.sampled_from(["parameters", "error", "continues", "message", "x"])


@PATIENT
@given(st.binary() | st.dictionaries(WORDS, JSON).map(lambda d: json.dumps(d).encode()))
def test_any_reply_is_parsed_or_refused(message: bytes) -> None:
    try:
        parameters, more = parse_reply(message)
    except (ProtocolError, errors.RequestError):
        return
    assert isinstance(parameters, dict)
    assert isinstance(more, bool)


@PATIENT
@given(st.dictionaries(st.text(), JSON), st.booleans())
def test_parameters_of_a_reply_are_what_was_sent(
    parameters: dict[str, Any], more: bool
) -> None:
    message = json.dumps({"parameters": parameters, "continues": more}).encode()
    parsed, continues = parse_reply(message)
    assert json.dumps(parsed) == json.dumps(parameters)
    assert continues is more


@pytest.mark.parametrize(
    "field", [k for k, v in fields.NETWORK.items() if v[0] is list]
)
@pytest.mark.parametrize("value", [None, "x", [1], ["x", None], {}])
def test_field_that_is_a_list_is_one_of_strings(field: str, value: object) -> None:
    network: dict[str, Any] = {**NETWORK, field: value}
    with pytest.raises(errors.ProtocolError, match=field):
        check(network, fields.NETWORK, "network")


@pytest.mark.parametrize("value", [None, "x", {}, [None], [{}]])
def test_list_of_objects_is_a_list_and_each_is_checked(value: object) -> None:
    with pytest.raises(errors.ProtocolError, match="network"):
        check_list(value, fields.NETWORK, "network")
    assert check_list([], fields.NETWORK, "network") == []
    assert check_list([NETWORK], fields.NETWORK, "network") == [NETWORK]
