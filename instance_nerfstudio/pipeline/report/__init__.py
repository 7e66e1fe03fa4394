"""The report of a run: rows and pictures, and the page that shows them."""
