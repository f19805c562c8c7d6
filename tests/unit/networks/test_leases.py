# SPDX-License-Identifier: LGPL-2.1-or-later
"""`tapster.networks.leases`: what a DHCP server said is read, and nothing else.

The packets are the LAN's, so whatever can be in one will be.
"""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapster.networks import leases
from tapster.networks.leases import IPV4, IPV6, Lease, dhcp4, dhcp6, parse_logged

MAC, SERVER_MAC = "02:00:00:00:00:01", "02:00:00:00:00:99"
SERVER, GIVEN, OTHER = "192.0.2.9", "192.0.2.77", "192.0.2.78"
EVERYBODY = "255.255.255.255"
SERVER6, LINK_LOCAL, GIVEN6 = "fe80::9", "fe80::1:2", "2001:db8::77"
FOR_EVER = 0xFFFFFFFF

ACK, NAK = b"\x35\x01\x05", b"\x35\x01\x06"
HOUR = b"\x33\x04" + struct.pack("!I", 3600)
END = b"\xff"
LEASE = Lease(4, MAC, IPv4Address(GIVEN), 3600, "ack")


def mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def udp(sport: int, dport: int, payload: bytes) -> bytes:
    return struct.pack("!HHHH", sport, dport, 8 + len(payload), 0) + payload


def ipv4(src: str, dst: str, protocol: int, payload: bytes) -> bytes:
    head = (0x45, 0, 20 + len(payload), 1, 0, 64, protocol, 0)
    addresses = IPv4Address(src).packed + IPv4Address(dst).packed
    return struct.pack("!BBHHHBBH", *head) + addresses + payload


def ipv6(src: str, dst: str, protocol: int, payload: bytes) -> bytes:
    head = struct.pack("!IHBB", 6 << 28, len(payload), protocol, 64)
    return head + IPv6Address(src).packed + IPv6Address(dst).packed + payload


def bootp(options: bytes, *, address: str = GIVEN, client: str = MAC,
          head: bytes = b"\2\1\6\0", name: bytes = b"", file: bytes = b"",
          cookie: bytes = b"\x63\x82\x53\x63") -> bytes:  # fmt: skip
    return b"".join(
        (
            head + struct.pack("!IHH", 0x1234, 0, 0) + bytes(4),
            IPv4Address(address).packed + bytes(8) + mac(client).ljust(16, b"\0"),
            name.ljust(64, b"\0") + file.ljust(128, b"\0") + cookie + options,
        )
    )


def answer(options: bytes = ACK + HOUR + END, *, to: str = EVERYBODY, sport: int = 67,
           dport: int = 68, address: str = GIVEN, name: bytes = b"",
           file: bytes = b"") -> bytes:  # fmt: skip
    body = bootp(options, address=address, name=name, file=file)
    return ipv4(SERVER, to, 17, udp(sport, dport, body))


def option6(code: int, data: bytes) -> bytes:
    return struct.pack("!HH", code, len(data)) + data


def ia_address(address: str = GIVEN6, preferred: int = 1800, valid: int = 3600,
               more: bytes = b"") -> bytes:  # fmt: skip
    times = struct.pack("!II", preferred, valid)
    return option6(5, IPv6Address(address).packed + times + more)


def ia_na(*inner: bytes) -> bytes:
    return option6(3, struct.pack("!III", 1, 900, 1400) + b"".join(inner))


def status(code: int) -> bytes:
    return option6(13, struct.pack("!H", code) + b"words")


def reply(*options: bytes, kind: int = 7, to: str = LINK_LOCAL, sport: int = 547,
          dport: int = 546) -> bytes:  # fmt: skip
    body = bytes((kind, 1, 2, 3)) + option6(1, b"duid") + b"".join(options)
    return ipv6(SERVER6, to, 17, udp(sport, dport, body))


def changed(packet: bytes, offset: int, data: bytes) -> bytes:
    return packet[:offset] + data + packet[offset + len(data) :]


