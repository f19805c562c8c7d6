# SPDX-License-Identifier: LGPL-2.1-or-later
"""The administrator's own programs, told of what begins and what ends."""
