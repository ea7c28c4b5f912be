"""Where the checkout is, and what lies in it."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CONF = ROOT / "conf"
MICRO_MODEL = ROOT / "src" / "ptst" / "micro" / "model"