class TestDhcp4:
    def test_an_acknowledgement_is_a_lease(self) -> None:
        assert dhcp4(answer()) == LEASE
        assert dhcp4(answer(to=GIVEN)) == LEASE

    def test_offer_and_what_a_client_says_are_none(self) -> None:
        for kind in (0, 1, 2, 3, 4, 7, 8, 13, 255):
            assert dhcp4(answer(bytes((53, 1, kind)) + HOUR + END)) is None

    def test_refusal_is_told_of_no_address(self) -> None:
        assert dhcp4(answer(NAK + END, address="0.0.0.0")) == Lease(
            4, MAC, None, None, "nak"
        )

    def test_a_lease_for_ever_has_no_time(self) -> None:
        lease = dhcp4(answer(ACK + b"\x33\x04\xff\xff\xff\xff" + END))
        assert lease == LEASE._replace(seconds=None)

    @pytest.mark.parametrize(
        "options",
        [
            ACK + END,
            ACK + b"\x33\x04\0\0\0\0" + END,
            ACK + b"\x33\x03\0\0\1" + END,
            ACK + b"\x33\x08" + bytes(7) + b"\1" + END,
            HOUR + END,
            b"\x35\x00" + HOUR + END,
            b"\x35\x02\5\5" + HOUR + END,
            ACK + NAK + HOUR + END,
            END + ACK + HOUR,
            b"",
        ],
        ids=bytes.hex,
    )
    def test_without_a_kind_or_a_time_it_is_none(self, options: bytes) -> None:
        assert dhcp4(answer(options)) is None

    @pytest.mark.parametrize(
        "options",
        [
            ACK + HOUR + b"\x0c",
            ACK + HOUR + b"\x0c\x05",
            ACK + HOUR + b"\x0c\x05four",
            ACK + HOUR + b"\x0c\xff",
            ACK + HOUR[:-1],
            ACK + HOUR + b"\x34\x02\1\1" + END,
            ACK + HOUR + b"\x34\x00" + END,
            ACK + HOUR + b"\x34\x01\x04" + END,
        ],
        ids=bytes.hex,
    )
    def test_options_that_end_too_early_are_none(self, options: bytes) -> None:
        assert dhcp4(answer(options)) is None

    def test_an_end_is_not_missed(self) -> None:
        assert dhcp4(answer(ACK + HOUR)) == LEASE
        assert dhcp4(answer(b"\0\0" + ACK + b"\0" + HOUR + END + b"\x0c\xff")) == LEASE

    def test_option_in_two_parts_is_one(self) -> None:
        halves = b"\x33\x02\0\0" + ACK + b"\x33\x02\x0e\x10"
        assert dhcp4(answer(halves + END)) == LEASE

    @pytest.mark.parametrize(
        ("overload", "name", "file"),
        [
            (1, b"", ACK + HOUR + END),
            (2, ACK + HOUR + END, b""),
            (3, ACK + END, HOUR + END),
            (3, HOUR + END, ACK + END),
            # Parts in the order of RFC 3396: first the file's field.
            (3, b"\x33\x02\x0e\x10" + END, ACK + b"\x33\x02\0\0" + END),
        ],
    )
    def test_options_in_other_fields_are_read(
        self, overload: int, name: bytes, file: bytes
    ) -> None:
        option = bytes((52, 1, overload)) + END
        assert dhcp4(answer(option, name=name, file=file)) == LEASE
        assert dhcp4(answer(END, name=name, file=file)) is None

    def test_other_fields_are_read_to_their_ends(self) -> None:
        option = ACK + HOUR + b"\x34\x01\x03" + END
        for size in (63, 64, 65, 127, 128, 129):
            padded = bytes(size - 3) + b"\x0c\x01x"
            name, file = (padded, END) if size <= 65 else (END, padded)
            whole = answer(option, name=name[:64], file=file[:128])
            assert dhcp4(whole) == (None if size in (65, 129) else LEASE)

    def test_other_fields_are_names_where_nothing_else_is_said(self) -> None:
        assert dhcp4(answer(name=b"\x35\x01\x06", file=b"\x0c\xff")) == LEASE
        option = ACK + HOUR + b"\x34\x01\x01" + END
        assert dhcp4(answer(option, name=NAK, file=b"\x0c\xff")) is None
        assert dhcp4(answer(option, name=NAK, file=END)) == LEASE

    def test_it_is_for_the_whole_link_or_whoever_has_the_address(self) -> None:
        """A guest with a lease can be sent anything from outside, but only to
        its own address."""
        assert dhcp4(answer(to=OTHER, address=GIVEN)) is None
        assert dhcp4(answer(to=OTHER, address=OTHER)) is not None
        assert dhcp4(answer(NAK + END, to=GIVEN)) is None
        assert dhcp4(answer(to="192.0.2.255")) is None

    @pytest.mark.parametrize(
        "address",
        ["0.0.0.0", "0.1.2.3", "127.0.0.1", "224.0.0.1", "240.0.0.1", EVERYBODY],
    )
    def test_what_no_guest_can_have_is_none(self, address: str) -> None:
        assert dhcp4(answer(address=address)) is None
        assert dhcp4(answer(address=address, to=address)) is None

    @pytest.mark.parametrize("ports", [(68, 67), (67, 67), (68, 68), (67, 69), (0, 0)])
    def test_other_ports_are_none(self, ports: tuple[int, int]) -> None:
        assert dhcp4(answer(sport=ports[0], dport=ports[1])) is None

    @pytest.mark.parametrize(
        "head",
        [b"\1\1\6\0", b"\3\1\6\0", b"\2\6\6\0", b"\2\1\x08\0", b"\2\1\0\0"],
        ids=bytes.hex,
    )
    def test_requests_and_other_links_are_none(self, head: bytes) -> None:
        body = bootp(ACK + HOUR + END, head=head)
        assert dhcp4(ipv4(SERVER, EVERYBODY, 17, udp(67, 68, body))) is None

    def test_bootp_without_the_cookie_is_none(self) -> None:
        body = bootp(ACK + HOUR + END, cookie=b"\x63\x82\x53\x64")
        assert dhcp4(ipv4(SERVER, EVERYBODY, 17, udp(67, 68, body))) is None

    def test_other_protocols_are_none(self) -> None:
        body = udp(67, 68, bootp(ACK + HOUR + END))
        assert dhcp4(ipv4(SERVER, EVERYBODY, 6, body)) is None

    @pytest.mark.parametrize("words", range(16))
    def test_header_of_any_length_is_passed_over(self, words: int) -> None:
        packet = answer()
        length = struct.pack("!H", len(packet) + 4 * max(words - 5, 0))
        longer = bytes((0x40 | words,)) + packet[1:2] + length + packet[4:20]
        longer += b"\1" * 4 * max(words - 5, 0) + packet[20:]
        assert dhcp4(longer) == (LEASE if words >= 5 else None)

    @pytest.mark.parametrize("field", [0x2000, 0x0001, 0x1FFF, 0x2001, 0x3FFF])
    def test_fragments_are_none(self, field: int) -> None:
        assert dhcp4(changed(answer(), 6, struct.pack("!H", field))) is None

    def test_dont_fragment_is_no_fragment(self) -> None:
        assert dhcp4(changed(answer(), 6, b"\x40\0")) == LEASE

    def test_lengths_that_lie_are_none(self) -> None:
        packet = answer()
        for length in (0, 19, 20, 27, 28, 28 + 239, len(packet) - 1, len(packet) + 1,
                       0xFFFF):  # fmt: skip
            assert dhcp4(changed(packet, 2, struct.pack("!H", length))) is None
        of_udp = len(packet) - 20
        for length in (0, 7, 8, 8 + 239, of_udp + 1, 0xFFFF):
            assert dhcp4(changed(packet, 24, struct.pack("!H", length))) is None

    def test_what_is_behind_the_packet_is_not_read(self) -> None:
        assert dhcp4(answer() + b"padding") == LEASE
        short = answer(ACK + HOUR + NAK)  # of which UDP has no NAK
        length = struct.pack("!H", len(short) - 20 - len(NAK))
        assert dhcp4(changed(short, 24, length)) == LEASE

    def test_cut_anywhere_it_is_none(self) -> None:
        packet = answer()
        for length in range(len(packet)):
            assert dhcp4(packet[:length]) is None

    @given(
        address=st.ip_addresses(v=4, network="10.0.0.0/8"),
        client=st.binary(min_size=6, max_size=6),
        seconds=st.integers(1, FOR_EVER),
        before=st.lists(
            st.tuples(
                st.integers(1, 254).filter(lambda code: code not in (51, 52, 53)),
                st.binary(max_size=255),
            ),
            max_size=5,
        ),
        broadcast=st.booleans(),
    )
    def test_good_ones_are_read(
        self, address: IPv4Address, client: bytes, seconds: int,
        before: list[tuple[int, bytes]], broadcast: bool,
    ) -> None:  # fmt: skip
        options = b"".join(bytes((code, len(d))) + d for code, d in before)
        options += b"\x33\x04" + struct.pack("!I", seconds) + ACK + END
        body = bootp(options, address=str(address), client=client.hex(":"))
        to = EVERYBODY if broadcast else str(address)
        expected = Lease(
            4, client.hex(":"), address, None if seconds == FOR_EVER else seconds, "ack"
        )
        assert dhcp4(ipv4(SERVER, to, 17, udp(67, 68, body))) == expected

    @given(options=st.binary(max_size=80), name=st.binary(max_size=64),
           file=st.binary(max_size=128))  # fmt: skip
    def test_any_options_do_no_harm(
        self, options: bytes, name: bytes, file: bytes
    ) -> None:
        overload = b"\x34\x01\x03"
        lease = dhcp4(answer(ACK + overload + options, name=name, file=file))
        assert lease is None or lease.address == IPv4Address(GIVEN)


