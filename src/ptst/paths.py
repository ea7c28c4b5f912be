"""Where the checkout is, and what lies in it."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CONF = ROOT / "conf"
MICRO = ROOT / "src" / "ptst" / "micro"
"""The micro world, with its models below."""
