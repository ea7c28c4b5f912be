"""From YAML files and overrides to a checked configuration (ptst.schema)."""
