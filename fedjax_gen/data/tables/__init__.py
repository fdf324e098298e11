"""Series and tables: columns, schema, encoding."""
