# SPDX-License-Identifier: LGPL-2.1-or-later
"""No user's flood is another user's wait."""
