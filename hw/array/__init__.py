"""The array of dot-product elements, what feeds it and what drains it."""
