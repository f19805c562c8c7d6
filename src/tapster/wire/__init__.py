# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is said over the socket: the Varlink interface and its errors."""
