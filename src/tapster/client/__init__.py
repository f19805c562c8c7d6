# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a program imports to ask the broker: standard library only, no event loop."""