LEASE6 = Lease(6, MAC, IPv6Address(GIVEN6), 3600, "ack")


class TestDhcp6:
    def test_a_reply_is_a_lease_for_each_address(self) -> None:
        assert dhcp6(reply(ia_na(ia_address())), MAC) == [LEASE6]
        other = LEASE6._replace(address=IPv6Address("2001:db8::78"))
        two = ia_na(ia_address(), ia_address("2001:db8::78"))
        assert dhcp6(reply(two), MAC) == [LEASE6, other]
        two = ia_na(ia_address()) + ia_na(ia_address("2001:db8::78"))
        assert dhcp6(reply(two), MAC) == [LEASE6, other]

    def test_temporary_addresses_are_the_guests_too(self) -> None:
        assert dhcp6(reply(option6(4, b"iaid" + ia_address())), MAC) == [LEASE6]

    def test_prefix_is_no_address(self) -> None:
        prefix = option6(26, struct.pack("!IIB", 1800, 3600, 56) + bytes(16))
        assert dhcp6(reply(option6(25, bytes(12) + prefix)), MAC) == []
        assert dhcp6(reply(option6(25, bytes(12) + ia_address())), MAC) == []

    def test_other_messages_are_none(self) -> None:
        for kind in {*range(256)} - {7}:
            assert dhcp6(reply(ia_na(ia_address()), kind=kind), MAC) == []

    def test_address_without_a_time_is_taken_back(self) -> None:
        assert dhcp6(reply(ia_na(ia_address(preferred=0, valid=0))), MAC) == [
            Lease(6, MAC, IPv6Address(GIVEN6), None, "nak")
        ]

    def test_a_lease_for_ever_has_no_time(self) -> None:
        assert dhcp6(reply(ia_na(ia_address(valid=FOR_EVER))), MAC) == [
            LEASE6._replace(seconds=None)
        ]

    def test_refusals_are_none(self) -> None:
        good = ia_na(ia_address())
        assert dhcp6(reply(status(0), good), MAC) == [LEASE6]
        assert dhcp6(reply(status(5), good), MAC) == []
        assert dhcp6(reply(good, status(1)), MAC) == []
        assert dhcp6(reply(ia_na(ia_address(), status(2))), MAC) == []
        assert dhcp6(reply(ia_na(ia_address(), status(0))), MAC) == [LEASE6]
        assert dhcp6(reply(ia_na(ia_address(more=status(2)))), MAC) == []
        assert dhcp6(reply(ia_na(ia_address(more=status(0)))), MAC) == [LEASE6]
        assert dhcp6(reply(option6(13, b"\0"), good), MAC) == []

    def test_refusal_of_one_is_not_of_the_others(self) -> None:
        refused = ia_na(status(3))
        assert dhcp6(reply(refused, ia_na(ia_address())), MAC) == [LEASE6]

    @pytest.mark.parametrize(
        "address",
        ["::", "::1", "::192.0.2.1", "::ffff:192.0.2.1", "ff02::1", "fe80::1"],
    )
    def test_what_no_server_gives_is_none(self, address: str) -> None:
        assert dhcp6(reply(ia_na(ia_address(address))), MAC) == []

    def test_times_that_contradict_each_other_are_none(self) -> None:
        assert dhcp6(reply(ia_na(ia_address(preferred=2, valid=1))), MAC) == []

    @pytest.mark.parametrize("to", [GIVEN6, "ff02::1", "ff02::1:2", "fec0::1", "::"])
    def test_it_is_to_a_link_local_address(self, to: str) -> None:
        """Which nobody outside of the link can send to."""
        assert dhcp6(reply(ia_na(ia_address()), to=to), MAC) == []

    @pytest.mark.parametrize(
        "ports", [(546, 547), (547, 547), (546, 546), (547, 68), (67, 68)]
    )
    def test_other_ports_are_none(self, ports: tuple[int, int]) -> None:
        packet = reply(ia_na(ia_address()), sport=ports[0], dport=ports[1])
        assert dhcp6(packet, MAC) == []

    @pytest.mark.parametrize("header", [0, 6, 43, 44, 50, 51, 59, 60, 135])
    def test_other_headers_are_none(self, header: int) -> None:
        packet = reply(ia_na(ia_address()))
        assert dhcp6(changed(packet, 6, bytes((header,))), MAC) == []
        behind = bytes((17, 0)) + bytes(6) + packet[40:]
        assert dhcp6(ipv6(SERVER6, LINK_LOCAL, header, behind), MAC) == []

    @pytest.mark.parametrize(
        "options",
        [
            b"\0",
            b"\0\x03\0",
            b"\0\x03\0\x0c" + bytes(11),
            option6(3, bytes(11)) + ia_na(ia_address()),
            option6(4, bytes(3)) + ia_na(ia_address()),
            ia_na(b"\0\x05\0"),
            ia_na(option6(5, b"\x20" + bytes(22))),
            ia_na(ia_address()) + b"\xff\xff\xff\xff",
            ia_na(ia_address(), b"\0\x05\0\x18"),
            ia_na(ia_address(more=b"\0\x0d\0\x02")),
        ],
        ids=bytes.hex,
    )
    def test_options_that_end_too_early_are_none(self, options: bytes) -> None:
        assert dhcp6(reply(options), MAC) == []

    def test_lengths_that_lie_are_none(self) -> None:
        packet = reply(ia_na(ia_address()))
        for length in (0, 7, 8, 11, len(packet) - 41, len(packet) - 39, 0xFFFF):
            assert dhcp6(changed(packet, 4, struct.pack("!H", length)), MAC) == []
        for length in (0, 7, 8, 11, len(packet) - 41, len(packet) - 39, 0xFFFF):
            assert dhcp6(changed(packet, 44, struct.pack("!H", length)), MAC) == []

    def test_other_versions_are_none(self) -> None:
        packet = reply(ia_na(ia_address()))
        for version in {*range(16)} - {6}:
            assert dhcp6(changed(packet, 0, bytes((version << 4,))), MAC) == []

    def test_cut_anywhere_it_is_none(self) -> None:
        packet = reply(ia_na(ia_address()))
        for length in range(len(packet)):
            assert dhcp6(packet[:length], MAC) == []

    def test_there_is_an_end_to_the_addresses_of_one_reply(self) -> None:
        many = (ia_address(f"2001:db8::{n:x}") for n in range(1, 2000))
        found = dhcp6(reply(ia_na(*many)), MAC)
        assert len(found) == leases.MAX_ADDRESSES
        assert found[0].address == IPv6Address("2001:db8::1")

    @given(
        st.lists(
            st.tuples(
                st.ip_addresses(v=6, network="2001:db8::/32"),
                st.integers(1, FOR_EVER - 1),
            ),
            max_size=leases.MAX_ADDRESSES,
        ),
        st.lists(st.binary(max_size=100), max_size=4),
    )
    def test_good_ones_are_read(
        self, given_out: list[tuple[IPv6Address, int]], others: list[bytes]
    ) -> None:
        ias = [ia_na(ia_address(str(a), 0, seconds)) for a, seconds in given_out]
        more = [option6(1000 + n, data) for n, data in enumerate(others)]
        assert dhcp6(reply(*more, *ias), MAC) == [
            Lease(6, MAC, address, seconds, "ack") for address, seconds in given_out
        ]

    @given(st.binary(max_size=120), st.binary(max_size=60))
    def test_any_options_do_no_harm(self, outer: bytes, inner: bytes) -> None:
        found = dhcp6(reply(ia_na(ia_address(), inner), outer), MAC)
        assert len(found) <= leases.MAX_ADDRESSES
        assert all(lease.mac == MAC for lease in found)


