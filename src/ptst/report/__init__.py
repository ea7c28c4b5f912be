"""The report of a sweep: results, statistics, tables, pictures, a page. Never imports torch."""
