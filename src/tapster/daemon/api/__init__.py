# SPDX-License-Identifier: LGPL-2.1-or-later
"""What each method of the Varlink interface does."""
