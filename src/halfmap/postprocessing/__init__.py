"""From two half maps to a mask, a resolution and a map that can be looked at; no files."""