class TestParseLogged:
    def test_logged_packet_is_read_by_its_protocol(self) -> None:
        header = mac(MAC) + mac(SERVER_MAC) + b"\x86\xdd"
        assert parse_logged(IPV4, header, answer()) == [LEASE]
        assert parse_logged(IPV4, b"", answer()) == [LEASE]
        assert parse_logged(IPV6, header, reply(ia_na(ia_address()))) == [LEASE6]
        assert parse_logged(IPV6, header, answer()) == []
        assert parse_logged(IPV4, header, reply(ia_na(ia_address()))) == []
        assert parse_logged(0x0806, header, answer()) == []

    def test_ipv6_packet_without_a_destination_mac_says_nothing(self) -> None:
        assert parse_logged(IPV6, bytes(5), reply(ia_na(ia_address()))) == []

    @given(
        st.sampled_from([0, IPV4, IPV6]) | st.integers(0, 0xFFFF),
        st.binary(max_size=20),
        st.binary(max_size=600),
    )
    def test_logged_garbage_says_nothing(
        self, protocol: int, header: bytes, payload: bytes
    ) -> None:
        assert parse_logged(protocol, header, payload) == []

    @given(
        st.sampled_from([answer(), reply(ia_na(ia_address()))]),
        st.lists(st.tuples(st.integers(0, 400), st.binary(max_size=4)), max_size=4),
        st.integers(0, 400),
    )
    def test_damaged_answer_is_read_without_harm(
        self, packet: bytes, damages: list[tuple[int, bytes]], length: int
    ) -> None:
        for offset, data in damages:
            packet = changed(packet, offset, data)
        for protocol in (IPV4, IPV6):
            for lease in parse_logged(protocol, mac(MAC) + bytes(8), packet[:length]):
                assert lease.family == (4 if protocol == IPV4 else 6)
                assert lease.seconds is None or 0 < lease.seconds < FOR_EVER


def test_chains_log_to_the_group_with_the_prefix() -> None:
    text = leases.chains(31344)
    assert f'log prefix "{leases.LOG_PREFIX}" group 31344\n' in text
    assert text.count("log ") == 2 and "%" not in text
