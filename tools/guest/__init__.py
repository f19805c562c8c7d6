# SPDX-License-Identifier: LGPL-2.1-or-later
"""A real guest for tests, the demo and benchmarks, seconds after start.

`build` makes the kernel and the initramfs from Debian's packages, `vm` runs
guests from them.  Standard library only; nothing here is installed.
"""
