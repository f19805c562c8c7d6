# SPDX-License-Identifier: LGPL-2.1-or-later
"""Networks: what a port of each kind needs besides the port itself."""
