# SPDX-License-Identifier: LGPL-2.1-or-later
"""What `tapster policy check` finds in a configuration before it is in force."""
