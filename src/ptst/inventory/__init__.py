"""What a store has, read back: `ptst ls`, `show`, `rm`, `export`; `ptst.results()`, `ptst.rows()`.

An artifact says itself what it is: config.json, key.json and provenance.json lie beside it. So a
store can be read without the sweep that made it, whoever made it.
"""
