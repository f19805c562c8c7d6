# SPDX-License-Identifier: LGPL-2.1-or-later
"""The protocol on the socket: the Varlink interface, its objects and its errors."""
