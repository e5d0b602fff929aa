"""Which signal is to end this program: 0 until one has come. `program` writes it, the commands read it."""

from __future__ import annotations

signal_number = 0
