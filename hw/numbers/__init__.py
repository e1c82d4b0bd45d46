"""Number formats, their arithmetic and tables: the same for RTL and golden model."""
