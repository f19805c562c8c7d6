# SPDX-License-Identifier: LGPL-2.1-or-later
"""tapsterd: who asks, what is there, what is done, in that order."""
