# SPDX-License-Identifier: LGPL-2.1-or-later
"""The one place that says which version this is."""

__version__ = "0.1.0"
