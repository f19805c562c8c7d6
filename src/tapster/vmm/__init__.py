# SPDX-License-Identifier: LGPL-2.1-or-later
"""The virtual machine monitors this project serves, and their own languages."""
