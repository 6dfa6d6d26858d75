"""The global search: a template in every orientation, at every place of a micrograph."""
