"""What commands print: tables, sizes and times in words, Go templates, progress bars."""
