# SPDX-License-Identifier: LGPL-2.1-or-later
"""Polkit over D-Bus, for the rules with effect "polkit".

client          asks, waits, and limits how much is asked
subject         whom polkit is asked about; messages: in which words
dbus            the connection to the system bus
"""
