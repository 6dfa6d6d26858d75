"""Files: the field's formats, read in all their dialects and written by rename when complete."""
