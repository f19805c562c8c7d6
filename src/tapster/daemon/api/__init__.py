# SPDX-License-Identifier: LGPL-2.1-or-later
"""What each method of the Varlink interface does.

service.py says who answers which method; listing, reload, explain and doctor answer,
and views.py turns what they have found into the objects of the wire.
"""
