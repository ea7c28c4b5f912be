"""What a sweep came to: results, statistics, tables, pictures, one page. Nothing here imports torch."""
