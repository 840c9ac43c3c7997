"""The items that are searched, of a bundle and live ones, and one searcher over both."""
