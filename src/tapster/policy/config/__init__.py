# SPDX-License-Identifier: LGPL-2.1-or-later
"""From the files of the configuration directory to typed settings, networks and
rules.
"""
