# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who may have what: files and callers in, a decision with its reasons out."""
