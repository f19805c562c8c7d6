# SPDX-License-Identifier: LGPL-2.1-or-later
"""How tapsterd starts, confines itself, runs other programs, and ends."""
