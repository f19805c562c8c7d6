# SPDX-License-Identifier: LGPL-2.1-or-later
"""Requests about queueing disciplines, over rtnetlink: a token bucket filter.

It delays what the host sends to a device, and drops what finds its queue full.
Numbers: linux/pkt_sched.h; see also tc(8), tc-tbf(8).
"""

from __future__ import annotations

import struct

from .netlink import NLM_F_CREATE, NLM_F_REPLACE, Request, attr, attr_str, attr_u32

RTM_NEWQDISC, RTM_DELQDISC = 36, 37

TCA_KIND, TCA_OPTIONS = 1, 2
TCA_TBF_PARMS, TCA_TBF_RATE64, TCA_TBF_BURST = 1, 4, 6
TC_H_ROOT = 0xFFFFFFFF
# If a link layer is named, the kernel needs no tables as tc sends them.
TC_LINKLAYER_ETHERNET = 1

_HANDLE = 1 << 16  # "1:"
_MAX_U32 = 0xFFFFFFFF

_TCMSG = struct.Struct("=BxxxiIII")  # family, index, handle, parent, info
# cell_log, linklayer, overhead, cell_align, mpu, rate
_RATESPEC = struct.Struct("=BBHhHI")
_LIMITS = struct.Struct("=III")  # struct tc_tbf_qopt's limit, buffer, mtu


def set_tbf(index: int, what: str, *, rate: int, burst: int, limit: int) -> Request:
    """Hold what the host sends to a device to a rate, or change the rate it has.

    :param index: of the device.
    :param what: the device's name, for the error.
    :param rate: bytes a second, with Ethernet headers.
    :param burst: bytes that may go at once. A larger frame never goes, except one that
        the kernel can cut into segments.
    :param limit: bytes that may wait.
    """
    spec = _RATESPEC.pack(0, TC_LINKLAYER_ETHERNET, 0, 0, 0, min(rate, _MAX_U32))
    options = attr(
        TCA_TBF_PARMS, spec + bytes(_RATESPEC.size) + _LIMITS.pack(limit, 0, 0)
    )
    options += attr_u32(TCA_TBF_BURST, burst)
    if rate > _MAX_U32:
        options += attr(TCA_TBF_RATE64, struct.pack("=Q", rate))
    return Request(
        f"limit the rate of {what}",
        RTM_NEWQDISC,
        NLM_F_CREATE | NLM_F_REPLACE,
        _TCMSG.pack(0, index, _HANDLE, TC_H_ROOT, 0)
        + attr_str(TCA_KIND, "tbf")
        + attr(TCA_OPTIONS, options),
    )


def delete_tbf(index: int, what: str) -> Request:
    """Lift the rate of a device; the kernel refuses if it has none.

    :param index: of the device.
    :param what: the device's name, for the error.
    """
    return Request(
        f"lift the rate of {what}",
        RTM_DELQDISC,
        0,
        _TCMSG.pack(0, index, _HANDLE, TC_H_ROOT, 0) + attr_str(TCA_KIND, "tbf"),
    )
