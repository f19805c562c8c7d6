# SPDX-License-Identifier: LGPL-2.1-or-later
"""What exists: every NIC, its record on disk, and what its tap should look like."""
