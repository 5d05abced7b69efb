"""Results side by side: as Markdown, as JSON, and as a page."""
