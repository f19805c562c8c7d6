# SPDX-License-Identifier: LGPL-2.1-or-later
"""nftables through libnftables' own Python binding.

The binding takes the text that nft(8) takes, statements separated by newlines.
libnftables runs the text of one call as one transaction.
"""

from __future__ import annotations

import json
from typing import Any

from nftables import Nftables


class NftError(Exception):
    """libnftables refused; `operation` says what was being done."""

    def __init__(self, operation: str, text: str) -> None:
        first = text.strip().splitlines()
        super().__init__(f"{operation}: {first[0] if first else 'no reason given'}")
        self.operation = operation


class Nft:
    """One libnftables context, in the network namespace of its thread."""

    def __init__(self) -> None:
        """:raises OSError: libnftables.so.1 is not installed."""
        self._nft = Nftables()

    def run(self, operation: str, text: str) -> None:
        """Run statements as one transaction.

        :param operation: what is being done, for the error.
        :param text: the statements.
        :raises NftError: libnftables refused, and nothing was changed.
        """
        status, _, error = self._nft.cmd(text)
        if status:
            raise NftError(operation, error)

    def listing(self, operation: str, text: str) -> list[dict[str, Any]]:
        """Run one ``list`` statement.

        :param operation: what is being done, for the error.
        :param text: the statement.
        :returns: the objects of its JSON output, without the metainfo.
        :raises NftError: there is no such object, or libnftables refused.
        """
        self._nft.set_json_output(True)
        try:
            status, output, error = self._nft.cmd(text)
        finally:
            self._nft.set_json_output(False)
        if status:
            raise NftError(operation, error)
        objects = json.loads(output)["nftables"] if output else []
        return [entry for entry in objects if "metainfo" not in entry]
