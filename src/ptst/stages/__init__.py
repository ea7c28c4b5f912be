"""The stages of a cell, a file each; ptst.cell walks through them."""
